//! The example program `samples`, to run in a process of its own on softgpu.
#![allow(dead_code)] // each test binary uses a part of it

use std::path::Path;
use std::process::Command;

use crate::nvcc;

pub const NAMES: [&str; 5] = ["layernorm", "gemm", "attention", "reduce", "philox"];

/// The program with its images; or what is missing to run it. No setting of softgpu is handed down.
pub fn samples(images: &Path) -> Result<Command, String> {
    // target/PROFILE/deps/TEST, and the program is target/PROFILE/examples/samples.
    let test = std::env::current_exe().map_err(|e| e.to_string())?;
    let program = test.ancestors().nth(2).unwrap_or(&test).join("examples/samples");
    let library = nvcc::target().join("softgpu");
    if !program.is_file() {
        return Err(format!("{} is missing: cargo build --examples builds it", program.display()));
    }
    if !library.join("libcuda.so.1").is_file() {
        return Err(format!("{}/libcuda.so.1 is missing: make softgpu builds it", library.display()));
    }
    let mut command = Command::new(program);
    let settings = std::env::vars_os().map(|(name, _)| name);
    for name in settings.filter(|name| name.to_string_lossy().starts_with("SOFTGPU_")) {
        command.env_remove(name);
    }
    command.env("LD_LIBRARY_PATH", library).arg("--images").arg(images);
    Ok(command)
}

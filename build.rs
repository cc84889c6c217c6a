//! Compiles each `kernels/*.cu` and writes the tables of images and of what ptxas says of each kernel, which
//! `src/device/cuda/images.rs` includes.
//!
//! Without nvcc the tables are empty and the build goes on: the CPU needs none of it. No GPU is asked for, nor
//! nvidia-smi, nor the network.

#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/ptxas.rs"]
mod ptxas;

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// GPUs to compile machine code for, by compute capability: A100 and H100 (the `a` allows wgmma and TMA). The setting
/// `DOCRE_CUDA_ARCHES=80;86;90a` replaces it. PTX of compute_80 is added for all other GPUs: the driver translates it.
const ARCHES: &str = "80;90a";

fn main() {
    // Directories: every file in them, the first one to appear too.
    ["build.rs", "build", "kernels"].iter().for_each(|path| println!("cargo::rerun-if-changed={path}"));
    ["DOCRE_CUDA_ARCHES", "DOCRE_REQUIRE_CUDA_TESTS"]
        .iter()
        .for_each(|name| println!("cargo::rerun-if-env-changed={name}"));
    nvcc::ASKED.iter().for_each(|name| println!("cargo::rerun-if-env-changed={name}"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (images, compiler) = build(&out).unwrap_or_else(|reason| (Vec::new(), reason));
    fs::write(out.join("kernels.rs"), tables(&images, &compiler)).expect("OUT_DIR can be written");
}

/// The images and the compiler; or why there are none. Only a compiler that is there and fails is worth a warning.
fn build(out: &Path) -> Result<(Vec<nvcc::Image>, String), String> {
    let sources = sources();
    if sources.is_empty() {
        return Err("no kernels/*.cu in this source tree".into());
    }
    let (nvcc, version) = nvcc::find()?.ok_or("no nvcc at build time: set NVCC or CUDA_HOME and build again")?;
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let arches = env::var("DOCRE_CUDA_ARCHES").unwrap_or(ARCHES.into());
    let compiler = nvcc::Compiler::new(&nvcc, &version, &arches);
    let images = compiler.compile_all(&sources, out);
    let required = env::var("DOCRE_REQUIRE_CUDA_TESTS").is_ok_and(|value| value == "1");
    let images = images.inspect_err(|what| match required {
        true => panic!("the GPU kernels do not compile: {what}"),
        false => println!("cargo::warning=no GPU kernels: {what}"),
    })?;
    Ok((images, format!("{} (release {version})", nvcc.display())))
}

/// In alphabetical order, so that equal sources give an equal table.
fn sources() -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir("kernels") else { return Vec::new() };
    let is_source = |path: &PathBuf| path.extension().is_some_and(|e| e == "cu");
    let mut found: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).filter(is_source).collect();
    found.sort();
    found
}

/// Rust source of IMAGES, USAGE and NVCC.
fn tables(images: &[nvcc::Image], compiler: &str) -> String {
    let (mut files, mut usage) = (String::new(), String::new());
    for image in images {
        let _ = writeln!(files, "    ({:?}, include_bytes!({:?})),", image.name, image.file);
        for used in ptxas::parse(&image.said) {
            let _ = writeln!(usage, "    ({:?}, {used:?}),", image.name); // Debug's text is the literal
        }
    }
    format!(
        "pub static IMAGES: &[(&str, &[u8])] = &[\n{files}];\n\
         pub static USAGE: &[(&str, Usage)] = &[\n{usage}];\n\
         pub static NVCC: &str = {compiler:?};\n"
    )
}

//! Compiles each `kernels/*.cu` and writes the table of images that `src/device/cuda/images.rs` includes.
//!
//! Without nvcc the table is empty and the build goes on: the CPU needs none of it. No GPU is asked
//! for, nor nvidia-smi, nor the network.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Machine code for A100 and H100, and PTX that later GPUs translate when it is loaded.
/// Uncompressed, so that the PTX can be read back out of the image.
const TARGETS: [&str; 8] = [
    "-fatbin",
    "--no-compress",
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_80,code=compute_80",
    "-std=c++17",
    "-O3",
    "-lineinfo",
];
const ASKED: [&str; 6] = ["NVCC", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "PATH", "NVCC_APPEND_FLAGS"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if Path::new("kernels").exists() {
        println!("cargo::rerun-if-changed=kernels"); // every file in it; a missing one would mean: always
    }
    ASKED.iter().for_each(|name| println!("cargo::rerun-if-env-changed={name}"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let sources = sources();
    let (images, nvcc) = build(&sources, &out).unwrap_or_else(|reason| (Vec::new(), reason));
    let mut table = String::from("pub static IMAGES: &[(&str, &[u8])] = &[\n");
    for (name, file) in &images {
        table += &format!("    ({name:?}, include_bytes!({:?})),\n", file.display().to_string());
    }
    table += &format!("];\npub static NVCC: &str = {nvcc:?};\n");
    fs::write(out.join("kernels.rs"), table).expect("OUT_DIR can be written");
}

/// In alphabetical order, so that equal sources give an equal table.
fn sources() -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir("kernels") else { return Vec::new() };
    let is_source = |path: &PathBuf| path.extension().is_some_and(|e| e == "cu");
    let mut found: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).filter(is_source).collect();
    found.sort();
    found
}

type Images = Vec<(String, PathBuf)>;

/// The images and the compiler; or why there are none. Only a compiler that is there and fails is
/// worth a warning.
fn build(sources: &[PathBuf], out: &Path) -> Result<(Images, String), String> {
    if sources.is_empty() {
        return Err("no kernels/*.cu in this source tree".into());
    }
    let nvcc = find_nvcc().ok_or("no nvcc at build time: set NVCC or CUDA_HOME and build again")?;
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let images = version_of(&nvcc).and_then(|version| Ok((compile_all(&nvcc, sources, out)?, version)));
    let (images, version) = images.inspect_err(|e| println!("cargo::warning=no GPU kernels: {e}"))?;
    Ok((images, format!("{} ({version})", nvcc.display())))
}

fn find_nvcc() -> Option<PathBuf> {
    let dir = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let mut places: Vec<PathBuf> = dir("NVCC").into_iter().collect();
    places.extend(["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|name| Some(dir(name)?.join("bin/nvcc"))));
    places.extend(dir("VIRTUAL_ENV").iter().flat_map(|venv| wheels(venv)));
    let path = env::var_os("PATH").unwrap_or_default();
    places.extend(env::split_paths(&path).map(|dir| dir.join("nvcc")));
    places.push("/usr/local/cuda/bin/nvcc".into());
    places.into_iter().find(|place| place.is_file())
}

/// Where PyPI's wheels put it: lib/python3.*/site-packages/nvidia/{cu13,cuda_nvcc}/bin/nvcc.
fn wheels(venv: &Path) -> Vec<PathBuf> {
    let pythons = fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
    let homes = pythons.map(|python| python.path().join("site-packages/nvidia"));
    homes.flat_map(|home| ["cu13", "cuda_nvcc"].map(|wheel| home.join(wheel).join("bin/nvcc"))).collect()
}

/// `nvcc --version` ends in lines such as `Cuda compilation tools, release 13.0, V13.0.88`.
fn version_of(nvcc: &Path) -> Result<String, String> {
    let output = run(Command::new(nvcc).arg("--version"))?;
    let release = output.lines().find_map(|line| line.split_once("release ").map(|(_, rest)| rest.trim()));
    Ok(format!("release {}", release.unwrap_or("unknown")))
}

/// NUM_JOBS compilers at a time; the first error wins.
fn compile_all(nvcc: &Path, sources: &[PathBuf], out: &Path) -> Result<Images, String> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (queue, done) = (Mutex::new(sources.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..sources.len().min(jobs) {
            scope.spawn(|| {
                loop {
                    let Some(source) = queue.lock().unwrap().next() else { return };
                    let result = compile(nvcc, source, out);
                    done.lock().unwrap().push(result);
                }
            });
        }
    });
    let mut images = done.into_inner().unwrap().into_iter().collect::<Result<Images, String>>()?;
    images.sort();
    Ok(images)
}

fn compile(nvcc: &Path, source: &Path, out: &Path) -> Result<(String, PathBuf), String> {
    let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let image = out.join(format!("{name}.fatbin"));
    run(Command::new(nvcc).args(TARGETS).arg("-Ikernels").arg("-o").arg(&image).arg(source))?;
    Ok((name, image))
}

/// Standard output; or the command and the first lines of what it complained about, on one line.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let first: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).take(4).collect();
    Err(format!("{}: {}", command.get_program().to_string_lossy(), first.join(" | ")))
}

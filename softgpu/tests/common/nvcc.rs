//! Compiles CUDA sources for tests, once: the images are kept in target/softgpu-samples under a hash of what made them.
#![allow(dead_code)] // each test binary uses a part of it

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// --no-compress is for fat binaries: softgpu reads PTX out of them as it stands.
const FLAGS: [&str; 5] = ["-arch=compute_80", "-lineinfo", "-std=c++17", "-O3", "--no-compress"];

/// The kernels that come with softgpu.
pub fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("samples")
}

/// The workspace's target/, where `make` and scripts/nvcc.sh put things too.
pub fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target")
}

/// NVCC, CUDA_HOME, PATH, or what scripts/nvcc.sh installed.
pub fn find() -> Result<PathBuf, String> {
    let dir = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut places: Vec<PathBuf> = dir("NVCC").into_iter().collect();
    places.extend(dir("CUDA_HOME").map(|home| home.join("bin/nvcc")));
    let path = env::var_os("PATH").unwrap_or_default();
    places.extend(env::split_paths(&path).map(|dir| dir.join("nvcc")));
    places.push(target().join("cuda/bin/nvcc"));
    places.into_iter().find(|place| place.is_file()).ok_or("no nvcc: scripts/nvcc.sh fetches one".into())
}

/// What a test does that cannot run: says so, or fails where DOCRE_REQUIRE_CUDA_TESTS=1 demands it.
pub fn skip(reason: &str) {
    let required = env::var("DOCRE_REQUIRE_CUDA_TESTS").is_ok_and(|value| value == "1");
    assert!(!required, "DOCRE_REQUIRE_CUDA_TESTS=1, but {reason}");
    println!("SKIPPED: {reason}");
}

/// Compiles `sources`/NAME.cu for each of `names` to `format`, ptx or fatbin. The directory with NAME.ptx or
/// NAME.fatbin in it.
pub fn images(sources: &Path, names: &[&str], format: &str) -> Result<PathBuf, String> {
    let nvcc = find()?;
    let mut hasher = DefaultHasher::new();
    let version = run(Command::new(&nvcc).arg("--version"))?;
    (version, FLAGS, names, format, contents(sources)).hash(&mut hasher);
    let done = target().join(format!("softgpu-samples/{:016x}", hasher.finish()));
    if done.is_dir() {
        return Ok(done);
    }
    // Other tests may compile the same at this moment: each in a directory of its own, and the first one stays.
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let part = format!("{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
    let part = done.with_extension(part);
    fs::create_dir_all(&part).map_err(|e| format!("{}: {e}", part.display()))?;
    for name in names {
        let (from, to) = (sources.join(format!("{name}.cu")), part.join(format!("{name}.{format}")));
        run(Command::new(&nvcc).args(FLAGS).arg(format!("-{format}")).arg("-o").arg(to).arg(from))?;
    }
    if fs::rename(&part, &done).is_err() {
        let _ = fs::remove_dir_all(&part);
    }
    Ok(done)
}

/// Every file of a directory, by name.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let listing = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<(PathBuf, Vec<u8>)> =
        listing.map(|path| (path.clone(), fs::read(path).unwrap_or_default())).collect();
    files.sort();
    files
}

/// Standard output, or the first error.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let error = said.lines().find(|line| line.contains("error") || line.contains("fatal")).unwrap_or(&said);
    Err(format!("nvcc: {error}"))
}

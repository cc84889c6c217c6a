//! Finds nvcc and runs it.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Settings of the environment that `find` and nvcc look at.
pub const ASKED: [&str; 6] = ["NVCC", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "PATH", "NVCC_APPEND_FLAGS"];

/// The first major version that knows compute capability 9.0a and C++17 as the kernels use it.
const OLDEST: u32 = 12;

/// -Xptxas -v: report registers and spills. Uncompressed, so that the PTX can be read back out of the image.
const FLAGS: [&str; 8] = ["-fatbin", "--no-compress", "-std=c++17", "-O3", "-lineinfo", "-Xptxas", "-v", "-Ikernels"];

pub struct Image {
    /// `X` of `kernels/X.cu`.
    pub name: String,
    pub file: PathBuf,
    /// What ptxas reported.
    pub said: String,
}

/// The first nvcc that is new enough, and its version. An error where there are only older ones.
/// `scripts/nvcc.sh` looks at the same places, and installs into the last one.
pub fn find() -> Result<Option<(PathBuf, String)>, String> {
    let dir = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let mut places: Vec<PathBuf> = dir("NVCC").into_iter().collect();
    places.extend(["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|name| Some(dir(name)?.join("bin/nvcc"))));
    places.extend(dir("VIRTUAL_ENV").iter().flat_map(|venv| wheels(venv)));
    let path = env::var_os("PATH").unwrap_or_default();
    places.extend(env::split_paths(&path).map(|dir| dir.join("nvcc")));
    places.extend(["/usr/local/cuda/bin/nvcc".into(), "target/cuda/bin/nvcc".into()]);

    let mut refused = None;
    for nvcc in places.into_iter().filter(|place| place.is_file()) {
        match version_of(&nvcc) {
            Ok(version) => return Ok(Some((nvcc, version))),
            Err(reason) => refused = refused.or(Some(reason)),
        }
    }
    match refused {
        None => Ok(None),
        Some(reason) => {
            println!("cargo::warning=no GPU kernels: {reason}");
            Err(reason)
        }
    }
}

/// Where PyPI's wheels put it: lib/python3.*/site-packages/nvidia/cu13/bin/nvcc.
fn wheels(venv: &Path) -> Vec<PathBuf> {
    let pythons = fs::read_dir(venv.join("lib")).into_iter().flatten().flatten();
    pythons.map(|python| python.path().join("site-packages/nvidia/cu13/bin/nvcc")).collect()
}

/// `13.0, V13.0.88`, of an nvcc that is new enough.
fn version_of(nvcc: &Path) -> Result<String, String> {
    let (output, _) = run(Command::new(nvcc).arg("--version"))?;
    let release = output.lines().find_map(|line| line.split_once("release ").map(|(_, rest)| rest.trim()));
    let major = release.and_then(|text| text.split('.').next()?.parse().ok()).unwrap_or(0);
    if major < OLDEST {
        let found = release.unwrap_or("unknown");
        return Err(format!(
            "{} is release {found}; {OLDEST}.0 or newer is needed (NVCC names another)",
            nvcc.display()
        ));
    }
    Ok(release.unwrap_or_default().into())
}

pub struct Compiler {
    nvcc: PathBuf,
    flags: Vec<String>,
    /// Of all that decides on an image, but for its source: compiler, flags and headers.
    hash: u64,
}

impl Compiler {
    /// `arches`: as in `80;90a`.
    pub fn new(nvcc: &Path, version: &str, arches: &str) -> Compiler {
        let mut flags: Vec<String> = FLAGS.map(String::from).into();
        let arches = arches.split(';').map(str::trim).filter(|arch| !arch.is_empty());
        flags.extend(arches.map(|arch| format!("-gencode=arch=compute_{arch},code=sm_{arch}")));
        flags.push("-gencode=arch=compute_80,code=compute_80".into());
        let mut hasher = DefaultHasher::new();
        (nvcc, version, &flags, env::var_os("NVCC_APPEND_FLAGS"), headers()).hash(&mut hasher);
        Compiler { nvcc: nvcc.into(), flags, hash: hasher.finish() }
    }

    /// NUM_JOBS compilers at a time; the first error wins.
    pub fn compile_all(&self, sources: &[PathBuf], out: &Path) -> Result<Vec<Image>, String> {
        let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
        let (queue, done) = (Mutex::new(sources.iter()), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..sources.len().min(jobs) {
                scope.spawn(|| {
                    loop {
                        let Some(source) = queue.lock().unwrap().next() else { return };
                        let result = self.compile(source, out);
                        done.lock().unwrap().push(result);
                    }
                });
            }
        });
        let mut images = done.into_inner().unwrap().into_iter().collect::<Result<Vec<Image>, String>>()?;
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    /// Not again where neither the source, nor a header, nor the compiler has changed: the log holds their hash.
    fn compile(&self, source: &Path, out: &Path) -> Result<Image, String> {
        let failed = |path: &Path, e: std::io::Error| format!("{}: {e}", path.display());
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (file, log) = (out.join(format!("{name}.fatbin")), out.join(format!("{name}.log")));
        let mut hasher = DefaultHasher::new();
        (self.hash, fs::read(source).map_err(|e| failed(source, e))?).hash(&mut hasher);
        let key = format!("{:016x}\n", hasher.finish());
        let before = fs::read_to_string(&log).unwrap_or_default();
        if before.starts_with(&key) && file.is_file() {
            return Ok(Image { name, file, said: before });
        }
        let _ = fs::remove_file(&log); // an interrupted run leaves none
        let (_, said) = run(Command::new(&self.nvcc).args(&self.flags).arg("-o").arg(&file).arg(source))?;
        fs::write(&log, key + &said).map_err(|e| failed(&log, e))?;
        Ok(Image { name, file, said })
    }
}

/// Name and contents of the headers in kernels/.
fn headers() -> Vec<(PathBuf, Vec<u8>)> {
    let listing = fs::read_dir("kernels").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_header = |path: &PathBuf| path.extension().is_some_and(|e| e == "cuh" || e == "h");
    let mut found: Vec<PathBuf> = listing.filter(is_header).collect();
    found.sort();
    found.into_iter().map(|path| (path.clone(), fs::read(path).unwrap_or_default())).collect()
}

/// Standard output and error; or the command and its first few errors, on one line.
fn run(command: &mut Command) -> Result<(String, String), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() {
        return Ok((out, err));
    }
    let said = err + &out;
    let is_error = |line: &&str| line.contains("error") || line.contains("fatal");
    let mut first: Vec<&str> = said.lines().filter(is_error).take(4).collect();
    if first.is_empty() {
        first = said.lines().filter(|line| !line.trim().is_empty()).take(4).collect();
    }
    Err(format!("{}: {}", command.get_program().to_string_lossy(), first.join(" | ")))
}

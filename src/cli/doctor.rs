//! `docre doctor`

use super::assets::{self, DEMO_DOCUMENTS, DEMO_MODEL};
use super::setup::simd_name;
use crate::device::cpu::memory;
use crate::device::cuda::gpu::{self, Gpu};
use crate::device::cuda::{self, images};
use crate::error::{Error, Result};
use serde::Serialize;
use std::fmt;
use std::io::Write;

/// Show what docre sees of this machine, and what it would use
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  docre doctor
  docre doctor --json | jq .cuda.driver

Exit codes: 0 always, unless the report cannot be written (6)")]
pub struct DoctorArgs {
    /// Write one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    system: String,
    cpu: Cpu,
    memory: Memory,
    cuda: Cuda,
    demo: Demo,
}

#[derive(Serialize)]
struct Cpu {
    model: String,
    /// Cores that this process may use: as many threads as docre starts.
    cores: usize,
    instructions: Vec<&'static str>,
    /// The level that docre's loops run at.
    simd: &'static str,
}

#[derive(Serialize)]
struct Memory {
    total_bytes: Option<usize>,
    available_bytes: Option<usize>,
}

#[derive(Serialize)]
struct Cuda {
    driver: bool,
    /// The newest CUDA version that the driver knows.
    driver_cuda: Option<(i32, i32)>,
    gpus: Vec<Found>,
    nvcc: &'static str,
    kernels: Vec<&'static str>,
    advice: String,
}

/// A GPU, and which of this build's images it runs.
#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    gpu: Gpu,
    /// It is softgpu: a CUDA driver in software, for tests.
    software: bool,
    image: Option<&'static str>,
}

#[derive(Serialize)]
struct Demo {
    model: Option<String>,
    documents: Option<String>,
}

pub fn run(args: &DoctorArgs) -> Result<u8> {
    let findings = look();
    let mut out = std::io::stdout().lock();
    let written = match args.json {
        true => serde_json::to_writer_pretty(&mut out, &findings).map_err(Into::into).and_then(|()| writeln!(out)),
        false => write!(out, "{findings}"),
    };
    written.map_err(|e| Error::io("output", e))?;
    Ok(0)
}

fn look() -> Findings {
    let shown = |name| assets::find(name).map(|path| path.display().to_string());
    Findings {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: Cpu {
            model: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: crate::device::cpu::cores::available(),
            instructions: instructions(),
            simd: simd_name(),
        },
        memory: Memory { total_bytes: memory::kilobytes("MemTotal"), available_bytes: memory::available() },
        cuda: look_at_cuda(),
        demo: Demo { model: shown(DEMO_MODEL), documents: shown(DEMO_DOCUMENTS) },
    }
}

fn look_at_cuda() -> Cuda {
    let kernels: Vec<&str> = images::IMAGES.iter().map(|(name, _)| *name).collect();
    let (driver_cuda, gpus, trouble) = match gpu::look() {
        Ok((version, gpus)) => (Some(version), gpus, None),
        Err(trouble) => (None, Vec::new(), Some(trouble)),
    };
    let gpus: Vec<Found> = gpus.into_iter().map(found).collect();
    let advice = match trouble {
        Some(trouble) => format!("{trouble}: docre computes on the CPU; for a GPU install NVIDIA's driver"),
        None => advice(&gpus, kernels.is_empty()).into(),
    };
    Cuda { driver: cuda::driver_present(), driver_cuda, gpus, nvcc: images::NVCC, kernels, advice }
}

fn found(gpu: Gpu) -> Found {
    let mut arches: Vec<&str> = images::USAGE.iter().map(|(_, usage)| usage.arch).collect();
    arches.dedup();
    Found { software: gpu.is_software(), image: gpu.image(&arches), gpu }
}

fn advice(gpus: &[Found], no_kernels: bool) -> &'static str {
    match gpus {
        _ if no_kernels => "no GPU kernels in this build: docre computes on the CPU",
        [first, ..] if first.image.is_none() => "this GPU is too old: compute capability 8.0 or newer is needed",
        [first, ..] if first.software => "a CUDA driver in software: for tests, not for speed",
        _ => "a driver, a GPU and kernels",
    }
}

/// The first line `name : value` of a file under /proc.
fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut values = text.lines().filter_map(|line| line.split_once(':')).filter(|(key, _)| key.trim() == name);
    values.next().map(|(_, value)| value.trim().to_string())
}

#[cfg(target_arch = "x86_64")]
fn instructions() -> Vec<&'static str> {
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    found.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> Vec<&'static str> {
    Vec::new()
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Findings { version, system, cpu, memory, cuda, demo } = self;
        let or_none = |list: &[&str]| if list.is_empty() { "none".to_string() } else { list.join(" ") };
        let gib =
            |bytes: Option<usize>| bytes.map_or("?".into(), |b| format!("{:.1} GiB", b as f64 / (1usize << 30) as f64));
        let shown = |path: &Option<String>| path.clone().unwrap_or_else(|| "not found".into());
        writeln!(f, "docre      {version}, {system}")?;
        writeln!(f, "CPU        {}", cpu.model)?;
        writeln!(f, "cores      {} (threads unless --threads or DOCRE_THREADS says otherwise)", cpu.cores)?;
        writeln!(f, "vectors    {} of {}", cpu.simd, or_none(&cpu.instructions))?;
        writeln!(f, "memory     {}, {} available", gib(memory.total_bytes), gib(memory.available_bytes))?;
        writeln!(f, "CUDA       {}", cuda.advice)?;
        for Found { gpu, image, .. } in &cuda.gpus {
            let (major, minor) = gpu.compute_capability;
            let image = image.unwrap_or("none");
            let memory = gib(Some(gpu.memory_bytes));
            writeln!(f, "GPU        {}, compute capability {major}.{minor}, {memory}, image: {image}", gpu.name)?;
        }
        if let Some((major, minor)) = cuda.driver_cuda {
            writeln!(f, "driver     for CUDA {major}.{minor} (images of nvcc 13 need 13.0, driver 580 or newer)")?;
        }
        writeln!(f, "kernels    {} (nvcc: {})", or_none(&cuda.kernels), cuda.nvcc)?;
        writeln!(f, "model      {}", shown(&demo.model))?;
        writeln!(f, "examples   {}", shown(&demo.documents))
    }
}

//! Flags that several commands share: which model, on what device, how much at once.

use super::assets;
use crate::data::{Format, Options, Unit};
use crate::device::{Device, cpu::simd, cuda};
use crate::error::Result;
use crate::extract::{Budget, Extractor};
use std::path::PathBuf;
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceChoice {
    /// The best device that this version can use; -v says which.
    Auto,
    Cpu,
    Cuda,
}

#[derive(clap::Args, Debug)]
pub struct ModelArgs {
    /// Model directory; without it DOCRE_MODEL, else the demo checkpoint (weights/demo)
    #[arg(short, long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto", env = "DOCRE_DEVICE", hide_env_values = true)]
    pub device: DeviceChoice,
    /// Threads; auto: one a core
    #[arg(long, value_name = "N", default_value = "auto", env = "DOCRE_THREADS", value_parser = threads, hide_env_values = true)]
    pub threads: usize,
    /// Most memory for tensors, weights included, e.g. 2GiB; a document that needs more is refused
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub max_memory: Option<usize>,
    /// Relations need `logit - threshold logit` above this margin
    #[arg(long, value_name = "MARGIN", default_value_t = 0.0, allow_negative_numbers = true, value_parser = finite)]
    pub threshold: f64,
    /// Most relations of one ordered pair [default: the model's top_k]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub max_labels: Option<usize>,
    /// Most word pieces that go through the model at once (a document always goes whole)
    #[arg(long, value_name = "N", default_value_t = Budget::default().tokens, value_parser = at_least_one)]
    pub batch_tokens: usize,
    /// Most ordered entity pairs at once
    #[arg(long, value_name = "N", default_value_t = Budget::default().cells, value_parser = at_least_one)]
    pub batch_cells: usize,
    /// Most documents at once [default: no limit]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub batch_size: Option<usize>,
}

/// How to read the files of documents.
#[derive(clap::Args, Debug)]
pub struct InputArgs {
    /// Format of the documents; auto: by their first byte
    #[arg(long, value_enum, default_value = "auto")]
    pub from: From,
    /// What the offsets of JSONL count
    #[arg(long, value_enum, default_value_t)]
    pub offset_unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum From {
    Auto,
    Docred,
    Jsonl,
}

impl InputArgs {
    pub fn options(&self) -> Options {
        let from = match self.from {
            From::Auto => None,
            From::Docred => Some(Format::Docred),
            From::Jsonl => Some(Format::Jsonl),
        };
        Options { from, unit: self.offset_unit }
    }
}

impl ModelArgs {
    /// The device and the model on it, ready with the rule that the flags name.
    pub fn open(&self, verbose: bool) -> Result<(Device, Extractor)> {
        let device = self.device()?;
        let dir = assets::model(self.model.as_deref())?;
        let start = Instant::now();
        let mut extractor = Extractor::open(&dir, &device)?;
        if verbose {
            eprintln!("device: {}", describe(&device));
            eprintln!("model: {}, read in {:.2} s", dir.display(), start.elapsed().as_secs_f64());
        }
        extractor.rule.threshold = self.threshold;
        extractor.rule.max_labels = self.max_labels.unwrap_or(extractor.rule.max_labels);
        Ok((device, extractor))
    }

    fn device(&self) -> Result<Device> {
        let device = choose(self.device, self.threads)?;
        device.ledger().set_limit(self.max_memory);
        Ok(device)
    }

    pub fn budget(&self) -> Budget {
        let documents = self.batch_size.unwrap_or(usize::MAX);
        Budget { tokens: self.batch_tokens, cells: self.batch_cells, documents }
    }
}

/// The device that was asked for: never a silent run on the CPU instead. `auto` takes a GPU that works, but not
/// softgpu, and else the CPU.
pub fn choose(choice: DeviceChoice, threads: usize) -> Result<Device> {
    match choice {
        DeviceChoice::Cpu => Device::cpu(threads),
        DeviceChoice::Cuda => {
            let device = Device::cuda(0)?;
            if let Device::Cuda(cuda) = &device
                && cuda.gpu().is_software()
            {
                eprintln!("warning: {} is a CUDA driver in software: for tests, not for speed", cuda.gpu().name);
            }
            Ok(device)
        }
        DeviceChoice::Auto => {
            let hardware = cuda::gpu::look().is_ok_and(|(_, gpus)| gpus.first().is_some_and(|gpu| !gpu.is_software()));
            let gpu = if hardware { Device::cuda(0).ok() } else { None };
            gpu.map_or_else(|| Device::cpu(threads), Ok)
        }
    }
}

/// `cpu, 2 threads, Avx512`.
pub fn describe(device: &Device) -> String {
    match device {
        Device::Cpu(cpu) => format!("cpu, {} threads, {}", cpu.threads(), simd_name()),
        Device::Cuda(cuda) => cuda.gpu().name.clone(),
    }
}

pub fn simd_name() -> &'static str {
    match simd::level() {
        simd::Level::Avx512 => "avx512",
        simd::Level::Avx2 => "avx2",
        simd::Level::Portable => "portable",
    }
}

/// `auto` is 0, for [`Device::cpu`].
pub fn threads(text: &str) -> Result<usize, String> {
    match text {
        "auto" => Ok(0),
        _ => text.parse().ok().filter(|n| *n <= 1024).ok_or_else(|| "`auto`, or a number up to 1024".into()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "a whole number above 0".into())
}

fn finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite()).ok_or_else(|| "a finite number".into())
}

/// `123`, `500MB`, `2GiB`, `1.5g`.
pub fn bytes(text: &str) -> Result<usize, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err("a size such as 500MB or 2GiB".into()),
    };
    let number: f64 = number.parse().map_err(|_| "a size such as 500MB or 2GiB".to_string())?;
    Ok((number * factor as f64) as usize) // saturates
}

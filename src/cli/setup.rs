//! Flags that several commands share: which model, on what device, how much at once.

use super::assets;
use crate::data::{self, Format, Options, Unit};
use crate::device::cpu::{memory, simd};
use crate::device::{Device, cuda};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::extract::{Budget, EVIDENCE_THRESHOLD, Extractor, Outcome, Stream};
use crate::text::say;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceChoice {
    /// The best device that this version can use; -v says which.
    Auto,
    Cpu,
    Cuda,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// bf16 on a GPU and on a CPU with instructions for it (AVX512_BF16), else f32.
    Auto,
    F32,
    /// Weights and activations in bf16; sums, statistics, softmax and what is trained in f32.
    Bf16,
    /// bf16, and int8 in the head's large products: for inference with KD-DocRE models on a CPU with AVX512_VNNI.
    Int8,
}

/// Where and how to compute.
#[derive(clap::Args, Debug)]
pub struct DeviceArgs {
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto", env = "DOCRE_DEVICE", hide_env_values = true)]
    device: DeviceChoice,
    /// Threads; auto: one a physical core
    #[arg(long, value_name = "N", default_value = "auto", env = "DOCRE_THREADS", value_parser = threads, hide_env_values = true)]
    threads: usize,
    /// Of weights and activations
    #[arg(long, value_enum, default_value = "auto", env = "DOCRE_PRECISION", hide_env_values = true)]
    precision: Precision,
}

#[derive(clap::Args, Debug)]
pub struct ModelArgs {
    /// Model directory; without it DOCRE_MODEL, else the demo checkpoint (weights/demo)
    #[arg(short, long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Most memory for tensors, weights included, e.g. 2GiB; a document that needs more is refused [default: what the
    /// system has when docre starts]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub max_memory: Option<usize>,
    /// Most relations of one ordered pair [default: the model's top_k]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub max_labels: Option<usize>,
    /// Most word pieces of documents that are taken together, and answered together; a document always goes whole
    /// [default: 1024 a thread, at least 2048; on a GPU 16384]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub batch_tokens: Option<usize>,
    /// Most ordered entity pairs of them [default: 2048 a thread, at least 4096; on a GPU 32768]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub batch_cells: Option<usize>,
    /// Most documents together; 1 answers each at once [default: no limit]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub batch_size: Option<usize>,
}

/// Which margins make a relation.
#[derive(clap::Args, Debug)]
pub struct RuleArgs {
    /// Relations need `logit - threshold logit` above this margin, on top of the model's calibration
    #[arg(long, value_name = "MARGIN", default_value_t = 0.0, allow_negative_numbers = true, value_parser = finite)]
    pub threshold: f64,
    /// As if the model had no calibration.json (`docre threshold` writes one)
    #[arg(long)]
    pub no_calibration: bool,
}

/// The sentences that a relation rests on.
#[derive(clap::Args, Debug)]
pub struct EvidenceArgs {
    /// Name the evidence of each relation, as indices of sentences (of extract: jsonl, docred). Trained with
    /// objective.evidence, a model finds it; others show where their attention goes
    #[arg(long)]
    pub evidence: bool,
    /// A sentence is evidence with more than this part of the pair's attention
    #[arg(long, value_name = "PART", default_value_t = EVIDENCE_THRESHOLD, requires = "evidence", value_parser = part)]
    pub evidence_threshold: f64,
}

impl EvidenceArgs {
    /// [`Rule::evidence`](crate::extract::Rule::evidence).
    pub fn least(&self) -> Option<f64> {
        self.evidence.then_some(self.evidence_threshold)
    }
}

fn part(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n| (0.0..=1.0).contains(n)).ok_or_else(|| "a number from 0 to 1".into())
}

/// How to read the files of documents.
#[derive(clap::Args, Debug)]
pub struct InputArgs {
    /// Format of the documents; auto: by how they begin
    #[arg(long, value_enum, default_value = "auto")]
    pub from: From,
    /// What the offsets of JSONL and PubTator count
    #[arg(long, value_enum, default_value_t)]
    pub offset_unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum From {
    Auto,
    Docred,
    Jsonl,
    /// BioRED, CDR.
    Pubtator,
    /// Candidate pairs in columns: CDR and GDA as the edge-oriented graph has them.
    Eog,
}

impl InputArgs {
    pub fn options(&self) -> Options {
        let from = match self.from {
            From::Auto => None,
            From::Docred => Some(Format::Docred),
            From::Jsonl => Some(Format::Jsonl),
            From::Pubtator => Some(Format::Pubtator),
            From::Eog => Some(Format::Eog),
        };
        Options { from, unit: self.offset_unit }
    }
}

/// Feeds the files to the stream, one after the other.
pub fn read_all<F>(inputs: &[PathBuf], options: Options, stream: &mut Stream<F>) -> Result<()>
where
    F: FnMut(Outcome) -> Result<()>,
{
    let read = |input: &PathBuf| match data::open(input, options) {
        Ok(documents) => stream.read(documents),
        Err(error) => stream.finish().and(Err(error)), // what was read before is answered
    };
    inputs.iter().try_for_each(read)
}

impl ModelArgs {
    /// The device and the model on it, ready with the rule that the flags name.
    pub fn open(&self, rule: &RuleArgs, verbose: bool) -> Result<(Device, Extractor)> {
        let device = self.device()?;
        let dir = assets::model(self.model.as_deref())?;
        let start = Instant::now();
        let open = if rule.no_calibration { Extractor::open_uncalibrated } else { Extractor::open };
        let mut extractor = open(&dir, &device)?;
        if verbose {
            say(format_args!("device: {}", describe(&device)));
            say(format_args!("model: {}, read in {:.2} s", dir.display(), start.elapsed().as_secs_f64()));
            if let Some(calibration) = &extractor.calibration {
                let (shift, others) = (calibration.shift, calibration.relations.len());
                say(format_args!("calibration: threshold shifted by {shift}, {others} relations by other shifts"));
            }
        }
        extractor.rule.threshold = rule.threshold;
        extractor.rule.max_labels = self.max_labels.unwrap_or(extractor.rule.max_labels);
        Ok((device, extractor))
    }

    fn device(&self) -> Result<Device> {
        let device = self.device.open()?;
        // A GPU says itself when it is full.
        let all = if matches!(device, Device::Cpu(_)) { memory::available() } else { None };
        device.ledger().set_limit(self.max_memory.or(all));
        Ok(device)
    }

    pub fn budget(&self, device: &Device) -> Budget {
        let usual = Budget::of(device);
        Budget {
            tokens: self.batch_tokens.unwrap_or(usual.tokens),
            cells: self.batch_cells.unwrap_or(usual.cells),
            documents: self.batch_size.unwrap_or(usual.documents),
        }
    }
}

impl DeviceArgs {
    /// The device that was asked for: never a silent run on the CPU instead. `auto` takes a GPU that works, but not
    /// softgpu, and else the CPU.
    pub fn open(&self) -> Result<Device> {
        match self.device {
            DeviceChoice::Cpu => self.cpu(),
            DeviceChoice::Cuda => {
                let device = self.cuda()?;
                if let Device::Cuda(cuda) = &device
                    && cuda.gpu().is_software()
                {
                    say(format_args!(
                        "warning: {} is a CUDA driver in software: for tests, not for speed",
                        cuda.gpu().name
                    ));
                }
                Ok(device)
            }
            DeviceChoice::Auto => {
                let gpus = cuda::gpu::look();
                let hardware = gpus.is_ok_and(|(_, gpus)| gpus.first().is_some_and(|gpu| !gpu.is_software()));
                let gpu = if hardware { self.cuda().ok() } else { None };
                gpu.map_or_else(|| self.cpu(), Ok)
            }
        }
    }
    /// As [`DeviceArgs::open`], for commands that train.
    pub fn open_to_train(&self) -> Result<Device> {
        match self.precision {
            Precision::Int8 => Err(Error::usage("int8 is for inference: --precision bf16 or f32")),
            _ => self.open(),
        }
    }
    fn cuda(&self) -> Result<Device> {
        if !matches!(self.precision, Precision::Auto | Precision::Bf16) {
            return Err(Error::usage("the kernels of the GPU compute in bf16: f32 and int8 need --device cpu"));
        }
        Device::cuda(0)
    }
    fn cpu(&self) -> Result<Device> {
        if self.precision == Precision::Int8 {
            return Device::cpu_in_int8(self.threads);
        }
        let fast = simd::level() == simd::Level::Avx512Bf16;
        let bf16 = self.precision == Precision::Bf16 || (self.precision == Precision::Auto && fast);
        Device::cpu_in(self.threads, if bf16 { DType::BF16 } else { DType::F32 })
    }
}

/// `cpu, 2 threads, avx512, f32`.
pub fn describe(device: &Device) -> String {
    match device {
        Device::Cpu(cpu) => {
            let precision = match cpu.precision {
                DType::BF16 if cpu.int8 => "int8",
                DType::BF16 => "bf16",
                _ => "f32",
            };
            format!("cpu, {} threads, {}, {precision}", cpu.threads(), simd_name())
        }
        Device::Cuda(cuda) => cuda.gpu().name.clone(),
    }
}

pub fn simd_name() -> &'static str {
    match simd::level() {
        simd::Level::Avx512Bf16 => "avx512bf16",
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

//! `docre bench`

use super::output::print;
use super::progress::{peak_memory, show_profile};
use super::setup::{DeviceArgs, describe};
use crate::bench::{Effort, Report, Row, Workload, kernels, model, modelled};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::text::say;
use std::path::PathBuf;
use std::time::Instant;

/// Time ops or whole models at the sizes of BERT-base on mean documents, with random weights
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  docre bench kernels                                  every op, forward and backward
  docre bench kernels --filter bilinear --device cuda
  docre bench train --documents 4 --format json > new.json
  docre bench train --documents 4 --compare old.json
  docre bench kernels --device cuda --modelled h100    counts of softgpu, the CUDA driver in software

On a GPU its own clock is read (CUDA events).
Exit codes: 0 ok, 2 usage, 5 device or memory, 6 the other report cannot be read")]
pub struct BenchArgs {
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    device: DeviceArgs,
    /// Documents: of 290 word pieces, 20 entities, 30 mentions each, or the first of --input
    #[arg(long, value_name = "N", default_value_t = 4)]
    documents: usize,
    /// Real documents, in any format of `docre extract`; with --encoder
    #[arg(long, value_name = "FILE", requires = "encoder")]
    input: Option<PathBuf>,
    /// Hugging Face directory of the encoder; a head that it has not is random, of the released sizes
    #[arg(long, value_name = "DIR", requires = "input")]
    encoder: Option<PathBuf>,
    /// Of `train`: documents an update
    #[arg(long, value_name = "N", default_value_t = 4)]
    batch: usize,
    /// Runs that count
    #[arg(long, value_name = "N", default_value_t = 10)]
    repeats: usize,
    /// Runs before them
    #[arg(long, value_name = "N", default_value_t = 2)]
    warm_up: usize,
    /// Of `kernels`, those whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Recompute layers in the backward pass of `train`
    #[arg(long)]
    recompute: bool,
    /// Do not measure the device's peaks first
    #[arg(long)]
    no_peak: bool,
    #[arg(long, value_enum, default_value = "md")]
    format: Format,
    /// Another report (JSON, also of benches/peers), whose rows of the same name are set beside these; may be repeated
    #[arg(long, value_name = "FILE")]
    compare: Vec<PathBuf>,
    /// One pass for each line `run` on stdin, with a line of JSON on stdout: for benches/peers/interleave.py
    #[arg(long)]
    serve: bool,
    /// At the end, show where the time went, by op
    #[arg(long)]
    profile: bool,
    /// Instead of timing: what softgpu counts of `kernels`, and the bound that follows on this GPU (h100, a100, 4090)
    #[arg(long, value_name = "GPU")]
    modelled: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Every op
    Kernels,
    /// The encoder's forward pass
    Encoder,
    /// From word pieces to triples
    Extract,
    /// Whole updates
    Train,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Md,
    Csv,
    Json,
}

pub fn run(args: &BenchArgs) -> Result<u8> {
    let device = match args.what {
        What::Encoder | What::Extract => args.device.open()?,
        What::Kernels | What::Train => args.device.open_to_train()?,
    };
    if let Some(gpu) = &args.modelled {
        if args.what != What::Kernels {
            return Err(Error::usage("--modelled is for `docre bench kernels`"));
        }
        print(modelled::table(&device, args.documents, &args.filter, gpu)?)?;
        return Ok(0);
    }
    let others = args.compare.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    if args.serve {
        return serve(args, &device);
    }
    let peak = if args.no_peak { None } else { Some(kernels::peak(&device)?) };
    let report = Report::new(describe(&device), peak, rows(args, &device)?);
    if args.profile {
        show_profile(&device);
    }
    match args.format {
        Format::Md => print(report.markdown(&others))?,
        Format::Csv => print(report.csv())?,
        Format::Json => {
            let json = serde_json::to_string_pretty(&report).map_err(|e| Error::io("standard output", e))?;
            print(format_args!("{json}\n"))?;
        }
    }
    Ok(0)
}

fn rows(args: &BenchArgs, device: &Device) -> Result<Vec<Row>> {
    let effort = Effort { warm_up: args.warm_up, repeats: args.repeats };
    if args.what == What::Kernels {
        return kernels::run(device, args.documents, effort, &args.filter);
    }
    let load = workload(args)?;
    let row = pass(args, device, &load)?.time(device, effort)?;
    if args.what == What::Train {
        say(format_args!("{}: {}", row.name, device.ledger()));
    }
    Ok(vec![row])
}

fn workload(args: &BenchArgs) -> Result<Workload> {
    match (&args.encoder, &args.input) {
        (Some(encoder), Some(file)) => Workload::real(encoder, file, args.documents),
        _ => Ok(Workload::mean(args.documents)),
    }
}

fn pass<'a>(args: &BenchArgs, device: &'a Device, load: &'a Workload) -> Result<model::Pass<'a>> {
    match args.what {
        What::Kernels => Err(Error::usage("--serve is for encoder, extract and train")),
        What::Encoder => model::encode(device, load),
        What::Extract => model::extract(device, load),
        What::Train => model::train(device, load, args.batch, args.recompute),
    }
}

/// The protocol of benches/peers/worker.py.
fn serve(args: &BenchArgs, device: &Device) -> Result<u8> {
    let load = workload(args)?;
    let mut pass = pass(args, device, &load)?;
    (pass.run)()?;
    for line in std::io::stdin().lines() {
        let line = line.map_err(|e| Error::io("stdin", e))?;
        if line.trim() != "run" {
            return Err(Error::usage(format!("not a command: {line}")));
        }
        let (start, cpu) = (Instant::now(), cpu_seconds());
        (pass.run)()?;
        if let Device::Cuda(gpu) = device {
            gpu.synchronize()?;
        }
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let found = serde_json::json!({
            "engine": "docre", "seconds": seconds, "cpu_seconds": cpu, "items": pass.items, "flops": pass.work.flops,
            "peak_rss_mib": peak_memory().map(|bytes| bytes as f64 / f64::from(1 << 20)),
        });
        print(format_args!("{found}\n"))?;
    }
    Ok(0)
}

/// Of this process so far, all threads.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

fn read(path: &std::path::Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::io(path, format!("no report of `docre bench --format json`: {e}")))
}

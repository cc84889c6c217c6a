//! `docre bench`

use super::setup::{DeviceChoice, choose, describe, threads};
use crate::bench::{Effort, Report, Row, kernels, model, modelled};
use crate::device::Device;
use crate::error::{Error, Result};
use std::path::PathBuf;

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
    /// Where to compute
    #[arg(long, value_enum, default_value = "auto", env = "DOCRE_DEVICE", hide_env_values = true)]
    device: DeviceChoice,
    /// Threads; auto: one a core
    #[arg(long, value_name = "N", default_value = "auto", env = "DOCRE_THREADS", value_parser = threads, hide_env_values = true)]
    threads: usize,
    /// Documents at once: 290 word pieces, 20 entities, 30 mentions each
    #[arg(long, value_name = "N", default_value_t = 4)]
    documents: usize,
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
    let device = choose(args.device, args.threads)?;
    if let Some(gpu) = &args.modelled {
        if args.what != What::Kernels {
            return Err(Error::usage("--modelled is for `docre bench kernels`"));
        }
        print!("{}", modelled::table(&device, args.documents, &args.filter, gpu)?);
        return Ok(0);
    }
    let others = args.compare.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let peak = if args.no_peak { None } else { Some(kernels::peak(&device)?) };
    let report = Report::new(describe(&device), peak, rows(args, &device)?);
    match args.format {
        Format::Md => print!("{}", report.markdown(&others)),
        Format::Csv => print!("{}", report.csv()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report).map_err(|e| Error::io("output", e))?),
    }
    Ok(0)
}

fn rows(args: &BenchArgs, device: &Device) -> Result<Vec<Row>> {
    let effort = Effort { warm_up: args.warm_up, repeats: args.repeats };
    match args.what {
        What::Kernels => kernels::run(device, args.documents, effort, &args.filter),
        What::Encoder => model::encode(device, args.documents, effort),
        What::Extract => model::extract(device, args.documents, effort),
        What::Train => model::train(device, args.documents, effort, args.recompute),
    }
}

fn read(path: &std::path::Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::io(path, format!("no report of `docre bench --format json`: {e}")))
}

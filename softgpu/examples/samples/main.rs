//! Runs the kernels of softgpu/samples and compares each with a reference in f64: a plain cudarc program, which knows
//! nothing of softgpu and runs on a GPU as well.
//!
//! samples --images DIR [NAME | NAME=2x3x4] ...
//!
//! DIR holds layernorm, gemm, attention, reduce and philox, each as NAME.ptx or NAME.fatbin. Without names every sample
//! runs on its usual sizes. Exit code: 0 all is well, 1 a wrong value, 2 an error of the driver, 3 no driver, 64 usage.

mod attention;
mod check;
mod gemm;
mod gpu;
mod layernorm;
mod philox;
mod reduce;

use std::path::PathBuf;
use std::process::ExitCode;

use check::Report;
use gpu::{Failure, Gpu};

/// Runs one kernel on one size.
type Run = fn(&Gpu, &[usize]) -> Result<Report, Failure>;
/// The usual sizes. None: runs only when named, since the context is lost with it.
type Sizes = Option<&'static [&'static [usize]]>;

struct Sample {
    name: &'static str,
    run: Run,
    sizes: Sizes,
    /// What the numbers of a size mean.
    meaning: &'static str,
}

const fn sample(name: &'static str, run: Run, sizes: Sizes, meaning: &'static str) -> Sample {
    Sample { name, run, sizes, meaning }
}

const SAMPLES: [&[Sample]; 5] =
    [layernorm::SAMPLES, gemm::SAMPLES, attention::SAMPLES, reduce::SAMPLES, philox::SAMPLES];

type Case = (&'static Sample, Vec<usize>);

fn all() -> impl Iterator<Item = &'static Sample> {
    SAMPLES.into_iter().flatten()
}

/// What was asked for: the directory of images, and kernels with sizes.
fn parse(arguments: &[String]) -> Result<(PathBuf, Vec<Case>), String> {
    let (mut images, mut cases) = (None, Vec::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--images" {
            images = Some(PathBuf::from(arguments.next().ok_or("--images needs a directory")?));
        } else {
            cases.extend(parse_case(argument)?);
        }
    }
    if cases.is_empty() {
        cases = all().filter(|sample| sample.sizes.is_some()).flat_map(usual).collect();
    }
    Ok((images.ok_or("--images DIR is needed")?, cases))
}

/// NAME, for its usual sizes, or NAME=2x3x4.
fn parse_case(argument: &str) -> Result<Vec<Case>, String> {
    let (name, size) = argument.split_once('=').map_or((argument, None), |(name, size)| (name, Some(size)));
    let sample = all().find(|sample| sample.name == name).ok_or(format!("no sample is called {name}"))?;
    let Some(size) = size else { return Ok(usual(sample)) };
    let size: Option<Vec<usize>> = size.split('x').map(|number| number.parse().ok()).collect();
    let size = size.filter(|size| size.len() >= sample.meaning.split(' ').count());
    Ok(vec![(sample, size.ok_or(format!("{name}=... takes {}, as in 2x3x4", sample.meaning))?)])
}

fn usual(sample: &'static Sample) -> Vec<Case> {
    sample.sizes.unwrap_or(&[&[1]]).iter().map(|size| (sample, size.to_vec())).collect()
}

/// Runs one case and prints its line; the exit code.
fn run(gpu: &Gpu, sample: &Sample, size: &[usize]) -> u8 {
    let title = format!("{} {}", sample.name, size.iter().map(usize::to_string).collect::<Vec<_>>().join("x"));
    match (sample.run)(gpu, size) {
        Ok(report) => {
            println!("{}", report.line(&title));
            u8::from(report.wrong.is_some())
        }
        Err(failure) => {
            println!("ERROR {title}: {failure}");
            2
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (images, cases) = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(what) => {
            eprintln!("samples: {what}\nusage: samples --images DIR [NAME | NAME=SIZES] ...");
            all().for_each(|s| eprintln!("  {:24}{}", s.name, s.meaning));
            return ExitCode::from(64);
        }
    };
    // SAFETY: asks the dynamic linker for libcuda, which runs that library's constructors and nothing of ours.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        eprintln!("samples: no CUDA driver: put libcuda.so.1 on LD_LIBRARY_PATH (make softgpu builds one)");
        return ExitCode::from(3);
    }
    let gpu = match Gpu::open(images) {
        Ok(gpu) => gpu,
        Err(failure) => {
            eprintln!("samples: {failure}");
            return ExitCode::from(2);
        }
    };
    let mut worst = 0;
    for (sample, size) in cases {
        worst = worst.max(run(&gpu, sample, &size));
        if worst == 2 {
            break; // the context is lost
        }
    }
    ExitCode::from(worst)
}

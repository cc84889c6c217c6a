//! Commands: one file each, all of the same shape: an `Args` struct and `run(args) -> Result<exit code>`.

pub mod assets;
pub mod bench;
pub mod check;
pub mod convert;
pub mod demo;
pub mod distill;
pub mod doctor;
pub mod eval;
pub mod extract;
pub mod model;
pub mod output;
pub mod progress;
pub mod setup;
pub mod threshold;
pub mod train;

use crate::error::Result;
use crate::text::say;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Document-level relation extraction: facts between entities, across sentences.
#[derive(Parser)]
#[command(name = "docre", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Examples:
  docre demo                                            relations of the built-in examples
  docre extract documents.jsonl --to table              relations of your own documents
  docre train examples/train-demo.toml --out runs/demo  a model of your own
  docre eval --gold dev.json -m runs/demo/best          its F1

`docre COMMAND --help` has more examples, and the exit codes.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Extract(extract::ExtractArgs),
    Eval(eval::EvalArgs),
    Train(train::TrainArgs),
    Distill(distill::DistillArgs),
    Threshold(threshold::ThresholdArgs),
    Check(check::CheckArgs),
    Convert(convert::ConvertArgs),
    Model(model::ModelCommand),
    Demo(demo::DemoArgs),
    Doctor(doctor::DoctorArgs),
    Bench(bench::BenchArgs),
}

/// Parses, runs, reports: the whole program.
pub fn main() -> ExitCode {
    quiet_pipes();
    keep_memory();
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<u8> {
    match command {
        Command::Extract(args) => extract::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Distill(args) => distill::run(&args),
        Command::Threshold(args) => threshold::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Model(args) => model::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}

/// A closed pipe (`docre … | head`) ends the program quietly, as Unix tools do.
fn quiet_pipes() {
    #[cfg(unix)]
    // SAFETY: called before any thread exists; SIG_DFL is a valid disposition.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Freed memory stays with the process: giving it back costs a page fault for every 4 KiB used again.
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: plain settings of the allocator, made before any thread exists.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 20);
    }
}

//! Commands: one file each, all of the same shape: an `Args` struct and `run(args) -> Result<exit code>`.

pub mod check;
pub mod progress;
pub mod train;

use crate::error::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Document-level relation extraction: facts between entities, across sentences.
#[derive(Parser)]
#[command(name = "docre", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::TrainArgs),
    Check(check::CheckArgs),
}

/// Parses, runs, reports: the whole program.
pub fn main() -> ExitCode {
    quiet_pipes();
    keep_memory();
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<u8> {
    match command {
        Command::Train(args) => train::run(&args),
        Command::Check(args) => check::run(&args),
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

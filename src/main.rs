//! The command line. What was typed becomes a command in `cli`; only this file exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    docre::cli::main()
}

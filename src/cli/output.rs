//! Where results go: standard output, or a file that appears whole or not at all.

use crate::checkpoint::AtomicFile;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

pub enum Output {
    Stdout(io::Stdout),
    Atomic(AtomicFile),
    /// A pipe, a terminal, /dev/null: nothing to rename onto.
    Special(File),
}

impl Output {
    /// `-` is standard output.
    pub fn create(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Output::Stdout(io::stdout()));
        }
        match path.metadata() {
            Ok(about) if about.is_dir() => Err(Error::io(path, "is a directory").fix("name a file")),
            Ok(about) if !about.is_file() => {
                File::options().write(true).open(path).map(Output::Special).map_err(|e| Error::io(path, e))
            }
            _ => AtomicFile::create(path).map(Output::Atomic),
        }
    }

    /// Makes the file visible.
    pub fn commit(self) -> Result<()> {
        match self {
            Output::Atomic(file) => file.commit(),
            Output::Stdout(_) | Output::Special(_) => Ok(()),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(out) => out.write(bytes),
            Output::Atomic(out) => out.write(bytes),
            Output::Special(out) => out.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(out) => out.flush(),
            Output::Atomic(out) => out.flush(),
            Output::Special(out) => out.flush(),
        }
    }
}

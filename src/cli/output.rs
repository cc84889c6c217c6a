//! Where results go: standard output, or a file that appears whole or not at all.

use crate::checkpoint::{AtomicFile, links};
use crate::error::{Error, Result};
use signal_hook::{consts, low_level};
use std::ffi::CString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Writes to standard output. Error: E-IO where it cannot be written to.
pub fn print(text: impl Display) -> Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(|e| Error::io("standard output", e))
}

pub enum Output {
    Stdout(io::Stdout),
    Atomic(AtomicFile),
    /// A pipe, a terminal, /dev/null: nothing to rename onto.
    Special(File),
}

impl Output {
    /// `-` is standard output. Error: E-USAGE for one of `inputs`, whose documents would be lost.
    pub fn create<'a>(path: &Path, inputs: impl IntoIterator<Item = &'a PathBuf>) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Output::Stdout(io::stdout()));
        }
        if let Some(number) = links(path).iter().find_map(|path| descriptor(path)) {
            // Of whatever a shell has put there, at the place where it is.
            // SAFETY: only copied, which fails where it is not open.
            let copy = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned();
            return copy.map(|own| Output::Special(own.into())).map_err(|e| Error::io(path, e));
        }
        let place = path.canonicalize();
        let same = |input: &&PathBuf| place.as_ref().is_ok_and(|place| input.canonicalize().is_ok_and(|i| i == *place));
        if let Some(input) = inputs.into_iter().find(same) {
            return Err(Error::usage(format!("{} is read and would be replaced", input.display())).fix("another -o"));
        }
        match path.metadata() {
            Ok(about) if about.is_dir() => Err(Error::io(path, "is a directory").fix("name a file")),
            Ok(about) if !about.is_file() => {
                File::options().write(true).open(path).map(Output::Special).map_err(|e| Error::io(path, e))
            }
            _ => {
                let file = AtomicFile::create(path)?;
                remove_on_signal(file.temporary()).map_err(|e| Error::io("signals", e))?;
                Ok(Output::Atomic(file))
            }
        }
    }

    /// Writes all of a small result.
    pub fn write<'a>(path: &Path, inputs: impl IntoIterator<Item = &'a PathBuf>, bytes: &[u8]) -> Result<()> {
        let mut out = Output::create(path, inputs)?;
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| Error::io(path, e))?;
        out.commit()
    }

    /// Makes the file visible.
    pub fn commit(self) -> Result<()> {
        match self {
            Output::Atomic(file) => file.commit(),
            Output::Stdout(_) | Output::Special(_) => Ok(()),
        }
    }
}

/// The number of an open file that a path names: `/dev/fd/1`, and where `/dev/stdout` leads.
fn descriptor(path: &Path) -> Option<i32> {
    let of_us = ["/dev/fd", "/proc/self/fd"].iter().any(|dir| path.parent() == Some(Path::new(dir)));
    path.file_name()?.to_str()?.parse().ok().filter(|number| of_us && *number >= 0)
}

/// Signals end the program as ever, but not with a part of a file left behind.
fn remove_on_signal(unfinished: &Path) -> io::Result<()> {
    let name = CString::new(unfinished.as_os_str().as_bytes())?;
    for signal in [consts::SIGINT, consts::SIGTERM, consts::SIGHUP].into_iter().filter(|signal| !is_ignored(*signal)) {
        let name = name.clone();
        let end = move || {
            // SAFETY: a string with its end, which lives as long as the handler.
            unsafe { libc::unlink(name.as_ptr()) };
            let _ = low_level::emulate_default_handler(signal);
        };
        // SAFETY: the handler does nothing but what a signal handler may: it removes a file and ends the process.
        unsafe { low_level::register(signal, end) }?;
    }
    Ok(())
}

/// As `nohup` has it of SIGHUP.
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all zeros is a sigaction; it is only written to.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut now) == 0 && now.sa_sigaction == libc::SIG_IGN
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

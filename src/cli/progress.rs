//! What a command says on stderr while it works and at its end: a bar on a terminal, a line every ten seconds elsewhere.

use crate::device::Device;
use crate::error::Error;
use crate::text::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Between two lines where stderr is not a terminal.
const EVERY: Duration = Duration::from_secs(10);

pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
    quiet: bool,
    last: Option<Instant>,
}

impl Progress {
    /// Of `length` steps; unknown if `None`.
    pub fn new(length: Option<u64>, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(length, target);
        let template = match length {
            Some(_) => "{bar:20} {pos}/{len} {msg}",
            None => "{spinner} {pos} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Progress { bar, terminal, quiet, last: None }
    }
    /// Off a terminal, the first line comes after the usual time, not at once: for work that may be short.
    pub fn patient(mut self) -> Self {
        self.last = Some(Instant::now());
        self
    }
    /// Shows step `position` with a message, now or when it is due.
    pub fn set(&mut self, position: u64, message: impl FnOnce() -> String) {
        if self.quiet {
            return;
        }
        if self.terminal {
            self.bar.set_position(position);
            self.bar.set_message(message());
        } else if self.last.is_none_or(|last| last.elapsed() >= EVERY) {
            self.last = Some(Instant::now());
            let length = self.bar.length().map_or(String::new(), |n| format!("/{n}"));
            say(format_args!("{position}{length} {}", message()));
        }
    }
    /// A line that stays.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            self.error(text);
        }
    }
    /// A line that stays, also where only errors are wanted.
    pub fn error(&self, text: &str) {
        self.bar.suspend(|| say(text));
    }
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Of documents that go through a model: counts, progress and the last line, on stderr.
pub struct Screen {
    progress: Progress,
    quiet: bool,
    start: Instant,
    documents: usize,
    relations: usize,
    pub refused: usize,
}

impl Screen {
    pub fn new(quiet: bool) -> Self {
        let progress = Progress::new(None, quiet).patient();
        Screen { progress, quiet, start: Instant::now(), documents: 0, relations: 0, refused: 0 }
    }
    pub fn found(&mut self, relations: usize) {
        self.documents += 1;
        self.relations += relations;
        let Screen { ref mut progress, start, documents, relations, .. } = *self;
        progress.set(documents as u64, || format!("documents, {relations} relations {}", pace(start, documents)));
    }
    /// Says so, unless the output does.
    pub fn refused(&mut self, error: &Error, recorded: bool) {
        self.refused += 1;
        if !recorded {
            self.progress.error(&format!("refused: {error}"));
        }
    }
    pub fn summary(&self) -> String {
        let refused = if self.refused > 0 { format!(", {} refused", self.refused) } else { String::new() };
        let (documents, relations) = (self.documents, self.relations);
        format!("{documents} documents, {relations} relations{refused} {}", pace(self.start, documents))
    }
    pub fn finish(&self) {
        self.progress.finish();
        if !self.quiet {
            say(self.summary());
        }
    }
}

fn pace(start: Instant, documents: usize) -> String {
    let seconds = start.elapsed().as_secs_f64();
    format!("in {seconds:.2} s ({:.1} documents/s)", documents as f64 / seconds.max(1e-9))
}

/// Where the time went (adds up to the wall time since the device was opened) and who held memory.
pub fn show_profile(device: &Device) {
    let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
    say(format_args!("{}{}", device.profile(), device.ledger()).to_string().trim_end());
    say(format_args!("kept for the next op, at the end: {:.1} MiB", mib(device.idle_bytes())));
    if let Some(peak) = peak_memory() {
        say(format_args!(
            "the process at its peak: {:.1} MiB (also: packed operands, attention of single heads, files)",
            mib(peak)
        ));
    }
}

/// The most memory that this process has had, in bytes, where the system says so.
pub fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: usize = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib << 10)
}

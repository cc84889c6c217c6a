//! Progress on stderr: a bar on a terminal, a line every ten seconds elsewhere.

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
            eprintln!("{position}{} {}", self.bar.length().map_or(String::new(), |n| format!("/{n}")), message());
        }
    }
    /// A line that stays.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| eprintln!("{text}"));
        }
    }
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

//! Where the time goes: seconds and calls by op.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Profile {
    start: Instant,
    spans: Mutex<BTreeMap<&'static str, (Duration, u64)>>,
}

impl Default for Profile {
    fn default() -> Self {
        Profile { start: Instant::now(), spans: Mutex::default() }
    }
}

/// Runs until dropped, then counts towards its name. Spans of one thread must not overlap.
pub struct Span<'a> {
    profile: &'a Profile,
    name: &'static str,
    start: Instant,
}

impl Profile {
    pub fn span(&self, name: &'static str) -> Span<'_> {
        Span { profile: self, name, start: Instant::now() }
    }
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        let mut spans = self.profile.spans.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let entry = spans.entry(self.name).or_default();
        entry.0 += self.start.elapsed();
        entry.1 += 1;
    }
}

/// A table, longest first, whose last line is the wall time since the profile was made.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wall = self.start.elapsed().as_secs_f64();
        let spans = self.spans.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut rows: Vec<_> = spans.iter().map(|(name, (time, calls))| (*name, time.as_secs_f64(), *calls)).collect();
        rows.sort_by(|a, b| b.1.total_cmp(&a.1));
        let inside: f64 = rows.iter().map(|row| row.1).sum();
        writeln!(f, "{:<28} {:>9} {:>7} {:>9}", "op", "seconds", "share", "calls")?;
        for (name, seconds, calls) in rows {
            writeln!(f, "{name:<28} {seconds:>9.3} {:>6.1}% {calls:>9}", 100.0 * seconds / wall)?;
        }
        let rest = (wall - inside).max(0.0);
        writeln!(f, "{:<28} {rest:>9.3} {:>6.1}%", "between ops", 100.0 * rest / wall)?;
        writeln!(f, "{:<28} {wall:>9.3} {:>6.1}%", "wall", 100.0)
    }
}

//! Where the time goes: seconds and calls by op.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Profile {
    start: Instant,
    spans: Mutex<BTreeMap<&'static str, (Duration, u64)>>,
    /// How many threads run spans of their own at once: a span counts for its share of the time.
    lanes: AtomicU32,
}

impl Default for Profile {
    fn default() -> Self {
        Profile { start: Instant::now(), spans: Mutex::default(), lanes: AtomicU32::new(1) }
    }
}

/// Runs until dropped, then counts towards its name. Spans of one thread must not overlap.
pub struct Span<'a> {
    profile: &'a Profile,
    name: &'static str,
    start: Instant,
}

/// As long as it lives, so many threads run spans at once.
pub struct Lanes<'a>(&'a Profile);

impl Drop for Lanes<'_> {
    fn drop(&mut self) {
        self.0.lanes.store(1, Relaxed);
    }
}

impl Profile {
    pub fn span(&self, name: &'static str) -> Span<'_> {
        Span { profile: self, name, start: Instant::now() }
    }
    pub fn lanes(&self, count: usize) -> Lanes<'_> {
        self.lanes.store(count.max(1) as u32, Relaxed);
        Lanes(self)
    }
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        let mut spans = self.profile.spans.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let entry = spans.entry(self.name).or_default();
        entry.0 += self.start.elapsed() / self.profile.lanes.load(Relaxed);
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

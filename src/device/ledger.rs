//! Who holds memory: live and peak bytes by tag, and the list that was alive at the peak.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

/// What an allocation is for: the name of an op or of a long-lived array.
pub type Tag = &'static str;

#[derive(Debug, Default)]
pub struct Ledger(Mutex<Books>);

#[derive(Clone, Debug, Default)]
struct Books {
    live: BTreeMap<Tag, usize>,
    total: usize,
    peak: usize,
    at_peak: BTreeMap<Tag, usize>,
    limit: Option<usize>,
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
    /// Refuses allocations past `bytes` in all.
    pub fn set_limit(&self, bytes: Option<usize>) {
        self.books().limit = bytes;
    }
    /// Books `bytes`; `Err` holds the free bytes where a limit forbids it.
    pub fn take(&self, tag: Tag, bytes: usize) -> Result<(), usize> {
        let mut books = self.books();
        if let Some(limit) = books.limit
            && books.total + bytes > limit
        {
            return Err(limit.saturating_sub(books.total));
        }
        *books.live.entry(tag).or_default() += bytes;
        books.total += bytes;
        if books.total > books.peak {
            books.peak = books.total;
            books.at_peak = books.live.clone();
        }
        Ok(())
    }
    pub fn give(&self, tag: Tag, bytes: usize) {
        let mut books = self.books();
        books.total -= bytes;
        if let Some(live) = books.live.get_mut(tag) {
            *live -= bytes;
        }
    }
    pub fn live(&self) -> usize {
        self.books().total
    }
    pub fn peak(&self) -> usize {
        self.books().peak
    }
}

/// The table of who held what at the peak, largest first.
impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let books = self.books().clone();
        let mut rows: Vec<_> = books.at_peak.into_iter().filter(|(_, bytes)| *bytes > 0).collect();
        rows.sort_by_key(|&(tag, bytes)| (std::cmp::Reverse(bytes), tag));
        writeln!(f, "tensors at the peak: {:.1} MiB", mib(books.peak))?;
        rows.iter().try_for_each(|(tag, bytes)| writeln!(f, "  {tag:<28} {:>10.1} MiB", mib(*bytes)))
    }
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

//! Buffers of freed tensors, kept for the next ones: fresh memory costs a page fault every 4 KiB, which
//! made a third of a training step.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Idle buffers by length.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Idle>);

#[derive(Debug, Default)]
struct Idle {
    by_length: BTreeMap<usize, Vec<Vec<f32>>>,
    elements: usize,
}

impl Idle {
    /// The smallest of at least `least` and at most `most` elements: batches of another size left it, and it would lie
    /// here for good.
    fn smallest(&mut self, least: usize, most: usize) -> Option<Vec<f32>> {
        let buffer = self.by_length.range_mut(least..=most).find_map(|(_, buffers)| buffers.pop())?;
        self.elements -= buffer.len();
        Some(buffer)
    }
}

/// Elements that may lie idle: 16 MiB.
const MOST_IDLE: usize = 4 << 20;
/// Smaller tensors are the allocator's business.
const SMALLEST: usize = 1 << 14;

/// Lengths are rounded up to an eighth of their power of two, so that batches of different sizes share.
fn class(n: usize) -> usize {
    n.next_multiple_of((n.next_power_of_two() / 16).max(1))
}

impl Pool {
    /// At least `n` elements with arbitrary contents.
    pub fn take(&self, n: usize) -> Vec<f32> {
        if n < SMALLEST {
            return vec![0.0; n];
        }
        let length = class(n);
        let mut idle = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match idle.smallest(length, 2 * length) {
            Some(buffer) => buffer,
            None => {
                drop(idle);
                vec![0.0; length]
            }
        }
    }
    /// Takes a buffer back; frees it if enough lie idle.
    pub fn give(&self, buffer: Vec<f32>) {
        let n = buffer.len();
        if n < SMALLEST || class(n) != n {
            return;
        }
        let mut idle = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if idle.elements + n <= MOST_IDLE {
            idle.elements += n;
            idle.by_length.entry(n).or_default().push(buffer);
        }
    }
    /// Bytes that lie idle now.
    pub fn idle_bytes(&self) -> usize {
        4 * self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).elements
    }
}

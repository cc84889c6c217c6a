//! Buffers of freed tensors, kept for the next ones: fresh memory costs a page fault every 4 KiB, which
//! made a third of a training step.

use std::collections::VecDeque;
use std::sync::Mutex;

/// Idle buffers.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Idle>);

#[derive(Debug, Default)]
struct Idle {
    /// The longest idle first.
    buffers: VecDeque<Vec<f32>>,
    elements: usize,
}

impl Idle {
    /// The smallest of at least `least` and at most `most` elements.
    fn smallest(&mut self, least: usize, most: usize) -> Option<Vec<f32>> {
        let fits = |&i: &usize| (least..=most).contains(&self.buffers[i].len());
        let i = (0..self.buffers.len()).filter(fits).min_by_key(|&i| self.buffers[i].len())?;
        let buffer = self.buffers.remove(i)?;
        self.elements -= buffer.len();
        Some(buffer)
    }
    /// Keeps `buffer`, and frees what has been idle longest where that is too much: sizes that no batch asks for any
    /// more must not stand in the way of those in use.
    fn keep(&mut self, buffer: Vec<f32>) {
        self.elements += buffer.len();
        self.buffers.push_back(buffer);
        while self.elements > MOST_IDLE {
            self.elements -= self.buffers.pop_front().map_or(0, |oldest| oldest.len());
        }
    }
}

/// Elements that may lie idle: 24 MiB.
const MOST_IDLE: usize = 6 << 20;
/// Smaller tensors are the allocator's business.
const SMALLEST: usize = 1 << 14;

/// Lengths are rounded up to an eighth of their power of two, so that batches of different sizes share.
fn class(n: usize) -> usize {
    n.next_multiple_of((n.next_power_of_two() / 16).max(1))
}

impl Pool {
    /// At least `n` elements with arbitrary contents; None where there is no memory for them.
    pub fn take(&self, n: usize) -> Option<Vec<f32>> {
        if n < SMALLEST {
            return Some(vec![0.0; n]);
        }
        let length = class(n);
        let mut idle = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match idle.smallest(length, 2 * length) {
            Some(buffer) => Some(buffer),
            None => {
                drop(idle);
                bytemuck::allocation::try_zeroed_vec(length).ok()
            }
        }
    }
    /// Takes a buffer back.
    pub fn give(&self, buffer: Vec<f32>) {
        let n = buffer.len();
        if (SMALLEST..=MOST_IDLE).contains(&n) && class(n) == n {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).keep(buffer);
        }
    }
    /// Bytes that lie idle now.
    pub fn idle_bytes(&self) -> usize {
        4 * self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).elements
    }
}

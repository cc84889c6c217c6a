//! Working memory of one task, kept by its thread for the next one: no zeroing, no page faults.

use bytemuck::Pod;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// A line of the caches, which is a register of AVX-512 too: memory made of them has none that lies across two lines.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Line([u64; 8]);

/// Lines that hold `len` elements.
pub fn lines<T>(len: usize) -> usize {
    (len * size_of::<T>()).div_ceil(size_of::<Line>())
}

thread_local! {
    /// Buffers that nobody holds.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that a thread keeps for later.
const KEPT: usize = 24 << 20;
/// A larger buffer goes back to the allocator: one document of a rare size must not hold memory for good.
pub const LARGEST: usize = 16 << 20;

/// `len` elements with arbitrary contents; write before you read.
pub struct Scratch<T> {
    buffer: Vec<Line>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Scratch<T> {
    pub fn new(len: usize) -> Self {
        let lines = lines::<T>(len);
        // The smallest that is large enough, so that a small request does not hold a large buffer.
        let mut buffer = FREE.with_borrow_mut(|free| {
            let fits = (0..free.len()).filter(|&i| free[i].len() >= lines).min_by_key(|&i| free[i].len());
            let largest = || (0..free.len()).max_by_key(|&i| free[i].len());
            fits.or_else(largest).map_or_else(Vec::new, |i| free.swap_remove(i))
        });
        if buffer.len() < lines {
            buffer = bytemuck::zeroed_vec(lines);
        }
        Scratch { buffer, len, element: PhantomData }
    }
    /// Zeros.
    pub fn zeros(len: usize) -> Self {
        let mut scratch = Self::new(len);
        scratch.fill(T::zeroed());
        scratch
    }
}

impl<T> Drop for Scratch<T> {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        if size_of_val(&*buffer) <= LARGEST {
            // A thread that is ending has no list any more: then the buffer is simply freed.
            let _ = FREE.try_with(|free| {
                let mut free = free.borrow_mut();
                if (free.iter().map(Vec::len).sum::<usize>() + buffer.len()) * size_of::<Line>() <= KEPT {
                    free.push(buffer);
                }
            });
        }
    }
}

impl<T: Pod> Deref for Scratch<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.buffer)[..self.len]
    }
}

impl<T: Pod> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.buffer)[..self.len]
    }
}

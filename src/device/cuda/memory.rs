//! Memory of the GPU, in the order of the stream.

use super::context::{Context, failed};
use crate::device::Booking;
use crate::device::ledger::{Ledger, Tag};
use crate::error::{Error, Result};
use cudarc::driver::{DriverError, result, sys};
use std::sync::Arc;

/// Bytes on the GPU, freed in the order of the stream.
#[derive(Debug)]
pub struct Memory {
    context: Arc<Context>,
    pointer: sys::CUdeviceptr,
    bytes: usize,
    _booking: Booking,
}

/// The least that is asked for: the driver knows no allocation of 0 bytes.
const LEAST: usize = 16;

impl Memory {
    pub fn new(context: &Arc<Context>, ledger: &Arc<Ledger>, tag: Tag, bytes: usize) -> Result<Self> {
        let booking = Booking::new(ledger, tag, bytes)?;
        context.bind()?;
        // SAFETY: the stream lives; what comes back is freed once, by drop.
        let allocate = || unsafe { result::malloc_async(context.stream, bytes.max(LEAST)) };
        let full = |e: DriverError| e.0 == sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY;
        let mut found = allocate();
        if found.is_err_and(full) {
            context.trim()?; // what the pool holds in pieces may do as a whole
            found = allocate();
        }
        let pointer = found.map_err(|e| match full(e) {
            true => out_of_memory(tag, bytes, ledger),
            false => failed("allocating memory", e),
        })?;
        Ok(Memory { context: context.clone(), pointer, bytes, _booking: booking })
    }
    pub fn pointer(&self) -> u64 {
        self.pointer
    }
    pub fn bytes(&self) -> usize {
        self.bytes
    }
    /// Fills bytes `from..from + len` with copies of `pattern`: 1, 2 or 4 bytes that divide `len`.
    pub fn fill(&self, from: usize, len: usize, pattern: &[u8]) -> Result<()> {
        assert!(from + len <= self.bytes && len.is_multiple_of(pattern.len()), "a fill within the memory");
        if len == 0 {
            return Ok(());
        }
        self.context.bind()?;
        let (at, stream, n) = (self.pointer + from as u64, self.context.stream, len / pattern.len());
        // SAFETY: within the memory, as asserted; ordered by the stream.
        unsafe {
            match *pattern {
                [a] => sys::cuMemsetD8Async(at, a, n, stream),
                [a, b] => sys::cuMemsetD16Async(at, u16::from_le_bytes([a, b]), n, stream),
                [a, b, c, d] => sys::cuMemsetD32Async(at, u32::from_le_bytes([a, b, c, d]), n, stream),
                _ => sys::cudaError_enum::CUDA_ERROR_INVALID_VALUE,
            }
        }
        .result()
        .map_err(|e| failed("filling memory", e))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // An error here is that of an earlier launch: whoever synchronises next reports it.
        if self.context.bind().is_ok() {
            // SAFETY: allocated by `new`; kernels that use it are ahead of this in the stream.
            let _ = unsafe { result::free_async(self.pointer, self.context.stream) };
        }
    }
}

fn out_of_memory(tag: Tag, bytes: usize, ledger: &Ledger) -> Error {
    let free = result::mem_get_info().map_or(0, |(free, _)| free);
    let what = format!("{tag} needs {} MiB more of the GPU, {} MiB are free\n{ledger}", bytes >> 20, free >> 20);
    Error::device("E-OOM", what).fix("smaller batches, `recompute = true` in training, or --device cpu")
}

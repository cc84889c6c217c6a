//! Memory of the GPU, in the order of the stream, and the way there and back.

use super::context::{Context, failed};
use crate::device::Booking;
use crate::device::ledger::{Ledger, Tag};
use crate::error::{Error, Result};
use cudarc::driver::result::{self, event, stream};
use cudarc::driver::sys;
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
        let pointer = allocate().or_else(|e| match e.0 {
            sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY => {
                context.trim()?; // what the pool holds in pieces may do as a whole
                allocate().map_err(|_| out_of_memory(tag, bytes, ledger))
            }
            _ => Err(failed("allocating memory", e)),
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
    /// Copies bytes `from..` to `to`, and waits for them.
    pub fn download(&self, from: usize, to: &mut [u8]) -> Result<()> {
        assert!(from + to.len() <= self.bytes, "a copy within the memory");
        if to.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: within the memory; `to` is borrowed until the copy is done.
        let copied = unsafe { result::memcpy_dtoh_async(to, self.pointer + from as u64, self.context.stream) };
        copied.map_err(|e| failed("copying from the GPU", e))?;
        self.context.synchronize()
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

/// Pinned memory through which everything goes to the GPU: a copy from there needs no copy of the driver's, and
/// the caller goes on at once.
#[derive(Debug)]
pub struct Staging {
    context: Arc<Context>,
    slots: Vec<Slot>,
    next: usize,
}

#[derive(Debug)]
struct Slot {
    host: *mut u8,
    /// Behind the last copy out of the slot.
    done: sys::CUevent,
}

// SAFETY: the memory behind `host` belongs to the slot alone, and the slots to whoever holds `Staging`.
unsafe impl Send for Staging {}

const SLOTS: usize = 4;
const SLOT_BYTES: usize = 1 << 20;

impl Staging {
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        context.bind()?;
        let mut staging = Staging { context: context.clone(), slots: Vec::new(), next: 0 };
        for _ in 0..SLOTS {
            // SAFETY: freed once, by drop. The memory is written before it is read.
            let host = unsafe { result::malloc_host(SLOT_BYTES, 0) }.map_err(|e| failed("pinning memory", e))?;
            let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
            let done = event::create(flags).map_err(|e| failed("making an event", e))?;
            staging.slots.push(Slot { host: host.cast(), done });
        }
        Ok(staging)
    }
    /// Copies `bytes` to the start of `memory`, behind all that was asked for before.
    pub fn upload(&mut self, memory: &Memory, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= memory.bytes, "a copy within the memory");
        self.context.bind()?;
        for (i, piece) in bytes.chunks(SLOT_BYTES).enumerate() {
            let slot = &self.slots[self.next];
            self.next = (self.next + 1) % SLOTS;
            let to = memory.pointer + (i * SLOT_BYTES) as u64;
            // SAFETY: the slot's last copy is done before it is written again; a piece fits a slot; the
            // memory holds all pieces.
            unsafe {
                event::synchronize(slot.done)
                    .and_then(|()| {
                        std::ptr::copy_nonoverlapping(piece.as_ptr(), slot.host, piece.len());
                        let staged = std::slice::from_raw_parts(slot.host, piece.len());
                        result::memcpy_htod_async(to, staged, self.context.stream)
                    })
                    .and_then(|()| event::record(slot.done, self.context.stream))
            }
            .map_err(|e| failed("copying to the GPU", e))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.context.bind().is_err() {
            return;
        }
        // SAFETY: after the stream has come to rest no copy reads the slots. Errors have no reader.
        unsafe {
            let _ = stream::synchronize(self.context.stream);
            for slot in &self.slots {
                let _ = event::destroy(slot.done);
                let _ = result::free_host(slot.host.cast());
            }
        }
    }
}

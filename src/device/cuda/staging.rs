//! The way to the GPU and back, through pinned memory: a copy from or to there needs no copy of the driver's, and runs
//! beside the host.

use super::context::{Context, failed};
use super::locked;
use super::memory::Memory;
use crate::error::Result;
use cudarc::driver::result::{self, event};
use cudarc::driver::{DriverError, sys};
use std::sync::{Arc, Mutex};

/// Pinned memory for one copy at a time.
#[derive(Debug)]
struct Slot {
    context: Arc<Context>,
    host: *mut u8,
    bytes: usize,
    /// Behind the last copy out of the slot or into it.
    done: sys::CUevent,
}

// SAFETY: the memory behind `host` belongs to the slot alone.
unsafe impl Send for Slot {}

impl Slot {
    fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        context.bind()?;
        // SAFETY: freed once, by drop. The memory is written before it is read.
        let host = unsafe { result::malloc_host(bytes, 0) }.map_err(|e| failed("pinning memory", e))?;
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let done = event::create(flags).map_err(|e| failed("making an event", e))?;
        Ok(Slot { context: context.clone(), host: host.cast(), bytes, done })
    }
    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the event lives as long as the slot.
        unsafe { event::synchronize(self.done) }
    }
    /// Copies `piece` to the GPU's address `to`, behind all that was asked for before.
    fn send(&mut self, piece: &[u8], to: u64) -> Result<()> {
        assert!(piece.len() <= self.bytes, "a piece that fits the slot");
        self.context.bind()?;
        let send = || {
            self.wait()?;
            // SAFETY: the slot's last copy is done; the piece fits it; the caller names memory that holds the piece.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.as_ptr(), self.host, piece.len());
                let staged = std::slice::from_raw_parts(self.host, piece.len());
                result::memcpy_htod_async(to, staged, self.context.stream)?;
                event::record(self.done, self.context.stream)
            }
        };
        send().map_err(|e| failed("copying to the GPU", e))
    }
    /// Fills `piece` from the GPU's address `from`. Waits for what was asked for before, not for what comes behind.
    fn fetch(&mut self, piece: &mut [u8], from: u64) -> Result<()> {
        assert!(piece.len() <= self.bytes, "a piece that fits the slot");
        self.context.bind()?;
        let mut fetch = || {
            // SAFETY: nobody else uses the slot; the piece fits it; it is read after the copy is done.
            unsafe {
                let staged = std::slice::from_raw_parts_mut(self.host, piece.len());
                result::memcpy_dtoh_async(staged, from, self.context.stream)?;
                event::record(self.done, self.context.stream)?;
                self.wait()?;
                piece.copy_from_slice(staged);
            }
            Ok(())
        };
        fetch().map_err(|e: DriverError| failed("copying from the GPU", e))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.context.bind().is_err() {
            return;
        }
        // SAFETY: after the last copy nothing uses the memory. Errors have no reader.
        unsafe {
            let _ = self.wait();
            let _ = event::destroy(self.done);
            let _ = result::free_host(self.host.cast());
        }
    }
}

/// Everything that goes to the GPU takes the next slot, so that the caller goes on at once. Many, since each is free again
/// only when the GPU has come to its copy: few would hold up whoever asks for work ahead of it.
#[derive(Debug)]
pub struct Upload {
    context: Arc<Context>,
    slots: Vec<Slot>,
    next: usize,
}

const SLOTS: usize = 64;
const SLOT_BYTES: usize = 128 << 10;

impl Upload {
    pub fn new(context: &Arc<Context>) -> Self {
        Upload { context: context.clone(), slots: Vec::new(), next: 0 }
    }
    /// Copies `bytes` to the start of `memory`, behind all that was asked for before.
    pub fn send(&mut self, memory: &Memory, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= memory.bytes(), "a copy within the memory");
        for (i, piece) in bytes.chunks(SLOT_BYTES).enumerate() {
            if self.next == self.slots.len() {
                self.slots.push(Slot::new(&self.context, SLOT_BYTES)?);
            }
            self.slots[self.next].send(piece, memory.pointer() + (i * SLOT_BYTES) as u64)?;
            self.next = (self.next + 1) % SLOTS;
        }
        Ok(())
    }
}

/// Slots for what comes back: as many as there are threads that wait for something.
#[derive(Debug)]
pub struct Download {
    context: Arc<Context>,
    idle: Mutex<Vec<Slot>>,
}

const FETCHED_BYTES: usize = 4 << 20;

impl Download {
    pub fn new(context: &Arc<Context>) -> Self {
        Download { context: context.clone(), idle: Mutex::default() }
    }
    /// Fills `to` from bytes `from..` of `memory`.
    pub fn fetch(&self, memory: &Memory, from: usize, to: &mut [u8]) -> Result<()> {
        assert!(from + to.len() <= memory.bytes(), "a copy within the memory");
        let idle = locked(&self.idle).pop();
        let mut slot = idle.map_or_else(|| Slot::new(&self.context, FETCHED_BYTES), Ok)?;
        for (i, piece) in to.chunks_mut(FETCHED_BYTES).enumerate() {
            slot.fetch(piece, memory.pointer() + (from + i * FETCHED_BYTES) as u64)?;
        }
        locked(&self.idle).push(slot);
        Ok(())
    }
}

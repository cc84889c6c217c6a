//! Device memory: addresses are not given out twice while there are others, bytes are poisoned, and
//! guard pages lie between allocations.
//!
//! Device addresses are host addresses inside of one reserved range. Beside it lie shadows, found by
//! the offset alone: for each 4 bytes who wrote them last and which of them hold anything, and who
//! read them last; for each 32 bytes in which launch they were last loaded, stored and updated by an atomic.

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

const PAGE: u64 = 4096;
/// The largest range asked of the system; halved until it agrees.
const RESERVE: u64 = 1 << 40;
/// Freed ranges that are remembered, to recognise a use after free.
const MOST_FREED: usize = 1 << 16;

/// Which bytes of the 4 hold anything: the lowest bits of a writer's stamp.
pub const INIT: u32 = 0xF;
/// Which bytes the stamp's block wrote or read.
pub const BYTES_SHIFT: u32 = 4;
/// Number of the block within all launches.
pub const BLOCK_SHIFT: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// More than the device has left.
    Full,
    /// Not (wholly) inside of a live allocation, or no address that was given out.
    Invalid,
}

/// One mapping of zero pages that the system fills in as they are touched.
struct Arena {
    start: *mut u8,
    bytes: u64,
}

// SAFETY: plain memory; who may touch which bytes is settled by those who use it.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    fn reserve(bytes: u64) -> Option<Arena> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the system's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes as usize, access, flags, -1, 0) };
        (start != libc::MAP_FAILED).then_some(Arena { start: start.cast(), bytes })
    }

    /// Gives whole pages back; they read as zero from now on.
    fn clear(&self, from: u64, to: u64) {
        let (first, last) = (from.next_multiple_of(PAGE), to / PAGE * PAGE);
        let zero = |from: u64, to: u64| {
            // SAFETY: inside of the mapping: from <= to <= bytes.
            unsafe { self.start.add(from as usize).write_bytes(0, (to - from) as usize) }
        };
        if first >= last {
            return zero(from, to);
        }
        zero(from, first);
        zero(last, to);
        // SAFETY: whole pages inside of the mapping.
        unsafe { libc::madvise(self.start.add(first as usize).cast(), (last - first) as usize, libc::MADV_DONTNEED) };
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: mapped by `reserve`, and unmapped once.
        unsafe { libc::munmap(self.start.cast(), self.bytes as usize) };
    }
}

/// A live allocation, or one that was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub bytes: u64,
}

impl Range {
    pub fn end(self) -> u64 {
        self.start + self.bytes
    }
}

/// The ways to touch a sector, which are counted apart: so it does not matter which comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    Load,
    Store,
    Update,
}

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Live(Range),
    Freed(Range),
    /// The nearest live allocation below, if any.
    Nothing(Option<Range>),
}

struct Table {
    live: BTreeMap<u64, u64>,
    freed: BTreeMap<u64, u64>,
    cursor: u64,
    used: u64,
    /// The end of the highest allocation so far.
    highest: u64,
    /// Number of the running launch, from 1; starts again when a byte cannot hold it.
    launch: u8,
    /// First block number that is free for the next launch.
    next_block: u32,
}

pub struct Memory {
    data: Arena,
    writers: Arena,
    readers: Arena,
    loaded: Arena,
    stored: Arena,
    updated: Arena,
    limit: u64,
    table: RwLock<Table>,
}

impl Memory {
    /// `bytes`: how much the device has.
    pub fn new(bytes: u64) -> Memory {
        let mut reserve = RESERVE;
        let (data, writers, readers, loaded, stored, updated) = loop {
            let sectors = reserve / 32;
            let arenas = (|| {
                Some((
                    Arena::reserve(reserve)?,
                    Arena::reserve(reserve)?,
                    Arena::reserve(reserve)?,
                    Arena::reserve(sectors)?,
                    Arena::reserve(sectors)?,
                    Arena::reserve(sectors)?,
                ))
            })();
            match arenas {
                Some(arenas) => break arenas,
                None if reserve > PAGE => reserve /= 2,
                None => panic!("the system gives no address space"),
            }
        };
        #[rustfmt::skip]
        let table = Table { live: BTreeMap::new(), freed: BTreeMap::new(), cursor: PAGE, used: 0, highest: 0, launch: 0, next_block: 1 };
        Memory {
            limit: bytes.min(reserve / 4),
            data,
            writers,
            readers,
            loaded,
            stored,
            updated,
            table: RwLock::new(table),
        }
    }

    fn base(&self) -> u64 {
        self.data.start as u64
    }

    fn table(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn look(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The address, a multiple of 4096. The bytes are 0xFF and count as uninitialised.
    pub fn alloc(&self, bytes: usize) -> Result<u64, MemoryError> {
        let bytes = bytes as u64;
        let mut table = self.table();
        if bytes == 0 {
            return Err(MemoryError::Invalid);
        }
        if bytes > self.limit - table.used {
            return Err(MemoryError::Full);
        }
        let span = bytes.next_multiple_of(PAGE) + PAGE;
        let start = table.find(span, self.data.bytes).ok_or(MemoryError::Full)?;
        table.cursor = start + span;
        table.highest = table.highest.max(table.cursor);
        table.used += bytes;
        table.live.insert(start, bytes);
        let reused: Vec<u64> =
            table.freed.range(..start + span).rev().map_while(|(&s, &b)| (s + b > start).then_some(s)).collect();
        reused.iter().for_each(|s| _ = table.freed.remove(s));
        // SAFETY: the allocation's own bytes, which nobody else knows of yet.
        unsafe { self.data.start.add(start as usize).write_bytes(0xFF, bytes as usize) };
        Ok(self.base() + start)
    }

    /// Gives the pages back and remembers the range, so that a later use of it is recognised.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut table = self.table();
        let start = address.wrapping_sub(self.base());
        let bytes = table.live.remove(&start).ok_or(MemoryError::Invalid)?;
        table.used -= bytes;
        table.freed.insert(start, bytes);
        while table.freed.len() > MOST_FREED {
            table.freed.pop_first(); // the oldest, as a rule: addresses grow
        }
        let end = (start + bytes).next_multiple_of(PAGE);
        for arena in [&self.data, &self.writers, &self.readers] {
            arena.clear(start, end);
        }
        Ok(())
    }

    /// What lies at an address.
    pub fn place(&self, address: u64) -> Place {
        let table = self.look();
        let Some(offset) = address.checked_sub(self.base()) else { return Place::Nothing(None) };
        let range = |(&start, &bytes): (&u64, &u64)| Range { start: start + self.base(), bytes };
        let below = table.live.range(..=offset).next_back().map(range);
        match below {
            Some(live) if address < live.end() => return Place::Live(live),
            _ => {}
        }
        match table.freed.range(..=offset).next_back().map(range) {
            Some(freed) if address < freed.end() => Place::Freed(freed),
            _ => Place::Nothing(below),
        }
    }

    /// Start and size of the live allocation that holds this address.
    pub fn range(&self, address: u64) -> Option<(u64, usize)> {
        match self.place(address) {
            Place::Live(range) => Some((range.start, range.bytes as usize)),
            _ => None,
        }
    }

    fn inside(&self, address: u64, bytes: usize) -> Result<*mut u8, MemoryError> {
        match self.place(address) {
            Place::Live(range) if bytes as u64 <= range.end() - address => Ok(address as *mut u8),
            _ => Err(MemoryError::Invalid),
        }
    }

    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let to = self.inside(address, bytes.len())?;
        // SAFETY: `inside` found a live allocation that holds all of it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        self.mark_written(address, bytes.len());
        Ok(())
    }

    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let from = self.inside(address, bytes.len())?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Bytes that were never written stay so at their new place.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), MemoryError> {
        let (source, target) = (self.inside(from, bytes)?, self.inside(to, bytes)?);
        let unit = if (to | from | bytes as u64).is_multiple_of(4) { 4 } else { 1 };
        let mask = if unit == 4 { INIT } else { 1 };
        let written: Vec<u32> = (from..from + bytes as u64).step_by(unit).map(|at| self.written(at) & mask).collect();
        // SAFETY: as in `write`; the ranges may overlap.
        unsafe { std::ptr::copy(source, target, bytes) };
        for (at, written) in (to..).step_by(unit).zip(written) {
            self.set_written(at, mask, written);
        }
        Ok(())
    }

    /// memset with a pattern of 1, 2 or 4 bytes.
    pub fn fill(&self, address: u64, pattern: &[u8], count: usize) -> Result<(), MemoryError> {
        let bytes = count.checked_mul(pattern.len()).ok_or(MemoryError::Invalid)?;
        let to = self.inside(address, bytes)?;
        // SAFETY: `inside` found a live allocation that holds all of it, and nothing else uses it now.
        let target = unsafe { std::slice::from_raw_parts_mut(to, bytes) };
        match pattern {
            [byte] => target.fill(*byte),
            _ => target.chunks_exact_mut(pattern.len()).for_each(|chunk| chunk.copy_from_slice(pattern)),
        }
        self.mark_written(address, bytes);
        Ok(())
    }

    /// Bytes free and in all.
    pub fn info(&self) -> (u64, u64) {
        (self.limit - self.look().used, self.limit)
    }

    /// Who wrote, and who read, the 4 bytes at this address: of a live allocation.
    #[inline(always)]
    pub fn stamps(&self, address: u64) -> (&AtomicU32, &AtomicU32) {
        let offset = ((address - self.base()) & !3) as usize;
        debug_assert!((offset as u64) < self.data.bytes);
        // SAFETY: the arenas are as long as the data, which holds the address; u32 at a multiple of 4.
        unsafe { (&*self.writers.start.add(offset).cast(), &*self.readers.start.add(offset).cast()) }
    }

    /// The same for a run of whole groups of 4 bytes, inside of one live allocation: writers, readers.
    #[inline(always)]
    pub fn stamp_run(&self, address: u64, words: usize) -> (&[AtomicU32], &[AtomicU32]) {
        let offset = (address - self.base()) as usize;
        debug_assert!(offset.is_multiple_of(4) && (offset + 4 * words) as u64 <= self.data.bytes);
        let run = |arena: &Arena| {
            // SAFETY: as in `stamps`; a live allocation and so its shadow lie within the arena.
            unsafe { std::slice::from_raw_parts(arena.start.add(offset).cast::<AtomicU32>(), words) }
        };
        (run(&self.writers), run(&self.readers))
    }

    /// Whether the launch numbered so touches this 32-byte sector for the first time in this way.
    #[inline(always)]
    pub fn first_touch(&self, address: u64, touch: Touch, launch: u8) -> bool {
        let sector = ((address - self.base()) / 32) as usize;
        let arena = match touch {
            Touch::Load => &self.loaded,
            Touch::Store => &self.stored,
            Touch::Update => &self.updated,
        };
        // SAFETY: one byte a sector of the data, which holds the address.
        let tag: &AtomicU8 = unsafe { &*arena.start.add(sector).cast() };
        tag.load(Relaxed) != launch && tag.swap(launch, Relaxed) != launch
    }

    /// Which bytes hold anything, from this address to the next multiple of 4: lowest bit first.
    fn written(&self, address: u64) -> u32 {
        (self.stamps(address).0.load(Relaxed) & INIT) >> (address % 4)
    }

    /// Sets the bits of the mask: outside of launches only.
    fn set_written(&self, address: u64, mask: u32, written: u32) {
        let (writer, shift) = (self.stamps(address).0, address % 4);
        writer.store(writer.load(Relaxed) & INIT & !(mask << shift) | written << shift, Relaxed);
    }

    /// Bytes that came from the host.
    fn mark_written(&self, address: u64, bytes: usize) {
        let end = address + bytes as u64;
        let (first, last) = (address.next_multiple_of(4).min(end), (end & !3).max(address));
        (address..first).chain(last.max(first)..end).for_each(|byte| self.set_written(byte, 1, 1));
        for word in (first..last).step_by(4) {
            self.stamps(word).0.store(INIT, Relaxed);
        }
    }

    /// A number for a launch (for `first_touch`) and for the first of its blocks, none of them in use.
    /// None for the blocks: there are more than can be told apart.
    pub fn begin_launch(&self, blocks: u64) -> (u8, Option<u32>) {
        let mut table = self.table();
        if table.launch == u8::MAX {
            let used = table.highest.div_ceil(32);
            [&self.loaded, &self.stored, &self.updated].iter().for_each(|arena| arena.clear(0, used));
            table.launch = 0;
        }
        table.launch += 1;
        // One more: the number that stands for "several blocks".
        let most = 1 << (31 - BLOCK_SHIFT);
        let Some(blocks) = u32::try_from(blocks + 1).ok().filter(|&n| n < most) else { return (table.launch, None) };
        if table.next_block + blocks > 2 * most - 1 {
            self.forget_blocks(&table);
            table.next_block = 1;
        }
        let first = table.next_block;
        table.next_block += blocks;
        (table.launch, Some(first))
    }

    /// Stamps keep only which bytes were written.
    fn forget_blocks(&self, table: &Table) {
        for (&start, &bytes) in &table.live {
            for word in (start..start + bytes).step_by(4) {
                let (writer, reader) = self.stamps(self.base() + word);
                writer.fetch_and(INIT, Relaxed);
                reader.store(0, Relaxed);
            }
        }
    }
}

impl Table {
    /// Room from the cursor on, else from the beginning.
    fn find(&self, span: u64, end: u64) -> Option<u64> {
        self.find_from(self.cursor, span, end).or_else(|| self.find_from(PAGE, span, end))
    }

    fn find_from(&self, from: u64, span: u64, end: u64) -> Option<u64> {
        let mut start = from;
        for (&live, &bytes) in self.live.range(from..) {
            if start + span <= live {
                break;
            }
            start = (live + bytes).next_multiple_of(PAGE) + PAGE;
        }
        (start + span <= end).then_some(start)
    }
}

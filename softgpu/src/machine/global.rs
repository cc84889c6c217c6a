//! Global memory as a warp sees it: bounds, what was never written, races between blocks, sectors.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
    fence,
};

use super::block::Core;
use super::registers::{LANES, Mask, lanes};
use super::{Done, trouble};
use crate::FaultKind::{GlobalRace, GlobalUninitialised, Misaligned, OutOfBounds, UseAfterFree};
use crate::counters::Traffic;
use crate::memory::{BLOCK_SHIFT, BYTES_SHIFT, INIT, Place, Range, Touch};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Load,
    Store,
    /// Reads and writes at once; in order with other atomics.
    Atomic,
    /// ld.volatile, ld.relaxed, st.release and so on: meant to meet other blocks' writes.
    StrongLoad,
    StrongStore,
}

/// Order between blocks of a launch: a block that has fenced and then done an atomic has released what
/// it wrote; a block that has done a later atomic and then fenced has acquired it.
pub struct Order {
    clock: AtomicU64,
    blocks: Vec<Times>,
}

/// 0: never.
#[derive(Default)]
struct Times {
    /// Whether what the block wrote goes with its next atomic.
    fenced: AtomicBool,
    released: AtomicU64,
    /// The latest atomic.
    heard: AtomicU64,
    acquired: AtomicU64,
}

impl Order {
    /// For so many blocks; none where there is nothing to check.
    pub fn new(blocks: usize) -> Order {
        Order { clock: AtomicU64::new(1), blocks: (0..blocks).map(|_| Times::default()).collect() }
    }

    fn fence(&self, block: usize) {
        let Some(times) = self.blocks.get(block) else { return };
        times.fenced.store(true, Relaxed);
        times.acquired.store(times.heard.load(Relaxed), Relaxed);
    }

    /// To be called before an atomic is done: whoever does a later one then has a later time, on any core.
    fn release(&self, block: usize) {
        let Some(times) = self.blocks.get(block) else { return };
        if times.fenced.load(Relaxed) {
            times.released.store(self.clock.fetch_add(1, SeqCst), SeqCst);
        }
    }

    /// To be called after an atomic was done: whoever did an earlier one then has an earlier time.
    fn hear(&self, block: usize) {
        let Some(times) = self.blocks.get(block) else { return };
        times.heard.store(self.clock.fetch_add(1, SeqCst), Relaxed);
    }

    /// Whether what `writer` wrote is visible to `reader`.
    fn ordered(&self, writer: usize, reader: usize) -> bool {
        let (Some(writer), Some(reader)) = (self.blocks.get(writer), self.blocks.get(reader)) else { return false };
        let released = writer.released.load(SeqCst);
        released != 0 && released < reader.acquired.load(Relaxed)
    }
}

impl Core<'_> {
    /// Checks the accesses of the mask's lanes, `bytes` each (a power of two up to 16), and counts them.
    #[inline]
    pub fn touch_global(&mut self, mask: Mask, addresses: &[u64; LANES], bytes: usize, access: Access) -> Done {
        self.inside(mask, addresses, bytes)?;
        let runs = Runs::of(mask, addresses, bytes);
        self.count_sectors(mask, addresses, bytes, access, &runs);
        if !self.job.checks || self.runs_are_fine(&runs, access) {
            return Ok(());
        }
        match access {
            Access::Load => {
                let noted = lanes(mask).fold(false, |noted, lane| self.note_load(addresses[lane], bytes) | noted);
                // A block on another core that writes here either sees this note, or is seen by the check.
                if noted && self.job.cores > 1 {
                    fence(SeqCst);
                }
                lanes(mask).try_for_each(|lane| self.check_load(lane, addresses[lane], bytes))
            }
            Access::Store => lanes(mask).try_for_each(|lane| self.note_store(lane, addresses[lane], bytes)),
            Access::StrongLoad => lanes(mask).try_for_each(|lane| self.check_written(lane, addresses[lane], bytes)),
            Access::StrongStore => {
                lanes(mask).for_each(|lane| self.mark_written(addresses[lane], bytes));
                Ok(())
            }
            Access::Atomic => {
                self.job.order.release(self.number as usize);
                lanes(mask).try_for_each(|lane| self.note_atomic(lane, addresses[lane], bytes))
            }
        }
    }

    /// Checks and notes plain accesses to whole words: most of what kernels do. False: something is odd, lane by
    /// lane it will turn out what.
    #[inline(always)]
    fn runs_are_fine(&self, runs: &Runs, access: Access) -> bool {
        let Some(mine) = self.block_stamp() else { return false };
        let whole = runs.list().iter().all(|run| (run.address | run.bytes).is_multiple_of(4));
        let mut stamps = runs.list().iter().map(|run| self.job.memory.stamp_run(run.address, run.bytes as usize / 4));
        match access {
            _ if !whole => false,
            Access::Load => {
                let noted = stamps.clone().fold(false, |noted, (_, readers)| self.note_readers(mine, readers) | noted);
                if noted && self.job.cores > 1 {
                    fence(SeqCst);
                }
                stamps.all(|(writers, _)| self.readable(mine, writers))
            }
            Access::Store => stamps.all(|(writers, readers)| self.run_store(mine, writers, readers)),
            _ => false,
        }
    }

    /// Whether anything was noted that was not there.
    #[inline(always)]
    fn note_readers(&self, mine: u32, readers: &[AtomicU32]) -> bool {
        let (want, several, mut noted) = (mine | INIT << BYTES_SHIFT, self.several(), false);
        for reader in readers {
            let old = reader.load(Relaxed);
            let new = if self.foreign(old, mine) { several | old & INIT << BYTES_SHIFT } else { want };
            // Not written again: another core may be reading the same.
            if new != old {
                reader.store(new, Relaxed);
                noted = true;
            }
        }
        noted
    }

    /// All is written, and not by another block of this launch.
    #[inline(always)]
    fn readable(&self, mine: u32, writers: &[AtomicU32]) -> bool {
        writers.iter().fold(true, |fine, writer| {
            let stamp = writer.load(Relaxed);
            fine & (stamp & INIT == INIT) & !self.foreign(stamp, mine)
        })
    }

    #[inline(always)]
    fn run_store(&self, mine: u32, writers: &[AtomicU32], readers: &[AtomicU32]) -> bool {
        let want = mine | INIT << BYTES_SHIFT | INIT;
        let others = |stamps: &[AtomicU32]| stamps.iter().any(|stamp| self.foreign(stamp.load(Relaxed), mine));
        if others(writers) || others(readers) {
            return false;
        }
        let mut odd = false;
        for writer in writers {
            if self.job.cores == 1 {
                writer.store(want, Relaxed);
            } else {
                let old = writer.swap(want, Relaxed);
                if self.foreign(old, mine) {
                    writer.store(old, Relaxed); // to be found again lane by lane
                    odd = true;
                }
            }
        }
        !(odd || self.job.cores > 1 && others(readers))
    }

    /// An atomic in global memory was done.
    pub fn did_atomic(&mut self) {
        self.job.order.hear(self.number as usize);
    }

    /// A fence: what the block wrote is released by its next atomic.
    pub fn fence(&mut self) {
        self.job.order.fence(self.number as usize);
    }

    /// All addresses are aligned and inside of live allocations.
    #[inline]
    pub fn inside(&mut self, mask: Mask, addresses: &[u64; LANES], bytes: usize) -> Done {
        let (mut low, mut high, mut bits) = (u64::MAX, 0, 0);
        for lane in 0..LANES {
            if mask >> lane & 1 == 1 {
                low = low.min(addresses[lane]);
                high = high.max(addresses[lane]);
                bits |= addresses[lane];
            }
        }
        let fits = |near: &Range| low >= near.start && high < near.end() && near.end() - high >= bytes as u64;
        if bits & (bytes as u64 - 1) == 0 && self.near.iter().any(fits) {
            return Ok(());
        }
        lanes(mask).try_for_each(|lane| self.lane_inside(lane, addresses[lane], bytes as u64))
    }

    fn lane_inside(&mut self, lane: usize, address: u64, bytes: u64) -> Done {
        let fail = |kind, detail: String| {
            let result = trouble(kind, Some(lane), detail);
            result.map_err(|mut trouble: Box<super::Trouble>| {
                trouble.address = Some(address);
                trouble
            })
        };
        if !address.is_multiple_of(bytes) {
            return fail(Misaligned, format!("{bytes} bytes at an address that is no multiple of {bytes}"));
        }
        let inside = |range: Range| address >= range.start && address < range.end() && range.end() - address >= bytes;
        if self.near.iter().any(|&range| inside(range)) {
            return Ok(());
        }
        match self.job.memory.place(address) {
            Place::Live(range) if inside(range) => {
                self.near.rotate_right(1);
                self.near[0] = range;
                Ok(())
            }
            Place::Live(range) => {
                let left = range.end() - address;
                fail(OutOfBounds, format!("{bytes} bytes where an allocation of {} bytes has {left} left", range.bytes))
            }
            Place::Freed(range) => {
                let offset = address - range.start;
                fail(
                    UseAfterFree,
                    format!(
                        "{bytes} bytes at offset {offset} of an allocation of {} bytes that was freed",
                        range.bytes
                    ),
                )
            }
            Place::Nothing(Some(range)) => {
                let past = address - range.end();
                let detail = format!(
                    "{bytes} bytes, {past} bytes past the end of the nearest allocation below, of {} bytes",
                    range.bytes
                );
                fail(OutOfBounds, detail)
            }
            Place::Nothing(None) => fail(OutOfBounds, format!("{bytes} bytes where nothing was allocated")),
        }
    }

    fn count_sectors(&mut self, mask: Mask, addresses: &[u64; LANES], bytes: usize, access: Access, runs: &Runs) {
        let (launch, memory) = (self.job.launch, self.job.memory);
        let (traffic, touch): (&mut Traffic, Touch) = match access {
            Access::Load | Access::StrongLoad => (&mut self.counts.global_load, Touch::Load),
            Access::Store | Access::StrongStore => (&mut self.counts.global_store, Touch::Store),
            Access::Atomic => (&mut self.counts.global_atomics, Touch::Update),
        };
        traffic.requests += 1;
        traffic.bytes += mask.count_ones() as u64 * bytes as u64;
        if runs.apart() {
            for Run { address, bytes } in runs.list() {
                let sectors = address / 32..=(address + bytes - 1) / 32;
                traffic.sectors += sectors.end() - sectors.start() + 1;
                let first = sectors.map(|sector| memory.first_touch(sector * 32, touch, launch) as u64);
                traffic.distinct_sectors += first.sum::<u64>();
            }
            return;
        }
        let (mut seen, mut count, mut highest) = ([0u64; LANES], 0, 0);
        for lane in lanes(mask) {
            let sector = addresses[lane] / 32;
            if count > 0 && sector <= highest && seen[..count].contains(&sector) {
                continue;
            }
            highest = highest.max(sector);
            seen[count] = sector;
            count += 1;
            traffic.distinct_sectors += memory.first_touch(sector * 32, touch, launch) as u64;
        }
        traffic.sectors += count as u64;
    }

    /// The stamp of this block, without bytes; None: blocks are not told apart.
    #[inline(always)]
    fn block_stamp(&self) -> Option<u32> {
        self.job.first_block.map(|first| (first + self.number as u32) << BLOCK_SHIFT)
    }

    /// Whether a stamp is of another block of this launch.
    #[inline(always)]
    fn foreign(&self, stamp: u32, mine: u32) -> bool {
        let first = self.job.first_block.unwrap_or(u32::MAX >> BLOCK_SHIFT);
        stamp >> BLOCK_SHIFT >= first && (stamp ^ mine) >> BLOCK_SHIFT != 0
    }

    /// Whether anything was noted that was not there.
    #[inline(always)]
    fn note_load(&self, address: u64, bytes: usize) -> bool {
        let Some(mine) = self.block_stamp() else { return false };
        let mut noted = false;
        for (word, mask) in words(address, bytes) {
            let reader = self.job.memory.stamps(word).1;
            let (old, bits) = (reader.load(Relaxed), mask << BYTES_SHIFT);
            if old == mine | bits {
                continue;
            }
            let new = match self.foreign(old, mine) && old & bits != 0 {
                true => self.several() | old & bits,
                false if (old ^ mine) >> BLOCK_SHIFT == 0 => old | bits,
                false => mine | bits,
            };
            if new != old {
                reader.store(new, Relaxed);
                noted = true;
            }
        }
        noted
    }

    /// The number after the last block's: several blocks.
    fn several(&self) -> u32 {
        let blocks = self.job.grid.iter().map(|&n| n as u64).product::<u64>() as u32;
        (self.job.first_block.unwrap_or(0) + blocks) << BLOCK_SHIFT
    }

    #[inline(always)]
    fn check_load(&self, lane: usize, address: u64, bytes: usize) -> Done {
        let mine = self.block_stamp().unwrap_or(0);
        for (word, mask) in words(address, bytes) {
            let writer = self.job.memory.stamps(word).0.load(Relaxed);
            if writer & mask != mask {
                return self.uninitialised(lane, word);
            }
            if writer >> BYTES_SHIFT & mask != 0 && self.foreign(writer, mine) {
                self.check_order(writer, lane, word, "reads")?;
            }
        }
        Ok(())
    }

    fn check_written(&self, lane: usize, address: u64, bytes: usize) -> Done {
        for (word, mask) in words(address, bytes) {
            if self.job.memory.stamps(word).0.load(Relaxed) & mask != mask {
                return self.uninitialised(lane, word);
            }
        }
        Ok(())
    }

    fn mark_written(&self, address: u64, bytes: usize) {
        for (word, mask) in words(address, bytes) {
            self.job.memory.stamps(word).0.fetch_or(mask, Relaxed);
        }
    }

    #[inline(always)]
    fn note_store(&self, lane: usize, address: u64, bytes: usize) -> Done {
        let Some(mine) = self.block_stamp() else {
            self.mark_written(address, bytes);
            return Ok(());
        };
        for (word, mask) in words(address, bytes) {
            let (writer, reader) = self.job.memory.stamps(word);
            let bits = mask << BYTES_SHIFT;
            let old = match mask {
                INIT => writer.swap(mine | bits | INIT, Relaxed),
                _ => writer
                    .fetch_update(Relaxed, Relaxed, |old| {
                        let own = if (old ^ mine) >> BLOCK_SHIFT == 0 { old & INIT << BYTES_SHIFT } else { 0 };
                        Some(mine | own | bits | mask | old & INIT)
                    })
                    .unwrap_or(0),
            };
            if self.foreign(old, mine) && old & bits != 0 {
                self.check_order(old, lane, word, "writes")?;
            }
            let read = reader.load(Relaxed);
            if self.foreign(read, mine) && read & bits != 0 {
                return self.race_with_reader(read, lane, word);
            }
        }
        Ok(())
    }

    /// Atomics do not race among each other; with plain accesses of other blocks they do.
    fn note_atomic(&self, lane: usize, address: u64, bytes: usize) -> Done {
        let mine = self.block_stamp().unwrap_or(0);
        for (word, mask) in words(address, bytes) {
            let (writer, reader) = self.job.memory.stamps(word);
            let (old, read, bits) = (writer.load(Relaxed), reader.load(Relaxed), mask << BYTES_SHIFT);
            if old & mask != mask {
                return self.uninitialised(lane, word);
            }
            if self.foreign(old, mine) && old & bits != 0 {
                self.check_order(old, lane, word, "updates")?;
            }
            if self.foreign(read, mine) && read & bits != 0 {
                return self.race_with_reader(read, lane, word);
            }
        }
        Ok(())
    }

    #[cold]
    fn check_order(&self, stamp: u32, lane: usize, address: u64, verb: &str) -> Done {
        let other = ((stamp >> BLOCK_SHIFT) - self.job.first_block.unwrap_or(0)) as usize;
        if self.job.order.ordered(other, self.number as usize) {
            return Ok(());
        }
        self.race(other, lane, address, &format!("{verb} what block {other} wrote"))
    }

    #[cold]
    fn race_with_reader(&self, stamp: u32, lane: usize, address: u64) -> Done {
        let other = (stamp >> BLOCK_SHIFT) - self.job.first_block.unwrap_or(0);
        let several = stamp >> BLOCK_SHIFT == self.several() >> BLOCK_SHIFT;
        if !several && self.job.order.ordered(other as usize, self.number as usize) {
            return Ok(());
        }
        let who = if several { "several blocks".to_string() } else { format!("block {other}") };
        self.race(other as usize, lane, address, &format!("writes what {who} read"))
    }

    #[cold]
    fn race(&self, _other: usize, lane: usize, address: u64, what: &str) -> Done {
        let detail = format!(
            "block {} {what} in the same launch, with no order between them{}",
            self.number,
            self.inside_of(address)
        );
        trouble(GlobalRace, Some(lane), detail).map_err(|trouble| at(trouble, address))
    }

    #[cold]
    fn uninitialised(&self, lane: usize, address: u64) -> Done {
        let detail = format!("these bytes were never written{}", self.inside_of(address));
        trouble(GlobalUninitialised, Some(lane), detail).map_err(|trouble| at(trouble, address))
    }

    fn inside_of(&self, address: u64) -> String {
        match self.job.memory.range(address) {
            Some((start, bytes)) => format!(", at offset {} of an allocation of {bytes} bytes", address - start),
            None => String::new(),
        }
    }
}

fn at(mut trouble: Box<super::Trouble>, address: u64) -> Box<super::Trouble> {
    trouble.address = Some(address);
    trouble
}

/// Bytes next to each other.
#[derive(Clone, Copy, Default)]
struct Run {
    address: u64,
    bytes: u64,
}

/// What the lanes of an access touch; neighbours that lie next to each other, or at one address, are one run.
struct Runs {
    runs: [Run; LANES],
    count: usize,
}

impl Runs {
    #[inline(always)]
    fn of(mask: Mask, addresses: &[u64; LANES], bytes: usize) -> Runs {
        let bytes = bytes as u64;
        let mut runs = Runs { runs: [Run::default(); LANES], count: 0 };
        for lane in lanes(mask) {
            let address = addresses[lane];
            match runs.runs[..runs.count].last_mut() {
                Some(last) if address == last.address + last.bytes => last.bytes += bytes,
                Some(last) if address == last.address + last.bytes - bytes => {}
                _ => {
                    runs.runs[runs.count] = Run { address, bytes };
                    runs.count += 1;
                }
            }
        }
        runs
    }

    #[inline(always)]
    fn list(&self) -> &[Run] {
        &self.runs[..self.count]
    }

    /// No two runs share a sector, because each begins in a later one than that where the run before ends.
    fn apart(&self) -> bool {
        self.list().windows(2).all(|pair| (pair[0].address + pair[0].bytes - 1) / 32 < pair[1].address / 32)
    }
}

/// The groups of 4 bytes of an access, and which of their bytes it covers.
#[inline(always)]
fn words(address: u64, bytes: usize) -> impl Iterator<Item = (u64, u32)> {
    let first = address & !3;
    let mask = if bytes >= 4 { INIT } else { ((1 << bytes) - 1) << (address - first) };
    (0..bytes.div_ceil(4) as u64).map(move |word| (first + word * 4, mask))
}

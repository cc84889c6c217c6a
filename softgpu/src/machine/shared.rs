//! Shared memory of a block, and who touched which of its bytes when.
//!
//! Time is counted in epochs, one counter a warp: it moves on at every barrier that the warp passes
//! (bar.sync, bar.warp.sync, and so on). For each 4 bytes the last write and the last read are kept as
//! a stamp of epoch, warp, lane and bytes. Two accesses of different threads are in order if a barrier
//! lies between them: `seen` tells for each pair of warps up to which epoch (as vector clocks do);
//! within a warp the epoch itself tells.
//!
//! What this misses: a writer of other bytes of the same 4, once a second one took its place in the
//! stamp; and of several readers that named barriers order differently, all but the last.

use super::registers::LANES;
use super::{Done, trouble};
use crate::FaultKind::{AsyncCopyUnfinished, SharedOutOfBounds, SharedRace, SharedUninitialised};

pub const BANKS: u64 = 32;
const WARPS: usize = 32;

/// epoch 16 bits, several 2, warp 5, lane 5, bytes 4
const EPOCH: u32 = 16;
const THREAD: u32 = 4;
const THREADS: u32 = 0x3FF << THREAD;
/// The epoch of bytes that a cp.async will write.
const PENDING: u32 = (1 << (32 - EPOCH)) - 1;
/// For readers: other lanes of the warp read, too; or other warps.
const SEVERAL_LANES: u32 = 1 << 14;
const SEVERAL_WARPS: u32 = 1 << 15;

pub struct Shared {
    pub bytes: Vec<u8>,
    /// Which bytes of 4 hold anything.
    init: Vec<u8>,
    writes: Vec<u32>,
    reads: Vec<u32>,
    /// Like `reads`, for atomics: in order among themselves, not with plain accesses. Empty before the first.
    updates: Vec<u32>,
    /// Epoch up to which everything is in order for everybody.
    floor: u32,
    /// The running epoch of each warp.
    epoch: [u32; WARPS],
    /// `seen[a][b]`: up to which epoch of warp b everything lies before what warp a does now.
    seen: [[u32; WARPS]; WARPS],
    checks: bool,
}

/// An access, for messages.
struct Access {
    lane: usize,
    offset: usize,
    write: bool,
}

impl Shared {
    pub fn new(bytes: usize, checks: bool) -> Shared {
        let words = if checks { bytes.div_ceil(4) } else { 0 };
        Shared {
            bytes: vec![0xFF; bytes],
            init: vec![0; words],
            writes: vec![0; words],
            reads: vec![0; words],
            updates: Vec::new(),
            floor: 0,
            epoch: [1; WARPS],
            seen: [[0; WARPS]; WARPS],
            checks,
        }
    }

    /// Nothing is written, and epochs start anew.
    pub fn clear(&mut self) {
        self.bytes.fill(0xFF);
        self.init.fill(0);
        self.forget();
    }

    /// Forgets who touched what, and keeps what holds anything.
    fn forget(&mut self) {
        let pending = |stamp: &u32| *stamp >> EPOCH == PENDING;
        self.writes.iter_mut().filter(|stamp| !pending(stamp)).for_each(|stamp| *stamp = 0);
        self.reads.fill(0);
        self.updates.clear();
        self.floor = 0;
        self.epoch = [1; WARPS];
        self.seen = [[0; WARPS]; WARPS];
    }

    /// A warp arrives at a barrier: what it did and saw until now.
    pub fn arrive(&mut self, warp: usize, seen: &mut [u32; WARPS]) {
        for other in 0..WARPS {
            seen[other] = seen[other].max(self.seen[warp][other]);
        }
        seen[warp] = self.epoch[warp];
        self.epoch[warp] += 1;
    }

    /// Warps pass a barrier having seen what those who arrived had done. `whole`: all of the block.
    pub fn pass(&mut self, warps: u32, seen: &[u32; WARPS], whole: bool) {
        for warp in super::lanes(warps) {
            for (mine, theirs) in self.seen[warp].iter_mut().zip(seen) {
                *mine = (*mine).max(*theirs);
            }
        }
        if whole {
            let latest = self.epoch.iter().copied().max().unwrap_or(0);
            self.floor = latest;
            self.seen = [[latest; WARPS]; WARPS];
            self.epoch = [latest + 1; WARPS];
        }
        if self.epoch.iter().any(|&epoch| epoch >= PENDING - 1) {
            self.forget();
        }
    }

    /// The lanes of a warp meet: bar.warp.sync.
    pub fn pass_warp(&mut self, warp: usize) {
        self.epoch[warp] += 1;
        if self.epoch[warp] >= PENDING - 1 {
            self.forget();
        }
    }

    pub fn bounds(&self, lane: usize, offset: u64, bytes: usize) -> Done {
        if offset.checked_add(bytes as u64).is_some_and(|end| end <= self.bytes.len() as u64) {
            return Ok(());
        }
        let detail = format!("{bytes} bytes at shared offset {offset} of {} bytes", self.bytes.len());
        trouble(SharedOutOfBounds, Some(lane), detail)
    }

    fn stamp(&self, warp: usize, lane: usize) -> u32 {
        self.epoch[warp] << EPOCH | (warp as u32) << (THREAD + 5) | (lane as u32) << THREAD
    }

    /// Whether an access with this stamp lies before what this thread does now.
    #[inline(always)]
    fn ordered(&self, stamp: u32, mine: u32) -> bool {
        stamp >> EPOCH <= self.floor || self.ordered_since(stamp, mine)
    }

    fn ordered_since(&self, stamp: u32, mine: u32) -> bool {
        let epoch = stamp >> EPOCH;
        let (other, warp) = (thread_of(stamp).0 as usize, thread_of(mine).0 as usize);
        if epoch == PENDING {
            return false;
        }
        if other != warp {
            return epoch <= self.seen[warp][other];
        }
        let met_nobody = || (0..WARPS).all(|w| w == warp || self.seen[warp][w] <= self.floor);
        if stamp & SEVERAL_WARPS != 0 && met_nobody() {
            return false;
        }
        epoch < self.epoch[warp] || (stamp ^ mine) & THREADS == 0 && stamp & SEVERAL_LANES == 0
    }

    /// The stamp of a reader that comes after another.
    #[inline(always)]
    fn joined(&self, read: u32, mine: u32, mask: u32) -> u32 {
        let earlier = read >> EPOCH > self.floor && read & mask != 0;
        if !earlier || (read ^ mine) >> THREAD == 0 {
            return mine | mask;
        }
        let (other, warp) = (thread_of(read).0 as usize, thread_of(mine).0 as usize);
        let epoch = read >> EPOCH;
        // Readers that lie before this one are before whatever comes after this one; not all of several warps do.
        let before = if other == warp { epoch < self.epoch[warp] } else { epoch <= self.seen[warp][other] };
        let kept = read & if before { SEVERAL_WARPS } else { SEVERAL_LANES | SEVERAL_WARPS };
        let several = match (before, other == warp, (read ^ mine) & THREADS == 0) {
            (true, ..) | (false, true, true) => 0,
            (false, false, _) => SEVERAL_WARPS,
            (false, true, false) => SEVERAL_LANES,
        };
        mine | kept | several | mask
    }

    /// A plain access to bytes that another thread updated by an atomic, with no order between.
    #[cold]
    #[inline(never)]
    fn after_atomics(&self, mine: u32, offset: usize, bytes: usize, write: bool) -> Done {
        for (word, mask) in words(offset, bytes) {
            let updated = self.updates[word];
            if updated >> EPOCH > self.floor && updated & mask != 0 && !self.ordered(updated, mine) {
                let (warp, lane) = thread_of(updated);
                let (own, verb) = (thread_of(mine).1 as usize, if write { "writes" } else { "reads" });
                let detail = format!(
                    "shared offset {}: this thread {verb} what lane {lane} of warp {warp} updated by an atomic, with no \
                     barrier between",
                    word * 4
                );
                return trouble(SharedRace, Some(own), detail);
            }
        }
        Ok(())
    }

    /// A thread reads; the bytes are inside. `strong`: it is meant to meet atomics.
    #[inline(always)]
    pub fn note_read(&mut self, warp: usize, lane: usize, offset: usize, bytes: usize, strong: bool) -> Done {
        if !self.checks {
            return Ok(());
        }
        let mine = self.stamp(warp, lane);
        if !self.updates.is_empty() && !strong {
            self.after_atomics(mine, offset, bytes, false)?;
        }
        if self.note_quietly(mine, offset, bytes) {
            return Ok(());
        }
        for (word, mask) in words(offset, bytes) {
            let written = self.writes[word];
            if written >> EPOCH > self.floor && written & mask != 0 && !self.ordered(written, mine) {
                return self.conflict(written, Access { lane, offset: word * 4, write: false });
            }
            if self.init[word] as u32 & mask != mask {
                return self.unwritten(lane, word * 4);
            }
            self.reads[word] = self.joined(self.reads[word], mine, mask);
        }
        Ok(())
    }

    /// The usual read: whole words, all written before the last barrier of the block. False: nothing was done.
    #[inline(always)]
    fn note_quietly(&mut self, mine: u32, offset: usize, bytes: usize) -> bool {
        if !(offset | bytes).is_multiple_of(4) {
            return false;
        }
        let run = offset / 4..(offset + bytes) / 4;
        let latest = self.writes[run.clone()].iter().fold(0, |latest, &stamp| latest.max(stamp));
        let all_written = self.init[run.clone()].iter().fold(true, |all, &init| all & (init == 0xF));
        if latest >> EPOCH > self.floor || !all_written {
            return false;
        }
        for word in run {
            self.reads[word] = self.joined(self.reads[word], mine, 0xF);
        }
        true
    }

    /// A thread writes, now or (pending) when its cp.async completes; the bytes are inside. `same`: the
    /// bytes do not change, so that threads which write the same value do not disturb each other. `strong`: it is
    /// meant to meet atomics.
    #[inline(always)]
    pub fn note_write(
        &mut self,
        warp: usize,
        lane: usize,
        offset: usize,
        bytes: usize,
        kind: Write,
        strong: bool,
    ) -> Done {
        if !self.checks {
            return Ok(());
        }
        let mine = self.stamp(warp, lane);
        if !self.updates.is_empty() && !strong {
            self.after_atomics(mine, offset, bytes, true)?;
        }
        let left = if kind == Write::Pending { mine | PENDING << EPOCH } else { mine };
        for (word, mask) in words(offset, bytes) {
            let (written, read) = (self.writes[word], self.reads[word]);
            let access = Access { lane, offset: word * 4, write: true };
            let harmless = kind == Write::Same && written >> EPOCH != PENDING;
            if written >> EPOCH > self.floor && written & mask != 0 && !harmless && !self.ordered(written, mine) {
                return self.conflict(written, access);
            }
            if read >> EPOCH > self.floor && read & mask != 0 && !self.ordered(read, mine) {
                return self.conflict_with_read(read, access);
            }
            if self.init[word] == GAP {
                return trouble(SharedOutOfBounds, Some(lane), gap(word * 4));
            }
            self.writes[word] = left | mask;
            self.init[word] |= mask as u8;
        }
        Ok(())
    }

    /// Atomics of the block are in order among themselves, not with plain accesses.
    pub fn note_atomic(&mut self, warp: usize, lane: usize, offset: usize, bytes: usize) -> Done {
        if !self.checks {
            return Ok(());
        }
        let mine = self.stamp(warp, lane);
        for (word, mask) in words(offset, bytes) {
            let (written, read) = (self.writes[word], self.reads[word]);
            if self.init[word] as u32 & mask != mask {
                return self.unwritten(lane, word * 4);
            }
            let access = Access { lane, offset: word * 4, write: true };
            if written & mask != 0 && !self.ordered(written, mine) {
                return self.conflict(written, access);
            }
            if read & mask != 0 && !self.ordered(read, mine) {
                return self.conflict_with_read(read, access);
            }
            if self.updates.is_empty() {
                self.updates.resize(self.reads.len(), 0);
            }
            self.updates[word] = self.joined(self.updates[word], mine, mask);
        }
        Ok(())
    }

    /// A cp.async has landed: from now on it counts as a write of its thread.
    pub fn land(&mut self, warp: usize, lane: usize, offset: usize, bytes: usize) {
        if !self.checks {
            return;
        }
        let mine = self.stamp(warp, lane);
        for (word, mask) in words(offset, bytes) {
            self.writes[word] = mine | mask;
        }
    }

    /// Bytes between variables, which belong to nobody.
    pub fn set_gap(&mut self, from: usize, to: usize) {
        if self.checks {
            self.init[from / 4..to.div_ceil(4)].fill(GAP);
        }
    }

    #[cold]
    fn conflict<T>(&self, stamp: u32, access: Access) -> Result<T, Box<super::Trouble>> {
        let (warp, lane) = thread_of(stamp);
        let verb = if access.write { "writes" } else { "reads" };
        let detail = |what: &str| {
            format!("shared offset {}: this thread {verb} what lane {lane} of warp {warp} {what}", access.offset)
        };
        if stamp >> EPOCH == PENDING {
            let detail = detail("copies there by a cp.async that was not waited for");
            return trouble(AsyncCopyUnfinished, Some(access.lane), detail);
        }
        trouble(SharedRace, Some(access.lane), detail("wrote, with no barrier between"))
    }

    #[cold]
    fn conflict_with_read(&self, stamp: u32, access: Access) -> Done {
        let (warp, lane) = thread_of(stamp);
        let who = match stamp & (SEVERAL_LANES | SEVERAL_WARPS) {
            0 => format!("lane {lane} of warp {warp}"),
            _ => format!("several threads (lane {lane} of warp {warp} last)"),
        };
        let detail =
            format!("shared offset {}: this thread writes what {who} read, with no barrier between", access.offset);
        trouble(SharedRace, Some(access.lane), detail)
    }

    #[cold]
    fn unwritten(&self, lane: usize, offset: usize) -> Done {
        if self.init[offset / 4] == GAP {
            return trouble(SharedOutOfBounds, Some(lane), gap(offset));
        }
        trouble(SharedUninitialised, Some(lane), format!("shared offset {offset} was never written"))
    }
}

/// How a write happens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Plain,
    /// The bytes already have this value.
    Same,
    Pending,
}

/// Marks 4 bytes as outside of every variable.
const GAP: u8 = 0x80;

fn gap(offset: usize) -> String {
    format!("shared offset {offset} lies past the end of a variable")
}

fn thread_of(stamp: u32) -> (u32, u32) {
    (stamp >> (THREAD + 5) & 31, stamp >> THREAD & 31)
}

/// The groups of 4 bytes of a run, and which of their bytes it covers.
#[inline(always)]
fn words(offset: usize, bytes: usize) -> impl Iterator<Item = (usize, u32)> {
    let (first, last) = (offset / 4, (offset + bytes - 1) / 4);
    (first..=last).map(move |word| {
        let from = offset.max(word * 4) - word * 4;
        let to = (offset + bytes).min(word * 4 + 4) - word * 4;
        (word, (1u32 << to) - (1u32 << from))
    })
}

/// Passes that the banks need for these offsets of one phase, each `words` 4-byte words long: the most
/// different words that fall on one bank.
pub fn passes(offsets: impl Iterator<Item = u64> + Clone, words: u64) -> u64 {
    // 16 bytes each, on different groups of 4 banks: no conflict.
    let mut groups = 0u32;
    let mut apart = |offset: u64| {
        let group = 1 << (offset >> 4 & 7);
        let new = groups & group == 0;
        groups |= group;
        new
    };
    if words == 4 && offsets.clone().all(&mut apart) {
        return 1;
    }
    let mut held: [[u64; LANES]; BANKS as usize] = [[0; LANES]; BANKS as usize];
    let mut count = [0usize; BANKS as usize];
    for offset in offsets {
        for word in offset / 4..offset / 4 + words {
            let bank = (word % BANKS) as usize;
            if !held[bank][..count[bank]].contains(&word) && count[bank] < LANES {
                held[bank][count[bank]] = word;
                count[bank] += 1;
            }
        }
    }
    count.iter().copied().max().unwrap_or(0) as u64
}

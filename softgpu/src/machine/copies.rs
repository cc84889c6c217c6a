//! cp.async: copies from global to shared memory that land later.
//!
//! The bytes are moved at once, but belong to nobody until the thread has waited for them: the shared
//! shadow holds them as pending, so that a read before the wait is a fault.

use super::block::Core;
use super::registers::{LANES, Mask, lanes};

/// Where one instruction's copies go.
#[derive(Clone)]
struct Batch {
    mask: Mask,
    offsets: [u32; LANES],
    bytes: u32,
    /// Number of the thread's group, once committed.
    group: Option<u32>,
}

/// The copies of a warp that have not landed.
#[derive(Default)]
pub struct Copies {
    batches: Vec<Batch>,
    /// Groups that each lane has committed.
    committed: [u32; LANES],
}

impl Copies {
    pub fn clear(&mut self) {
        self.batches.clear();
        self.committed = [0; LANES];
    }

    pub fn issue(&mut self, mask: Mask, offsets: [u32; LANES], bytes: u32) {
        self.batches.push(Batch { mask, offsets, bytes, group: None });
    }

    /// Closes the group of each lane. Lanes that have committed different numbers of groups part.
    pub fn commit(&mut self, mask: Mask) {
        let mut parted = Vec::new();
        for batch in self.batches.iter_mut().filter(|batch| batch.group.is_none()) {
            let mut left = batch.mask & mask;
            let stay = batch.mask & !mask;
            if stay != 0 {
                parted.push(Batch { mask: stay, ..batch.clone() });
            }
            while left != 0 {
                let group = self.committed[left.trailing_zeros() as usize];
                let same =
                    lanes(left).filter(|&lane| self.committed[lane] == group).fold(0, |set, lane| set | 1 << lane);
                left &= !same;
                match left | stay {
                    0 => (batch.mask, batch.group) = (same, Some(group)),
                    _ => parted.push(Batch { mask: same, group: Some(group), ..batch.clone() }),
                }
            }
            if batch.group.is_none() {
                batch.mask = 0;
            }
        }
        self.batches.retain(|batch| batch.mask != 0);
        self.batches.extend(parted);
        lanes(mask).for_each(|lane| self.committed[lane] += 1);
    }

    /// Takes out what has landed when each lane of the mask waits until at most `pending` of its groups are
    /// under way; None: all copies, committed or not. Calls `land` with lane, offset and bytes.
    fn wait(&mut self, mask: Mask, pending: Option<u32>, mut land: impl FnMut(usize, usize, usize)) {
        for batch in &mut self.batches {
            for lane in lanes(batch.mask & mask) {
                let done = match (pending, batch.group) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(n), Some(group)) => group as u64 + (n as u64) < self.committed[lane] as u64,
                };
                if done {
                    land(lane, batch.offsets[lane] as usize, batch.bytes as usize);
                    batch.mask &= !(1 << lane);
                }
            }
        }
        self.batches.retain(|batch| batch.mask != 0);
    }
}

impl Core<'_> {
    pub fn wait_copies(&mut self, mask: Mask, pending: Option<u32>) {
        let warp = self.warp.index;
        let shared = &mut self.shared;
        self.warp.copies.wait(mask, pending, |lane, offset, bytes| shared.land(warp, lane, offset, bytes));
    }
}

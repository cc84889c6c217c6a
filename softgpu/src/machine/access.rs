//! Loads and stores of a warp, in every space of memory.

use super::block::Core;
use super::global::Access;
use super::registers::{LANES, Mask, lanes};
use super::shared::{Write, passes};
use super::{Done, Trouble, trouble};
use crate::FaultKind::{LocalOutOfBounds, Misaligned, OutOfBounds, ReadOnly, Unsupported};
use crate::compile::{LOCAL_WINDOW, SHARED_WINDOW, WINDOW};
use crate::counters::Wavefronts;

/// Where an instruction says its addresses lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Told by the address itself.
    Generic,
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// Lanes whose addresses lie in one space, and the addresses there.
type Part = (Where, Mask, [u64; LANES]);

/// The bytes of each lane.
pub type Bytes<const N: usize> = [[u8; N]; LANES];

impl Core<'_> {
    /// Reads N bytes for each lane of the mask.
    pub fn load<const N: usize>(
        &mut self,
        space: Where,
        mask: Mask,
        addresses: &[u64; LANES],
        strong: bool,
    ) -> Result<Bytes<N>, Box<Trouble>> {
        let mut out = [[0u8; N]; LANES];
        match space {
            Where::Generic => {
                for (space, part, addresses) in self.sorted(mask, addresses)? {
                    let bytes = self.load::<N>(space, part, &addresses, strong)?;
                    lanes(part).for_each(|lane| out[lane] = bytes[lane]);
                }
            }
            Where::Global | Where::Const => {
                match space {
                    Where::Const => self.inside(mask, addresses, N)?,
                    _ => {
                        self.touch_global(mask, addresses, N, if strong { Access::StrongLoad } else { Access::Load })?
                    }
                }
                for lane in lanes(mask) {
                    // SAFETY: inside of a live allocation, which no one frees while a launch runs. Other cores
                    // may write the same bytes: such a race is the program's, and is reported.
                    out[lane] = unsafe { read_global(addresses[lane]) };
                }
            }
            Where::Shared => {
                self.touch_shared(mask, addresses, N, false)?;
                let warp = self.warp.index;
                for lane in lanes(mask) {
                    let at = addresses[lane] as usize;
                    self.shared.note_read(warp, lane, at, N, strong)?;
                    out[lane].copy_from_slice(&self.shared.bytes[at..at + N]);
                }
            }
            Where::Local => {
                for lane in lanes(mask) {
                    let at = self.local_at(lane, addresses[lane], N)?;
                    out[lane].copy_from_slice(&self.warp.local[at..at + N]);
                }
                self.counts.local_bytes += mask.count_ones() as u64 * N as u64;
            }
            Where::Param => {
                for lane in lanes(mask) {
                    let at = addresses[lane] as usize;
                    let Some(bytes) = self.job.params.get(at..at.wrapping_add(N)) else {
                        return trouble(LocalOutOfBounds, Some(lane), format!("{N} bytes at parameter offset {at}"));
                    };
                    out[lane].copy_from_slice(bytes);
                }
            }
        }
        Ok(out)
    }

    /// Writes N bytes for each lane of the mask; of lanes with one address, the highest wins.
    pub fn store<const N: usize>(
        &mut self,
        space: Where,
        mask: Mask,
        addresses: &[u64; LANES],
        bytes: &Bytes<N>,
        strong: bool,
    ) -> Done {
        match space {
            Where::Generic => {
                for (space, part, addresses) in self.sorted(mask, addresses)? {
                    self.store::<N>(space, part, &addresses, bytes, strong)?;
                }
            }
            Where::Global => {
                self.touch_global(mask, addresses, N, if strong { Access::StrongStore } else { Access::Store })?;
                for lane in lanes(mask) {
                    // SAFETY: as in `load`.
                    unsafe { (addresses[lane] as *mut [u8; N]).write_volatile(bytes[lane]) };
                }
            }
            Where::Shared => {
                self.touch_shared(mask, addresses, N, true)?;
                let warp = self.warp.index;
                for lane in lanes(mask) {
                    let at = addresses[lane] as usize;
                    let same = self.shared.bytes[at..at + N] == bytes[lane];
                    let kind = if same { Write::Same } else { Write::Plain };
                    self.shared.note_write(warp, lane, at, N, kind, strong)?;
                    self.shared.bytes[at..at + N].copy_from_slice(&bytes[lane]);
                }
            }
            Where::Local => {
                for lane in lanes(mask) {
                    let at = self.local_at(lane, addresses[lane], N)?;
                    self.warp.local[at..at + N].copy_from_slice(&bytes[lane]);
                }
                self.counts.local_bytes += mask.count_ones() as u64 * N as u64;
            }
            Where::Const | Where::Param => return trouble(ReadOnly, lanes(mask).next(), "a store to constant memory"),
        }
        Ok(())
    }

    /// Generic addresses by space, as addresses of that space.
    pub fn sorted(&self, mask: Mask, addresses: &[u64; LANES]) -> Result<Vec<Part>, Box<Trouble>> {
        let mut parts: Vec<Part> = Vec::new();
        for lane in lanes(mask) {
            let space = match addresses[lane] & WINDOW {
                0 => Where::Global,
                SHARED_WINDOW => Where::Shared,
                LOCAL_WINDOW => Where::Local,
                _ => return trouble(OutOfBounds, Some(lane), format!("{:#x} is no address", addresses[lane])),
            };
            let address = if space == Where::Global { addresses[lane] } else { addresses[lane] & !WINDOW };
            match parts.iter_mut().find(|part| part.0 == space) {
                Some((_, part, addresses)) => {
                    *part |= 1 << lane;
                    addresses[lane] = address;
                }
                None => {
                    let mut all = [0; LANES];
                    all[lane] = address;
                    parts.push((space, 1 << lane, all));
                }
            }
        }
        Ok(parts)
    }

    /// Bounds and alignment of accesses to shared memory.
    pub fn shared_inside(&self, mask: Mask, offsets: &[u64; LANES], bytes: usize) -> Done {
        for lane in lanes(mask) {
            if !offsets[lane].is_multiple_of(bytes as u64) {
                let detail = format!("{bytes} bytes at shared offset {}", offsets[lane]);
                return trouble(Misaligned, Some(lane), detail);
            }
            self.shared.bounds(lane, offsets[lane], bytes)?;
        }
        Ok(())
    }

    /// The same, and bank conflicts.
    fn touch_shared(&mut self, mask: Mask, offsets: &[u64; LANES], bytes: usize, store: bool) -> Done {
        self.shared_inside(mask, offsets, bytes)?;
        let counts = if store { &mut self.counts.shared_store } else { &mut self.counts.shared_load };
        count_wavefronts(counts, mask, offsets, bytes);
        Ok(())
    }

    fn local_at(&self, lane: usize, offset: u64, bytes: usize) -> Result<usize, Box<Trouble>> {
        let size = self.code.local as u64;
        if !offset.is_multiple_of(bytes as u64) {
            return trouble(Misaligned, Some(lane), format!("{bytes} bytes at local offset {offset}"));
        }
        if offset.checked_add(bytes as u64).is_none_or(|end| end > size) {
            return trouble(LocalOutOfBounds, Some(lane), format!("{bytes} bytes at local offset {offset} of {size}"));
        }
        Ok(lane * size as usize + offset as usize)
    }

    /// Copies to shared memory that land later: `bytes` each, of which the first `taken` of each lane come from
    /// global memory and the rest are zeros.
    pub fn copy_async(
        &mut self,
        mask: Mask,
        to: &[u64; LANES],
        from: &[u64; LANES],
        bytes: usize,
        taken: &[u32; LANES],
    ) -> Done {
        let whole = lanes(mask).filter(|&lane| taken[lane] as usize == bytes).fold(0, |set, lane| set | 1u32 << lane);
        let partly = lanes(mask & !whole).filter(|&lane| taken[lane] > 0);
        let partly = partly.fold(0, |set, lane| set | 1u32 << lane);
        if let Some(lane) = lanes(mask).find(|&lane| taken[lane] as usize > bytes) {
            let detail = format!("cp.async takes {} of {bytes} bytes", taken[lane]);
            return trouble(Unsupported, Some(lane), detail);
        }
        if whole != 0 {
            self.touch_global(whole, from, bytes, Access::Load)?;
        }
        for lane in lanes(partly) {
            self.touch_partly(lane, from[lane], bytes, taken[lane] as usize)?;
        }
        self.touch_shared(mask, to, bytes, true)?;
        let warp = self.warp.index;
        for lane in lanes(mask) {
            let (at, taken) = (to[lane] as usize, taken[lane] as usize);
            self.shared.note_write(warp, lane, at, bytes, Write::Pending, false)?;
            let target = &mut self.shared.bytes[at..at + bytes];
            // SAFETY: `taken` bytes were found inside of a live allocation.
            unsafe {
                match taken {
                    16 => target[..16].copy_from_slice(&(from[lane] as *const [u8; 16]).read_volatile()), // no call
                    0 => {}
                    _ => std::ptr::copy_nonoverlapping(from[lane] as *const u8, target.as_mut_ptr(), taken),
                }
            }
            if taken < bytes {
                target[taken..].fill(0);
            }
        }
        self.warp.copies.issue(mask, to.map(|offset| offset as u32), bytes as u32);
        Ok(())
    }

    /// A source that is shorter than the copy, and need not be a power of two: checked in pieces.
    fn touch_partly(&mut self, lane: usize, from: u64, bytes: usize, taken: usize) -> Done {
        if !from.is_multiple_of(bytes as u64) {
            return trouble(Misaligned, Some(lane), format!("cp.async of {bytes} bytes from {from:#x}"));
        }
        let mut at = 0;
        while at < taken {
            let piece = 1usize << (taken - at).ilog2().min(4);
            let mut addresses = [0; LANES];
            addresses[lane] = from + at as u64;
            self.touch_global(1 << lane, &addresses, piece, Access::Load)?;
            at += piece;
        }
        Ok(())
    }
}

/// Adds an access of the mask's lanes to the counts. 32 lanes go in one phase for up to 4 bytes each, in two
/// for 8, in four for 16.
pub fn count_wavefronts(counts: &mut Wavefronts, mask: Mask, offsets: &[u64; LANES], bytes: usize) {
    counts.requests += 1;
    counts.bytes += mask.count_ones() as u64 * bytes as u64;
    let phases = (bytes / 4).max(1);
    let lanes_each = LANES / phases;
    let contiguous = (0..LANES).all(|lane| offsets[lane] == offsets[0].wrapping_add((lane * bytes) as u64));
    if mask == u32::MAX && contiguous && offsets[0].is_multiple_of(4) {
        counts.wavefronts += phases as u64;
        counts.ideal += phases as u64;
        return;
    }
    for phase in 0..phases {
        let members = if lanes_each == LANES { mask } else { mask & (((1 << lanes_each) - 1) << (phase * lanes_each)) };
        if members != 0 {
            counts.wavefronts += passes(lanes(members).map(|lane| offsets[lane]), (bytes as u64).div_ceil(4));
            counts.ideal += 1;
        }
    }
}

/// Up to 8 bytes are read at once, so that no half of what another core writes is seen.
///
/// # Safety
/// The address is aligned to N (1, 2, 4, 8 or 16) and may be read.
#[inline(always)]
unsafe fn read_global<const N: usize>(address: u64) -> [u8; N] {
    let mut out = [0; N];
    macro_rules! read {
        ($int:ty) => {
            for (i, bytes) in out.chunks_exact_mut(size_of::<$int>()).enumerate() {
                // SAFETY: the caller's promise.
                bytes.copy_from_slice(&unsafe { (address as *const $int).add(i).read_volatile() }.to_le_bytes());
            }
        };
    }
    match N {
        1 => read!(u8),
        2 => read!(u16),
        4 => read!(u32),
        _ => read!(u64),
    }
    out
}

/// What an atomic does with the old value of a lane.
pub type Update<'u> = &'u dyn Fn(usize, u64) -> u64;

impl Core<'_> {
    /// Replaces `bytes` (2, 4 or 8) of each lane, one lane after another; the old values.
    pub fn update(
        &mut self,
        space: Where,
        mask: Mask,
        addresses: &[u64; LANES],
        bytes: usize,
        f: Update,
    ) -> Result<[u64; LANES], Box<Trouble>> {
        let mut old = [0; LANES];
        match space {
            Where::Generic => {
                for (space, part, addresses) in self.sorted(mask, addresses)? {
                    let part_old = self.update(space, part, &addresses, bytes, f)?;
                    lanes(part).for_each(|lane| old[lane] = part_old[lane]);
                }
            }
            Where::Global => {
                self.touch_global(mask, addresses, bytes, Access::Atomic)?;
                // SAFETY: inside of live allocations and aligned, both just checked.
                lanes(mask)
                    .for_each(|lane| old[lane] = unsafe { update_global(addresses[lane], bytes, |old| f(lane, old)) });
                self.did_atomic();
            }
            Where::Shared => {
                self.shared_inside(mask, addresses, bytes)?;
                self.counts.shared_atomics += 1;
                let warp = self.warp.index;
                for lane in lanes(mask) {
                    let at = addresses[lane] as usize;
                    self.shared.note_atomic(warp, lane, at, bytes)?;
                    let held = &mut self.shared.bytes[at..at + bytes];
                    let mut all = [0; 8];
                    all[..bytes].copy_from_slice(held);
                    old[lane] = u64::from_le_bytes(all);
                    held.copy_from_slice(&f(lane, old[lane]).to_le_bytes()[..bytes]);
                }
            }
            _ => return trouble(Unsupported, lanes(mask).next(), "an atomic outside of global and shared memory"),
        }
        Ok(old)
    }
}

/// # Safety
/// The address is aligned to `bytes` (2, 4 or 8) and may be written.
unsafe fn update_global(address: u64, bytes: usize, f: impl Fn(u64) -> u64) -> u64 {
    use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};
    macro_rules! on {
        ($atomic:ty, $int:ty) => {{
            // SAFETY: the caller's promise.
            let cell = unsafe { &*(address as *const $atomic) };
            let result = cell.fetch_update(SeqCst, SeqCst, |old| Some(f(old as u64) as $int));
            result.unwrap_or_else(|old| old) as u64
        }};
    }
    match bytes {
        2 => on!(AtomicU16, u16),
        4 => on!(AtomicU32, u32),
        _ => on!(AtomicU64, u64),
    }
}

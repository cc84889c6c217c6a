//! How many blocks of a kernel fit on a multiprocessor at once: the published rules of cuda_occupancy.h for sm_80 to
//! sm_90, with the default split of L1 and shared memory (as much shared memory as the blocks can use).

use serde::Serialize;

use crate::Profile;
use crate::profile::{MAX_THREADS, REGISTERS_PER_BLOCK, REGISTERS_PER_THREAD, SHARED_RESERVED};

const WARP: u32 = 32;
/// Registers are given to a warp in pieces of this size.
const REGISTER_PIECE: u32 = 256;
/// Shared memory is given to a block in pieces of this size.
const SHARED_PIECE: u32 = 128;
/// A multiprocessor's schedulers, each with its own quarter of the registers.
const PARTITIONS: u32 = 4;

/// What one block asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    pub threads: u32,
    /// Of one thread.
    pub registers: u32,
    /// Bytes.
    pub static_shared: u32,
    pub dynamic_shared: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Warps,
    Blocks,
    Registers,
    SharedMemory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// Blocks that a multiprocessor holds; 0: the block does not fit.
    pub blocks: u32,
    pub warps: u32,
    pub max_warps: u32,
    /// What keeps another block out.
    pub limit: Limit,
}

impl Occupancy {
    pub fn fraction(&self) -> f64 {
        f64::from(self.warps) / f64::from(self.max_warps)
    }
}

pub fn occupancy(profile: &Profile, demand: &Demand) -> Occupancy {
    let warps = demand.threads.max(1).div_ceil(WARP);
    let max_warps = profile.threads_per_multiprocessor / WARP;
    // In order of what a reader would change last: of equal limits the first is named.
    let limits = [
        (max_warps / warps, Limit::Warps),
        (profile.blocks_per_multiprocessor, Limit::Blocks),
        (blocks_by_registers(profile, warps, demand.registers), Limit::Registers),
        (blocks_by_shared(profile, demand), Limit::SharedMemory),
    ];
    let (mut blocks, mut limit) = limits[0];
    for (other, name) in limits {
        if other < blocks {
            (blocks, limit) = (other, name);
        }
    }
    Occupancy { blocks, warps: blocks * warps, max_warps, limit }
}

fn blocks_by_registers(profile: &Profile, warps: u32, registers: u32) -> u32 {
    if registers == 0 {
        return u32::MAX;
    }
    if !registers_fit(warps * WARP, registers) {
        return 0;
    }
    let of_warp = (registers * WARP).next_multiple_of(REGISTER_PIECE);
    let of_partition = profile.registers_per_multiprocessor / PARTITIONS / of_warp;
    of_partition * PARTITIONS / warps
}

/// Whether a block gets its registers at all: hardware checks as if every scheduler got as many warps as the fullest.
pub fn registers_fit(threads: u32, registers: u32) -> bool {
    let of_warp = (registers * WARP).next_multiple_of(REGISTER_PIECE);
    let warps = threads.div_ceil(WARP).next_multiple_of(PARTITIONS);
    registers <= REGISTERS_PER_THREAD && of_warp * warps <= REGISTERS_PER_BLOCK
}

/// The most threads whose registers fit into one block.
pub fn threads_by_registers(registers: u32) -> u32 {
    let of_warp = (registers.max(1) * WARP).next_multiple_of(REGISTER_PIECE);
    let warps = REGISTERS_PER_BLOCK / of_warp / PARTITIONS * PARTITIONS;
    (warps * WARP).min(MAX_THREADS)
}

/// Bytes of shared memory that a block occupies, the driver's part included.
fn shared_of_block(bytes: u32) -> u32 {
    bytes.saturating_add(SHARED_RESERVED).saturating_add(SHARED_PIECE - 1) / SHARED_PIECE * SHARED_PIECE
}

fn blocks_by_shared(profile: &Profile, demand: &Demand) -> u32 {
    let bytes = demand.static_shared.saturating_add(demand.dynamic_shared);
    if bytes > profile.shared_opt_in {
        return 0;
    }
    profile.shared_per_multiprocessor / shared_of_block(bytes)
}

/// Dynamic shared memory that each of `blocks` blocks on one multiprocessor can have; None if so many do not fit.
pub fn available_dynamic_shared(profile: &Profile, demand: &Demand, blocks: u32) -> Option<u32> {
    let without = Demand { dynamic_shared: 0, ..*demand };
    if blocks == 0 || occupancy(profile, &without).blocks < blocks {
        return None;
    }
    let each = profile.shared_per_multiprocessor / blocks / SHARED_PIECE * SHARED_PIECE;
    Some((each - SHARED_RESERVED).min(profile.shared_opt_in).saturating_sub(demand.static_shared))
}

/// The block size (a multiple of 32, or `limit` itself) that puts most threads on a multiprocessor, the largest of
/// equals, and how many such blocks fill the device: (blocks of the device, threads of a block).
pub fn best_block(profile: &Profile, limit: u32, mut demand: impl FnMut(u32) -> Demand) -> (u32, u32) {
    let limit = limit.clamp(1, MAX_THREADS);
    let (mut best, mut blocks, mut most) = (0, 0, 0);
    let mut size = limit.next_multiple_of(WARP);
    while size > 0 && most < profile.threads_per_multiprocessor {
        let threads = size.min(limit);
        let fit = occupancy(profile, &demand(threads)).blocks;
        if fit * threads > most {
            (best, blocks, most) = (threads, fit, fit * threads);
        }
        size -= WARP;
    }
    (blocks * profile.multiprocessors, best)
}

//! What a launch did, counted exactly: equal over runs, seeds and threads.

use std::ops::AddAssign;

use serde::Serialize;

/// Warp-level accesses to one kind of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Instructions executed by a warp with at least one active thread.
    pub requests: u64,
    /// Bytes that the active threads asked for.
    pub bytes: u64,
    /// 32-byte sectors that the requests touch, each counted once per request.
    pub sectors: u64,
    /// 32-byte sectors touched, each counted once per launch: what memory must move at least.
    pub distinct_sectors: u64,
}

/// Warp-level accesses to shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wavefronts {
    pub requests: u64,
    pub bytes: u64,
    /// Passes over the 32 banks; more than `ideal` means bank conflicts.
    pub wavefronts: u64,
    /// Passes that the same requests need without any conflict.
    pub ideal: u64,
}

/// Warp instructions by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Instructions {
    pub integer: u64,
    pub float: u64,
    /// ex2, lg2, rcp, rsqrt, sqrt, sin, cos, tanh: the special function unit.
    pub special: u64,
    pub tensor: u64,
    pub conversion: u64,
    pub moves: u64,
    pub load_store: u64,
    /// shfl, vote, match, redux, activemask.
    pub warp: u64,
    pub control: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub instructions: Instructions,
    /// Instructions times active threads.
    pub thread_instructions: u64,
    /// Floating-point operations of mma (2 per multiply-add).
    pub tensor_flops: u64,
    /// Floating-point operations of add, sub, mul (1) and fma (2), per active thread; packed halves count both.
    pub flops: u64,
    pub global_load: Traffic,
    pub global_store: Traffic,
    pub global_atomics: Traffic,
    /// Local memory (stack, spills): bytes loaded and stored.
    pub local_bytes: u64,
    pub shared_load: Wavefronts,
    pub shared_store: Wavefronts,
    pub ldmatrix: Wavefronts,
    pub shared_atomics: u64,
    /// Warps arriving at a block barrier.
    pub barriers: u64,
    pub branches: u64,
    /// Branches whose warp split.
    pub divergent_branches: u64,
}

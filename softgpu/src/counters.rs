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

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.sectors += other.sectors;
        self.distinct_sectors += other.distinct_sectors;
    }
}

impl AddAssign for Wavefronts {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.wavefronts += other.wavefronts;
        self.ideal += other.ideal;
    }
}

impl AddAssign for Instructions {
    fn add_assign(&mut self, other: Self) {
        self.integer += other.integer;
        self.float += other.float;
        self.special += other.special;
        self.tensor += other.tensor;
        self.conversion += other.conversion;
        self.moves += other.moves;
        self.load_store += other.load_store;
        self.warp += other.warp;
        self.control += other.control;
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.instructions += other.instructions;
        self.thread_instructions += other.thread_instructions;
        self.tensor_flops += other.tensor_flops;
        self.flops += other.flops;
        self.global_load += other.global_load;
        self.global_store += other.global_store;
        self.global_atomics += other.global_atomics;
        self.local_bytes += other.local_bytes;
        self.shared_load += other.shared_load;
        self.shared_store += other.shared_store;
        self.ldmatrix += other.ldmatrix;
        self.shared_atomics += other.shared_atomics;
        self.barriers += other.barriers;
        self.branches += other.branches;
        self.divergent_branches += other.divergent_branches;
    }
}

impl Instructions {
    pub fn total(&self) -> u64 {
        self.integer
            + self.float
            + self.special
            + self.tensor
            + self.conversion
            + self.moves
            + self.load_store
            + self.warp
            + self.control
    }

    /// What an instruction of PTX surely costs an issue slot for. ptxas folds, hoists or moves to the uniform datapath
    /// much of the rest (address arithmetic, moves, conversions, predicates), so a bound must not count it.
    pub fn unavoidable(&self) -> u64 {
        self.float + self.special + self.tensor + self.load_store + self.warp
    }
}

impl Traffic {
    /// Bytes asked for over bytes moved, 32 a sector; None without any access. Above 1 where threads share bytes.
    pub fn efficiency(&self) -> Option<f64> {
        ratio(self.bytes, 32 * self.sectors)
    }
}

impl Counters {
    /// Loads, stores and ldmatrix together.
    pub fn shared(&self) -> Wavefronts {
        let mut sum = self.shared_load;
        sum += self.shared_store;
        sum += self.ldmatrix;
        sum
    }

    /// Passes over the banks against what they need: 1 is free of conflicts; None without any access.
    pub fn bank_conflicts(&self) -> Option<f64> {
        let shared = self.shared();
        ratio(shared.wavefronts, shared.ideal)
    }

    /// The part of the branches whose warp split; None without any branch.
    pub fn divergence(&self) -> Option<f64> {
        ratio(self.divergent_branches, self.branches)
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

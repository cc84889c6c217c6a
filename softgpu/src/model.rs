//! A modelled lower bound of the time that counted work takes on a named GPU: the largest, over its resources, of the
//! work over the resource's published rate. Never a measurement: real kernels also wait, and take longer.

use serde::{Serialize, Serializer};

use crate::Counters;

/// Rates that a vendor published, or that others measured where it did not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gpu {
    pub name: &'static str,
    pub multiprocessors: u32,
    /// The highest that the data sheet's rates imply: a bound must not assume less.
    pub clock_ghz: f64,
    /// Dense bf16 or fp16 mma with fp32 sums, as published.
    pub tensor_tflops: f64,
    /// The part of it that mma.sync reaches.
    pub mma_sync_share: f64,
    /// FP32 instructions of a warp that a multiprocessor starts in a clock: its FP32 lanes over 32.
    pub float_warps_per_clock: f64,
    pub dram_gb_per_s: f64,
    /// Slowest and fastest figure found for reads that hit in L2.
    pub l2_gb_per_s: [f64; 2],
}

/// On all three, a clock and multiprocessor: four schedulers, one instruction each; 16 lanes of special functions
/// (CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions"); one pass over the 32 banks of shared
/// memory; 128 bytes from L1 (white papers of Volta and later).
pub const ISSUE_WARPS_PER_CLOCK: f64 = 4.0;
pub const SPECIAL_WARPS_PER_CLOCK: f64 = 0.5;
pub const SHARED_WAVEFRONTS_PER_CLOCK: f64 = 1.0;
pub const L1_SECTORS_PER_CLOCK: f64 = 4.0;
const SECTOR: f64 = 32.0;

pub static GPUS: [Gpu; 3] = [
    Gpu {
        // NVIDIA A100 data sheet (80 GB SXM) and white paper: 1.41 GHz, 312 TFLOP/s, 64 FP32 lanes, 2039 GB/s.
        // L2: 5120 bytes a clock in the white paper; 5.4 TB/s measured (RRZE gpu-benches, gpu-l2-cache).
        name: "A100 SXM",
        multiprocessors: 108,
        clock_ghz: 1.41,
        tensor_tflops: 312.0,
        mma_sync_share: 1.0,
        float_warps_per_clock: 2.0,
        dram_gb_per_s: 2039.0,
        l2_gb_per_s: [5400.0, 7200.0],
    },
    Gpu {
        // NVIDIA Ada white paper, appendix (RTX 4090): 2.52 GHz, 165.2 TFLOP/s with fp32 sums, 128 FP32 lanes,
        // 1008 GB/s. L2: 3.9 TB/s from the slices' width, 4.9 TB/s measured (smallscientist1/cuda_microbenchmark).
        name: "RTX 4090",
        multiprocessors: 128,
        clock_ghz: 2.52,
        tensor_tflops: 165.2,
        mma_sync_share: 1.0,
        float_warps_per_clock: 4.0,
        dram_gb_per_s: 1008.0,
        l2_gb_per_s: [3900.0, 4900.0],
    },
    Gpu {
        // NVIDIA H100 data sheet (SXM5): 989.4 TFLOP/s (at 1.83 GHz), 3.35 TB/s; its 67 TFLOP/s of FP32 on 132 x 128
        // lanes imply 1.98 GHz. mma.sync reaches about 63 % of the dense rate, which needs wgmma (arXiv 2402.13499).
        // L2: figures found go from 5.5 to 7 TB/s; the same chip in an H200 reaches 9.8 (RRZE gpu-benches).
        name: "H100 SXM",
        multiprocessors: 132,
        clock_ghz: 1.98,
        tensor_tflops: 989.4,
        mma_sync_share: 0.63,
        float_warps_per_clock: 4.0,
        dram_gb_per_s: 3350.0,
        l2_gb_per_s: [5500.0, 9800.0],
    },
];

/// What the bound assumes, printed beside it.
pub const NOTES: [&str; 6] = [
    "modelled lower bounds, not measurements: the largest of work / published rate over the resources below; real \
     kernels take longer",
    "caches are cold when a launch begins: every distinct 32-byte sector moves once between DRAM and chip",
    "launches run one after another; a launch of fewer blocks than multiprocessors has only so many of them",
    "tensor: all mma at the rate of bf16 (tf32 takes longer, fp16 sums on an RTX 4090 may take half)",
    "float: at the rate of FP32 (packed halves, which an A100 starts twice as fast, are charged as FP32); issue: \
     without moves, integers, conversions and branches, which ptxas may remove",
    "L2: distinct loaded sectors and all stored ones at the fastest known rate; the second figure is every requested \
     sector at the slowest, and is no bound",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    Tensor,
    Float,
    Special,
    Issue,
    Shared,
    L1,
    L2,
    Dram,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bound {
    pub gpu: &'static str,
    /// Microseconds, and the resource that takes them.
    pub us: f64,
    pub resource: Resource,
    /// Every resource's microseconds.
    #[serde(serialize_with = "as_map")]
    pub resources: Vec<(Resource, f64)>,
    /// Every requested sector at the slowest rate found for L2: no bound, only how uncertain L2 is.
    pub l2_slowest_us: f64,
}

fn as_map<S: Serializer>(pairs: &[(Resource, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().copied())
}

/// `counters` of any number of launches with `blocks` blocks each.
pub fn bound(gpu: &Gpu, counters: &Counters, blocks: u64) -> Bound {
    // A block stays on one multiprocessor.
    let used = f64::from(gpu.multiprocessors).min(blocks.max(1) as f64);
    let share = used / f64::from(gpu.multiprocessors);
    // Microseconds for work that each multiprocessor in use does at `rate` a clock.
    let clocked = |work: u64, rate: f64| work as f64 / (rate * used * gpu.clock_ghz * 1e3);
    let moved = |sectors: u64, gb_per_s: f64| sectors as f64 * SECTOR / (gb_per_s * 1e3);

    let instructions = &counters.instructions;
    let (load, store, atomics) = (&counters.global_load, &counters.global_store, &counters.global_atomics);
    let tensor_rate = gpu.tensor_tflops * gpu.mma_sync_share * share;
    // Sectors that are both stored and updated are written once: at least so many.
    let distinct = load.distinct_sectors + store.distinct_sectors.max(atomics.distinct_sectors);
    let written = store.sectors + atomics.sectors;
    let passes = counters.shared().wavefronts + counters.shared_atomics;
    let l1_sectors = load.sectors + counters.local_bytes / 32;
    let resources = vec![
        (Resource::Tensor, counters.tensor_flops as f64 / (tensor_rate * 1e6)),
        (Resource::Float, clocked(instructions.float, gpu.float_warps_per_clock)),
        (Resource::Special, clocked(instructions.special, SPECIAL_WARPS_PER_CLOCK)),
        (Resource::Issue, clocked(instructions.unavoidable(), ISSUE_WARPS_PER_CLOCK)),
        (Resource::Shared, clocked(passes, SHARED_WAVEFRONTS_PER_CLOCK)),
        (Resource::L1, clocked(l1_sectors, L1_SECTORS_PER_CLOCK)),
        (Resource::L2, moved(load.distinct_sectors + written, gpu.l2_gb_per_s[1])),
        (Resource::Dram, moved(distinct, gpu.dram_gb_per_s)),
    ];
    let (resource, us) = resources.iter().fold(resources[0], |most, &one| if one.1 > most.1 { one } else { most });
    let l2_slowest_us = moved(load.sectors + written, gpu.l2_gb_per_s[0]);
    Bound { gpu: gpu.name, us, resource, resources, l2_slowest_us }
}

/// The sum of bounds of launches that run one after another; the resource is that of the largest part.
pub fn sum<'a>(gpu: &Gpu, bounds: impl Iterator<Item = &'a Bound>) -> Option<Bound> {
    let mut total: Option<(Bound, f64)> = None;
    for bound in bounds.filter(|bound| bound.gpu == gpu.name) {
        let Some((sum, largest)) = &mut total else {
            total = Some((bound.clone(), bound.us));
            continue;
        };
        sum.us += bound.us;
        sum.l2_slowest_us += bound.l2_slowest_us;
        sum.resources.iter_mut().zip(&bound.resources).for_each(|(into, from)| into.1 += from.1);
        if bound.us > *largest {
            (sum.resource, *largest) = (bound.resource, bound.us);
        }
    }
    total.map(|(sum, _)| sum)
}

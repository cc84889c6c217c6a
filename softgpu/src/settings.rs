//! How the machine runs, read from the environment once (SOFTGPU_*).

use std::path::PathBuf;

use crate::Profile;

pub struct Settings {
    pub profile: &'static Profile,
    /// SOFTGPU_CHECKS=all (default) or bounds: only what keeps the process alive.
    pub checks: bool,
    /// SOFTGPU_SEED: order of warps; 0 is the order of their numbers.
    pub seed: u64,
    /// SOFTGPU_THREADS: workers that run blocks; default: the machine's.
    pub threads: usize,
    /// SOFTGPU_LIMIT: warp instructions that one block may execute.
    pub limit: u64,
    /// SOFTGPU_MEMORY_MIB, in bytes here.
    pub memory: u64,
    /// SOFTGPU_REPORT: file for the JSON report, written when the process ends.
    pub report: Option<PathBuf>,
    /// SOFTGPU_TABLE=1: print the counters' table to stderr when the process ends.
    pub table: bool,
}

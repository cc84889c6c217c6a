//! The kernels' images as the build script left them.
//!
//! `IMAGES`: name of `kernels/NAME.cu` and its fat binary; empty without nvcc at build time.
//! `USAGE`: of every image, what the compiler reported of every kernel on every GPU it compiled for, so that tests can
//! hold registers and spills to limits.
//! `NVCC`: the compiler and its version, or why the tables are empty (`doctor` prints it).

/// What one kernel needs on one GPU; bytes, but for the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub kernel: &'static str,
    /// As in `sm_90a`.
    pub arch: &'static str,
    pub registers: u32,
    /// Of a thread: arrays indexed by data, and spills.
    pub stack: u32,
    pub spill_stores: u32,
    pub spill_loads: u32,
    /// Static, of a block.
    pub shared: u32,
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

//! Benchmarks: what is timed, how, and the report. Sizes are those of BERT-base (d = 768, 12 heads, E = 1024,
//! 97 classes) on mean documents: 290 word pieces, 20 entities, 30 mentions.
//!
//! A report is JSON (`docre.bench.v1`), so that programs in other languages (benches/peers) can write the same
//! and one table shows all.

pub mod kernels;
pub mod model;
pub mod modelled;
pub mod report;
pub mod sizes;
pub mod workload;

pub use report::{Report, Row};
pub use workload::Workload;

use crate::device::Device;
use crate::error::Result;
use std::time::Instant;

/// What one run of a case does at least: floating-point operations, and bytes of all tensors read and written once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    pub flops: f64,
    pub bytes: f64,
}

impl std::ops::Add for Work {
    type Output = Work;
    fn add(self, other: Work) -> Work {
        Work { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

/// How often a case is run.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Runs before those that count.
    pub warm_up: usize,
    pub repeats: usize,
}

/// Seconds of each of `effort.repeats` runs: by the GPU's own clock there, by the wall clock on a CPU.
pub fn time(device: &Device, effort: Effort, run: &mut dyn FnMut() -> Result<()>) -> Result<Vec<f64>> {
    (0..effort.warm_up).try_for_each(|_| run())?;
    let once = |_| match device {
        Device::Cuda(cuda) => cuda.time(&mut *run),
        Device::Cpu(_) => {
            let start = Instant::now();
            run().map(|()| start.elapsed().as_secs_f64())
        }
    };
    (0..effort.repeats).map(once).collect()
}

//! The CPU backend: threads, matrix product, vector math.

pub mod attention;
#[cfg(target_arch = "x86_64")]
pub(crate) mod bf16;
pub mod cores;
pub mod gemm;
pub mod math;
pub mod memory;
pub mod pool;
pub mod rows;
pub mod scratch;
pub mod simd;
pub mod vector;

use crate::device::ledger::Ledger;
use crate::device::profile::Profile;
use crate::dtype::DType;
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[derive(Debug)]
pub struct Cpu {
    threads: rayon::ThreadPool,
    /// Of activations and of weights in products, for a model in f32: F32 or BF16.
    pub precision: DType,
    /// The head's large products in eight bits, in inference; see [`crate::model::names::in_int8`].
    pub int8: bool,
    pub ledger: Arc<Ledger>,
    pub profile: Profile,
    pub(crate) pool: Arc<pool::Pool>,
    poison: AtomicBool,
    round: AtomicBool,
}

impl Cpu {
    /// `threads` of 0: one for every physical core that this process may use.
    pub fn new(threads: usize, precision: DType) -> Result<Self> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(if threads == 0 { cores::available() } else { threads })
            .build()
            .map_err(|e| Error::device("E-THREADS", format!("cannot start threads: {e}")))?;
        let (poison, round) = (AtomicBool::new(false), AtomicBool::new(false));
        let (ledger, profile, pool) = (Arc::default(), Profile::default(), Arc::default());
        Ok(Cpu { threads, precision, int8: false, ledger, profile, pool, poison, round })
    }
    /// Runs `f` on the device's threads.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.threads.install(f)
    }
    /// `f(0), f(1) … f(count - 1)`, as many at once as there are threads; each of them may use the device, and a thread
    /// without one of its own helps with theirs.
    pub fn side_by_side<R: Send + Sync>(&self, count: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
        let lanes = self.threads().min(count);
        let (next, found) = (AtomicUsize::new(0), (0..count).map(|_| OnceLock::new()).collect::<Vec<OnceLock<R>>>());
        // A loop on each thread, not a task a call: whoever waits for help with one call must not begin another.
        let lane = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(place) = found.get(i) else { return };
                let _ = place.set(gemm::beside_others(|| f(i)));
            }
        };
        let _lanes = self.profile.lanes(lanes);
        self.threads.broadcast(|_| lane());
        found.into_iter().filter_map(OnceLock::into_inner).collect()
    }
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }
    /// Fresh memory is NaN from now on, so that an op that reads what it should write is found out.
    pub fn poison(&self) {
        self.poison.store(true, Ordering::Relaxed);
    }
    /// From now on activations and their gradients in f32 are rounded to bf16 where an op hands them on: the plain
    /// low-precision program that a GPU's results are measured against.
    pub fn round(&self) {
        self.round.store(true, Ordering::Relaxed);
    }
    pub(crate) fn rounds(&self) -> bool {
        self.round.load(Ordering::Relaxed)
    }
    pub(crate) fn poisons(&self) -> bool {
        self.poison.load(Ordering::Relaxed)
    }
}

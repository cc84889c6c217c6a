//! The GPU of the tests, real or in software: `DOCRE_TEST_DEVICE=softgpu` or `cuda` asks for it. Otherwise, and with
//! `DOCRE_TEST_DEVICE=cpu`, tests run on the CPU in bf16 where it computes the same.
#![allow(dead_code)] // each test file uses its part

use docre::device::Device;
use docre::device::cuda::software;
use docre::dtype::DType;
use serde_json::Value;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

fn asked() -> String {
    std::env::var("DOCRE_TEST_DEVICE").unwrap_or_default()
}

/// The CPU in bf16, on so many threads; none where a GPU is asked for.
pub fn cpu_in_bf16(threads: usize) -> Option<Device> {
    let cpu = || Device::cpu_in(threads, DType::BF16).expect("a CPU");
    ["", "cpu"].contains(&asked().as_str()).then(cpu)
}

/// The device, for one test at a time: faults and the order of warps are the process's. `None`: skipped, and said.
pub fn gpu() -> Option<(Device, MutexGuard<'static, ()>)> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let device = DEVICE.get_or_init(open).clone();
    if device.is_none() && asked() != "cpu" {
        println!("SKIPPED on the GPU: DOCRE_TEST_DEVICE is not set (softgpu or cuda; `make test` sets it)");
    }
    device.map(|device| (device, turn))
}

fn open() -> Option<Device> {
    let asked = asked();
    if asked == "cpu" {
        return None;
    }
    if asked.is_empty() {
        let required = std::env::var("DOCRE_REQUIRE_CUDA_TESTS").is_ok_and(|value| value == "1");
        assert!(!required, "DOCRE_REQUIRE_CUDA_TESTS=1, but DOCRE_TEST_DEVICE names no device");
        return None;
    }
    let device = Device::cuda(0).unwrap_or_else(|e| panic!("DOCRE_TEST_DEVICE={asked}: {e}"));
    let Device::Cuda(cuda) = &device else { panic!("a GPU") };
    assert_eq!(cuda.gpu().is_software(), asked == "softgpu", "DOCRE_TEST_DEVICE={asked}, but this is {cuda:?}");
    Some(device)
}

/// The order of warps from now on; a real GPU has its own.
pub fn reorder(seed: u64) {
    software::set_seed(seed);
}

/// What softgpu counted in one launch shape of one kernel, all launches of it together.
#[derive(Clone, Debug)]
pub struct Counted {
    pub kernel: String,
    pub grid: [usize; 3],
    pub launches: u64,
    counters: Value,
}

impl Counted {
    fn get(&self, path: &str) -> f64 {
        self.counters.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no counter {path}"))
    }
    /// Bytes of the 32-byte sectors that loads, then stores, touch, each once a launch.
    pub fn distinct_bytes(&self) -> f64 {
        32.0 * (self.get("/global_load/distinct_sectors") + self.get("/global_store/distinct_sectors"))
    }
    /// Bytes that loads and stores ask for.
    pub fn requested_bytes(&self) -> f64 {
        self.get("/global_load/bytes") + self.get("/global_store/bytes")
    }
    /// Bytes asked for over bytes of the sectors that the requests touch.
    pub fn load_efficiency(&self) -> f64 {
        efficiency(self.get("/global_load/bytes"), self.get("/global_load/sectors"))
    }
    pub fn store_efficiency(&self) -> f64 {
        efficiency(self.get("/global_store/bytes"), self.get("/global_store/sectors"))
    }
    /// Passes over the banks beyond those that the requests need, as a share of these.
    pub fn bank_conflicts(&self) -> f64 {
        let sum = |what: &str| ["shared_load", "shared_store", "ldmatrix"].map(|k| self.get(&format!("/{k}/{what}")));
        let (all, ideal) = (sum("wavefronts").iter().sum::<f64>(), sum("ideal").iter().sum::<f64>());
        if ideal == 0.0 { 0.0 } else { all / ideal - 1.0 }
    }
    /// Floating-point operations of mma.
    pub fn tensor_flops(&self) -> f64 {
        self.get("/tensor_flops")
    }
}

fn efficiency(bytes: f64, sectors: f64) -> f64 {
    if sectors == 0.0 { 1.0 } else { bytes / (32.0 * sectors) }
}

/// What the launches of `f` did, by kernel and launch shape; none on a real GPU, which does not count.
pub fn counted(f: impl FnOnce()) -> Vec<Counted> {
    software::take_report();
    f();
    let Some(report) = software::take_report() else { return Vec::new() };
    let kernels = report["kernels"].as_array().expect("kernels");
    let shapes = kernels.iter().flat_map(|k| k["shapes"].as_array().expect("shapes").iter().map(move |s| (k, s)));
    let counted = |(kernel, shape): (&Value, &Value)| Counted {
        kernel: kernel["kernel"].as_str().expect("a name").into(),
        grid: [0, 1, 2].map(|i| shape["grid"][i].as_u64().expect("a grid") as usize),
        launches: shape["launches"].as_u64().expect("launches"),
        counters: shape["counters"].clone(),
    };
    shapes.map(counted).collect()
}

/// The gate of the kernel `name` among what was counted: bytes touched at most 1.1 times the floor that the tensors'
/// sizes give (`distinct`), bytes asked for at most 1.1 times those of the tiles read again (`requested`), 95 % of
/// the bytes that requests move asked for, 5 % more passes over shared memory than without conflicts.
#[track_caller]
pub fn gate(counted: &[Counted], name: &str, distinct: usize, requested: usize) {
    gate_but_stores(counted, name, distinct, requested, 0.95);
}

/// The gate of a kernel whose stores are less efficient, for the reason that its header gives.
#[track_caller]
pub fn gate_but_stores(counted: &[Counted], name: &str, distinct: usize, requested: usize, stores: f64) {
    let Some(found) = counted.iter().find(|c| c.kernel == name) else {
        assert!(counted.is_empty(), "{name} was not launched: {counted:?}");
        return;
    };
    let launches = found.launches as f64;
    let (touched, asked) = (found.distinct_bytes() / launches, found.requested_bytes() / launches);
    let (load, store, conflicts) = (found.load_efficiency(), found.store_efficiency(), found.bank_conflicts());
    println!(
        "{name}: {:.3} of the floor, {:.3} of the tiles' reads, loads {load:.3}, stores {store:.3}, conflicts {conflicts:.3}",
        touched / distinct as f64,
        asked / requested as f64,
    );
    assert!(touched <= 1.1 * distinct as f64, "{name}: {touched} bytes touched, floor {distinct}");
    assert!(asked <= 1.1 * requested as f64, "{name}: {asked} bytes asked for, tiles {requested}");
    assert!(load >= 0.95 && store >= stores, "{name}: efficiency of loads {load:.3}, of stores {store:.3}");
    assert!(conflicts <= 0.05, "{name}: {conflicts:.3} more passes over shared memory");
}

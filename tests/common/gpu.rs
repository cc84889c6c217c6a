//! The GPU of the tests, real or in software: `DOCRE_TEST_DEVICE=softgpu` or `cuda` asks for it.
#![allow(dead_code)] // each test file uses its part

use docre::device::Device;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The device, for one test at a time: faults and the order of warps are the process's. `None`: skipped, and said.
pub fn gpu() -> Option<(Device, MutexGuard<'static, ()>)> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let device = DEVICE.get_or_init(open).clone();
    if device.is_none() {
        println!("SKIPPED on the GPU: DOCRE_TEST_DEVICE is not set (softgpu or cuda; `make test` sets it)");
    }
    device.map(|device| (device, turn))
}

fn open() -> Option<Device> {
    let Some(asked) = std::env::var("DOCRE_TEST_DEVICE").ok().filter(|name| !name.is_empty()) else {
        let required = std::env::var("DOCRE_REQUIRE_CUDA_TESTS").is_ok_and(|value| value == "1");
        assert!(!required, "DOCRE_REQUIRE_CUDA_TESTS=1, but DOCRE_TEST_DEVICE names no device");
        return None;
    };
    let device = Device::cuda(0).unwrap_or_else(|e| panic!("DOCRE_TEST_DEVICE={asked}: {e}"));
    let Device::Cuda(cuda) = &device else { panic!("a GPU") };
    assert_eq!(cuda.gpu().is_software(), asked == "softgpu", "DOCRE_TEST_DEVICE={asked}, but this is {cuda:?}");
    Some(device)
}

/// The order of warps from now on; a real GPU has its own.
pub fn reorder(seed: u64) {
    // SAFETY: the name and the signature are those of softgpu's own entry point (its driver/own.rs).
    unsafe {
        let library = libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_LAZY);
        let found = if library.is_null() { library } else { libc::dlsym(library, c"softgpuSetSeed".as_ptr()) };
        if !found.is_null() {
            let set: extern "C" fn(u64) -> u32 = std::mem::transmute(found);
            assert_eq!(set(seed), 0, "softgpuSetSeed");
        }
    }
}

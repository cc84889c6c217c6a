//! What softgpu, the CUDA driver in software, offers beyond a driver: the order of warps, and counts of all that
//! the launches did. Nothing of it is there on a real GPU.

use serde_json::Value;
use std::ffi::{CStr, c_void};

/// The address of softgpu's own function `name` in the driver that is loaded.
fn find(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the library is the driver that cudarc has loaded already, under a name that it tries first.
    let found = unsafe {
        let library = libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if library.is_null() { library } else { libc::dlsym(library, name.as_ptr()) }
    };
    (!found.is_null()).then_some(found)
}

/// Sets the order of warps from the next launch on; false: this is no softgpu.
pub fn set_seed(seed: u64) -> bool {
    let Some(found) = find(c"softgpuSetSeed") else { return false };
    // SAFETY: softgpu declares it so (softgpu/src/driver/own.rs).
    let set: extern "C" fn(u64) -> u32 = unsafe { std::mem::transmute(found) };
    set(seed) == 0
}

/// The report of all launches since the last call, as softgpu's README describes it; `None`: this is no softgpu.
pub fn take_report() -> Option<Value> {
    let found = find(c"softgpuTakeReport")?;
    // SAFETY: softgpu declares it so; it writes at most the bytes that it is given.
    let take: unsafe extern "C" fn(*mut u8, usize) -> usize = unsafe { std::mem::transmute(found) };
    let mut text = Vec::new();
    loop {
        let needed = unsafe { take(text.as_mut_ptr(), text.len()) };
        if needed <= text.len() {
            return serde_json::from_slice(&text[..needed]).ok();
        }
        text.resize(needed, 0);
    }
}

//! Pinned host memory. The device has no address for it: a kernel that reads it faults.

use std::alloc::{Layout, alloc, dealloc};

use super::error::{Status, refuse};
use super::{Answer, CUresult, Handle, alive, entry, given, put};

pub(super) struct Pinned {
    pub context: Handle,
    pub bytes: usize,
    flags: u32,
    /// Allocated here, not registered.
    owned: bool,
}

const PAGE: usize = 4096;

unsafe fn alloc_host(to: *mut *mut u8, bytes: usize, flags: u32) -> Answer {
    let (driver, context) = alive()?;
    given(to)?;
    let layout = Layout::from_size_align(bytes, PAGE).ok().filter(|_| bytes > 0).ok_or(Status::INVALID_VALUE)?;
    // SAFETY: the size is not zero.
    let start = unsafe { alloc(layout) };
    if start.is_null() {
        return Err(Status::OUT_OF_MEMORY);
    }
    // As on the device: what is read before it is written shows as NaN.
    unsafe { start.write_bytes(0xff, bytes) };
    driver.state().host.insert(start as usize, Pinned { context, bytes, flags, owned: true });
    unsafe { put(to, start) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(to: *mut *mut u8, bytes: usize, flags: u32) -> CUresult {
    entry("cuMemHostAlloc", || unsafe { alloc_host(to, bytes, flags) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(to: *mut *mut u8, bytes: usize) -> CUresult {
    entry("cuMemAllocHost_v2", || unsafe { alloc_host(to, bytes, 0) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(start: *mut u8) -> CUresult {
    entry("cuMemFreeHost", || {
        let (driver, _) = alive()?;
        let mut state = driver.state();
        let held = state.host.get(&(start as usize)).filter(|held| held.owned).ok_or(Status::INVALID_VALUE)?;
        let layout = Layout::from_size_align(held.bytes, PAGE).map_err(|_| Status::UNKNOWN)?;
        state.host.remove(&(start as usize));
        // SAFETY: allocated above with the same layout.
        unsafe { dealloc(start, layout) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostRegister_v2(start: *mut u8, bytes: usize, flags: u32) -> CUresult {
    entry("cuMemHostRegister_v2", || {
        let (driver, context) = alive()?;
        given(start)?;
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let mut state = driver.state();
        let end = (start as usize).saturating_add(bytes);
        if state.host.range(..end).next_back().is_some_and(|(at, held)| at + held.bytes > start as usize) {
            return Err(Status::HOST_MEMORY_ALREADY_REGISTERED);
        }
        state.host.insert(start as usize, Pinned { context, bytes, flags, owned: false });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostUnregister(start: *mut u8) -> CUresult {
    entry("cuMemHostUnregister", || {
        let (driver, _) = alive()?;
        let mut state = driver.state();
        if state.host.get(&(start as usize)).is_none_or(|held| held.owned) {
            return Err(Status::HOST_MEMORY_NOT_REGISTERED);
        }
        state.host.remove(&(start as usize));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetFlags(flags: *mut u32, start: *mut u8) -> CUresult {
    entry("cuMemHostGetFlags", || {
        let (driver, _) = alive()?;
        let state = driver.state();
        let held = state.host.get(&(start as usize)).ok_or(Status::INVALID_VALUE)?;
        unsafe { put(flags, held.flags) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(_to: *mut u64, _start: *mut u8, _flags: u32) -> CUresult {
    entry("cuMemHostGetDevicePointer_v2", || {
        alive()?;
        refuse(Status::NOT_SUPPORTED, "cuMemHostGetDevicePointer: kernels cannot read host memory here; copy it")
    })
}

//! The one device.

use std::ffi::c_char;

use super::error::Status;
use super::{Answer, CUresult, DEVICE, Driver, Handle, check_device, driver, entry, given, put};

fn with_device(name: &str, device: i32, body: impl FnOnce(&'static Driver) -> Answer) -> CUresult {
    entry(name, || {
        let driver = driver()?;
        check_device(device)?;
        body(driver)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut i32) -> CUresult {
    entry("cuDeviceGetCount", || {
        driver()?;
        unsafe { put(count, 1) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut i32, ordinal: i32) -> CUresult {
    with_device("cuDeviceGet", ordinal, |_| unsafe { put(device, DEVICE) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, size: i32, device: i32) -> CUresult {
    with_device("cuDeviceGetName", device, |driver| {
        given(name)?;
        let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or(Status::INVALID_VALUE)?;
        let text = driver.settings.profile.name.as_bytes();
        let kept = text.len().min(size - 1);
        // SAFETY: the caller's buffer has `size` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), name.cast(), kept);
            name.add(kept).write(0);
        }
        Ok(())
    })
}

/// Equal in every process: the profile's name.
fn uuid(driver: &Driver) -> [u8; 16] {
    let mut uuid = *b"softgpu.\0\0\0\0\0\0\0\0";
    let key = driver.settings.profile.key.as_bytes();
    uuid[8..8 + key.len()].copy_from_slice(key);
    uuid
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid(to: *mut [u8; 16], device: i32) -> CUresult {
    with_device("cuDeviceGetUuid", device, |driver| unsafe { put(to, uuid(driver)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(to: *mut [u8; 16], device: i32) -> CUresult {
    with_device("cuDeviceGetUuid_v2", device, |driver| unsafe { put(to, uuid(driver)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) -> CUresult {
    with_device("cuDeviceTotalMem_v2", device, |driver| unsafe { put(bytes, driver.settings.memory as usize) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut i32, attribute: u32, device: i32) -> CUresult {
    with_device("cuDeviceGetAttribute", device, |driver| {
        let known = driver.settings.profile.attribute(attribute).ok_or(Status::INVALID_VALUE)?;
        unsafe { put(value, known) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceComputeCapability(major: *mut i32, minor: *mut i32, device: i32) -> CUresult {
    with_device("cuDeviceComputeCapability", device, |driver| unsafe {
        given(minor)?;
        put(major, driver.settings.profile.major as i32)?;
        put(minor, driver.settings.profile.minor as i32)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(to: *mut c_char, size: i32, device: i32) -> CUresult {
    with_device("cuDeviceGetPCIBusId", device, |_| {
        const ID: &[u8] = b"0000:00:00.0\0";
        given(to)?;
        if size < ID.len() as i32 {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the caller's buffer has `size` bytes.
        unsafe { std::ptr::copy_nonoverlapping(ID.as_ptr(), to.cast(), ID.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceCanAccessPeer(can: *mut i32, device: i32, peer: i32) -> CUresult {
    with_device("cuDeviceCanAccessPeer", device, |_| {
        check_device(peer)?;
        unsafe { put(can, 0) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut Handle, device: i32) -> CUresult {
    with_device("cuDeviceGetDefaultMemPool", device, |driver| unsafe { put(pool, driver.state().device_pools.default) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetMemPool(pool: *mut Handle, device: i32) -> CUresult {
    with_device("cuDeviceGetMemPool", device, |driver| unsafe { put(pool, driver.state().device_pools.current) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceSetMemPool(device: i32, pool: Handle) -> CUresult {
    with_device("cuDeviceSetMemPool", device, |driver| {
        let mut state = driver.state();
        if !state.pools.contains_key(&pool) {
            return Err(Status::INVALID_VALUE);
        }
        state.device_pools.current = pool;
        Ok(())
    })
}

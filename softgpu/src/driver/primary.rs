//! The primary context, which all users of a device in a process share.

use super::context::destroy;
use super::error::Status;
use super::{Answer, CUresult, Driver, Handle, check_device, driver, entry, given, put};

/// The primary context lives while it is retained at least once.
#[derive(Default)]
pub(super) struct Primary {
    pub handle: Option<Handle>,
    retained: u32,
    flags: u32,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(to: *mut Handle, device: i32) -> CUresult {
    entry("cuDevicePrimaryCtxRetain", || {
        let driver = driver()?;
        check_device(device)?;
        given(to)?;
        let mut state = driver.state();
        let handle = match state.primary.handle {
            Some(handle) => handle,
            None => {
                let flags = state.primary.flags;
                let handle = state.new_context(flags);
                state.primary.handle = Some(handle);
                handle
            }
        };
        state.primary.retained += 1;
        unsafe { put(to, handle) }
    })
}

fn release(driver: &Driver, all: bool) -> Answer {
    let mut state = driver.state();
    let handle = state.primary.handle.ok_or(Status::INVALID_CONTEXT)?;
    state.primary.retained = if all { 0 } else { state.primary.retained - 1 };
    if state.primary.retained > 0 {
        return Ok(());
    }
    state.primary.handle = None;
    drop(state);
    destroy(driver, handle)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> CUresult {
    entry("cuDevicePrimaryCtxRelease_v2", || {
        let driver = driver()?;
        check_device(device)?;
        release(driver, false)
    })
}

/// After a fault this frees what the context held, and the fault stays: only a new process is free of it.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxReset_v2(device: i32) -> CUresult {
    entry("cuDevicePrimaryCtxReset_v2", || {
        let driver = driver()?;
        check_device(device)?;
        let active = driver.state().primary.handle.is_some();
        if active { release(driver, true) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) -> CUresult {
    entry("cuDevicePrimaryCtxSetFlags_v2", || {
        let driver = driver()?;
        check_device(device)?;
        let mut state = driver.state();
        state.primary.flags = flags;
        if let Some(handle) = state.primary.handle
            && let Some(context) = state.contexts.get_mut(&handle)
        {
            context.flags = flags;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(device: i32, flags: *mut u32, active: *mut i32) -> CUresult {
    entry("cuDevicePrimaryCtxGetState", || {
        let driver = driver()?;
        check_device(device)?;
        given(active)?;
        let state = driver.state();
        unsafe {
            put(flags, state.primary.flags)?;
            put(active, i32::from(state.primary.handle.is_some()))
        }
    })
}

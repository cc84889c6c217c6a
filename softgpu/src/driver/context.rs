//! Contexts, and each thread's stack of them.

use std::collections::HashMap;

use super::error::Status;
use super::{
    Answer, CURRENT, CUresult, DEVICE, Driver, Handle, State, alive, check_device, current, driver, entry, given, put,
};

#[derive(Default)]
pub(super) struct Context {
    pub flags: u32,
    cache_config: u32,
    limits: HashMap<u32, usize>,
}

/// The limits of a real device right after its context was made.
fn default_limit(limit: u32) -> Option<usize> {
    match limit {
        0 => Some(1024),    // stack
        1 => Some(1 << 20), // printf
        2 => Some(8 << 20), // malloc
        3 => Some(2),       // depth of device runtime synchronisation
        4 => Some(2048),    // pending launches of the device runtime
        5 => Some(64),      // L2 fetch granularity
        6 => Some(0),       // persisting L2
        _ => None,
    }
}

fn set_stack(change: impl FnOnce(&mut Vec<Handle>)) -> Answer {
    CURRENT.try_with(|stack| change(&mut stack.borrow_mut())).map_err(|_| Status::DEINITIALIZED)
}

impl State {
    pub(super) fn new_context(&mut self, flags: u32) -> Handle {
        let handle = self.handle();
        self.contexts.insert(handle, Context { flags, ..Context::default() });
        handle
    }
}

/// Everything that was made in the context goes with it.
pub(super) fn destroy(driver: &Driver, context: Handle) -> Answer {
    let mut state = driver.state();
    state.contexts.remove(&context).ok_or(Status::INVALID_CONTEXT)?;
    state.streams.retain(|_, stream| stream.context != context);
    state.events.retain(|_, event| event.context != context);
    let modules: Vec<_> = state.modules.iter().filter(|(_, module)| module.context == context).map(|m| *m.0).collect();
    let left: Vec<_> = state.allocations.iter().filter(|(_, held)| held.context == context).map(|a| *a.0).collect();
    drop(state);
    for module in modules {
        super::module::unload(driver, module)?;
    }
    for address in left {
        super::memory::free(driver, "cuCtxDestroy", address)?;
    }
    Ok(())
}

unsafe fn create_current(to: *mut Handle, flags: u32, device: i32) -> Answer {
    let driver = driver()?;
    check_device(device)?;
    given(to)?;
    let handle = driver.state().new_context(flags);
    set_stack(|stack| stack.push(handle))?;
    unsafe { put(to, handle) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(to: *mut Handle, flags: u32, device: i32) -> CUresult {
    entry("cuCtxCreate_v2", || unsafe { create_current(to, flags, device) })
}

/// Execution affinities are a feature of MPS: none can be had.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v3(
    to: *mut Handle,
    _affinities: *const u8,
    count: i32,
    flags: u32,
    device: i32,
) -> CUresult {
    entry("cuCtxCreate_v3", || {
        if count != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        unsafe { create_current(to, flags, device) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v4(to: *mut Handle, params: *const u8, flags: u32, device: i32) -> CUresult {
    entry("cuCtxCreate_v4", || {
        if !params.is_null() {
            return Err(Status::NOT_SUPPORTED);
        }
        unsafe { create_current(to, flags, device) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: Handle) -> CUresult {
    entry("cuCtxDestroy_v2", || {
        let driver = driver()?;
        if driver.state().primary.handle == Some(context) {
            return Err(Status::INVALID_CONTEXT);
        }
        destroy(driver, context)?;
        if current() == Some(context) {
            set_stack(|stack| _ = stack.pop())?;
        }
        Ok(())
    })
}

fn known(context: Handle) -> Result<&'static Driver, Status> {
    let driver = driver()?;
    if driver.state().contexts.contains_key(&context) { Ok(driver) } else { Err(Status::INVALID_CONTEXT) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> CUresult {
    entry("cuCtxPushCurrent_v2", || {
        known(context)?;
        set_stack(|stack| stack.push(context))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(to: *mut Handle) -> CUresult {
    entry("cuCtxPopCurrent_v2", || {
        driver()?;
        let context = current().ok_or(Status::INVALID_CONTEXT)?;
        set_stack(|stack| _ = stack.pop())?;
        unsafe { super::put_optional(to, context) };
        Ok(())
    })
}

/// Null unbinds.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Handle) -> CUresult {
    entry("cuCtxSetCurrent", || {
        driver()?;
        if context != 0 {
            known(context)?;
        }
        set_stack(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(to: *mut Handle) -> CUresult {
    entry("cuCtxGetCurrent", || {
        driver()?;
        unsafe { put(to, current().unwrap_or(0)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(to: *mut i32) -> CUresult {
    entry("cuCtxGetDevice", || {
        driver()?;
        current().ok_or(Status::INVALID_CONTEXT)?;
        unsafe { put(to, DEVICE) }
    })
}

/// Everything has happened already; what is left to tell is a fault.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> CUresult {
    entry("cuCtxSynchronize", || alive().map(|_| ()))
}

/// Reads or changes the current context.
fn change_current<T>(body: impl FnOnce(&mut Context) -> T) -> Result<T, Status> {
    let (driver, context) = alive()?;
    let mut state = driver.state();
    Ok(body(state.contexts.get_mut(&context).ok_or(Status::INVALID_CONTEXT)?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetFlags(to: *mut u32) -> CUresult {
    entry("cuCtxGetFlags", || unsafe { put(to, change_current(|context| context.flags)?) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(flags: u32) -> CUresult {
    entry("cuCtxSetFlags", || change_current(|context| context.flags = flags))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCacheConfig(to: *mut u32) -> CUresult {
    entry("cuCtxGetCacheConfig", || unsafe { put(to, change_current(|context| context.cache_config)?) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCacheConfig(config: u32) -> CUresult {
    entry("cuCtxSetCacheConfig", || change_current(|context| context.cache_config = config))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetLimit(to: *mut usize, limit: u32) -> CUresult {
    entry("cuCtxGetLimit", || {
        let default = default_limit(limit).ok_or(Status::UNSUPPORTED_LIMIT)?;
        let value = change_current(|context| context.limits.get(&limit).copied().unwrap_or(default))?;
        unsafe { put(to, value) }
    })
}

/// Kept and told again; the machine has no such limits.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(limit: u32, value: usize) -> CUresult {
    entry("cuCtxSetLimit", || {
        default_limit(limit).ok_or(Status::UNSUPPORTED_LIMIT)?;
        change_current(|context| _ = context.limits.insert(limit, value))
    })
}

/// The range of the GPUs that the profiles name. Priorities have no effect on work that runs when it is issued.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut i32, greatest: *mut i32) -> CUresult {
    entry("cuCtxGetStreamPriorityRange", || {
        alive()?;
        unsafe {
            super::put_optional(least, 0);
            super::put_optional(greatest, -5);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetApiVersion(context: Handle, version: *mut u32) -> CUresult {
    entry("cuCtxGetApiVersion", || {
        if context != 0 {
            known(context)?;
        }
        driver()?;
        unsafe { put(version, 3020) }
    })
}

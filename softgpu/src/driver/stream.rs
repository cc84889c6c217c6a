//! Streams. Their work has always happened; they are names with properties.

use std::ffi::c_void;

use super::error::Status;
use super::{Answer, CUresult, Driver, Handle, State, alive, entry, given, put, put_optional};

pub(super) struct Stream {
    pub context: Handle,
    flags: u32,
    priority: i32,
}

const NON_BLOCKING: u32 = 1;
/// The default stream (null, or CU_STREAM_LEGACY) and the per-thread one.
const LEGACY: Handle = 1;
const PER_THREAD: Handle = 2;

/// The context of a stream's work: of the default streams, the current one.
pub(super) fn check(state: &State, current: Handle, stream: Handle) -> Result<Handle, Status> {
    match stream {
        0 | LEGACY | PER_THREAD => Ok(current),
        _ => state.streams.get(&stream).map(|stream| stream.context).ok_or(Status::INVALID_HANDLE),
    }
}

/// For calls that only need a stream that is there.
pub(super) fn valid(stream: Handle) -> Result<&'static Driver, Status> {
    let (driver, context) = alive()?;
    check(&driver.state(), context, stream)?;
    Ok(driver)
}

unsafe fn create(to: *mut Handle, flags: u32, priority: i32) -> Answer {
    let (driver, context) = alive()?;
    given(to)?;
    if flags & !NON_BLOCKING != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let mut state = driver.state();
    let handle = state.handle();
    state.streams.insert(handle, Stream { context, flags, priority: priority.clamp(-5, 0) });
    unsafe { put(to, handle) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(to: *mut Handle, flags: u32) -> CUresult {
    entry("cuStreamCreate", || unsafe { create(to, flags, 0) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(to: *mut Handle, flags: u32, priority: i32) -> CUresult {
    entry("cuStreamCreateWithPriority", || unsafe { create(to, flags, priority) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> CUresult {
    entry("cuStreamDestroy_v2", || {
        let (driver, _) = alive()?;
        driver.state().streams.remove(&stream).map(|_| ()).ok_or(Status::INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> CUresult {
    entry("cuStreamSynchronize", || valid(stream).map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Handle) -> CUresult {
    entry("cuStreamQuery", || valid(stream).map(|_| ()))
}

/// What the event waits for has happened.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) -> CUresult {
    entry("cuStreamWaitEvent", || {
        let driver = valid(stream)?;
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        if driver.state().events.contains_key(&event) { Ok(()) } else { Err(Status::INVALID_HANDLE) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetFlags(stream: Handle, flags: *mut u32) -> CUresult {
    entry("cuStreamGetFlags", || {
        let driver = valid(stream)?;
        unsafe { put(flags, driver.state().streams.get(&stream).map_or(0, |stream| stream.flags)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetPriority(stream: Handle, priority: *mut i32) -> CUresult {
    entry("cuStreamGetPriority", || {
        let driver = valid(stream)?;
        unsafe { put(priority, driver.state().streams.get(&stream).map_or(0, |stream| stream.priority)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCtx(stream: Handle, to: *mut Handle) -> CUresult {
    entry("cuStreamGetCtx", || {
        let (driver, context) = alive()?;
        let context = check(&driver.state(), context, stream)?;
        unsafe { put(to, context) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetId(stream: Handle, to: *mut u64) -> CUresult {
    entry("cuStreamGetId", || {
        valid(stream)?;
        unsafe { put(to, stream.max(LEGACY) as u64) }
    })
}

/// Runs at once, on the calling thread. A function that waits for something that the caller does later hangs here,
/// as it would on a GPU if the caller synchronised first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchHostFunc(
    stream: Handle,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
) -> CUresult {
    entry("cuLaunchHostFunc", || {
        valid(stream)?;
        let function = function.ok_or(Status::INVALID_VALUE)?;
        // SAFETY: the caller passes a function for this data.
        unsafe { function(data) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamAddCallback(
    stream: Handle,
    function: Option<unsafe extern "C" fn(Handle, CUresult, *mut c_void)>,
    data: *mut c_void,
    flags: u32,
) -> CUresult {
    entry("cuStreamAddCallback", || {
        valid(stream)?;
        let function = function.filter(|_| flags == 0).ok_or(Status::INVALID_VALUE)?;
        // SAFETY: as above.
        unsafe { function(stream, Status::SUCCESS.0, data) };
        Ok(())
    })
}

/// No stream ever captures: the status is NONE, which is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, status: *mut u32) -> CUresult {
    entry("cuStreamIsCapturing", || {
        valid(stream)?;
        unsafe { put(status, 0) }
    })
}

unsafe fn capture_info(stream: Handle, status: *mut u32, id: *mut u64) -> Answer {
    valid(stream)?;
    unsafe {
        put(status, 0)?;
        put_optional(id, 0);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo(stream: Handle, status: *mut u32, id: *mut u64) -> CUresult {
    entry("cuStreamGetCaptureInfo", || unsafe { capture_info(stream, status, id) })
}

/// The graph and its dependencies are only written for a stream that captures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo_v2(
    stream: Handle,
    status: *mut u32,
    id: *mut u64,
    _graph: *mut Handle,
    _dependencies: *mut *const Handle,
    _count: *mut usize,
) -> CUresult {
    entry("cuStreamGetCaptureInfo_v2", || unsafe { capture_info(stream, status, id) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCaptureInfo_v3(
    stream: Handle,
    status: *mut u32,
    id: *mut u64,
    _graph: *mut Handle,
    _dependencies: *mut *const Handle,
    _edges: *mut *const c_void,
    _count: *mut usize,
) -> CUresult {
    entry("cuStreamGetCaptureInfo_v3", || unsafe { capture_info(stream, status, id) })
}

//! Events. They are complete when they are recorded; their times are the wall clock's.

use std::time::Instant;

use super::error::Status;
use super::{Answer, CUresult, Handle, alive, entry, given, put, stream};

pub(super) struct Event {
    pub context: Handle,
    timed: bool,
    recorded: Option<Instant>,
}

const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(to: *mut Handle, flags: u32) -> CUresult {
    entry("cuEventCreate", || {
        let (driver, context) = alive()?;
        given(to)?;
        if flags > 7 {
            return Err(Status::INVALID_VALUE);
        }
        if flags & INTERPROCESS != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        let mut state = driver.state();
        let handle = state.handle();
        state.events.insert(handle, Event { context, timed: flags & DISABLE_TIMING == 0, recorded: None });
        unsafe { put(to, handle) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> CUresult {
    entry("cuEventDestroy_v2", || {
        let (driver, _) = alive()?;
        driver.state().events.remove(&event).map(|_| ()).ok_or(Status::INVALID_HANDLE)
    })
}

fn record(event: Handle, stream: Handle) -> Answer {
    let (driver, current) = alive()?;
    let mut state = driver.state();
    let context = stream::check(&state, current, stream)?;
    let event = state.events.get_mut(&event).filter(|event| event.context == context).ok_or(Status::INVALID_HANDLE)?;
    event.recorded = Some(Instant::now());
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> CUresult {
    entry("cuEventRecord", || record(event, stream))
}

/// The only flag is for captures.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) -> CUresult {
    entry("cuEventRecordWithFlags", || if flags > 1 { Err(Status::INVALID_VALUE) } else { record(event, stream) })
}

/// An event that was never recorded counts as complete, as on hardware.
fn complete(event: Handle) -> Answer {
    let (driver, _) = alive()?;
    if driver.state().events.contains_key(&event) { Ok(()) } else { Err(Status::INVALID_HANDLE) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> CUresult {
    entry("cuEventQuery", || complete(event))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Handle) -> CUresult {
    entry("cuEventSynchronize", || complete(event))
}

unsafe fn elapsed(milliseconds: *mut f32, start: Handle, end: Handle) -> Answer {
    let (driver, _) = alive()?;
    given(milliseconds)?;
    let state = driver.state();
    let time = |event| state.events.get(&event).filter(|event| event.timed)?.recorded;
    let (Some(start), Some(end)) = (time(start), time(end)) else { return Err(Status::INVALID_HANDLE) };
    // An end before the start gives a negative time, as on hardware.
    let forward = end.saturating_duration_since(start).as_secs_f64();
    let backward = start.saturating_duration_since(end).as_secs_f64();
    unsafe { put(milliseconds, ((forward - backward) * 1e3) as f32) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) -> CUresult {
    entry("cuEventElapsedTime", || unsafe { elapsed(milliseconds, start, end) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: Handle, end: Handle) -> CUresult {
    entry("cuEventElapsedTime_v2", || unsafe { elapsed(milliseconds, start, end) })
}

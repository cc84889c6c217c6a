//! cuInit, and what happens when the process ends.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, OnceLock};

use super::error::{Status, refuse, say};
use super::{CUresult, DRIVER, Driver, State, entry, lock, pool, put};
use crate::Settings;
use crate::report::Report;

/// CUDA 13.0: what nvcc 13.0 compiles for.
pub const DRIVER_VERSION: i32 = 13_000;

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: u32) -> CUresult {
    entry("cuInit", || {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if DRIVER.get().is_some() {
            return Ok(());
        }
        let settings = match Settings::from_env() {
            Ok(settings) => settings,
            Err(why) => return refuse(Status::SYSTEM_NOT_READY, why),
        };
        // Of two threads, one makes the driver; the other waits for it.
        DRIVER.get_or_init(|| Driver::new(settings));
        Ok(())
    })
}

impl Driver {
    fn new(settings: Settings) -> Driver {
        if settings.report.is_some() || settings.table {
            // SAFETY: glibc calls it when the process ends, or before this library is unloaded.
            unsafe { libc::atexit(at_exit) };
        }
        let mut state = State::default();
        let pool = state.handle();
        state.pools = HashMap::from([(pool, pool::Pool::default())]);
        state.device_pools = pool::DevicePools { default: pool, current: pool };
        Driver {
            seed: AtomicU64::new(settings.seed),
            settings,
            memory: OnceLock::new(),
            state: Mutex::new(state),
            work: Mutex::new(()),
            report: Mutex::new(Report::default()),
            dead: OnceLock::new(),
        }
    }
}

extern "C" fn at_exit() {
    entry("the report", || {
        let driver = super::driver()?;
        driver.write_report();
        if driver.settings.table {
            let table = lock(&driver.report).table(&driver.settings);
            say(table.trim_start_matches("softgpu: ").trim_end());
        }
        Ok(())
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut i32) -> CUresult {
    entry("cuDriverGetVersion", || unsafe { put(version, DRIVER_VERSION) })
}

/// Counters are always on: there is nothing to start or stop.
#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStart() -> CUresult {
    entry("cuProfilerStart", || super::alive().map(|_| ()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuProfilerStop() -> CUresult {
    entry("cuProfilerStop", || super::alive().map(|_| ()))
}

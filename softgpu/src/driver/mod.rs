//! The driver's entry points, as cudarc 0.19 and other users of libcuda.so.1 call them.
//!
//! Work runs when it is issued, on the thread that issues it: every stream is in order, and whatever returns has
//! happened. Errors come when the real driver's come: an impossible launch is refused by its own call, a fault inside
//! of a kernel shows in the calls after it, and stays until the process ends.
//!
//! # Safety
//! The contract of every entry point is CUDA's: pointers are null or valid for what the function's manual says.
//! Null pointers, unknown handles, a missing context and a missing cuInit are answered with CUDA's errors.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::report::Report;
use crate::{Fault, Memory, Settings};

pub mod context;
pub mod copy;
pub mod device;
pub mod error;
pub mod event;
pub mod function;
pub mod host;
pub mod init;
pub mod launch;
pub mod memory;
pub mod module;
pub mod occupancy;
pub mod own;
pub mod pointer;
pub mod pool;
pub mod primary;
pub mod proc;
pub mod refused;
pub mod stream;

use error::{Status, say};

/// CUresult, an enum of int's size.
pub type CUresult = u32;
/// CUcontext, CUstream and so on: opaque to the program, and never given out twice, so that a stale one is found.
pub type Handle = usize;
type Answer = Result<(), Status>;

/// The only device.
const DEVICE: i32 = 0;
/// Far from zero and from the small numbers that stand for default streams.
const FIRST_HANDLE: Handle = 0x5067_0000;

struct Driver {
    settings: Settings,
    /// Made on first use: a program that only asks for the device's name reserves nothing.
    memory: OnceLock<Memory>,
    state: Mutex<State>,
    /// Held while something executes: work of several threads runs one after another.
    work: Mutex<()>,
    report: Mutex<Report>,
    /// The order of warps: at first that of the settings.
    seed: AtomicU64,
    dead: OnceLock<Dead>,
}

/// The error that ended the process's use of the device.
struct Dead {
    status: Status,
    /// For cuGetErrorString: CUDA's text and the fault's first line.
    text: CString,
}

#[derive(Default)]
struct State {
    handles: usize,
    contexts: HashMap<Handle, context::Context>,
    primary: primary::Primary,
    streams: HashMap<Handle, stream::Stream>,
    events: HashMap<Handle, event::Event>,
    modules: HashMap<Handle, module::Loaded>,
    functions: HashMap<Handle, Arc<function::Function>>,
    pools: HashMap<Handle, pool::Pool>,
    device_pools: pool::DevicePools,
    /// By device address.
    allocations: BTreeMap<u64, memory::Allocation>,
    /// From the lowest to the highest device address given out so far.
    device_span: memory::Span,
    /// Pinned host memory, by address.
    host: BTreeMap<usize, host::Pinned>,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

thread_local! {
    /// The thread's stack of contexts; the last is current.
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

impl Driver {
    fn memory(&self) -> &Memory {
        self.memory.get_or_init(|| Memory::new(self.settings.memory))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn work(&self) -> MutexGuard<'_, ()> {
        lock(&self.work)
    }

    /// A kernel faulted: says so at once, and every call from now on.
    fn die(&self, fault: &Fault) {
        say(fault);
        lock(&self.report).fault(fault);
        let status = Status(fault.kind.cu_result());
        let first = fault.to_string().lines().next().unwrap_or_default().replace('\0', " ");
        let usual = error::text(status).map_or("", |text| text.to_str().unwrap_or_default());
        let text = CString::new(format!("{usual}; softgpu: kernel {}: {first}", fault.kernel)).unwrap_or_default();
        let _ = self.dead.set(Dead { status, text });
        self.write_report();
    }

    fn write_report(&self) {
        let Some(path) = &self.settings.report else { return };
        // One path may serve several processes.
        let path = path.to_string_lossy().replace("%p", &std::process::id().to_string());
        let json = lock(&self.report).json(&self.settings);
        if let Err(error) = std::fs::write(&path, format!("{json:#}\n")) {
            say(format_args!("SOFTGPU_REPORT={path:?} could not be written: {error}"));
        }
    }
}

impl State {
    fn handle(&mut self) -> Handle {
        next_handle(&mut self.handles)
    }
}

/// Beside `State::handle` for where a part of the state is borrowed.
fn next_handle(handles: &mut usize) -> Handle {
    *handles += 1;
    FIRST_HANDLE + 16 * *handles
}

/// A panic while the lock was held was already answered with CUDA_ERROR_UNKNOWN; the maps stay usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs an entry point's body: nothing unwinds into the program, which may be written in C.
fn entry(name: &str, body: impl FnOnce() -> Answer) -> CUresult {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::SUCCESS.0,
        Ok(Err(status)) => status.0,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            say(format_args!("a bug of softgpu in {name}: {}", text.unwrap_or("no message")));
            Status::UNKNOWN.0
        }
    }
}

fn driver() -> Result<&'static Driver, Status> {
    DRIVER.get().ok_or(Status::NOT_INITIALIZED)
}

fn current() -> Option<Handle> {
    CURRENT.try_with(|stack| stack.borrow().last().copied()).ok().flatten()
}

/// The driver and the current context, for calls that need one and fail after a fault.
fn alive() -> Result<(&'static Driver, Handle), Status> {
    let driver = driver()?;
    if let Some(dead) = driver.dead.get() {
        return Err(dead.status);
    }
    let context = current().ok_or(Status::INVALID_CONTEXT)?;
    if !driver.state().contexts.contains_key(&context) {
        return Err(Status::CONTEXT_IS_DESTROYED);
    }
    Ok((driver, context))
}

fn check_device(device: i32) -> Answer {
    if device == DEVICE { Ok(()) } else { Err(Status::INVALID_DEVICE) }
}

/// Fails on a null pointer, before the call does anything.
fn given<T>(pointer: *const T) -> Answer {
    if pointer.is_null() { Err(Status::INVALID_VALUE) } else { Ok(()) }
}

/// Writes a result. C programs may pass any alignment.
unsafe fn put<T>(to: *mut T, value: T) -> Answer {
    given(to)?;
    // SAFETY: not null, so valid by the entry point's contract.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// The same for results that a program may decline with a null pointer.
unsafe fn put_optional<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: as above.
        unsafe { to.write_unaligned(value) };
    }
}

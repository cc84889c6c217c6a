//! The driver's context and the one stream that everything runs on.

use crate::error::{Error, Result};
use cudarc::driver::result::{ctx, device, event, mem_pool, primary_ctx, stream};
use cudarc::driver::{DriverError, sys};

/// The primary context of a GPU and a stream of it. Work is done in the order in which it was asked for.
#[derive(Debug)]
pub struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
}

// SAFETY: the driver's handles may be used by any thread that has made the context current, which
// `bind` does; the driver locks for itself.
unsafe impl Send for Context {}
unsafe impl Sync for Context {}

impl Context {
    /// GPU number `ordinal`. The driver is there and initialised: `gpu::look` was asked.
    pub fn new(ordinal: i32) -> Result<Self> {
        let open = || -> Result<Self, DriverError> {
            let device = device::get(ordinal)?;
            // SAFETY: `device` is one that the driver has just named; each handle is used only while it lives.
            unsafe {
                // From here on given back where something fails.
                let mut opened =
                    Context { device, context: primary_ctx::retain(device)?, stream: std::ptr::null_mut() };
                ctx::set_current(opened.context)?;
                let pool = device::get_default_mem_pool(device)?;
                // Freed memory stays in the pool: by default every synchronisation gives it back to the system.
                let mut keep = u64::MAX;
                let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                mem_pool::set_attribute(pool, attribute, (&raw mut keep).cast())?;
                opened.stream = stream::create(stream::StreamKind::NonBlocking)?;
                Ok(opened)
            }
        };
        open().map_err(|e| failed("opening the GPU", e))
    }

    /// Makes the context the calling thread's.
    pub fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained as long as this lives.
        unsafe { ctx::set_current(self.context) }.map_err(|e| failed("choosing the GPU", e))
    }

    /// Waits for all that was asked for. What a kernel did wrong is reported here.
    pub fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives.
        unsafe { stream::synchronize(self.stream) }.map_err(|e| failed("waiting for the GPU", e))
    }

    /// Seconds between the start and the end of what `run` puts in the stream, by the GPU's clock.
    pub fn time(&self, run: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.bind()?;
        let make = || event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(|e| failed("making an event", e));
        let (start, end) = (make()?, make()?);
        // SAFETY: both events live until they are destroyed below; the stream lives.
        let record = |event| unsafe { event::record(event, self.stream) }.map_err(|e| failed("timing", e));
        let timed = record(start).and_then(|()| run()).and_then(|()| record(end)).and_then(|()| {
            // SAFETY: as above.
            let ms = unsafe { event::synchronize(end).and_then(|()| event::elapsed(start, end)) };
            ms.map_err(|e| failed("timing", e))
        });
        // SAFETY: neither is used any more; errors have no reader.
        unsafe {
            let _ = event::destroy(start);
            let _ = event::destroy(end);
        }
        timed.map(|ms| f64::from(ms) / 1e3)
    }

    /// Gives memory that the pool holds and nobody uses back to the system.
    pub fn trim(&self) -> Result<()> {
        self.synchronize()?;
        // SAFETY: the device and its pool live.
        unsafe { device::get_default_mem_pool(self.device).and_then(|pool| mem_pool::trim_to(pool, 0)) }
            .map_err(|e| failed("trimming the memory pool", e))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: nothing of the context is in use any more: all that uses it holds this. Errors have no reader.
        unsafe {
            let _ = ctx::set_current(self.context);
            if !self.stream.is_null() {
                let _ = stream::synchronize(self.stream);
                let _ = stream::destroy(self.stream);
            }
            let _ = primary_ctx::release(self.device);
        }
    }
}

/// The driver's error, in its words, while `doing` something.
pub fn failed(doing: &str, error: DriverError) -> Error {
    let text = |found: Result<&std::ffi::CStr, DriverError>| match found {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => "an unknown error".into(),
    };
    let (name, words) = (text(error.error_name()), text(error.error_string()));
    let full = error.0 == sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY;
    Error::device(if full { "E-OOM" } else { "E-CUDA" }, format!("{doing}: {words} ({name})"))
        .fix("`docre doctor` describes GPU and driver; --device cpu computes without them")
}

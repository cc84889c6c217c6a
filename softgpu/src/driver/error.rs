//! CUDA's error codes, their names and texts, and what this driver adds on stderr.

use std::ffi::{CStr, c_char};
use std::fmt::Display;
use std::io::Write;

use super::{Answer, CUresult, DRIVER, entry, put};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(pub CUresult);

macro_rules! statuses {
    ($($name:ident = $code:literal $text:literal,)*) => {
        #[allow(dead_code)]
        impl Status {
            $(pub const $name: Status = Status($code);)*
        }

        /// Number, name and text of each code that this driver knows.
        const CODES: &[(CUresult, &str, &CStr)] =
            &[$(($code, concat!("CUDA_ERROR_", stringify!($name), "\0"), $text),)*];
    };
}

impl Status {
    pub const SUCCESS: Status = Status(0);
}

// Not all are returned here: programs also ask for the names of codes that they know.
#[rustfmt::skip]
statuses! {
    INVALID_VALUE = 1 c"invalid argument",
    OUT_OF_MEMORY = 2 c"out of memory",
    NOT_INITIALIZED = 3 c"initialization error",
    DEINITIALIZED = 4 c"driver shutting down",
    STUB_LIBRARY = 34 c"CUDA driver is a stub library",
    NO_DEVICE = 100 c"no CUDA-capable device is detected",
    INVALID_DEVICE = 101 c"invalid device ordinal",
    INVALID_IMAGE = 200 c"device kernel image is invalid",
    INVALID_CONTEXT = 201 c"invalid device context",
    NO_BINARY_FOR_GPU = 209 c"no kernel image is available for execution on the device",
    UNSUPPORTED_LIMIT = 215 c"limit is not supported on this architecture",
    PEER_ACCESS_UNSUPPORTED = 217 c"peer access is not supported between these two devices",
    INVALID_PTX = 218 c"a PTX JIT compilation failed",
    UNSUPPORTED_PTX_VERSION = 222 c"the provided PTX was compiled with an unsupported toolchain.",
    FILE_NOT_FOUND = 301 c"file not found",
    OPERATING_SYSTEM = 304 c"OS call failed or operation not supported on this OS",
    INVALID_HANDLE = 400 c"invalid resource handle",
    ILLEGAL_STATE = 401 c"the operation cannot be performed in the present state",
    NOT_FOUND = 500 c"named symbol not found",
    NOT_READY = 600 c"device not ready",
    ILLEGAL_ADDRESS = 700 c"an illegal memory access was encountered",
    LAUNCH_OUT_OF_RESOURCES = 701 c"too many resources requested for launch",
    LAUNCH_TIMEOUT = 702 c"the launch timed out and was terminated",
    PRIMARY_CONTEXT_ACTIVE = 708 c"cannot set while device is active in this process",
    CONTEXT_IS_DESTROYED = 709 c"context is destroyed",
    ASSERT = 710 c"device-side assert triggered",
    HOST_MEMORY_ALREADY_REGISTERED = 712 c"part or all of the requested memory range is already mapped",
    HOST_MEMORY_NOT_REGISTERED = 713 c"pointer does not correspond to a registered memory region",
    ILLEGAL_INSTRUCTION = 715 c"an illegal instruction was encountered",
    MISALIGNED_ADDRESS = 716 c"misaligned address",
    LAUNCH_FAILED = 719 c"unspecified launch failure",
    NOT_PERMITTED = 800 c"operation not permitted",
    NOT_SUPPORTED = 801 c"operation not supported",
    SYSTEM_NOT_READY = 802 c"system not yet initialized",
    STREAM_CAPTURE_UNSUPPORTED = 900 c"operation not permitted when stream is capturing",
    UNKNOWN = 999 c"unknown error",
}

/// One line or more on stderr. A closed stderr is no reason to fail.
pub(super) fn say(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "softgpu: {text}");
}

/// Refuses a call with the reason on stderr, since a CUresult has no room for it.
pub(super) fn refuse<T>(status: Status, why: impl Display) -> Result<T, Status> {
    say(why);
    Err(status)
}

pub(super) fn text(status: Status) -> Option<&'static CStr> {
    match status {
        Status::SUCCESS => Some(c"no error"),
        _ => CODES.iter().find(|code| code.0 == status.0).map(|code| code.2),
    }
}

fn name(status: Status) -> Option<&'static CStr> {
    match status {
        Status::SUCCESS => Some(c"CUDA_SUCCESS"),
        _ => {
            let code = CODES.iter().find(|code| code.0 == status.0)?;
            CStr::from_bytes_with_nul(code.1.as_bytes()).ok()
        }
    }
}

unsafe fn answer(to: *mut *const c_char, text: Option<&'static CStr>) -> Answer {
    // SAFETY: the entry point's contract.
    unsafe { put(to, text.map_or(std::ptr::null(), CStr::as_ptr)) }?;
    text.map(|_| ()).ok_or(Status::INVALID_VALUE)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: CUresult, text: *mut *const c_char) -> CUresult {
    entry("cuGetErrorName", || unsafe { answer(text, name(Status(error))) })
}

/// For the code of a fault, CUDA's text is followed by what the fault was, so that the program's own error tells.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: CUresult, to: *mut *const c_char) -> CUresult {
    entry("cuGetErrorString", || {
        let dead = DRIVER.get().and_then(|driver| driver.dead.get()).filter(|dead| dead.status.0 == error);
        // Nothing ever drops the driver: the text lives as long as the library is loaded.
        unsafe { answer(to, dead.map(|dead| dead.text.as_c_str()).or_else(|| text(Status(error)))) }
    })
}

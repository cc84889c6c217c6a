//! What tests of the entry points share: initialising, a current context, results by their addresses.
#![allow(dead_code, unused_imports)]

use std::ffi::{CStr, c_char};
use std::sync::Once;

pub use softgpu::driver::context::*;
pub use softgpu::driver::copy::*;
pub use softgpu::driver::device::*;
pub use softgpu::driver::error::*;
pub use softgpu::driver::event::*;
pub use softgpu::driver::function::*;
pub use softgpu::driver::host::*;
pub use softgpu::driver::init::*;
pub use softgpu::driver::launch::*;
pub use softgpu::driver::memory::*;
pub use softgpu::driver::module::*;
pub use softgpu::driver::occupancy::*;
pub use softgpu::driver::pointer::*;
pub use softgpu::driver::pool::*;
pub use softgpu::driver::primary::*;
pub use softgpu::driver::proc::*;
pub use softgpu::driver::refused::*;
pub use softgpu::driver::stream::*;
pub use softgpu::driver::{CUresult, Handle};

pub const SUCCESS: CUresult = 0;
pub const INVALID_VALUE: CUresult = 1;
pub const OUT_OF_MEMORY: CUresult = 2;
pub const NOT_INITIALIZED: CUresult = 3;
pub const INVALID_DEVICE: CUresult = 101;
pub const INVALID_CONTEXT: CUresult = 201;
pub const INVALID_HANDLE: CUresult = 400;
pub const NOT_FOUND: CUresult = 500;
pub const OUT_OF_RESOURCES: CUresult = 701;
pub const DESTROYED: CUresult = 709;
pub const NOT_SUPPORTED: CUresult = 801;

/// Whatever the environment says, the tests run on the default device with little memory.
pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SOFTGPU_")) {
            // SAFETY: the first thing that any test does; no other thread reads the environment meanwhile.
            unsafe { std::env::remove_var(name) };
        }
        unsafe { std::env::set_var("SOFTGPU_MEMORY_MIB", "64") };
        assert_eq!(cuInit(0), SUCCESS);
    });
}

/// The primary context, current on this thread.
pub fn context() -> Handle {
    init();
    let context = get(|to| unsafe { cuDevicePrimaryCtxRetain(to, 0) });
    assert_eq!(cuCtxSetCurrent(context), SUCCESS);
    context
}

/// The result that a successful call writes.
#[track_caller]
pub fn get<T: Default>(call: impl FnOnce(*mut T) -> CUresult) -> T {
    let mut value = T::default();
    assert_eq!(call(&mut value), SUCCESS);
    value
}

pub fn error_string(code: CUresult) -> String {
    let mut text: *const c_char = std::ptr::null();
    assert_eq!(unsafe { cuGetErrorString(code, &mut text) }, SUCCESS);
    unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_string()
}

/// `store(out, value)`: out[thread] = value; compiled for blocks of at most 256. `needs`: 40,000 static bytes.
pub const PTX: &CStr = c"
.version 8.0
.target sm_80
.address_size 64

.global .align 4 .b8 table[16];

.visible .entry store(
	.param .u64 store_param_0,
	.param .u32 store_param_1
)
.maxntid 256, 1, 1
{
	.reg .b32 	%r<3>;
	.reg .b64 	%rd<5>;

	ld.param.u64 	%rd1, [store_param_0];
	ld.param.u32 	%r1, [store_param_1];
	cvta.to.global.u64 	%rd2, %rd1;
	mov.u32 	%r2, %tid.x;
	mul.wide.u32 	%rd3, %r2, 4;
	add.s64 	%rd4, %rd2, %rd3;
	st.global.u32 	[%rd4], %r1;
	ret;
}

.visible .entry needs()
{
	.shared .align 4 .b8 array[40000];
	ret;
}
";

pub fn module() -> Handle {
    get(|to| unsafe { cuModuleLoadData(to, PTX.as_ptr().cast()) })
}

pub fn function(module: Handle, name: &CStr) -> Handle {
    get(|to| unsafe { cuModuleGetFunction(to, module, name.as_ptr()) })
}

/// Launches `store` with a grid, a block and dynamic shared memory.
pub fn store(function: Handle, grid: [u32; 3], block: [u32; 3], shared: u32, out: u64, value: u32) -> CUresult {
    let params = [(&raw const out).cast::<u8>(), (&raw const value).cast()];
    let [gx, gy, gz] = grid;
    let [bx, by, bz] = block;
    let none = std::ptr::null();
    unsafe { cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, 0, params.as_ptr(), none) }
}

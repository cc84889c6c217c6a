//! cuGetProcAddress: entry points by name and version of CUDA.

use std::ffi::{CStr, c_char};

use super::context::*;
use super::copy::*;
use super::device::*;
use super::error::*;
use super::event::*;
use super::function::*;
use super::host::*;
use super::init::*;
use super::launch::*;
use super::memory::*;
use super::module::*;
use super::occupancy::*;
use super::pointer::*;
use super::pool::*;
use super::primary::*;
use super::refused::*;
use super::stream::*;
use super::{Answer, CUresult, entry, given, put, put_optional};

macro_rules! symbols {
    ($($name:ident)*) => {
        /// Every entry point of this library.
        pub const SYMBOLS: &[&str] = &[$(stringify!($name)),*];

        fn address(symbol: &str) -> Option<usize> {
            match symbol {
                $(stringify!($name) => Some($name as *const () as usize),)*
                _ => None,
            }
        }
    };
}

symbols! {
    cuInit cuDriverGetVersion cuProfilerStart cuProfilerStop cuGetErrorName cuGetErrorString
    cuGetProcAddress cuGetProcAddress_v2
    cuDeviceGetCount cuDeviceGet cuDeviceGetName cuDeviceGetUuid cuDeviceGetUuid_v2 cuDeviceTotalMem_v2
    cuDeviceGetAttribute cuDeviceComputeCapability cuDeviceGetPCIBusId cuDeviceCanAccessPeer
    cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceSetMemPool
    cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxReset_v2
    cuDevicePrimaryCtxSetFlags_v2 cuDevicePrimaryCtxGetState
    cuCtxCreate_v2 cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxPushCurrent_v2 cuCtxPopCurrent_v2
    cuCtxSetCurrent cuCtxGetCurrent cuCtxGetDevice cuCtxSynchronize cuCtxGetFlags cuCtxSetFlags
    cuCtxGetCacheConfig cuCtxSetCacheConfig cuCtxGetLimit cuCtxSetLimit cuCtxGetStreamPriorityRange
    cuCtxGetApiVersion
    cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamSynchronize cuStreamQuery
    cuStreamWaitEvent cuStreamGetFlags cuStreamGetPriority cuStreamGetCtx cuStreamGetId cuLaunchHostFunc
    cuStreamAddCallback cuStreamIsCapturing cuStreamGetCaptureInfo cuStreamGetCaptureInfo_v2
    cuStreamGetCaptureInfo_v3
    cuEventCreate cuEventDestroy_v2 cuEventRecord cuEventRecordWithFlags cuEventQuery cuEventSynchronize
    cuEventElapsedTime cuEventElapsedTime_v2
    cuMemAlloc_v2 cuMemFree_v2 cuMemGetInfo_v2 cuMemGetAddressRange_v2
    cuMemsetD8_v2 cuMemsetD16_v2 cuMemsetD32_v2 cuMemsetD8Async cuMemsetD16Async cuMemsetD32Async
    cuMemAllocAsync cuMemAllocFromPoolAsync cuMemFreeAsync
    cuMemPoolCreate cuMemPoolDestroy cuMemPoolTrimTo cuMemPoolGetAttribute cuMemPoolSetAttribute
    cuMemPoolSetAccess cuMemPoolGetAccess
    cuMemHostAlloc cuMemAllocHost_v2 cuMemFreeHost cuMemHostRegister_v2 cuMemHostUnregister cuMemHostGetFlags
    cuMemHostGetDevicePointer_v2
    cuMemcpyHtoD_v2 cuMemcpyDtoH_v2 cuMemcpyDtoD_v2 cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2
    cuMemcpyDtoDAsync_v2 cuMemcpy cuMemcpyAsync
    cuPointerGetAttribute cuPointerGetAttributes
    cuModuleLoad cuModuleLoadData cuModuleLoadDataEx cuModuleLoadFatBinary cuModuleUnload cuModuleGetFunction
    cuModuleGetGlobal_v2 cuModuleGetFunctionCount cuModuleGetLoadingMode
    cuFuncGetAttribute cuFuncSetAttribute cuFuncSetCacheConfig cuFuncGetModule cuFuncGetName cuFuncGetParamInfo
    cuLaunchKernel cuLaunchKernelEx cuLaunchCooperativeKernel
    cuOccupancyMaxActiveBlocksPerMultiprocessor cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags
    cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxPotentialBlockSize
    cuOccupancyMaxPotentialBlockSizeWithFlags
    cuCtxEnablePeerAccess cuCtxDisablePeerAccess cuMemcpyPeer cuMemcpyPeerAsync cuDeviceGetP2PAttribute
    cuMemAllocManaged cuMemAdvise cuMemAdvise_v2 cuMemPrefetchAsync cuMemPrefetchAsync_v2 cuStreamAttachMemAsync
    cuStreamBeginCapture cuStreamBeginCapture_v2 cuStreamEndCapture cuGraphCreate cuGraphInstantiateWithFlags
    cuGraphLaunch cuGraphUpload cuGraphDestroy cuGraphExecDestroy
    cuOccupancyMaxActiveClusters cuOccupancyMaxPotentialClusterSize
    cuImportExternalMemory cuDestroyExternalMemory cuExternalMemoryGetMappedBuffer cuIpcGetMemHandle
    cuIpcOpenMemHandle_v2 cuIpcCloseMemHandle cuLinkCreate_v2 cuTensorMapEncodeTiled
}

/// Functions whose signature changed: the version of CUDA from which on a name means each of them (cudaTypedefs.h).
const VERSIONED: [(&str, &[(i32, &str)]); 8] = [
    ("cuCtxCreate", &[(3020, "cuCtxCreate_v2"), (11040, "cuCtxCreate_v3"), (12050, "cuCtxCreate_v4")]),
    (
        "cuStreamGetCaptureInfo",
        &[
            (10010, "cuStreamGetCaptureInfo"),
            (11030, "cuStreamGetCaptureInfo_v2"),
            (12030, "cuStreamGetCaptureInfo_v3"),
        ],
    ),
    ("cuEventElapsedTime", &[(2000, "cuEventElapsedTime"), (12080, "cuEventElapsedTime_v2")]),
    ("cuGetProcAddress", &[(11030, "cuGetProcAddress"), (12000, "cuGetProcAddress_v2")]),
    ("cuDeviceGetUuid", &[(9020, "cuDeviceGetUuid"), (11040, "cuDeviceGetUuid_v2")]),
    ("cuMemAdvise", &[(8000, "cuMemAdvise"), (12020, "cuMemAdvise_v2")]),
    ("cuMemPrefetchAsync", &[(8000, "cuMemPrefetchAsync"), (12020, "cuMemPrefetchAsync_v2")]),
    ("cuStreamBeginCapture", &[(10000, "cuStreamBeginCapture"), (10010, "cuStreamBeginCapture_v2")]),
];

/// CUdriverProcAddressQueryResult.
const FOUND: u32 = 0;
const UNKNOWN_SYMBOL: u32 = 1;
const OLD_VERSION: u32 = 2;

fn resolve(name: &str, version: i32) -> (usize, u32) {
    if let Some((_, since)) = VERSIONED.iter().find(|entry| entry.0 == name) {
        let symbol = since.iter().rev().find(|(first, _)| *first <= version);
        return match symbol.and_then(|(_, symbol)| address(symbol)) {
            Some(address) => (address, FOUND),
            None => (0, OLD_VERSION),
        };
    }
    match address(name).or_else(|| address(&format!("{name}_v2"))) {
        Some(address) => (address, FOUND),
        None => (0, UNKNOWN_SYMBOL),
    }
}

unsafe fn get(symbol: *const c_char, to: *mut usize, version: i32, status: *mut u32) -> Answer {
    given(symbol)?;
    given(to)?;
    if version > DRIVER_VERSION {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: not null, so a C string by the entry point's contract.
    let name = unsafe { CStr::from_ptr(symbol) }.to_string_lossy();
    let (address, result) = resolve(&name, version);
    unsafe {
        put_optional(status, result);
        put(to, address)
    }
}

/// The first form has no status: an unknown name is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    symbol: *const c_char,
    to: *mut usize,
    version: i32,
    _flags: u64,
) -> CUresult {
    entry("cuGetProcAddress", || {
        let mut status = FOUND;
        unsafe { get(symbol, to, version, &mut status) }?;
        if status == FOUND { Ok(()) } else { Err(Status::NOT_FOUND) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    to: *mut usize,
    version: i32,
    _flags: u64,
    status: *mut u32,
) -> CUresult {
    entry("cuGetProcAddress_v2", || unsafe { get(symbol, to, version, status) })
}

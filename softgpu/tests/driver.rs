//! The entry points, called as a C program calls them.

mod common;
use common::*;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};

#[test]
fn the_device() {
    init();
    assert_eq!(cuInit(1), INVALID_VALUE);
    assert_eq!(cuInit(0), SUCCESS, "again");
    assert_eq!(get(|to| unsafe { cuDriverGetVersion(to) }), 13_000);
    assert_eq!(get(|to| unsafe { cuDeviceGetCount(to) }), 1);
    assert_eq!(get(|to| unsafe { cuDeviceGet(to, 0) }), 0);
    assert_eq!(unsafe { cuDeviceGet(&mut 0, 1) }, INVALID_DEVICE);
    assert_eq!(unsafe { cuDeviceGet(null_mut(), 0) }, INVALID_VALUE);
    assert_eq!(get(|to| unsafe { cuDeviceTotalMem_v2(to, 0) }), 64 << 20);
    assert_eq!(get(|to| unsafe { cuDeviceGetAttribute(to, 75, 0) }), 8);
    assert_eq!(unsafe { cuDeviceGetAttribute(&mut 0, 148, 0) }, INVALID_VALUE);
    assert_eq!(&get(|to| unsafe { cuDeviceGetUuid_v2(to, 0) }), b"softgpu.sm_80\0\0\0");
    assert_eq!(get(|to| unsafe { cuDeviceCanAccessPeer(to, 0, 0) }), 0);
}

#[test]
fn names_fit_the_buffer() {
    init();
    let name = |size: i32| {
        let mut buffer = [1 as c_char; 64];
        assert_eq!(unsafe { cuDeviceGetName(buffer.as_mut_ptr(), size, 0) }, SUCCESS);
        assert_eq!(buffer[size as usize], 1, "nothing behind the end");
        unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_str().unwrap().to_string()
    };
    assert_eq!(name(63), "softgpu sm_80 (A100 limits)");
    assert_eq!((name(8).as_str(), name(1).as_str()), ("softgpu", ""));
    assert_eq!(unsafe { cuDeviceGetName([0].as_mut_ptr(), 0, 0) }, INVALID_VALUE);
}

#[test]
fn errors_have_names_and_texts() {
    let name = |code| {
        let mut text = null();
        let result = unsafe { cuGetErrorName(code, &mut text) };
        (result, (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap()))
    };
    assert_eq!(name(0), (SUCCESS, Some("CUDA_SUCCESS")));
    assert_eq!(name(700), (SUCCESS, Some("CUDA_ERROR_ILLEGAL_ADDRESS")));
    assert_eq!(name(12345), (INVALID_VALUE, None));
    assert_eq!(error_string(701), "too many resources requested for launch");
    assert_eq!(unsafe { cuGetErrorString(1, null_mut()) }, INVALID_VALUE);
}

#[test]
fn contexts_are_a_thread_s_own() {
    let primary = context();
    assert_eq!(get(|to| unsafe { cuCtxGetCurrent(to) }), primary);
    std::thread::spawn(move || {
        assert_eq!(get(|to| unsafe { cuCtxGetCurrent(to) }), 0);
        assert_eq!(cuCtxSynchronize(), INVALID_CONTEXT);
        assert_eq!(unsafe { cuCtxGetDevice(&mut 0) }, INVALID_CONTEXT);
        assert_eq!(cuCtxSetCurrent(primary), SUCCESS);
        assert_eq!(cuCtxSynchronize(), SUCCESS);
        assert_eq!(cuCtxSetCurrent(0), SUCCESS);
        assert_eq!(cuCtxSynchronize(), INVALID_CONTEXT);
    })
    .join()
    .unwrap();
    assert_eq!(cuCtxSetCurrent(12345), INVALID_CONTEXT);
    assert_eq!(cuCtxSynchronize(), SUCCESS);
}

#[test]
fn contexts_nest_and_die() {
    let primary = context();
    let other = get(|to| unsafe { cuCtxCreate_v3(to, null(), 0, 4, 0) });
    assert_eq!(get(|to| unsafe { cuCtxGetCurrent(to) }), other, "a new context is current");
    assert_eq!(get(|to| unsafe { cuCtxGetFlags(to) }), 4);
    let stream = get(|to| unsafe { cuStreamCreate(to, 0) });
    assert_eq!(get(|to| unsafe { cuStreamGetCtx(stream, to) }), other);
    assert_eq!(cuCtxPushCurrent_v2(primary), SUCCESS);
    assert_eq!(cuStreamQuery(stream), SUCCESS, "a stream is known in every context");
    assert_eq!(get(|to| unsafe { cuCtxPopCurrent_v2(to) }), primary);
    assert_eq!(cuCtxDestroy_v2(other), SUCCESS);
    assert_eq!(cuCtxDestroy_v2(other), INVALID_CONTEXT);
    assert_eq!(get(|to| unsafe { cuCtxGetCurrent(to) }), primary);
    assert_eq!(cuStreamQuery(stream), INVALID_HANDLE, "it went with its context");
    assert_eq!(cuCtxDestroy_v2(primary), INVALID_CONTEXT, "the primary context is released instead");
    let gone = get(|to| unsafe { cuCtxCreate_v2(to, 0, 0) });
    assert_eq!(cuCtxPushCurrent_v2(primary), SUCCESS);
    assert_eq!(cuCtxDestroy_v2(gone), SUCCESS);
    assert_eq!(get(|to| unsafe { cuCtxPopCurrent_v2(to) }), primary);
    assert_eq!(cuCtxSynchronize(), DESTROYED);
}

#[test]
fn limits_and_preferences_are_kept() {
    context();
    let own = get(|to| unsafe { cuCtxCreate_v4(to, null(), 0, 0) });
    assert_eq!(get(|to| unsafe { cuCtxGetLimit(to, 0) }), 1024);
    assert_eq!(cuCtxSetLimit(0, 4096), SUCCESS);
    assert_eq!(get(|to| unsafe { cuCtxGetLimit(to, 0) }), 4096);
    assert_eq!(cuCtxSetLimit(99, 1), 215);
    assert_eq!(cuCtxSetCacheConfig(2), SUCCESS);
    assert_eq!(get(|to| unsafe { cuCtxGetCacheConfig(to) }), 2);
    assert_eq!(cuCtxDestroy_v2(own), SUCCESS);
}

#[test]
fn streams() {
    context();
    let stream = get(|to| unsafe { cuStreamCreateWithPriority(to, 1, -9) });
    assert_eq!(get(|to| unsafe { cuStreamGetFlags(stream, to) }), 1);
    assert_eq!(get(|to| unsafe { cuStreamGetPriority(stream, to) }), -5, "the nearest that there is");
    for default in [0, 1, 2, stream] {
        assert_eq!(cuStreamSynchronize(default), SUCCESS);
        assert_eq!(get(|to| unsafe { cuStreamIsCapturing(default, to) }), 0);
        assert_eq!(get(|to| unsafe { cuStreamGetCaptureInfo(default, to, null_mut()) }), 0);
    }
    assert_eq!(unsafe { cuStreamCreate(&mut 0, 2) }, INVALID_VALUE);
    assert_eq!(unsafe { cuStreamCreate(null_mut(), 0) }, INVALID_VALUE);
    assert_eq!(cuStreamBeginCapture_v2(), NOT_SUPPORTED);
    assert_eq!(cuStreamDestroy_v2(stream), SUCCESS);
    for call in [cuStreamDestroy_v2, cuStreamSynchronize, cuStreamQuery] {
        assert_eq!(call(stream), INVALID_HANDLE);
    }
}

#[test]
fn callbacks_run_in_order() {
    context();
    unsafe extern "C" fn append_one(data: *mut c_void) {
        unsafe { &mut *data.cast::<Vec<u32>>() }.push(1);
    }
    unsafe extern "C" fn append_two(_stream: Handle, status: CUresult, data: *mut c_void) {
        unsafe { &mut *data.cast::<Vec<u32>>() }.push(2 + status);
    }
    let mut calls: Vec<u32> = Vec::new();
    let data = (&raw mut calls).cast();
    assert_eq!(unsafe { cuLaunchHostFunc(0, Some(append_one), data) }, SUCCESS);
    assert_eq!(unsafe { cuStreamAddCallback(0, Some(append_two), data, 0) }, SUCCESS);
    assert_eq!(unsafe { cuLaunchHostFunc(77, Some(append_one), data) }, INVALID_HANDLE);
    assert_eq!(unsafe { cuLaunchHostFunc(0, None, data) }, INVALID_VALUE);
    assert_eq!(calls, [1, 2]);
}

#[test]
fn events() {
    context();
    let event = |flags| get(|to| unsafe { cuEventCreate(to, flags) });
    let (start, end, untimed) = (event(0), event(1), event(2));
    assert_eq!(cuEventQuery(start), SUCCESS, "never recorded");
    assert_eq!(unsafe { cuEventElapsedTime(&mut 0.0, start, end) }, INVALID_HANDLE, "never recorded");
    assert_eq!(cuEventRecord(start, 0), SUCCESS);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(cuEventRecordWithFlags(end, 0, 0), SUCCESS);
    assert_eq!(cuEventRecord(untimed, 0), SUCCESS);
    let time = get(|to| unsafe { cuEventElapsedTime_v2(to, start, end) });
    assert!((20.0..2000.0).contains(&time), "{time} ms");
    assert_eq!(get(|to| unsafe { cuEventElapsedTime(to, end, start) }), -time);
    assert_eq!(unsafe { cuEventElapsedTime(&mut 0.0, start, untimed) }, INVALID_HANDLE);
    assert_eq!(cuEventSynchronize(end), SUCCESS);
    assert_eq!(cuStreamWaitEvent(0, end, 0), SUCCESS);
    assert_eq!(cuStreamWaitEvent(0, 12345, 0), INVALID_HANDLE);
    assert_eq!(cuEventRecord(end, 12345), INVALID_HANDLE);
    assert_eq!(unsafe { cuEventCreate(&mut 0, 6) }, NOT_SUPPORTED, "between processes");
    assert_eq!(cuEventDestroy_v2(end), SUCCESS);
    assert_eq!(cuEventDestroy_v2(end), INVALID_HANDLE);
}

#[test]
fn an_event_stays_in_its_context() {
    context();
    let event = get(|to| unsafe { cuEventCreate(to, 0) });
    let other = get(|to| unsafe { cuCtxCreate_v2(to, 0, 0) });
    assert_eq!(cuEventRecord(event, 0), INVALID_HANDLE, "the default stream is the other context's");
    assert_eq!(cuCtxDestroy_v2(other), SUCCESS);
    assert_eq!(cuEventRecord(event, 0), SUCCESS);
}

#[test]
fn pinned_host_memory() {
    context();
    let start = get(|to: *mut usize| unsafe { cuMemHostAlloc(to.cast(), 100, 4) }) as *mut u8;
    assert_eq!(unsafe { std::slice::from_raw_parts(start, 100) }, [0xff; 100]);
    assert_eq!(get(|to| unsafe { cuMemHostGetFlags(to, start) }), 4);
    assert_eq!(get(|to: *mut u32| unsafe { cuPointerGetAttribute(to.cast(), 2, start as u64 + 99) }), 1);
    assert_eq!(unsafe { cuPointerGetAttribute((&mut 0_u64 as *mut u64).cast(), 3, start as u64) }, INVALID_VALUE);
    assert_eq!(unsafe { cuMemHostGetDevicePointer_v2(&mut 0, start, 0) }, NOT_SUPPORTED);
    assert_eq!(unsafe { cuMemHostUnregister(start) }, 713);
    assert_eq!(unsafe { cuMemFreeHost(start) }, SUCCESS);
    assert_eq!(unsafe { cuMemFreeHost(start) }, INVALID_VALUE);
    assert_eq!(unsafe { cuMemHostAlloc(&mut null_mut(), 0, 0) }, INVALID_VALUE);

    let mut own = [0_u8; 64];
    assert_eq!(unsafe { cuMemHostRegister_v2(own.as_mut_ptr(), 64, 0) }, SUCCESS);
    assert_eq!(unsafe { cuMemHostRegister_v2(own[8..].as_mut_ptr(), 8, 0) }, 712);
    assert_eq!(unsafe { cuMemFreeHost(own.as_mut_ptr()) }, INVALID_VALUE, "registered, not allocated");
    assert_eq!(unsafe { cuMemHostUnregister(own.as_mut_ptr()) }, SUCCESS);
}

#[test]
fn attributes_of_an_unknown_pointer_are_zero() {
    context();
    let here = 1_u32;
    let (mut kind, mut start, mut managed) = (9_u32, 9_u64, 9_u8);
    let data: [*mut u8; 3] = [(&raw mut kind).cast(), (&raw mut start).cast(), &raw mut managed];
    let address = &raw const here as u64;
    assert_eq!(unsafe { cuPointerGetAttribute(data[0], 2, address) }, INVALID_VALUE);
    assert_eq!(unsafe { cuPointerGetAttributes(3, [2, 11, 8].as_ptr(), data.as_ptr(), address) }, SUCCESS);
    assert_eq!((kind, start, managed), (0, 0, 0));
}

#[test]
fn pools_keep_their_attributes() {
    context();
    let default = get(|to| unsafe { cuDeviceGetDefaultMemPool(to, 0) });
    assert_eq!(cuMemPoolDestroy(default), INVALID_VALUE);
    // CUmemPoolProps: pinned, no handles, on device 0; 88 bytes.
    let mut props = [0_u32; 22];
    (props[0], props[2]) = (1, 1);
    let pool = get(|to| unsafe { cuMemPoolCreate(to, props.as_ptr().cast()) });
    let read = |attribute| get(|to: *mut u64| unsafe { cuMemPoolGetAttribute(pool, attribute, to.cast()) });
    assert_eq!(read(4), 0, "release threshold");
    let threshold = u64::MAX;
    assert_eq!(unsafe { cuMemPoolSetAttribute(pool, 4, (&raw const threshold).cast()) }, SUCCESS);
    assert_eq!(read(4), u64::MAX);
    assert_eq!(get(|to: *mut i32| unsafe { cuMemPoolGetAttribute(pool, 1, to.cast()) }), 1);
    assert_eq!(unsafe { cuMemPoolSetAttribute(pool, 7, (&raw const threshold).cast()) }, INVALID_VALUE);
    assert_eq!(cuMemPoolTrimTo(pool, 0), SUCCESS);
    assert_eq!(get(|to| unsafe { cuMemPoolGetAccess(to, pool, null()) }), 3);
    assert_eq!(cuMemPoolDestroy(pool), SUCCESS);
    assert_eq!(cuMemPoolTrimTo(pool, 0), INVALID_VALUE);
    props[2] = 2;
    assert_eq!(unsafe { cuMemPoolCreate(&mut 0, props.as_ptr().cast()) }, INVALID_VALUE, "host memory");
}

#[test]
fn nothing_is_allocated_and_freed() {
    context();
    assert_eq!(unsafe { cuMemAlloc_v2(&mut 1, 0) }, INVALID_VALUE);
    // cudarc's empty slices: no bytes from the pool, given back when they are dropped.
    assert_eq!(get(|to| unsafe { cuMemAllocAsync(to, 0, 0) }), 0);
    assert_eq!((cuMemFreeAsync(0, 0), cuMemFree_v2(0)), (SUCCESS, SUCCESS));
    assert_eq!(unsafe { cuMemcpyHtoD_v2(0, null(), 0) }, SUCCESS);
    assert_eq!(unsafe { cuMemAllocAsync(&mut 0, 4, 12345) }, INVALID_HANDLE);
    assert_eq!(unsafe { cuMemAlloc_v2(null_mut(), 4) }, INVALID_VALUE);
}

#[test]
fn unsuitable_images() {
    context();
    let load = |image: *const u8| unsafe { cuModuleLoadData(&mut 0, image) };
    assert_eq!(load(null()), INVALID_VALUE);
    assert_eq!(load(c"no PTX".as_ptr().cast()), 200);
    assert_eq!(load(c".target sm_90\n".as_ptr().cast()), 218);
    assert_eq!(unsafe { cuModuleLoad(&mut 0, c"/there/is/no/file".as_ptr()) }, 301);
    assert_eq!(cuModuleUnload(12345), INVALID_HANDLE);
    assert_eq!(unsafe { cuModuleGetFunction(&mut 0, 12345, c"k".as_ptr()) }, INVALID_HANDLE);
    assert_eq!(unsafe { cuFuncGetAttribute(&mut 0, 0, 12345) }, INVALID_HANDLE);
    assert_eq!(store(12345, [1; 3], [1; 3], 0, 0, 0), INVALID_HANDLE);
}

#[test]
fn addresses_by_name() {
    init();
    let find = |name: &CStr, version| {
        let (mut address, mut status) = (1, 9);
        let result = unsafe { cuGetProcAddress_v2(name.as_ptr(), &mut address, version, 0, &mut status) };
        assert_eq!(result, SUCCESS);
        (address, status)
    };
    let same = |name, version, function: *const ()| assert_eq!(find(name, version), (function as usize, 0));
    same(c"cuInit", 12000, cuInit as *const ());
    same(c"cuMemAlloc", 12000, cuMemAlloc_v2 as *const ());
    same(c"cuCtxCreate", 11030, cuCtxCreate_v2 as *const ());
    same(c"cuCtxCreate", 12000, cuCtxCreate_v3 as *const ());
    same(c"cuCtxCreate", 13000, cuCtxCreate_v4 as *const ());
    same(c"cuStreamGetCaptureInfo", 12000, cuStreamGetCaptureInfo_v2 as *const ());
    assert_eq!(find(c"cuStreamGetCaptureInfo", 9000), (0, 2));
    assert_eq!(find(c"cuNoSuchThing", 12000), (0, 1));
    assert_eq!(unsafe { cuGetProcAddress(c"cuNoSuchThing".as_ptr(), &mut 0, 12000, 0) }, NOT_FOUND);
    assert_eq!(unsafe { cuGetProcAddress(c"cuInit".as_ptr(), &mut 0, 99_000, 0) }, INVALID_VALUE);
}

#[test]
fn what_is_refused() {
    context();
    assert_eq!(cuMemAllocManaged(), NOT_SUPPORTED);
    assert_eq!(cuLaunchCooperativeKernel(), NOT_SUPPORTED);
    assert_eq!(cuMemcpyPeerAsync(), 217);
    assert_eq!(cuCtxEnablePeerAccess(), 217);
}

//! Entry points with the machine behind them: memory, modules, launches.

mod common;
#[path = "common/images.rs"]
mod images;
use common::*;
use softgpu::elf::Usage;
use std::ptr::{null, null_mut};

/// Device memory with these words.
fn device(words: &[u32]) -> u64 {
    let address = get(|to| unsafe { cuMemAlloc_v2(to, size_of_val(words)) });
    assert_eq!(unsafe { cuMemcpyHtoD_v2(address, words.as_ptr().cast(), size_of_val(words)) }, SUCCESS);
    address
}

fn host(address: u64, count: usize) -> Vec<u32> {
    let mut words = vec![0; count];
    assert_eq!(unsafe { cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), address, 4 * count) }, SUCCESS);
    words
}

#[test]
fn copies() {
    context();
    let stream = get(|to| unsafe { cuStreamCreate(to, 1) });
    let (a, b) = (device(&[1, 2, 3, 4]), device(&[5, 6, 7, 8]));
    assert_eq!(unsafe { cuMemcpyDtoD_v2(b + 8, a, 8) }, SUCCESS);
    assert_eq!(host(b, 4), [5, 6, 1, 2]);
    assert_eq!(unsafe { cuMemcpyDtoDAsync_v2(b, a + 4, 4, stream) }, SUCCESS);
    assert_eq!(unsafe { cuMemcpyHtoDAsync_v2(b + 4, [9_u32].as_ptr().cast(), 4, stream) }, SUCCESS);
    let mut back = [0_u32; 4];
    assert_eq!(unsafe { cuMemcpyDtoHAsync_v2(back.as_mut_ptr().cast(), b, 16, stream) }, SUCCESS);
    assert_eq!(back, [2, 9, 1, 2]);
    // Unified addresses, in all four directions.
    assert_eq!(unsafe { cuMemcpy(a, [11_u32, 12].as_ptr() as u64, 8) }, SUCCESS);
    assert_eq!(unsafe { cuMemcpyAsync(a + 8, a, 8, stream) }, SUCCESS);
    assert_eq!(unsafe { cuMemcpy(back.as_mut_ptr() as u64, a, 16) }, SUCCESS);
    assert_eq!(back, [11, 12, 11, 12]);
    let mut copy = [0_u32; 4];
    assert_eq!(unsafe { cuMemcpy(copy.as_mut_ptr() as u64, back.as_ptr() as u64, 16) }, SUCCESS);
    assert_eq!(copy, back);
    assert_eq!(unsafe { cuMemcpyHtoDAsync_v2(b, back.as_ptr().cast(), 4, 12345) }, INVALID_HANDLE);
    assert_eq!(unsafe { cuMemcpyHtoD_v2(b, null(), 4) }, INVALID_VALUE);
}

#[test]
fn copies_stay_inside_of_an_allocation() {
    context();
    let a = device(&[1, 2, 3, 4]);
    let mut back = [0_u32; 5];
    assert_eq!(unsafe { cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), a, 20) }, INVALID_VALUE);
    assert_eq!(unsafe { cuMemcpyHtoD_v2(a + 12, back.as_ptr().cast(), 8) }, INVALID_VALUE);
    assert_eq!(unsafe { cuMemcpyDtoD_v2(a, a + 8, 12) }, INVALID_VALUE);
    assert_eq!(cuMemFree_v2(a), SUCCESS);
    assert_eq!(unsafe { cuMemcpyDtoH_v2(back.as_mut_ptr().cast(), a, 4) }, INVALID_VALUE, "freed");
    assert_eq!(cuMemFree_v2(a), INVALID_VALUE, "twice");
    assert_eq!(cuMemFree_v2(device(&[0; 4]) + 4), INVALID_VALUE, "not the start");
}

#[test]
fn fills() {
    context();
    let a = device(&[0; 4]);
    assert_eq!(cuMemsetD8_v2(a, 0xab, 3), SUCCESS);
    assert_eq!(cuMemsetD16_v2(a + 4, 0x1234, 2), SUCCESS);
    assert_eq!(cuMemsetD32_v2(a + 8, 0xdead_beef, 1), SUCCESS);
    assert_eq!(cuMemsetD32Async(a + 12, 7, 1, 0), SUCCESS);
    assert_eq!(host(a, 4), [0x00ab_abab, 0x1234_1234, 0xdead_beef, 7]);
    assert_eq!(cuMemsetD32_v2(a + 2, 0, 1), INVALID_VALUE, "misaligned");
    assert_eq!(cuMemsetD8Async(a, 0, 17, 0), INVALID_VALUE, "too long");
    assert_eq!(cuMemsetD16Async(a, 0, 0, 0), SUCCESS);
}

#[test]
fn what_an_address_is() {
    let context = context();
    let a = device(&[0; 100]);
    assert_eq!(get(|to: *mut u32| unsafe { cuPointerGetAttribute(to.cast(), 2, a + 399) }), 2);
    assert_eq!(get(|to: *mut Handle| unsafe { cuPointerGetAttribute(to.cast(), 1, a) }), context);
    assert_eq!(get(|to: *mut u64| unsafe { cuPointerGetAttribute(to.cast(), 11, a + 8) }), a);
    assert_eq!(get(|to: *mut usize| unsafe { cuPointerGetAttribute(to.cast(), 12, a + 8) }), 400);
    assert_eq!(get(|to: *mut i32| unsafe { cuPointerGetAttribute(to.cast(), 9, a) }), 0);
    assert_eq!(unsafe { cuPointerGetAttribute([0_u8; 8].as_mut_ptr(), 2, a + 400) }, INVALID_VALUE);
    let (mut start, mut size) = (0, 0);
    assert_eq!(unsafe { cuMemGetAddressRange_v2(&mut start, &mut size, a + 40) }, SUCCESS);
    assert_eq!((start, size), (a, 400));
}

#[test]
fn memory_is_counted_and_ends() {
    context();
    // A pool of its own: other tests allocate meanwhile.
    let mut props = [0_u32; 22];
    (props[0], props[2], props[6]) = (1, 1, 8 << 20);
    let pool = get(|to| unsafe { cuMemPoolCreate(to, props.as_ptr().cast()) });
    let read = |attribute| get(|to: *mut u64| unsafe { cuMemPoolGetAttribute(pool, attribute, to.cast()) });
    let a = get(|to| unsafe { cuMemAllocFromPoolAsync(to, 5 << 20, pool, 0) });
    assert_eq!((read(7), read(8)), (5 << 20, 5 << 20));
    assert_eq!(unsafe { cuMemAllocFromPoolAsync(&mut 0, 5 << 20, pool, 0) }, OUT_OF_MEMORY, "more than its maximum");
    assert_eq!(cuMemFreeAsync(a, 0), SUCCESS);
    assert_eq!((read(7), read(8)), (0, 5 << 20));
    let zero = 0_u64;
    assert_eq!(unsafe { cuMemPoolSetAttribute(pool, 8, (&raw const zero).cast()) }, SUCCESS);
    assert_eq!(read(8), 0);

    let (mut free, mut total) = (0, 0);
    assert_eq!(unsafe { cuMemGetInfo_v2(&mut free, &mut total) }, SUCCESS);
    assert!(free <= total && total == 64 << 20);
    assert_eq!(unsafe { cuMemAlloc_v2(&mut 0, 65 << 20) }, OUT_OF_MEMORY);
}

#[test]
fn memory_goes_with_its_context() {
    context();
    let other = get(|to| unsafe { cuCtxCreate_v2(to, 0, 0) });
    let a = device(&[1]);
    assert_eq!(cuCtxDestroy_v2(other), SUCCESS);
    context();
    assert_eq!(unsafe { cuMemcpyDtoH_v2([0_u8; 4].as_mut_ptr(), a, 4) }, INVALID_VALUE);
}

#[test]
fn a_kernel_runs() {
    context();
    let function = function(module(), c"store");
    let out = device(&[0; 70]);
    assert_eq!(store(function, [1, 1, 1], [64, 1, 1], 0, out, 42), SUCCESS);
    assert_eq!(host(out, 70), [[42; 64].as_slice(), &[0; 6]].concat());

    // The same by a buffer: the pointer, then the value at offset 8.
    let buffer = [out as u32, (out >> 32) as u32, 43];
    let size = size_of_val(&buffer);
    let extra = [1, buffer.as_ptr() as usize, 2, &raw const size as usize, 0];
    let run = |extra: &[usize]| unsafe { cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, 0, null(), extra.as_ptr()) };
    assert_eq!(run(&extra), SUCCESS);
    assert_eq!(host(out, 33)[31..], [43, 42]);
    let short = 8_usize;
    assert_eq!(run(&[1, buffer.as_ptr() as usize, 2, &raw const short as usize, 0]), INVALID_VALUE);
    assert_eq!(run(&[7, 0, 0]), INVALID_VALUE);
}

#[test]
fn a_launch_by_its_configuration() {
    context();
    let function = function(module(), c"store");
    let out = device(&[0; 8]);
    let value = 5_u32;
    let params = [(&raw const out).cast::<u8>(), (&raw const value).cast()];
    let attribute = |id, first| LaunchAttribute { id, padding: 0, value: [first, 1, 0, 0, 0, 0, 0, 0] };
    let run = |attributes: &[LaunchAttribute]| {
        let config = LaunchConfig {
            grid: [1; 3],
            block: [8, 1, 1],
            dynamic_shared: 0,
            stream: 0,
            attributes: attributes.as_ptr(),
            count: attributes.len() as u32,
        };
        unsafe { cuLaunchKernelEx(&config, function, params.as_ptr(), null()) }
    };
    assert_eq!(run(&[]), SUCCESS);
    assert_eq!(host(out, 8), [5; 8]);
    assert_eq!(run(&[attribute(8, 1), attribute(2, 0), attribute(4, 1 | 1 << 32)]), SUCCESS);
    assert_eq!(run(&[attribute(2, 1)]), NOT_SUPPORTED, "cooperative");
    assert_eq!(run(&[attribute(4, 2 | 1 << 32)]), NOT_SUPPORTED, "a cluster of two blocks");
    assert_eq!(unsafe { cuLaunchKernelEx(null(), function, params.as_ptr(), null()) }, INVALID_VALUE);
}

#[test]
fn impossible_launches() {
    context();
    let function = function(module(), c"store");
    let out = device(&[0; 256]);
    let run = |grid, block, shared| store(function, grid, block, shared, out, 1);
    let (one, all) = ([1, 1, 1], [256, 1, 1]);
    assert_eq!(run(one, all, 48 << 10), SUCCESS);
    for grid in [[0, 1, 1], [1, 65_536, 1], [1, 1, 65_536], [1 << 31, 1, 1]] {
        assert_eq!(run(grid, all, 0), INVALID_VALUE, "{grid:?}");
    }
    for block in [[0, 1, 1], [1025, 1, 1], [1, 1, 65], [32, 64, 1], [257, 1, 1]] {
        assert_eq!(run(one, block, 0), INVALID_VALUE, "{block:?}");
    }
    assert_eq!(run(one, all, (48 << 10) + 1), INVALID_VALUE, "the attribute was not raised");
    assert_eq!(cuFuncSetAttribute(function, 8, 163 << 10), SUCCESS);
    assert_eq!(run(one, all, 163 << 10), SUCCESS);
    assert_eq!(cuFuncSetAttribute(function, 8, (163 << 10) + 1), INVALID_VALUE);
    assert_eq!(cuFuncSetAttribute(function, 8, -1), INVALID_VALUE);
    assert_eq!(cuFuncSetAttribute(function, 0, 1), INVALID_VALUE);
    let null_value = [(&raw const out).cast::<u8>(), null()];
    let launch = |params: *const *const u8| unsafe { cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, 0, params, null()) };
    assert_eq!(launch(null_value.as_ptr()), INVALID_VALUE);
    assert_eq!(launch(null()), INVALID_VALUE);
    assert_eq!(cuCtxSynchronize(), SUCCESS, "a refused launch leaves no trace");
}

#[test]
fn what_a_function_is() {
    context();
    let module = module();
    let (store, needs) = (function(module, c"store"), function(module, c"needs"));
    assert_eq!(function(module, c"store"), store, "one handle");
    assert_eq!(unsafe { cuModuleGetFunction(&mut 0, module, c"other".as_ptr()) }, NOT_FOUND);
    let attribute = |function, which| get(|to| unsafe { cuFuncGetAttribute(to, which, function) });
    assert_eq!((attribute(store, 0), attribute(needs, 0)), (256, 1024));
    assert_eq!((attribute(store, 1), attribute(needs, 1)), (0, 40_000));
    assert_eq!(attribute(store, 8), 48 << 10);
    assert_eq!(attribute(needs, 8), (48 << 10) - 40_000, "static and dynamic together");
    assert_eq!((attribute(store, 5), attribute(store, 6)), (80, 80));
    assert!((1..=255).contains(&attribute(store, 4)));
    assert_eq!(cuFuncSetAttribute(needs, 8, (163 << 10) - 40_000), SUCCESS);
    assert_eq!(cuFuncSetAttribute(needs, 8, (163 << 10) - 39_999), INVALID_VALUE);
    assert_eq!(unsafe { cuFuncGetAttribute(&mut 0, 16, store) }, INVALID_VALUE);
    assert_eq!(cuFuncSetCacheConfig(store, 1), SUCCESS);
    let (mut offset, mut size) = (0, 0);
    assert_eq!(unsafe { cuFuncGetParamInfo(store, 1, &mut offset, &mut size) }, SUCCESS);
    assert_eq!((offset, size), (8, 4));
    assert_eq!(unsafe { cuFuncGetParamInfo(store, 2, &mut offset, null_mut()) }, INVALID_VALUE);

    let (mut address, mut bytes) = (0, 0);
    let global = |name: &std::ffi::CStr, address: &mut u64, bytes: &mut usize| unsafe {
        cuModuleGetGlobal_v2(address, bytes, module, name.as_ptr())
    };
    assert_eq!(global(c"table", &mut address, &mut bytes), SUCCESS);
    assert_eq!(bytes, 16);
    assert_eq!(host(address, 4), [0; 4], "zero where the image says nothing");
    assert_eq!(global(c"chair", &mut address, &mut bytes), NOT_FOUND);
    assert_eq!(cuModuleUnload(module), SUCCESS);
    assert_eq!(unsafe { cuFuncGetAttribute(&mut 0, 0, store) }, INVALID_HANDLE);
    assert_eq!(unsafe { cuMemcpyDtoH_v2([0_u8; 16].as_mut_ptr(), address, 16) }, INVALID_VALUE);
}

/// Numbers of ptxas, where the image has machine code: 255 registers fit into blocks of 256 threads, 8 warps.
#[test]
fn registers_limit_a_launch() {
    context();
    let code = images::cubin("needs", Usage { registers: 255, static_shared: 40_000, stack: 64 });
    let image = images::fatbin(&[
        images::entry(images::PTX, 80, images::PLAIN, PTX.to_bytes()),
        images::entry(images::ELF, 80, images::PLAIN, &code),
    ]);
    let module = get(|to| unsafe { cuModuleLoadFatBinary(to, image.as_ptr()) });
    let needs = function(module, c"needs");
    let attribute = |which| get(|to| unsafe { cuFuncGetAttribute(to, which, needs) });
    assert_eq!([0, 1, 2, 3, 4].map(attribute), [256, 40_000, 12, 64, 255]);
    let launch = |threads| unsafe { cuLaunchKernel(needs, 1, 1, 1, threads, 1, 1, 0, 0, null(), null()) };
    assert_eq!(launch(256), SUCCESS);
    assert_eq!(launch(257), OUT_OF_RESOURCES);
    assert_eq!(cuCtxSynchronize(), SUCCESS);
}

#[test]
fn blocks_that_fit() {
    context();
    let function = function(module(), c"store");
    let blocks = |threads, shared| {
        get(|to| unsafe { cuOccupancyMaxActiveBlocksPerMultiprocessor(to, function, threads, shared) })
    };
    assert_eq!(blocks(256, 0), 8);
    assert_eq!(blocks(256, 48 << 10), 3);
    assert_eq!(blocks(256, (48 << 10) + 1), 0, "not allowed yet");
    assert_eq!(blocks(257, 0), 0, "more than it was compiled for");
    assert_eq!(cuFuncSetAttribute(function, 8, 100 << 10), SUCCESS);
    assert_eq!(blocks(256, 100 << 10), 1);
    let flags = |to: *mut i32, flags| unsafe {
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(to, function, 32, 0, flags)
    };
    assert_eq!(get(|to| flags(to, 0)), 32);
    assert_eq!(flags(&mut 0, 2), INVALID_VALUE);
    assert_eq!(unsafe { cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut 0, function, 0, 0) }, INVALID_VALUE);
    let left = get(|to| unsafe { cuOccupancyAvailableDynamicSMemPerBlock(to, function, 2, 256) });
    assert_eq!(left, 82_944);
    unsafe extern "C" fn shared_of(threads: i32) -> usize {
        1024 * threads as usize
    }
    let (mut grid, mut block) = (0, 0);
    let best = |grid: &mut i32, block: &mut i32, shared_of| unsafe {
        cuOccupancyMaxPotentialBlockSize(grid, block, function, shared_of, 0, 0)
    };
    assert_eq!(best(&mut grid, &mut block, None), SUCCESS);
    assert_eq!((grid, block), (8 * 108, 256));
    // 32 threads with 32 KiB: four blocks; 64 with 64 KiB: two; of equals the larger; 160 KiB: one block of 160.
    assert_eq!(best(&mut grid, &mut block, Some(shared_of)), SUCCESS);
    assert_eq!((grid, block), (108, 160));
}

//! A fault inside of a kernel: the launch succeeds, everything after it fails, and the text says what happened.

mod common;
use common::*;

#[test]
fn a_fault_stays() {
    context();
    let function = function(module(), c"store");
    let stream = get(|to| unsafe { cuStreamCreate(to, 0) });
    let event = get(|to| unsafe { cuEventCreate(to, 0) });
    let out = get(|to| unsafe { cuMemAlloc_v2(to, 4 * 32) });
    assert_eq!(error_string(700), "an illegal memory access was encountered");
    // The block's 33rd thread writes behind the end.
    assert_eq!(store(function, [1; 3], [33, 1, 1], 0, out, 1), SUCCESS, "asynchronous, as on hardware");
    let mut word = [0_u8; 4];
    let all = [
        cuCtxSynchronize(),
        cuStreamSynchronize(stream),
        cuEventRecord(event, stream),
        unsafe { cuMemcpyDtoH_v2(word.as_mut_ptr(), out, 4) },
        unsafe { cuMemAlloc_v2(&mut 0, 4) },
        cuMemFree_v2(out),
        store(function, [1; 3], [1; 3], 0, out, 1),
        cuEventDestroy_v2(event),
    ];
    assert_eq!(all, [700; 8]);
    let text = error_string(700);
    assert!(text.starts_with("an illegal memory access was encountered; softgpu: kernel store: "), "{text}");
    assert!(text.contains("out_of_bounds"), "{text}");
    assert_eq!(error_string(719), "unspecified launch failure", "other codes keep their text");

    // What needs no working context still answers; a reset does not bring the device back.
    assert_eq!(get(|to| unsafe { cuDeviceGetCount(to) }), 1);
    assert_ne!(get(|to| unsafe { cuCtxGetCurrent(to) }), 0);
    assert_eq!(cuDevicePrimaryCtxReset_v2(0), SUCCESS);
    context();
    assert_eq!(cuCtxSynchronize(), 700);
}

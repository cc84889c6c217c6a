//! Before cuInit, before a context, and after the primary context's last release. One process, one order.

mod common;
use common::*;

#[test]
fn calls_in_the_wrong_order() {
    assert_eq!(unsafe { cuDeviceGetCount(&mut 0) }, NOT_INITIALIZED);
    assert_eq!(unsafe { cuCtxGetCurrent(&mut 0) }, NOT_INITIALIZED);
    assert_eq!(cuCtxSynchronize(), NOT_INITIALIZED);
    assert_eq!(unsafe { cuMemAlloc_v2(&mut 0, 4) }, NOT_INITIALIZED);
    assert_eq!(store(1, [1; 3], [1; 3], 0, 0, 0), NOT_INITIALIZED);
    assert_eq!(cuStreamBeginCapture_v2(), NOT_INITIALIZED);
    assert_eq!(error_string(NOT_INITIALIZED), "initialization error", "needs no cuInit");
    assert_eq!(get(|to| unsafe { cuDriverGetVersion(to) }), 13_000);

    // A bad setting is told on stderr, and can be put right.
    unsafe { std::env::set_var("SOFTGPU_PROFILE", "sm_1") };
    assert_eq!(cuInit(0), 802);
    assert_eq!(unsafe { cuDeviceGetCount(&mut 0) }, NOT_INITIALIZED);
    init();

    assert_eq!(unsafe { cuMemAlloc_v2(&mut 0, 4) }, INVALID_CONTEXT);
    assert_eq!(unsafe { cuStreamCreate(&mut 0, 0) }, INVALID_CONTEXT);
    let state = || {
        let (mut flags, mut active) = (0, 0);
        assert_eq!(unsafe { cuDevicePrimaryCtxGetState(0, &mut flags, &mut active) }, SUCCESS);
        (flags, active)
    };
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), INVALID_CONTEXT);
    assert_eq!(cuDevicePrimaryCtxSetFlags_v2(0, 4), SUCCESS);
    assert_eq!(state(), (4, 0));

    let first = context();
    assert_eq!(state(), (4, 1));
    let again = get(|to| unsafe { cuDevicePrimaryCtxRetain(to, 0) });
    assert_eq!(again, first);
    let stream = get(|to| unsafe { cuStreamCreate(to, 0) });
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    assert_eq!(cuStreamQuery(stream), SUCCESS, "retained once more");
    assert_eq!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    assert_eq!(state(), (4, 0));
    assert_eq!(cuCtxSynchronize(), DESTROYED);
    let second = context();
    assert_ne!(second, first, "a handle is never given out twice");
    assert_eq!(cuStreamQuery(stream), INVALID_HANDLE);
    assert_eq!(cuDevicePrimaryCtxReset_v2(0), SUCCESS);
    assert_eq!(state(), (4, 0));
}

//! Entry points that are there to say no. Without them a program would end on a missing symbol; with them it gets an
//! error that it can handle, and the reason is on stderr. Their arguments are not looked at, so they declare none: in
//! the C calling conventions the caller cleans up.

use super::error::{Status, refuse};
use super::{CUresult, entry};

macro_rules! refused {
    ($($status:ident, $why:literal: $($name:ident)*;)*) => {
        $($(
            #[unsafe(no_mangle)]
            pub extern "C" fn $name() -> CUresult {
                entry(stringify!($name), || {
                    super::driver()?;
                    refuse(Status::$status, concat!(stringify!($name), ": ", $why))
                })
            }
        )*)*
    };
}

refused! {
    PEER_ACCESS_UNSUPPORTED, "there is one device, without peers":
        cuCtxEnablePeerAccess cuCtxDisablePeerAccess cuMemcpyPeer cuMemcpyPeerAsync cuDeviceGetP2PAttribute;
    NOT_SUPPORTED, "managed memory is not supported: allocate on the device and copy":
        cuMemAllocManaged cuMemAdvise cuMemAdvise_v2 cuMemPrefetchAsync cuMemPrefetchAsync_v2 cuStreamAttachMemAsync;
    NOT_SUPPORTED, "work runs when it is issued and is not captured into graphs":
        cuStreamBeginCapture cuStreamBeginCapture_v2 cuStreamEndCapture cuGraphCreate cuGraphInstantiateWithFlags
        cuGraphLaunch cuGraphUpload cuGraphDestroy cuGraphExecDestroy;
    NOT_SUPPORTED, "clusters are not supported":
        cuOccupancyMaxActiveClusters cuOccupancyMaxPotentialClusterSize;
    NOT_SUPPORTED, "memory is not shared with other processes or interfaces":
        cuImportExternalMemory cuDestroyExternalMemory cuExternalMemoryGetMappedBuffer cuIpcGetMemHandle
        cuIpcOpenMemHandle_v2 cuIpcCloseMemHandle;
    NOT_SUPPORTED, "the PTX of one image is executed as it is, without a linker": cuLinkCreate_v2;
    NOT_SUPPORTED, "tensor maps are not supported": cuTensorMapEncodeTiled;
}

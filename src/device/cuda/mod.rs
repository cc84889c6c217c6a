//! NVIDIA GPUs, through the driver that is loaded at run time.

pub mod gpu;
pub mod images;

/// Whether the CUDA driver's library can be loaded. To be asked before anything else of cudarc:
/// its functions panic where the library is missing. Says nothing about a GPU being there.
pub fn driver_present() -> bool {
    // SAFETY: loads libcuda, whose initializers are trusted as far as the machine's driver is; no
    // function of it is called.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

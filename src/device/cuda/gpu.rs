//! The GPUs of this machine, as the driver describes them.

use cudarc::driver::sys::CUdevice_attribute_enum::*;
use cudarc::driver::{DriverError, result, sys};
use serde::Serialize;

/// The oldest compute capability that kernels are compiled for: bf16 tensor cores and cp.async.
pub const OLDEST: (i32, i32) = (8, 0);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gpu {
    pub name: String,
    /// (9, 0) on an H100.
    pub compute_capability: (i32, i32),
    pub multiprocessors: i32,
    pub memory_bytes: usize,
    /// Shared memory that a block may ask for.
    pub shared_bytes: i32,
}

/// The newest CUDA version that the driver knows, as (major, minor), and its GPUs.
///
/// # Errors
/// In words: there is no driver, no GPU, or the driver does not work.
pub fn look() -> Result<((i32, i32), Vec<Gpu>), String> {
    if !super::driver_present() {
        return Err("no CUDA driver (libcuda.so.1)".into());
    }
    ask().map_err(|e| match e.0 {
        sys::cudaError_enum::CUDA_ERROR_NO_DEVICE => "a CUDA driver, but no GPU that it can use".into(),
        _ => format!("the CUDA driver does not work: {e}"),
    })
}

fn ask() -> Result<((i32, i32), Vec<Gpu>), DriverError> {
    result::init()?;
    let mut version = 0;
    // SAFETY: a valid pointer to an int, and the driver's library is there: `look` asked.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    let gpus = (0..result::device::get_count()?).map(describe).collect::<Result<_, _>>()?;
    Ok(((version / 1000, version % 1000 / 10), gpus))
}

fn describe(ordinal: i32) -> Result<Gpu, DriverError> {
    let device = result::device::get(ordinal)?;
    // SAFETY: `device` is one that the driver has just named.
    let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) };
    Ok(Gpu {
        name: result::device::get_name(device)?,
        compute_capability: (
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device)? },
        shared_bytes: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
    })
}

impl Gpu {
    /// softgpu says in its name that it is none.
    pub fn is_software(&self) -> bool {
        self.name.contains("softgpu")
    }

    /// Which of the images compiled for `arches` (`sm_80`, `sm_90a`) the driver loads here; None: the GPU is too old.
    /// Machine code runs on its own major version from its minor version on; with an `a` on exactly its own.
    pub fn image<'a>(&self, arches: &[&'a str]) -> Option<&'a str> {
        if self.compute_capability < OLDEST {
            return None;
        }
        let (major, minor) = self.compute_capability;
        let fits = |arch: &&&str| {
            let digits = arch.trim_start_matches("sm_").trim_end_matches('a');
            let number: i32 = digits.parse().unwrap_or(0);
            let newer = if arch.ends_with('a') { number % 10 == minor } else { number % 10 <= minor };
            number / 10 == major && newer
        };
        let best = arches.iter().filter(fits).max_by_key(|arch| arch.trim_start_matches("sm_").trim_end_matches('a'));
        Some(best.copied().unwrap_or("PTX of compute_80, translated by the driver when it is loaded"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(major: i32, minor: i32) -> Gpu {
        let name = "test".into();
        Gpu { name, compute_capability: (major, minor), multiprocessors: 1, memory_bytes: 1, shared_bytes: 1 }
    }

    #[test]
    fn the_image_fits_the_gpu() {
        let arches = ["sm_80", "sm_86", "sm_90a"];
        assert_eq!(gpu(8, 0).image(&arches), Some("sm_80"));
        assert_eq!(gpu(8, 9).image(&arches), Some("sm_86"));
        assert_eq!(gpu(9, 0).image(&arches), Some("sm_90a"));
        assert!(gpu(10, 0).image(&arches).unwrap().starts_with("PTX"));
        assert!(gpu(8, 0).image(&["sm_86"]).unwrap().starts_with("PTX"));
        assert_eq!(gpu(7, 5).image(&arches), None);
    }
}

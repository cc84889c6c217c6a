//! The GPUs of this machine, as the driver describes them.

use crate::error::Error;
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

/// Whether kernels compiled by `nvcc` (as in `/path/nvcc (release 13.0, V13.0.88)`) run on `gpu` with a driver that
/// knows CUDA up to `driver`.
///
/// # Errors
/// E-DEVICE, with what to do.
pub fn check(gpu: &Gpu, driver: (i32, i32), kernels: bool, nvcc: &str) -> Result<(), Error> {
    let refused = |why: String, fix: &str| Err(Error::device("E-DEVICE", format!("--device cuda: {why}")).fix(fix));
    if !kernels {
        let fix = "build again with nvcc 12 or newer on the PATH (or named by NVCC), or --device cpu";
        return refused(format!("this build has no GPU kernels: {nvcc}"), fix);
    }
    let (major, minor) = gpu.compute_capability;
    if gpu.compute_capability < OLDEST {
        let why = format!("{} has compute capability {major}.{minor}, 8.0 or newer is needed", gpu.name);
        return refused(why, "an Ampere or newer GPU, or --device cpu");
    }
    let release = nvcc.split("release ").nth(1).unwrap_or_default();
    let compiled: i32 = release.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if driver.0 < compiled {
        let why =
            format!("the driver knows CUDA {}.{}, the kernels were compiled by CUDA {compiled}", driver.0, driver.1);
        return refused(why, "a newer driver (580 or newer for CUDA 13), a build with an older nvcc, or --device cpu");
    }
    Ok(())
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
    #[test]
    fn what_cannot_run_is_refused_with_the_way_out() {
        let nvcc = "/usr/bin/nvcc (release 13.0, V13.0.88)";
        let fails = |gpu: Gpu, driver, kernels, words: &str| {
            let error = check(&gpu, driver, kernels, nvcc).unwrap_err();
            assert!(error.exit_code() == 5 && error.to_string().contains(words), "{error}");
            assert!(error.to_string().contains("fix: ") && error.to_string().contains("--device cpu"), "{error}");
        };
        fails(gpu(9, 0), (13, 0), false, "no GPU kernels");
        fails(gpu(7, 5), (13, 0), true, "compute capability 7.5");
        fails(gpu(9, 0), (12, 8), true, "the driver knows CUDA 12.8");
        assert!(check(&gpu(9, 0), (13, 0), true, nvcc).is_ok());
        assert!(check(&gpu(9, 0), (12, 8), true, "nvcc (release 12.4, V12.4.1)").is_ok());
    }
}

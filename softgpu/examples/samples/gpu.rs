//! The device as the samples use it: one stream, and modules loaded when they are first asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream};
use cudarc::driver::{DeviceRepr, DriverError, LaunchConfig, ValidAsZeroBits};
use cudarc::nvrtc::Ptx;

/// Why a sample has no result.
pub enum Failure {
    Driver(DriverError),
    Other(String),
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Failure {
        Failure::Driver(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Without a driver there are no such errors, so asking it for the text is safe.
            Failure::Driver(error) => match (error.error_name(), error.error_string()) {
                (Ok(name), Ok(text)) => write!(f, "{}: {}", name.to_string_lossy(), text.to_string_lossy()),
                _ => write!(f, "CUDA error {}", error.0 as u32),
            },
            Failure::Other(what) => f.write_str(what),
        }
    }
}

pub struct Gpu {
    pub stream: Arc<CudaStream>,
    images: PathBuf,
    modules: RefCell<HashMap<String, Arc<CudaModule>>>,
}

impl Gpu {
    pub fn open(images: PathBuf) -> Result<Gpu, Failure> {
        let context = CudaContext::new(0)?;
        Ok(Gpu { stream: context.default_stream(), images, modules: RefCell::default() })
    }

    /// The entry `name` of the image of samples/`file`.cu.
    pub fn function(&self, file: &str, name: &str) -> Result<CudaFunction, Failure> {
        if let Some(module) = self.modules.borrow().get(file) {
            return Ok(module.load_function(name)?);
        }
        let module = self.stream.context().load_module(self.image(file)?)?;
        self.modules.borrow_mut().insert(file.into(), module.clone());
        Ok(module.load_function(name)?)
    }

    fn image(&self, file: &str) -> Result<Ptx, Failure> {
        let path = |extension: &str| self.images.join(format!("{file}.{extension}"));
        if let Ok(bytes) = std::fs::read(path("fatbin")) {
            return Ok(Ptx::from_binary(bytes));
        }
        let text = std::fs::read_to_string(path("ptx"));
        text.map(Ptx::from_src).map_err(|e| Failure::Other(format!("{} (nor .fatbin): {e}", path("ptx").display())))
    }

    pub fn upload<T: DeviceRepr>(&self, values: &[T]) -> Result<CudaSlice<T>, Failure> {
        Ok(self.stream.clone_htod(values)?)
    }

    /// Memory that nobody has written: a kernel must write all of it before it is downloaded.
    pub fn fresh<T: DeviceRepr>(&self, count: usize) -> Result<CudaSlice<T>, Failure> {
        // SAFETY: every type here is plain numbers, for which all bits are valid.
        Ok(unsafe { self.stream.alloc(count) }?)
    }

    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, count: usize) -> Result<CudaSlice<T>, Failure> {
        Ok(self.stream.alloc_zeros(count)?)
    }

    pub fn download<T: DeviceRepr + Default + Clone>(&self, slice: &CudaSlice<T>) -> Result<Vec<T>, Failure> {
        let mut values = vec![T::default(); slice.len()];
        self.stream.memcpy_dtoh(slice, &mut values)?;
        self.stream.synchronize()?;
        Ok(values)
    }
}

pub fn grid(grid: [usize; 3], threads: usize) -> LaunchConfig {
    let [x, y, z] = grid.map(|n| n as u32);
    LaunchConfig { grid_dim: (x, y, z), block_dim: (threads as u32, 1, 1), shared_mem_bytes: 0 }
}

/// Launches a kernel and waits for it: `launch!(gpu, function, config, &a, &mut b, ...)`. Scalars are variables: their
/// addresses are passed on.
macro_rules! launch {
    ($gpu:expr, $function:expr, $config:expr, $($argument:expr),* $(,)?) => {{
        use cudarc::driver::PushKernelArg;
        let mut builder = $gpu.stream.launch_builder(&$function);
        $(builder.arg($argument);)*
        // SAFETY: the arguments are those that the kernel's declaration in samples/*.cu lists, in its order.
        unsafe { builder.launch($config) }.map(drop).and_then(|()| $gpu.stream.synchronize())
    }};
}
pub(crate) use launch;

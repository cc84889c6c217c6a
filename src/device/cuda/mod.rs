//! NVIDIA GPUs, through the driver that is loaded at run time.

pub mod attention;
mod context;
pub mod gpu;
pub mod images;
mod lanes;
mod launch;
pub mod memory;
pub mod software;
mod staging;

pub use launch::Launch;

use crate::device::ledger::{Ledger, Tag};
use crate::device::profile::Profile;
use crate::dtype::DType;
use crate::error::{Error, Result};
use context::{Context, failed};
use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::{result, sys};
use gpu::Gpu;
use images::{IMAGES, NVCC, USAGE};
use memory::Memory;
use staging::{Download, Upload};
use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// Whether the CUDA driver's library can be loaded. To be asked before anything else of cudarc:
/// its functions panic where the library is missing. Says nothing about a GPU being there.
pub fn driver_present() -> bool {
    // SAFETY: loads libcuda, whose initializers are trusted as far as the machine's driver is; no
    // function of it is called.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// A GPU with the kernels on it, one stream, and memory by the ledger.
pub struct Cuda {
    gpu: Gpu,
    context: Arc<Context>,
    functions: HashMap<&'static str, Function>,
    pub ledger: Arc<Ledger>,
    pub profile: Profile,
    uploading: Mutex<Upload>,
    downloading: Download,
    layouts: Mutex<HashMap<usize, Layout>>,
    /// Where tensors go that are brought back.
    host: Arc<crate::device::cpu::Cpu>,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: a handle that the driver lets any thread use; its module is never unloaded.
unsafe impl Send for Function {}
unsafe impl Sync for Function {}

/// What the GPU holds of one layout: arrays by name, made once.
struct Layout {
    owner: Arc<dyn Any + Send + Sync>,
    words: HashMap<&'static str, Words>,
}

/// An array on the GPU.
#[derive(Clone, Debug)]
pub struct Words {
    memory: Arc<Memory>,
    len: usize,
}

impl Words {
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    pub(crate) fn pointer(&self) -> u64 {
        self.memory.pointer()
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cuda({})", self.gpu.name)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Cuda {
    /// The GPU number `ordinal`, with all kernels of this build loaded.
    ///
    /// # Errors
    /// E-DEVICE, with what to do: no driver, no GPU, a driver or a GPU that is too old, no kernels in this build.
    pub fn new(ordinal: usize) -> Result<Self> {
        let (version, gpus) = gpu::look().map_err(|why| {
            Error::device("E-DEVICE", format!("--device cuda: {why}"))
                .fix("install NVIDIA's driver (580 or newer), or --device cpu")
        })?;
        let gpu = gpus.into_iter().nth(ordinal).ok_or_else(|| {
            Error::device("E-DEVICE", format!("--device cuda: there is no GPU number {ordinal}")).fix("--device cpu")
        })?;
        gpu::check(&gpu, version, !IMAGES.is_empty(), NVCC)?;
        let context = Arc::new(Context::new(ordinal as i32)?);
        let functions = load(gpu.shared_bytes as u32)?;
        let (uploading, downloading) = (Mutex::new(Upload::new(&context)), Download::new(&context));
        let host = Arc::new(crate::device::cpu::Cpu::new(1, DType::F32)?);
        let (ledger, profile, layouts) = (Arc::default(), Profile::default(), Mutex::default());
        Ok(Cuda { gpu, context, functions, ledger, profile, uploading, downloading, layouts, host })
    }
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
    /// Shared memory that a block may have.
    pub fn shared_bytes(&self) -> usize {
        self.gpu.shared_bytes as usize
    }
    pub fn multiprocessors(&self) -> usize {
        self.gpu.multiprocessors as usize
    }
    pub(crate) fn host(&self) -> &Arc<crate::device::cpu::Cpu> {
        &self.host
    }
    /// Waits until all launches are done.
    pub fn synchronize(&self) -> Result<()> {
        self.context.synchronize()
    }
    /// Seconds that the GPU takes for what `run` asks of it.
    pub fn time(&self, run: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.context.time(run)
    }
    /// A launch of the kernel `name` (an `extern "C" __global__` function in kernels/).
    pub fn kernel(&self, name: &'static str) -> Launch<'_> {
        Launch::new(self, name)
    }
    /// `op` has no kernel for such sizes: the error that says so.
    pub fn refuse(&self, op: &str, why: String) -> Error {
        Error::device("E-KERNEL", format!("{op} on the GPU: {why}")).fix("--device cpu, which takes any size")
    }

    pub(crate) fn allocate(&self, tag: Tag, bytes: usize) -> Result<Memory> {
        Memory::new(&self.context, &self.ledger, tag, bytes)
    }
    /// Fresh memory that holds `bytes`.
    pub(crate) fn store(&self, tag: Tag, bytes: &[u8]) -> Result<Memory> {
        let memory = self.allocate(tag, bytes.len())?;
        locked(&self.uploading).send(&memory, bytes)?;
        Ok(memory)
    }
    /// Fills `to` from bytes `from..` of `memory`, when all is done that was asked for before.
    pub(crate) fn fetch(&self, memory: &Memory, from: usize, to: &mut [u8]) -> Result<()> {
        self.downloading.fetch(memory, from, to)
    }
    /// A copy of `values` on the GPU.
    pub fn upload<T: bytemuck::NoUninit>(&self, values: &[T]) -> Result<Words> {
        let memory = self.store("layout", bytemuck::cast_slice(values))?;
        Ok(Words { memory: Arc::new(memory), len: values.len() })
    }
    /// What `make` makes of a layout, on the GPU: made and copied once for as long as somebody else holds `of`.
    pub fn layout<L: Send + Sync + 'static>(
        &self,
        of: &Arc<L>,
        kind: &'static str,
        make: impl FnOnce(&L) -> Vec<i32>,
    ) -> Result<Words> {
        let key = Arc::as_ptr(of).addr();
        if let Some(found) = locked(&self.layouts).get(&key).and_then(|layout| layout.words.get(kind)) {
            return Ok(found.clone());
        }
        let words = self.upload(&make(of))?;
        let mut layouts = locked(&self.layouts);
        layouts.retain(|_, layout| Arc::strong_count(&layout.owner) > 1);
        // The clone keeps the address from being used again.
        let fresh = || Layout { owner: of.clone(), words: HashMap::new() };
        layouts.entry(key).or_insert_with(fresh).words.insert(kind, words.clone());
        Ok(words)
    }
}

/// The setting that names a directory whose `X.fatbin` are loaded instead of this build's images: for work on
/// kernels, without building docre again.
const OTHER_IMAGES: &str = "DOCRE_KERNELS";

/// The image of kernels/`name`.cu.
fn image(name: &str, built: &'static [u8]) -> Result<Cow<'static, [u8]>> {
    let Some(dir) = std::env::var_os(OTHER_IMAGES).filter(|dir| !dir.is_empty()) else { return Ok(built.into()) };
    let path = std::path::Path::new(&dir).join(format!("{name}.fatbin"));
    if !path.exists() {
        return Ok(built.into());
    }
    Ok(std::fs::read(&path).map_err(|e| Error::io(&path, e))?.into())
}

/// Every kernel of every image, allowed as much shared memory as a block may have.
fn load(shared: u32) -> Result<HashMap<&'static str, Function>> {
    let mut functions = HashMap::new();
    for (name, built) in IMAGES {
        let bytes = image(name, built)?;
        // SAFETY: a fat binary that nvcc has written; the driver copies it.
        let module = unsafe { result::module::load_data(bytes.as_ptr().cast()) };
        let module = module.map_err(|e| failed(&format!("loading kernels/{name}.cu"), e))?;
        for (_, usage) in USAGE.iter().filter(|(of, _)| of == name) {
            if functions.contains_key(usage.kernel) {
                continue; // the same for another GPU
            }
            let found = || {
                // SAFETY: the module is never unloaded; static and dynamic shared memory are within the GPU's.
                unsafe {
                    let name = std::ffi::CString::new(usage.kernel).unwrap_or_default();
                    let function = result::module::get_function(module, name)?;
                    let dynamic = shared.saturating_sub(usage.shared) as i32;
                    let attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    result::function::set_function_attribute(function, attribute, dynamic)?;
                    Ok(Function(function))
                }
            };
            functions.insert(usage.kernel, found().map_err(|e| failed(usage.kernel, e))?);
        }
    }
    Ok(functions)
}

//! Modules: images loaded, their functions and variables.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use super::error::{Status, refuse};
use super::function::Function;
use super::{Answer, CUresult, Driver, Handle, alive, entry, given, next_handle, put, put_optional};
use crate::image::{self, Image, ImageError};
use crate::{Module, elf};

pub(super) struct Loaded {
    pub context: Handle,
    module: Module,
    ptx_arch: u32,
    binary: Option<elf::Binary>,
    /// Handles that were given out: a function has one.
    functions: HashMap<String, Handle>,
}

unsafe fn load(name: &str, to: *mut Handle, image: *const u8) -> Answer {
    let (driver, context) = alive()?;
    given(to)?;
    given(image)?;
    // SAFETY: not null, so an image by the entry point's contract.
    let image = unsafe { image::read_pointer(image, driver.settings.profile) };
    unsafe { load_image(name, to, driver, context, image) }
}

unsafe fn load_image(
    name: &str,
    to: *mut Handle,
    driver: &Driver,
    context: Handle,
    image: Result<Image, ImageError>,
) -> Answer {
    let image = image.or_else(|error| refuse(Status(error.result), format!("{name}: {}", error.why)))?;
    let module = Module::load(&image.ptx, driver.memory(), &driver.settings)
        .or_else(|error| refuse(Status::INVALID_PTX, format!("{name}: {error}")))?;
    let loaded = Loaded { context, module, ptx_arch: image.ptx_arch, binary: image.binary, functions: HashMap::new() };
    let mut state = driver.state();
    let handle = state.handle();
    for (_, address, bytes) in &loaded.module.globals {
        state.device_span.extend(*address, *bytes);
    }
    state.modules.insert(handle, loaded);
    unsafe { put(to, handle) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(to: *mut Handle, image: *const u8) -> CUresult {
    entry("cuModuleLoadData", || unsafe { load("cuModuleLoadData", to, image) })
}

/// The options steer a compiler that is not there: they are read by nobody.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    to: *mut Handle,
    image: *const u8,
    _count: u32,
    _options: *mut u32,
    _values: *mut *mut c_void,
) -> CUresult {
    entry("cuModuleLoadDataEx", || unsafe { load("cuModuleLoadDataEx", to, image) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadFatBinary(to: *mut Handle, image: *const u8) -> CUresult {
    entry("cuModuleLoadFatBinary", || unsafe { load("cuModuleLoadFatBinary", to, image) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(to: *mut Handle, path: *const c_char) -> CUresult {
    entry("cuModuleLoad", || {
        let (driver, context) = alive()?;
        given(to)?;
        given(path)?;
        // SAFETY: not null, so a C string by the entry point's contract.
        let path = unsafe { CStr::from_ptr(path) }.to_string_lossy();
        let bytes = std::fs::read(Path::new(&*path))
            .or_else(|error| refuse(Status::FILE_NOT_FOUND, format!("cuModuleLoad: {path}: {error}")))?;
        let image = image::read(&bytes, driver.settings.profile);
        unsafe { load_image(&format!("cuModuleLoad: {path}"), to, driver, context, image) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Handle) -> CUresult {
    entry("cuModuleUnload", || {
        let (driver, _) = alive()?;
        let _order = driver.work();
        unload(driver, module)
    })
}

/// The module's variables go with it: a kernel of another module that kept an address of one then faults.
pub(super) fn unload(driver: &Driver, module: Handle) -> Answer {
    let mut state = driver.state();
    let loaded = state.modules.remove(&module).ok_or(Status::INVALID_HANDLE)?;
    state.functions.retain(|_, function| function.module != module);
    drop(state);
    for (_, address, _) in &loaded.module.globals {
        // Variables that share one allocation are freed with the first of them.
        let _ = driver.memory().free(*address);
    }
    Ok(())
}

/// Module and name of a lookup.
unsafe fn text<'a>(name: *const c_char) -> Result<&'a str, Status> {
    given(name)?;
    // SAFETY: not null, so a C string by the entry point's contract.
    unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| Status::NOT_FOUND)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(to: *mut Handle, module: Handle, name: *const c_char) -> CUresult {
    entry("cuModuleGetFunction", || {
        let (driver, _) = alive()?;
        given(to)?;
        let name = unsafe { text(name) }?;
        let mut state = driver.state();
        let state = &mut *state;
        let loaded = state.modules.get_mut(&module).ok_or(Status::INVALID_HANDLE)?;
        if let Some(&handle) = loaded.functions.get(name) {
            return unsafe { put(to, handle) };
        }
        let kernel = loaded.module.kernel(name).ok_or(Status::NOT_FOUND)?;
        let function =
            Function::new(kernel.clone(), module, loaded.context, loaded.ptx_arch, loaded.binary.as_ref(), driver);
        let handle = next_handle(&mut state.handles);
        loaded.functions.insert(name.to_string(), handle);
        state.functions.insert(handle, Arc::new(function));
        unsafe { put(to, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetGlobal_v2(
    address: *mut u64,
    size: *mut usize,
    module: Handle,
    name: *const c_char,
) -> CUresult {
    entry("cuModuleGetGlobal_v2", || {
        let (driver, _) = alive()?;
        let name = unsafe { text(name) }?;
        let state = driver.state();
        let loaded = state.modules.get(&module).ok_or(Status::INVALID_HANDLE)?;
        let found = loaded.module.globals.iter().find(|global| global.0 == name).ok_or(Status::NOT_FOUND)?;
        unsafe {
            put_optional(address, found.1);
            put_optional(size, found.2);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunctionCount(count: *mut u32, module: Handle) -> CUresult {
    entry("cuModuleGetFunctionCount", || {
        let (driver, _) = alive()?;
        let state = driver.state();
        let loaded = state.modules.get(&module).ok_or(Status::INVALID_HANDLE)?;
        unsafe { put(count, loaded.module.kernels.len() as u32) }
    })
}

/// Eager: CU_MODULE_EAGER_LOADING.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetLoadingMode(mode: *mut u32) -> CUresult {
    entry("cuModuleGetLoadingMode", || {
        super::driver()?;
        unsafe { put(mode, 1) }
    })
}

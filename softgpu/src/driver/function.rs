//! Functions: kernels with their attributes.

use std::ffi::{CString, c_char};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use super::error::{Status, refuse};
use super::{Answer, CUresult, Driver, Handle, driver, entry, given, put};
use crate::Kernel;
use crate::elf::Binary;
use crate::occupancy::{Demand, threads_by_registers};
use crate::profile::REGISTERS_PER_THREAD;
use crate::report::Resources;

pub(super) struct Function {
    pub kernel: Arc<Kernel>,
    pub module: Handle,
    pub context: Handle,
    pub resources: Resources,
    name: CString,
    ptx_arch: u32,
    /// Of the code that a GPU would run: the machine code's, or the device's own for PTX.
    binary_arch: u32,
    constants: u32,
    /// What the program may change.
    max_dynamic: AtomicI32,
    carveout: AtomicI32,
}

const MAX_DYNAMIC: u32 = 8;
const CARVEOUT: u32 = 9;

impl Function {
    pub(super) fn new(
        kernel: Arc<Kernel>,
        module: Handle,
        context: Handle,
        ptx_arch: u32,
        binary: Option<&Binary>,
        driver: &Driver,
    ) -> Function {
        let profile = driver.settings.profile;
        let resources = resources(&kernel, binary);
        // Without an attribute, static and dynamic memory together may have what a block has by default.
        let max_dynamic = profile.shared_default.saturating_sub(resources.static_shared);
        Function {
            module,
            context,
            name: CString::new(kernel.name.as_str()).unwrap_or_default(),
            ptx_arch,
            binary_arch: binary.map_or(profile.arch(), |binary| binary.arch),
            constants: binary.map_or(0, |binary| binary.constants),
            max_dynamic: AtomicI32::new(max_dynamic as i32),
            carveout: AtomicI32::new(-1),
            resources,
            kernel,
        }
    }

    pub(super) fn max_dynamic(&self) -> u32 {
        self.max_dynamic.load(Ordering::Relaxed) as u32
    }

    /// .maxntid, and fewer if the registers of so many would not fit. An estimate of registers decides nothing.
    pub(super) fn max_threads(&self) -> u32 {
        match self.resources.from_ptxas {
            Some(_) => self.kernel.max_threads.min(threads_by_registers(self.resources.registers)),
            None => self.kernel.max_threads,
        }
    }

    pub(super) fn demand(&self, threads: u32, dynamic_shared: u32) -> Demand {
        let Resources { registers, static_shared, .. } = self.resources;
        Demand { threads, registers, static_shared, dynamic_shared }
    }

    fn attribute(&self, attribute: u32) -> Option<i32> {
        let value = match attribute {
            0 => self.max_threads(),
            1 => self.resources.static_shared,
            2 => self.constants,
            3 => self.resources.stack,
            4 => self.resources.registers,
            5 => self.ptx_arch,
            6 => self.binary_arch,
            MAX_DYNAMIC => self.max_dynamic(),
            CARVEOUT => return Some(self.carveout.load(Ordering::Relaxed)),
            // Caching by default, and no clusters.
            7 | 10..=15 => 0,
            _ => return None,
        };
        Some(value as i32)
    }
}

fn resources(kernel: &Kernel, binary: Option<&Binary>) -> Resources {
    let compiled = binary.and_then(|binary| Some((binary.arch, binary.kernels.get(&kernel.name)?)));
    match compiled {
        Some((arch, usage)) => Resources {
            registers: usage.registers,
            static_shared: usage.static_shared.max(kernel.static_shared),
            stack: usage.stack,
            spills: Some(usage.stack.saturating_sub(kernel.local)),
            max_threads: kernel.max_threads,
            from_ptxas: Some(arch),
        },
        None => Resources {
            registers: kernel.live_registers.clamp(1, REGISTERS_PER_THREAD),
            static_shared: kernel.static_shared,
            stack: kernel.local,
            spills: None,
            max_threads: kernel.max_threads,
            from_ptxas: None,
        },
    }
}

pub(super) fn find(function: Handle) -> Result<(&'static Driver, Arc<Function>), Status> {
    let driver = driver()?;
    let found = driver.state().functions.get(&function).cloned();
    Ok((driver, found.ok_or(Status::INVALID_HANDLE)?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(value: *mut i32, attribute: u32, function: Handle) -> CUresult {
    entry("cuFuncGetAttribute", || {
        given(value)?;
        let (_, function) = find(function)?;
        unsafe { put(value, function.attribute(attribute).ok_or(Status::INVALID_VALUE)?) }
    })
}

fn set(function: Handle, attribute: u32, value: i32) -> Answer {
    let (driver, function) = find(function)?;
    match attribute {
        MAX_DYNAMIC => {
            let (static_shared, most) = (function.resources.static_shared, driver.settings.profile.shared_opt_in);
            if value < 0 || value as u32 > most.saturating_sub(static_shared) {
                let why = format!("{value} bytes of dynamic and {static_shared} of static shared memory");
                let name = &function.kernel.name;
                return refuse(Status::INVALID_VALUE, format!("cuFuncSetAttribute of {name}: {why}; {most} are there"));
            }
            function.max_dynamic.store(value, Ordering::Relaxed);
        }
        CARVEOUT if (-1..=100).contains(&value) => function.carveout.store(value, Ordering::Relaxed),
        10..=15 if value != 0 => {
            return refuse(Status::NOT_SUPPORTED, "cuFuncSetAttribute: clusters are not supported");
        }
        10..=15 => {}
        _ => return Err(Status::INVALID_VALUE),
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Handle, attribute: u32, value: i32) -> CUresult {
    entry("cuFuncSetAttribute", || set(function, attribute, value))
}

/// A preference that changes nothing here.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetCacheConfig(function: Handle, config: u32) -> CUresult {
    entry("cuFuncSetCacheConfig", || if config > 3 { Err(Status::INVALID_VALUE) } else { find(function).map(|_| ()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetModule(to: *mut Handle, function: Handle) -> CUresult {
    entry("cuFuncGetModule", || {
        let (_, function) = find(function)?;
        unsafe { put(to, function.module) }
    })
}

/// The name lives as long as the function's module.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetName(to: *mut *const c_char, function: Handle) -> CUresult {
    entry("cuFuncGetName", || {
        let (_, function) = find(function)?;
        unsafe { put(to, function.name.as_ptr()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetParamInfo(
    function: Handle,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> CUresult {
    entry("cuFuncGetParamInfo", || {
        given(offset)?;
        let (_, function) = find(function)?;
        let param = function.kernel.params.get(index).ok_or(Status::INVALID_VALUE)?;
        unsafe {
            super::put_optional(size, param.size as usize);
            put(offset, param.offset as usize)
        }
    })
}

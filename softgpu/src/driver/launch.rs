//! Launches: the checks that hardware makes before, the execution, and what is kept of it.

use std::sync::atomic::Ordering;

use super::error::{Status, refuse};
use super::function::{self, Function};
use super::{Answer, CUresult, Driver, Handle, alive, entry, given, lock, stream};
use crate::occupancy::registers_fit;
use crate::profile::{MAX_BLOCK, MAX_GRID, MAX_THREADS};
use crate::report::Shape;
use crate::{Kernel, Launch, Profile, Settings};

/// Parameters as the program passes them: an address each, or one buffer that `extra` describes.
struct Arguments {
    each: *const *const u8,
    extra: *const usize,
}

unsafe fn launch(name: &str, function: Handle, shape: Shape, stream: Handle, arguments: Arguments) -> Answer {
    let (driver, context) = alive()?;
    let (_, function) = function::find(function)?;
    let of_stream = stream::check(&driver.state(), context, stream)?;
    if of_stream != function.context {
        return refuse(Status::INVALID_CONTEXT, format!("{name}: the stream and the function are of two contexts"));
    }
    if let Err((status, why)) = check(driver.settings.profile, &function, &shape) {
        return refuse(status, format!("{name} of {}: {why}", function.kernel.name));
    }
    let params = unsafe { params(name, &function.kernel, &arguments) }?;
    let Shape { grid, block, dynamic_shared } = shape;
    execute(driver, &function, Launch { grid, block, dynamic_shared, params });
    Ok(())
}

/// A fault is no error of this call: on hardware, too, it shows in a later one.
fn execute(driver: &Driver, function: &Function, launch: Launch) {
    let outcome = {
        let _order = driver.work();
        let settings = Settings { seed: driver.seed.load(Ordering::Relaxed), ..driver.settings.clone() };
        crate::launch(&function.kernel, &launch, driver.memory(), &settings)
    };
    let Launch { grid, block, dynamic_shared, .. } = launch;
    let shape = Shape { grid, block, dynamic_shared };
    lock(&driver.report).launch(&function.kernel.name, &function.resources, shape, outcome.counters);
    if let Some(fault) = outcome.fault {
        driver.die(&fault);
    }
}

fn check(profile: &Profile, function: &Function, shape: &Shape) -> Result<(), (Status, String)> {
    let invalid = |why: String| Err((Status::INVALID_VALUE, why));
    let beyond = |size: [u32; 3], most: [u32; 3]| size.iter().zip(most).any(|(&n, most)| n == 0 || n > most);
    if beyond(shape.grid, MAX_GRID) {
        return invalid(format!("a grid of {:?} blocks: each from 1 to {MAX_GRID:?}", shape.grid));
    }
    if beyond(shape.block, MAX_BLOCK) || shape.threads() > MAX_THREADS {
        let block = shape.block;
        return invalid(format!("a block of {block:?} threads: each from 1 to {MAX_BLOCK:?}, {MAX_THREADS} in all"));
    }
    let (threads, allowed) = (shape.threads(), function.kernel.max_threads);
    if threads > allowed {
        return invalid(format!("{threads} threads a block: it was compiled for at most {allowed}"));
    }
    let (dynamic, allowed) = (shape.dynamic_shared, function.max_dynamic());
    if dynamic > allowed {
        let raise = "cuFuncSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES) raises it";
        return invalid(format!("{dynamic} bytes of dynamic shared memory: {allowed} are allowed; {raise}"));
    }
    let (fixed, most) = (function.resources.static_shared, profile.shared_opt_in);
    if fixed + dynamic > most {
        return invalid(format!("{fixed} bytes of static and {dynamic} of dynamic shared memory: {most} are there"));
    }
    let registers = function.resources.registers;
    if function.resources.from_ptxas.is_some() && !registers_fit(threads, registers) {
        let why = format!("{threads} threads with {registers} registers each: a block has 65,536");
        return Err((Status::LAUNCH_OUT_OF_RESOURCES, why));
    }
    Ok(())
}

/// Copies the parameters into one block, as the kernel's PTX lays them out.
unsafe fn params(name: &str, kernel: &Kernel, arguments: &Arguments) -> Result<Vec<u8>, Status> {
    let size = kernel.params.iter().map(|param| param.offset + param.size).max().unwrap_or(0) as usize;
    let mut block = vec![0; size];
    match (arguments.each.is_null(), arguments.extra.is_null()) {
        (true, true) if size == 0 => {}
        (false, true) => unsafe { params_each(name, kernel, arguments.each, &mut block) }?,
        (true, false) => unsafe { params_buffer(name, kernel, arguments.extra, &mut block) }?,
        _ => {
            let count = kernel.params.len();
            let why =
                format!("{name} of {}: {count} parameters, and not one of the two ways to pass them", kernel.name);
            return refuse(Status::INVALID_VALUE, why);
        }
    }
    Ok(block)
}

unsafe fn params_each(name: &str, kernel: &Kernel, each: *const *const u8, block: &mut [u8]) -> Answer {
    for (index, param) in kernel.params.iter().enumerate() {
        // SAFETY: the caller's array has an address for each parameter, with the parameter's bytes behind it.
        let from = unsafe { each.add(index).read_unaligned() };
        if from.is_null() {
            return refuse(Status::INVALID_VALUE, format!("{name} of {}: parameter {index} is null", kernel.name));
        }
        let to = &mut block[param.offset as usize..][..param.size as usize];
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
    }
    Ok(())
}

/// CU_LAUNCH_PARAM_BUFFER_POINTER (1), CU_LAUNCH_PARAM_BUFFER_SIZE (2), up to CU_LAUNCH_PARAM_END (0).
unsafe fn params_buffer(name: &str, kernel: &Kernel, extra: *const usize, block: &mut [u8]) -> Answer {
    let (mut buffer, mut size, mut at) = (std::ptr::null::<u8>(), 0, extra);
    // SAFETY: the caller's list ends with END, and each other key has its value behind it.
    unsafe {
        loop {
            match at.read_unaligned() {
                0 => break,
                1 => buffer = at.add(1).read_unaligned() as *const u8,
                2 => {
                    let value = at.add(1).read_unaligned() as *const usize;
                    given(value)?;
                    size = value.read_unaligned();
                }
                _ => return Err(Status::INVALID_VALUE),
            }
            at = at.add(2);
        }
    }
    if buffer.is_null() || size < block.len() {
        let why = format!("a buffer of {size} bytes for {} bytes of parameters", block.len());
        return refuse(Status::INVALID_VALUE, format!("{name} of {}: {why}", kernel.name));
    }
    unsafe { std::ptr::copy_nonoverlapping(buffer, block.as_mut_ptr(), block.len()) };
    Ok(())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Handle,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    dynamic_shared: u32,
    stream: Handle,
    params: *const *const u8,
    extra: *const usize,
) -> CUresult {
    entry("cuLaunchKernel", || {
        let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared };
        unsafe { launch("cuLaunchKernel", function, shape, stream, Arguments { each: params, extra }) }
    })
}

/// CUlaunchConfig.
#[repr(C)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub stream: Handle,
    pub attributes: *const LaunchAttribute,
    pub count: u32,
}

/// CUlaunchAttribute: an identifier and 64 bytes of value.
#[repr(C)]
pub struct LaunchAttribute {
    pub id: u32,
    pub padding: u32,
    pub value: [u64; 8],
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: *const LaunchConfig,
    function: Handle,
    params: *const *const u8,
    extra: *const usize,
) -> CUresult {
    entry("cuLaunchKernelEx", || {
        given(config)?;
        // SAFETY: not null, so valid by the entry point's contract; `attributes` has `count` entries.
        let config = unsafe { config.read_unaligned() };
        for index in 0..config.count as usize {
            given(config.attributes)?;
            let attribute = unsafe { config.attributes.add(index).read_unaligned() };
            check_attribute(&attribute)?;
        }
        let LaunchConfig { grid, block, dynamic_shared, stream, .. } = config;
        let shape = Shape { grid, block, dynamic_shared };
        unsafe { launch("cuLaunchKernelEx", function, shape, stream, Arguments { each: params, extra }) }
    })
}

/// Hints are accepted; what changes the meaning of a launch is refused.
fn check_attribute(attribute: &LaunchAttribute) -> Answer {
    const CLUSTER: u32 = 4;
    let first = attribute.value[0];
    let harmless = match attribute.id {
        // Nothing, priority, shared memory carveout.
        0 | 8 | 14 => true,
        // Cooperative, programmatic serialisation: an int that is off.
        2 | 6 => first as u32 == 0,
        // One block a cluster is no cluster.
        CLUSTER => first == 1 | 1 << 32 && attribute.value[1] as u32 == 1,
        _ => false,
    };
    if harmless {
        return Ok(());
    }
    refuse(Status::NOT_SUPPORTED, format!("cuLaunchKernelEx: launch attribute {} is not supported", attribute.id))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchCooperativeKernel() -> CUresult {
    entry("cuLaunchCooperativeKernel", || {
        alive()?;
        let why = "cuLaunchCooperativeKernel: blocks run one after another here and cannot wait for each other";
        refuse(Status::NOT_SUPPORTED, why)
    })
}

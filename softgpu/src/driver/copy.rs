//! Copies. An asynchronous one is done when its call returns, so a program that touches the host's memory too early
//! is not found out here.

use super::error::{Status, refuse};
use super::memory::describe;
use super::{Answer, CUresult, Driver, Handle, entry, given, stream};

/// Where a copy reads or writes.
#[derive(Clone, Copy)]
enum Place {
    Host(*mut u8),
    Device(u64),
}

fn copy(name: &str, to: Place, from: Place, bytes: usize, stream: Handle) -> Answer {
    let driver = stream::valid(stream)?;
    if bytes == 0 {
        return Ok(());
    }
    for place in [to, from] {
        if let Place::Host(address) = place {
            given(address)?;
        }
    }
    let _order = driver.work();
    let memory = driver.memory();
    // SAFETY: the caller's host memory has that many bytes.
    let done = unsafe {
        match (to, from) {
            (Place::Device(to), Place::Host(from)) => memory.write(to, std::slice::from_raw_parts(from, bytes)),
            (Place::Host(to), Place::Device(from)) => memory.read(from, std::slice::from_raw_parts_mut(to, bytes)),
            (Place::Device(to), Place::Device(from)) => memory.copy(to, from, bytes),
            (Place::Host(to), Place::Host(from)) => {
                std::ptr::copy(from, to, bytes);
                Ok(())
            }
        }
    };
    done.or_else(|_| {
        let wrong = [("to", to), ("from", from)].map(|(way, place)| complaint(driver, way, place, bytes));
        let wrong = wrong.into_iter().flatten().collect::<Vec<_>>().join("; ");
        refuse(Status::INVALID_VALUE, format!("{name} of {bytes} bytes {wrong}"))
    })
}

/// What is wrong with this end of the copy, if anything.
fn complaint(driver: &Driver, way: &str, place: Place, bytes: usize) -> Option<String> {
    let Place::Device(address) = place else { return None };
    match driver.memory().range(address) {
        Some((start, size)) if address - start + bytes as u64 <= size as u64 => None,
        _ => Some(format!("{way} {address:#x}, which {}", describe(driver, address))),
    }
}

/// Unified addresses: a pointer is the device's if it lies where its allocations lie.
fn place(driver: &Driver, address: u64) -> Place {
    let state = driver.state();
    if state.device_span.contains(&address) { Place::Device(address) } else { Place::Host(address as *mut u8) }
}

fn copy_unified(name: &str, to: u64, from: u64, bytes: usize, stream: Handle) -> Answer {
    let driver = super::driver()?;
    copy(name, place(driver, to), place(driver, from), bytes, stream)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const u8, bytes: usize) -> CUresult {
    entry("cuMemcpyHtoD_v2", || copy("cuMemcpyHtoD", Place::Device(to), Place::Host(from.cast_mut()), bytes, 0))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut u8, from: u64, bytes: usize) -> CUresult {
    entry("cuMemcpyDtoH_v2", || copy("cuMemcpyDtoH", Place::Host(to), Place::Device(from), bytes, 0))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> CUresult {
    entry("cuMemcpyDtoD_v2", || copy("cuMemcpyDtoD", Place::Device(to), Place::Device(from), bytes, 0))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const u8, bytes: usize, stream: Handle) -> CUresult {
    entry("cuMemcpyHtoDAsync_v2", || {
        copy("cuMemcpyHtoDAsync", Place::Device(to), Place::Host(from.cast_mut()), bytes, stream)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut u8, from: u64, bytes: usize, stream: Handle) -> CUresult {
    entry("cuMemcpyDtoHAsync_v2", || copy("cuMemcpyDtoHAsync", Place::Host(to), Place::Device(from), bytes, stream))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) -> CUresult {
    entry("cuMemcpyDtoDAsync_v2", || copy("cuMemcpyDtoDAsync", Place::Device(to), Place::Device(from), bytes, stream))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy(to: u64, from: u64, bytes: usize) -> CUresult {
    entry("cuMemcpy", || copy_unified("cuMemcpy", to, from, bytes, 0))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) -> CUresult {
    entry("cuMemcpyAsync", || copy_unified("cuMemcpyAsync", to, from, bytes, stream))
}

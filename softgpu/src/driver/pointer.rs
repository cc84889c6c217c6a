//! What a pointer points to.

use super::error::Status;
use super::{Answer, CUresult, DEVICE, Driver, Handle, alive, entry, given, put};

struct Target {
    context: Handle,
    start: u64,
    bytes: usize,
    device: bool,
}

const HOST: u32 = 1;
const DEVICE_MEMORY: u32 = 2;

fn target(driver: &Driver, address: u64) -> Option<Target> {
    let state = driver.state();
    if let Some((&start, held)) = state.host.range(..=address as usize).next_back()
        && address as usize - start < held.bytes
    {
        return Some(Target { context: held.context, start: start as u64, bytes: held.bytes, device: false });
    }
    let (&start, held) = state.allocations.range(..=address).next_back()?;
    let inside = address - start < held.bytes;
    inside.then_some(Target { context: held.context, start, bytes: held.bytes as usize, device: true })
}

unsafe fn write(target: &Target, address: u64, attribute: u32, data: *mut u8) -> Answer {
    unsafe {
        match attribute {
            1 => put(data.cast(), target.context),
            2 => put(data.cast(), if target.device { DEVICE_MEMORY } else { HOST }),
            3 if target.device => put(data.cast(), address),
            4 if !target.device => put(data.cast(), address),
            // Addresses are never given out twice.
            7 => put(data.cast(), target.start),
            8 => put(data, 0),
            9 => put(data.cast(), DEVICE),
            10 => put(data, 0),
            11 => put(data.cast(), target.start),
            12 => put(data.cast(), target.bytes),
            13 => put(data, 1),
            _ => Err(Status::INVALID_VALUE),
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttribute(data: *mut u8, attribute: u32, address: u64) -> CUresult {
    entry("cuPointerGetAttribute", || {
        let (driver, _) = alive()?;
        given(data)?;
        let target = target(driver, address).ok_or(Status::INVALID_VALUE)?;
        unsafe { write(&target, address, attribute, data) }
    })
}

/// Unlike the single form, a pointer that CUDA does not know is no error: its attributes are zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttributes(
    count: u32,
    attributes: *const u32,
    data: *const *mut u8,
    address: u64,
) -> CUresult {
    entry("cuPointerGetAttributes", || {
        let (driver, _) = alive()?;
        given(attributes)?;
        given(data)?;
        let target = target(driver, address);
        for index in 0..count as usize {
            // SAFETY: the caller's arrays have `count` entries.
            let (attribute, data) =
                unsafe { (attributes.add(index).read_unaligned(), data.add(index).read_unaligned()) };
            given(data)?;
            if target.as_ref().is_some_and(|target| unsafe { write(target, address, attribute, data) }.is_ok()) {
                continue;
            }
            // SAFETY: each result has the size that the manual gives.
            unsafe {
                match attribute {
                    1 | 3 | 4 | 7 | 11 | 12 => data.cast::<u64>().write_unaligned(0),
                    2 | 9 => data.cast::<u32>().write_unaligned(if attribute == 9 { -2_i32 as u32 } else { 0 }),
                    8 | 10 | 13 => data.write(0),
                    _ => return Err(Status::INVALID_VALUE),
                }
            }
        }
        Ok(())
    })
}

//! Device memory: allocating, freeing, filling.

use super::error::{Status, refuse};
use super::{Answer, CUresult, Driver, Handle, alive, driver, entry, given, put, put_optional, stream};
use crate::memory::MemoryError;

/// What the driver knows of an allocation beside its bytes.
pub(super) struct Allocation {
    pub context: Handle,
    pub bytes: u64,
    /// For the pool's statistics.
    pub pool: Option<Handle>,
}

/// Device addresses lie together, apart from the host's: what is between two of them is none of the host's.
#[derive(Default)]
pub(super) struct Span(Option<(u64, u64)>);

impl Span {
    pub(super) fn extend(&mut self, address: u64, bytes: usize) {
        let (low, high) = self.0.unwrap_or((address, address));
        self.0 = Some((low.min(address), high.max(address + bytes as u64)));
    }

    pub(super) fn contains(&self, address: &u64) -> bool {
        self.0.is_some_and(|(low, high)| (low..high).contains(address))
    }
}

/// Allocates and writes the address.
pub(super) unsafe fn alloc(to: *mut u64, bytes: usize, context: Handle, pool: Option<Handle>) -> Answer {
    let driver = driver()?;
    given(to)?;
    let address = match driver.memory().alloc(bytes) {
        Ok(address) => address,
        Err(MemoryError::Full) => {
            let (free, total) = driver.memory().info();
            let why = format!("out of device memory: {bytes} bytes asked for, {free} of {total} free");
            return refuse(Status::OUT_OF_MEMORY, format!("{why} (SOFTGPU_MEMORY_MIB sets how much there is)"));
        }
        Err(MemoryError::Invalid) => return Err(Status::INVALID_VALUE),
    };
    let mut state = driver.state();
    state.device_span.extend(address, bytes);
    state.allocations.insert(address, Allocation { context, bytes: bytes as u64, pool });
    if let Some(pool) = pool.and_then(|pool| state.pools.get_mut(&pool)) {
        pool.grow(bytes as u64);
    }
    unsafe { put(to, address) }
}

pub(super) fn free(driver: &Driver, name: &str, address: u64) -> Answer {
    let mut state = driver.state();
    let Some(held) = state.allocations.remove(&address) else {
        drop(state);
        return refuse(Status::INVALID_VALUE, format!("{name}: {address:#x} {}", describe(driver, address)));
    };
    if let Some(pool) = held.pool.and_then(|pool| state.pools.get_mut(&pool)) {
        pool.shrink(held.bytes);
    }
    drop(state);
    driver.memory().free(address).map_err(|_| Status::INVALID_VALUE)
}

/// The end of a sentence about an address that does not suit.
pub(super) fn describe(driver: &Driver, address: u64) -> String {
    match driver.memory().range(address) {
        Some((start, size)) => {
            let left = start + size as u64 - address;
            format!("is byte {} of the {size} bytes at {start:#x} ({left} are left)", address - start)
        }
        None => "is in no live allocation: never allocated, or freed".to_string(),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(to: *mut u64, bytes: usize) -> CUresult {
    entry("cuMemAlloc_v2", || {
        let (_, context) = alive()?;
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        unsafe { alloc(to, bytes, context, None) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> CUresult {
    entry("cuMemFree_v2", || free_in_order("cuMemFree", address))
}

/// Freeing nothing is allowed. What still executes for another thread ends before.
pub(super) fn free_in_order(name: &str, address: u64) -> Answer {
    let (driver, _) = alive()?;
    if address == 0 {
        return Ok(());
    }
    let _order = driver.work();
    free(driver, name, address)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    entry("cuMemGetInfo_v2", || {
        let (driver, _) = alive()?;
        given(total)?;
        let (left, all) = driver.memory().info();
        unsafe {
            put(free, left as usize)?;
            put(total, all as usize)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAddressRange_v2(base: *mut u64, size: *mut usize, address: u64) -> CUresult {
    entry("cuMemGetAddressRange_v2", || {
        let (driver, _) = alive()?;
        let (start, bytes) = driver.memory().range(address).ok_or(Status::NOT_FOUND)?;
        unsafe {
            put_optional(base, start);
            put_optional(size, bytes);
        }
        Ok(())
    })
}

fn fill(name: &str, address: u64, pattern: &[u8], count: usize, stream: Handle) -> Answer {
    let driver = stream::valid(stream)?;
    if !address.is_multiple_of(pattern.len() as u64) {
        return refuse(Status::INVALID_VALUE, format!("{name}: {address:#x} is no multiple of {}", pattern.len()));
    }
    if count == 0 {
        return Ok(());
    }
    let _order = driver.work();
    driver.memory().fill(address, pattern, count).or_else(|_| {
        let bytes = count.saturating_mul(pattern.len());
        refuse(Status::INVALID_VALUE, format!("{name} of {bytes} bytes: {address:#x} {}", describe(driver, address)))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8_v2(address: u64, value: u8, count: usize) -> CUresult {
    entry("cuMemsetD8_v2", || fill("cuMemsetD8", address, &[value], count, 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16_v2(address: u64, value: u16, count: usize) -> CUresult {
    entry("cuMemsetD16_v2", || fill("cuMemsetD16", address, &value.to_le_bytes(), count, 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(address: u64, value: u32, count: usize) -> CUresult {
    entry("cuMemsetD32_v2", || fill("cuMemsetD32", address, &value.to_le_bytes(), count, 0))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(address: u64, value: u8, count: usize, stream: Handle) -> CUresult {
    entry("cuMemsetD8Async", || fill("cuMemsetD8Async", address, &[value], count, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD16Async(address: u64, value: u16, count: usize, stream: Handle) -> CUresult {
    entry("cuMemsetD16Async", || fill("cuMemsetD16Async", address, &value.to_le_bytes(), count, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(address: u64, value: u32, count: usize, stream: Handle) -> CUresult {
    entry("cuMemsetD32Async", || fill("cuMemsetD32Async", address, &value.to_le_bytes(), count, stream))
}

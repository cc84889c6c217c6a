//! Memory pools. Nothing is cached in them: addresses are never given out twice, so that stale ones are found. They
//! keep their attributes and count what is allocated from them.

use super::error::Status;
use super::{Answer, CUresult, DEVICE, Driver, Handle, alive, entry, given, memory, put, stream};

pub(super) struct Pool {
    /// The three reuse policies: on by default.
    reuse: [i32; 3],
    release_threshold: u64,
    used: u64,
    used_high: u64,
    /// 0: as much as the device has.
    max: u64,
}

#[derive(Default)]
pub(super) struct DevicePools {
    pub default: Handle,
    pub current: Handle,
}

impl Default for Pool {
    fn default() -> Self {
        Pool { reuse: [1; 3], release_threshold: 0, used: 0, used_high: 0, max: 0 }
    }
}

impl Pool {
    pub(super) fn grow(&mut self, bytes: u64) {
        self.used += bytes;
        self.used_high = self.used_high.max(self.used);
    }

    pub(super) fn shrink(&mut self, bytes: u64) {
        self.used -= bytes;
    }
}

/// CUmemPoolProps, of which the part behind `max_size` says nothing to this driver.
#[repr(C)]
pub struct PoolProps {
    alloc_type: u32,
    handle_types: u32,
    location_type: u32,
    location_id: i32,
    security: usize,
    max_size: usize,
    usage: u16,
    reserved: [u8; 54],
}

const PINNED: u32 = 1;
const LOCATION_DEVICE: u32 = 1;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolCreate(to: *mut Handle, props: *const PoolProps) -> CUresult {
    entry("cuMemPoolCreate", || {
        let (driver, _) = alive()?;
        given(to)?;
        given(props)?;
        // SAFETY: not null, so valid by the entry point's contract.
        let props = unsafe { props.read_unaligned() };
        if props.alloc_type != PINNED || props.location_type != LOCATION_DEVICE || props.location_id != DEVICE {
            return Err(Status::INVALID_VALUE);
        }
        if props.handle_types != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        let mut state = driver.state();
        let handle = state.handle();
        state.pools.insert(handle, Pool { max: props.max_size as u64, ..Pool::default() });
        unsafe { put(to, handle) }
    })
}

/// Allocations from the pool stay valid; the device falls back to its default pool.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolDestroy(pool: Handle) -> CUresult {
    entry("cuMemPoolDestroy", || {
        let (driver, _) = alive()?;
        let mut state = driver.state();
        if pool == state.device_pools.default || state.pools.remove(&pool).is_none() {
            return Err(Status::INVALID_VALUE);
        }
        if state.device_pools.current == pool {
            state.device_pools.current = state.device_pools.default;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(pool: Handle, _keep: usize) -> CUresult {
    entry("cuMemPoolTrimTo", || with_pool(pool, |_| Ok(())))
}

fn with_pool(pool: Handle, body: impl FnOnce(&mut Pool) -> Answer) -> Answer {
    let (driver, _) = alive()?;
    let mut state = driver.state();
    body(state.pools.get_mut(&pool).ok_or(Status::INVALID_VALUE)?)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAttribute(pool: Handle, attribute: u32, value: *mut u8) -> CUresult {
    entry("cuMemPoolGetAttribute", || {
        with_pool(pool, |pool| unsafe {
            let number = match attribute {
                1..=3 => return put(value.cast(), pool.reuse[attribute as usize - 1]),
                4 => pool.release_threshold,
                // Nothing is held back: what is reserved is what is used.
                5 | 7 => pool.used,
                6 | 8 => pool.used_high,
                _ => return Err(Status::INVALID_VALUE),
            };
            put(value.cast(), number)
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAttribute(pool: Handle, attribute: u32, value: *const u8) -> CUresult {
    entry("cuMemPoolSetAttribute", || {
        given(value)?;
        // SAFETY: not null, so valid by the entry point's contract: an int for the first three, else 64 bits.
        with_pool(pool, |pool| unsafe {
            match attribute {
                1..=3 => pool.reuse[attribute as usize - 1] = value.cast::<i32>().read_unaligned(),
                4 => pool.release_threshold = value.cast::<u64>().read_unaligned(),
                6 | 8 if value.cast::<u64>().read_unaligned() == 0 => pool.used_high = pool.used,
                _ => return Err(Status::INVALID_VALUE),
            }
            Ok(())
        })
    })
}

/// CUmemAccessDesc: what a device may do with a pool's memory.
#[repr(C)]
pub struct Access {
    location_type: u32,
    location_id: i32,
    flags: u32,
}

const READ_WRITE: u32 = 3;

/// The one device has all access already, and cannot lose it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAccess(pool: Handle, accesses: *const Access, count: usize) -> CUresult {
    entry("cuMemPoolSetAccess", || {
        given(accesses)?;
        for index in 0..count {
            // SAFETY: the caller's array has `count` entries.
            let access = unsafe { accesses.add(index).read_unaligned() };
            if access.location_type != LOCATION_DEVICE || access.location_id != DEVICE || access.flags != READ_WRITE {
                return Err(Status::INVALID_VALUE);
            }
        }
        with_pool(pool, |_| Ok(()))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAccess(flags: *mut u32, pool: Handle, _location: *const u8) -> CUresult {
    entry("cuMemPoolGetAccess", || with_pool(pool, |_| unsafe { put(flags, READ_WRITE) }))
}

/// No bytes are the null address, which can be freed: cudarc's empty slices rely on it.
unsafe fn alloc_from(driver: &Driver, to: *mut u64, bytes: usize, pool: Handle, stream: Handle) -> Answer {
    let (_, current) = alive()?;
    given(to)?;
    let context = stream::check(&driver.state(), current, stream)?;
    let (max, used) = {
        let state = driver.state();
        let pool = state.pools.get(&pool).ok_or(Status::INVALID_VALUE)?;
        (pool.max, pool.used)
    };
    if bytes == 0 {
        return unsafe { put(to, 0) };
    }
    if max > 0 && used.saturating_add(bytes as u64) > max {
        return Err(Status::OUT_OF_MEMORY);
    }
    unsafe { memory::alloc(to, bytes, context, Some(pool)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(to: *mut u64, bytes: usize, stream: Handle) -> CUresult {
    entry("cuMemAllocAsync", || {
        let (driver, _) = alive()?;
        let pool = driver.state().device_pools.current;
        unsafe { alloc_from(driver, to, bytes, pool, stream) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocFromPoolAsync(to: *mut u64, bytes: usize, pool: Handle, stream: Handle) -> CUresult {
    entry("cuMemAllocFromPoolAsync", || {
        let (driver, _) = alive()?;
        unsafe { alloc_from(driver, to, bytes, pool, stream) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: u64, stream: Handle) -> CUresult {
    entry("cuMemFreeAsync", || {
        stream::valid(stream)?;
        memory::free_in_order("cuMemFreeAsync", address)
    })
}

//! How many blocks fit.

use super::error::Status;
use super::function::{self, Function};
use super::{Answer, CUresult, Driver, Handle, entry, given, put};
use crate::occupancy::{Demand, available_dynamic_shared, best_block, occupancy};

/// A block that the function refuses fits not even once.
fn blocks(driver: &Driver, function: &Function, demand: &Demand) -> u32 {
    let allowed = demand.threads <= function.max_threads() && demand.dynamic_shared <= function.max_dynamic();
    if allowed { occupancy(driver.settings.profile, demand).blocks } else { 0 }
}

fn positive(number: i32) -> Result<u32, Status> {
    u32::try_from(number).ok().filter(|&number| number > 0).ok_or(Status::INVALID_VALUE)
}

fn saturated(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

unsafe fn active_blocks(to: *mut i32, function: Handle, threads: i32, dynamic: usize) -> Answer {
    given(to)?;
    let (driver, function) = function::find(function)?;
    let demand = function.demand(positive(threads)?, saturated(dynamic));
    unsafe { put(to, blocks(driver, &function, &demand) as i32) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    to: *mut i32,
    function: Handle,
    threads: i32,
    dynamic: usize,
) -> CUresult {
    entry("cuOccupancyMaxActiveBlocksPerMultiprocessor", || unsafe { active_blocks(to, function, threads, dynamic) })
}

/// The flag is about a cache that these devices do not have.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    to: *mut i32,
    function: Handle,
    threads: i32,
    dynamic: usize,
    flags: u32,
) -> CUresult {
    entry("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", || {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        unsafe { active_blocks(to, function, threads, dynamic) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    to: *mut usize,
    function: Handle,
    count: i32,
    threads: i32,
) -> CUresult {
    entry("cuOccupancyAvailableDynamicSMemPerBlock", || {
        given(to)?;
        let (driver, function) = function::find(function)?;
        let demand = function.demand(positive(threads)?, 0);
        let count = positive(count)?;
        let bytes = available_dynamic_shared(driver.settings.profile, &demand, count).ok_or(Status::INVALID_VALUE)?;
        unsafe { put(to, bytes.min(function.max_dynamic()) as usize) }
    })
}

/// CUoccupancyB2DSize: bytes of dynamic shared memory for a block of so many threads.
type SharedOf = Option<unsafe extern "C" fn(i32) -> usize>;

unsafe fn potential(
    grid: *mut i32,
    block: *mut i32,
    function: Handle,
    shared_of: SharedOf,
    dynamic: usize,
    limit: i32,
) -> Answer {
    given(grid)?;
    given(block)?;
    let (driver, function) = function::find(function)?;
    let most = function.max_threads();
    let most = if limit > 0 { most.min(limit as u32) } else { most };
    let (blocks, threads) = best_block(driver.settings.profile, most, |threads| {
        // SAFETY: the caller's function takes any block size.
        let dynamic = shared_of.map_or(dynamic, |shared_of| unsafe { shared_of(threads as i32) });
        function.demand(threads, saturated(dynamic))
    });
    unsafe {
        put(grid, blocks as i32)?;
        put(block, threads as i32)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: *mut i32,
    block: *mut i32,
    function: Handle,
    shared_of: SharedOf,
    dynamic: usize,
    limit: i32,
) -> CUresult {
    entry("cuOccupancyMaxPotentialBlockSize", || unsafe { potential(grid, block, function, shared_of, dynamic, limit) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: *mut i32,
    block: *mut i32,
    function: Handle,
    shared_of: SharedOf,
    dynamic: usize,
    limit: i32,
    flags: u32,
) -> CUresult {
    entry("cuOccupancyMaxPotentialBlockSizeWithFlags", || {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        unsafe { potential(grid, block, function, shared_of, dynamic, limit) }
    })
}

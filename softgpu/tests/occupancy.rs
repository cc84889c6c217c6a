//! Blocks on a multiprocessor, against numbers computed by hand from the rules that NVIDIA publishes.

use softgpu::occupancy::{
    Demand, Limit, available_dynamic_shared, best_block, occupancy, registers_fit, threads_by_registers,
};
use softgpu::profile::{Profile, SM_80, SM_89, SM_90};

fn check(profile: &Profile, threads: u32, registers: u32, shared: u32, blocks: u32, limit: Limit) {
    let demand = Demand { threads, registers, static_shared: 0, dynamic_shared: shared };
    let found = occupancy(profile, &demand);
    assert_eq!((found.blocks, found.limit), (blocks, limit), "{} {demand:?}", profile.key);
    assert_eq!(found.warps, blocks * threads.div_ceil(32));
}

#[test]
fn threads_limit() {
    // 64 warps; a block of 8.
    check(&SM_80, 256, 32, 0, 8, Limit::Warps);
    // 48 warps; a block of 32 leaves 16 idle.
    check(&SM_89, 1024, 32, 0, 1, Limit::Warps);
    check(&SM_90, 1000, 32, 0, 2, Limit::Warps);
}

#[test]
fn blocks_limit() {
    check(&SM_80, 32, 16, 0, 32, Limit::Blocks);
    check(&SM_89, 32, 16, 0, 24, Limit::Blocks);
}

#[test]
fn registers_limit() {
    // 64 x 32 = 2048 a warp; 16,384 of a quarter hold 8 warps; 32 warps are 4 blocks of 8.
    check(&SM_80, 256, 64, 0, 4, Limit::Registers);
    // 33 x 32 = 1056 become 1280: 12 warps a quarter, 48 warps, 6 blocks of 8.
    check(&SM_80, 256, 33, 0, 6, Limit::Registers);
    // 255 x 32 = 8160 become 8192: 2 warps a quarter, one block of 8.
    check(&SM_90, 256, 255, 0, 1, Limit::Registers);
    // 168 x 32 = 5376: 3 warps a quarter, one block of 12.
    check(&SM_90, 384, 168, 0, 1, Limit::Registers);
}

#[test]
fn a_block_may_not_get_its_registers() {
    // 200 x 32 = 6400 a warp. 9 warps need 57,600 of 65,536, but are checked as 12: 76,800.
    assert!(!registers_fit(288, 200));
    assert!(registers_fit(256, 200));
    check(&SM_80, 288, 200, 0, 0, Limit::Registers);
    assert_eq!(threads_by_registers(200), 256);
    assert_eq!(threads_by_registers(64), 1024);
    // 65 x 32 = 2080 become 2304: 28 warps.
    assert_eq!(threads_by_registers(65), 896);
}

#[test]
fn shared_memory_limit() {
    // 48 KiB and the driver's 1 KiB: 50,176 bytes, 3 times in 167,936.
    check(&SM_80, 128, 32, 48 << 10, 3, Limit::SharedMemory);
    // 1 byte and 1 KiB become 1152 bytes: 145 times; threads decide.
    check(&SM_80, 64, 32, 1, 32, Limit::Warps);
    check(&SM_80, 128, 32, 163 << 10, 1, Limit::SharedMemory);
    check(&SM_80, 128, 32, (163 << 10) + 1, 0, Limit::SharedMemory);
    check(&SM_89, 128, 32, 99 << 10, 1, Limit::SharedMemory);
    check(&SM_90, 128, 32, 227 << 10, 1, Limit::SharedMemory);
    check(&SM_90, 128, 32, 113 << 10, 2, Limit::SharedMemory);
}

#[test]
fn shared_memory_left_for_more_blocks() {
    let demand = Demand { threads: 256, registers: 64, static_shared: 0, dynamic_shared: 0 };
    // Half of 167,936 is 83,968, of which the driver keeps 1024.
    assert_eq!(available_dynamic_shared(&SM_80, &demand, 2), Some(82_944));
    assert_eq!(available_dynamic_shared(&SM_80, &demand, 1), Some(163 << 10));
    // Four fit by their registers, five do not.
    assert_eq!(available_dynamic_shared(&SM_80, &demand, 4), Some(167_936 / 4 - 1024));
    assert_eq!(available_dynamic_shared(&SM_80, &demand, 5), None);
    let fixed = Demand { static_shared: 1000, ..demand };
    assert_eq!(available_dynamic_shared(&SM_80, &fixed, 2), Some(81_944));
}

#[test]
fn the_best_block() {
    let demand = |registers| move |threads| Demand { threads, registers, static_shared: 0, dynamic_shared: 0 };
    assert_eq!(best_block(&SM_80, 1024, demand(32)), (2 * 108, 1024));
    // 1536 threads are twice 768; 1024 fit only once.
    assert_eq!(best_block(&SM_89, 1024, demand(32)), (2 * 128, 768));
    // A limit that is no multiple of 32 is tried itself: 16 blocks of 4 warps have 1600 threads, 21 of 96 have 2016,
    // 32 of 64 fill all 2048.
    assert_eq!(best_block(&SM_80, 100, demand(32)), (32 * 108, 64));
}

//! A machine for tests: memory, settings, launches.

#![allow(dead_code)] // each test binary uses a part of it

use softgpu::{Fault, Launch, Memory, Module, PtxError, Settings};

pub fn settings(target: u32, seed: u64, limit: u64) -> Settings {
    let profile = if target >= 90 { &softgpu::profile::SM_90 } else { &softgpu::profile::SM_80 };
    Settings { profile, checks: true, seed, threads: 1, limit, memory: 64 << 20, report: None, table: false }
}

pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
}

impl Shape {
    /// One block.
    pub fn line(threads: u32) -> Self {
        Self { grid: [1, 1, 1], block: [threads, 1, 1], dynamic_shared: 0 }
    }
}

pub struct Machine {
    pub memory: Memory,
    pub settings: Settings,
}

impl Machine {
    pub fn new(settings: Settings) -> Self {
        Self { memory: Memory::new(settings.memory), settings }
    }

    pub fn buffer(&self, bytes: &[u8]) -> u64 {
        let address = self.memory.alloc(bytes.len().max(8)).expect("memory");
        self.memory.write(address, bytes).expect("written");
        address
    }

    pub fn bytes(&self, address: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory.read(address, &mut bytes).expect("read");
        bytes
    }

    pub fn load(&self, ptx: &str) -> Result<Module, PtxError> {
        Module::load(ptx, &self.memory, &self.settings)
    }

    /// Launches the kernel of this name with a parameter block.
    pub fn launch(&self, module: &Module, name: &str, shape: &Shape, params: &[u8]) -> Option<Fault> {
        let kernel = module.kernel(name).expect("a kernel of this name");
        let Shape { grid, block, dynamic_shared } = *shape;
        let launch = Launch { grid, block, dynamic_shared, params: params.to_vec() };
        softgpu::launch(kernel, &launch, &self.memory, &self.settings).fault
    }
}

/// A parameter block of 8-byte values.
pub fn params(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A small generator (splitmix64): the same values in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn of<'a, T>(&mut self, pool: &'a [T]) -> &'a T {
        &pool[self.below(pool.len())]
    }
}

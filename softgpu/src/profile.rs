//! The GPUs that this driver can claim to be.

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// Limits and attributes of one GPU.
#[derive(Debug, PartialEq)]
pub struct Profile {
    /// What SOFTGPU_PROFILE calls it.
    pub key: &'static str,
    /// The device's name: contains `softgpu`, by which programs and tests tell it from a GPU.
    pub name: &'static str,
    pub major: u32,
    pub minor: u32,
    pub multiprocessors: u32,
    /// Bytes of shared memory: of a block by default, of a block at most (opt-in), of a multiprocessor.
    pub shared_default: u32,
    pub shared_opt_in: u32,
    pub shared_per_multiprocessor: u32,
    pub threads_per_multiprocessor: u32,
    pub blocks_per_multiprocessor: u32,
    pub registers_per_multiprocessor: u32,
    pub clock_khz: u32,
    pub memory_clock_khz: u32,
    pub memory_bus_bits: u32,
    pub l2_bytes: u32,
    /// FP32 rate over FP64 rate.
    pub double_ratio: u32,
}

/// A block's limits, equal on all three.
pub const MAX_THREADS: u32 = 1024;
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
pub const MAX_GRID: [u32; 3] = [0x7fff_ffff, 65_535, 65_535];
pub const REGISTERS_PER_BLOCK: u32 = 65_536;
pub const REGISTERS_PER_THREAD: u32 = 255;
/// Shared memory that the driver keeps of every block since sm_80.
pub const SHARED_RESERVED: u32 = KIB;

/// Limits: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; sizes and clocks: the white
/// papers of the A100 (80 GB SXM), of Ada (RTX 4090) and of the H100 (SXM5).
pub static SM_80: Profile = Profile {
    key: "sm_80",
    name: "softgpu sm_80 (A100 limits)",
    major: 8,
    minor: 0,
    multiprocessors: 108,
    shared_default: 48 * KIB,
    shared_opt_in: 163 * KIB,
    shared_per_multiprocessor: 164 * KIB,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    registers_per_multiprocessor: 65_536,
    clock_khz: 1_410_000,
    memory_clock_khz: 1_593_000,
    memory_bus_bits: 5120,
    l2_bytes: 40 * MIB,
    double_ratio: 2,
};

pub static SM_89: Profile = Profile {
    key: "sm_89",
    name: "softgpu sm_89 (RTX 4090 limits)",
    major: 8,
    minor: 9,
    multiprocessors: 128,
    shared_default: 48 * KIB,
    shared_opt_in: 99 * KIB,
    shared_per_multiprocessor: 100 * KIB,
    threads_per_multiprocessor: 1536,
    blocks_per_multiprocessor: 24,
    registers_per_multiprocessor: 65_536,
    clock_khz: 2_520_000,
    memory_clock_khz: 10_501_000,
    memory_bus_bits: 384,
    l2_bytes: 72 * MIB,
    double_ratio: 64,
};

pub static SM_90: Profile = Profile {
    key: "sm_90",
    name: "softgpu sm_90 (H100 limits)",
    major: 9,
    minor: 0,
    multiprocessors: 132,
    shared_default: 48 * KIB,
    shared_opt_in: 227 * KIB,
    shared_per_multiprocessor: 228 * KIB,
    threads_per_multiprocessor: 2048,
    blocks_per_multiprocessor: 32,
    registers_per_multiprocessor: 65_536,
    clock_khz: 1_980_000,
    memory_clock_khz: 2_619_000,
    memory_bus_bits: 5120,
    l2_bytes: 50 * MIB,
    double_ratio: 2,
};

pub static PROFILES: [&Profile; 3] = [&SM_80, &SM_89, &SM_90];

impl Profile {
    pub fn named(key: &str) -> Option<&'static Profile> {
        PROFILES.into_iter().find(|profile| profile.key == key)
    }

    /// 80 for compute capability 8.0.
    pub fn arch(&self) -> u32 {
        10 * self.major + self.minor
    }

    /// The value of a CUdevice_attribute; None for a number that CUDA 13.0 does not know.
    ///
    /// Limits are those of the GPU that the profile names. Abilities are this driver's own: what it would refuse
    /// (cooperative and cluster launches, managed and mapped memory, textures, tensor maps, virtual memory, sharing
    /// between processes) or does not do (overlap of copies and kernels) answers 0, so that programs that ask first
    /// take another way.
    pub fn attribute(&self, attribute: u32) -> Option<i32> {
        let value = match attribute {
            1 => MAX_THREADS,
            2..=4 => MAX_BLOCK[attribute as usize - 2],
            5..=7 => MAX_GRID[attribute as usize - 5],
            8 => self.shared_default,
            9 => 64 * KIB, // constant memory
            10 => 32,      // warp
            11 => 0x7fff_ffff,
            12 => REGISTERS_PER_BLOCK,
            13 => self.clock_khz,
            14 => 512, // alignment of textures and, at 30, of surfaces; at 51 of a texture's rows
            16 => self.multiprocessors,
            30 => 512,
            36 => self.memory_clock_khz,
            37 => self.memory_bus_bits,
            38 => self.l2_bytes,
            39 => self.threads_per_multiprocessor,
            41 => 1, // unified addresses: cuMemcpy and cuPointerGetAttribute tell host from device
            51 => 32,
            75 => self.major,
            76 => self.minor,
            78..=80 => 1, // stream priorities (accepted, without effect), global and local memory cached in L1
            81 => self.shared_per_multiprocessor,
            82 => self.registers_per_multiprocessor,
            87 => self.double_ratio,
            97 => self.shared_opt_in,
            99 => 1, // host memory can be registered
            106 => self.blocks_per_multiprocessor,
            111 => SHARED_RESERVED,
            115 => 1,                     // memory pools
            126 => 1,                     // memory synchronisation domains
            131 | 134 => return Some(-1), // no NUMA node
            15 | 17..=29 | 31..=147 => 0, // known, and not there
            _ => return None,
        };
        Some(value as i32)
    }
}

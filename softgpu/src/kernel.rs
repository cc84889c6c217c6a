//! Modules, kernels and their launch.

use crate::{Counters, Fault, Memory, Settings};

/// Why PTX text was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtxError {
    /// From 1.
    pub line: u32,
    pub what: String,
}

impl std::fmt::Display for PtxError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.what)
    }
}

/// One kernel parameter in the parameter block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    pub offset: u32,
    pub size: u32,
}

pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    /// Bytes.
    pub static_shared: u32,
    /// Stack and spills, bytes a thread.
    pub local: u32,
    /// .maxntid's product, or 1024.
    pub max_threads: u32,
    /// A rough upper estimate from the PTX: most 32-bit registers alive at once.
    pub live_registers: u32,
}

pub struct Module {
    pub kernels: Vec<std::sync::Arc<Kernel>>,
    /// Module-scope .global and .const variables: name, device address, bytes.
    pub globals: Vec<(String, u64, usize)>,
}

impl Module {
    /// Parses and decodes PTX text, and places its global variables in `memory`.
    pub fn load(_ptx: &str, _memory: &Memory, _settings: &Settings) -> Result<Module, PtxError> {
        todo!()
    }

    pub fn kernel(&self, name: &str) -> Option<&std::sync::Arc<Kernel>> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}

pub struct Launch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    /// The parameter block, laid out by `Kernel::params`.
    pub params: Vec<u8>,
}

pub struct Outcome {
    pub counters: Counters,
    pub fault: Option<Fault>,
}

/// Runs every block of the launch, or up to the first fault. The device's limits are the caller's to check.
pub fn launch(_kernel: &Kernel, _launch: &Launch, _memory: &Memory, _settings: &Settings) -> Outcome {
    todo!()
}

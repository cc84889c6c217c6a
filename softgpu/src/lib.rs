//! A CUDA driver in software: executes the PTX that nvcc emits, on the CPU, with checks that no GPU makes.

pub mod counters;
pub mod driver;
pub mod elf;
pub mod fault;
pub mod image;
pub mod kernel;
pub mod memory;
pub mod model;
pub mod occupancy;
pub mod profile;
pub mod report;
pub mod settings;

pub use counters::Counters;
pub use fault::{Fault, FaultKind};
pub use kernel::{Kernel, Launch, Module, Outcome, PtxError, launch};
pub use memory::Memory;
pub use profile::Profile;
pub use settings::Settings;

//! A CUDA driver in software: executes the PTX that nvcc emits, on the CPU, with checks that no GPU makes.

// A lane is an index into several arrays at once.
#![allow(clippy::needless_range_loop)]

mod compile;
pub mod counters;
pub mod driver;
pub mod elf;
pub mod fault;
pub mod image;
pub mod kernel;
mod machine;
pub mod memory;
pub mod model;
pub mod occupancy;
pub mod profile;
mod ptx;
pub mod report;
pub mod settings;

pub use counters::Counters;
pub use fault::{Fault, FaultKind};
pub use kernel::{Kernel, Launch, Module, Outcome, PtxError, launch};
pub use memory::Memory;
pub use profile::Profile;
pub use settings::Settings;

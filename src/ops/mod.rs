//! The ops, one room each: `mod.rs` says what the op is and records its backward pass, `cpu.rs` does
//! it on the CPU, `cuda.rs` will on a GPU.

pub mod add;
pub mod linear;

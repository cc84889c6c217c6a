//! The ops, one room each: `mod.rs` says what the op is and records its backward pass, `cpu.rs` does
//! it on the CPU, `cuda.rs` launches its kernels on a GPU.

pub mod add;
pub mod attention;
pub mod attention_rows;
pub mod axial;
pub mod bilinear;
pub mod context_pool;
pub mod dropout;
pub mod embedding;
pub mod entity_pool;
pub mod evidence;
pub mod gather;
pub mod gelu;
pub mod layernorm;
pub mod linear;
pub mod loss;
pub mod optim;
pub mod pair_combine;

//! The five checks of every op (`support` says what they are), one file an op.

mod add;
mod attention;
mod attention_rows;
mod axial;
mod bilinear;
mod context_pool;
mod dropout;
mod embedding;
mod entity_pool;
mod evidence;
mod gather;
mod gelu;
mod gpu;
mod layernorm;
mod linear;
mod loss;
mod mutants;
mod optim;
mod pair_combine;
mod support;

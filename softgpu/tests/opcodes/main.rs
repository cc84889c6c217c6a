//! Every opcode that nvcc emits for kernels like ours, one test each, from the definitions in the PTX ISA manual.
//!
//! Each file has a function `forms`: a table of opcode texts and models. `coverage` finds those that real PTX uses
//! and no table has.

mod atomic;
#[path = "../common/machine.rs"]
mod common;
mod compare;
mod control;
mod convert;
mod copy;
mod coverage;
mod exact;
mod float;
mod half;
mod harness;
mod integer;
mod logic;
mod memory;
mod mma;
mod numbers;
#[path = "../common/nvcc.rs"]
mod nvcc;
mod warp;

use harness::Form;

/// Every form that has a test.
fn all() -> Vec<Form> {
    let tables = [
        integer::forms,
        logic::forms,
        float::forms,
        half::forms,
        convert::forms,
        compare::forms,
        memory::forms,
        warp::forms,
        atomic::forms,
        mma::forms,
        copy::forms,
        control::forms,
    ];
    tables.iter().flat_map(|table| table()).collect()
}

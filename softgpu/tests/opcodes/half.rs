//! Half precision, f16 and bf16, alone and packed in pairs.

use crate::float::{Bound, approximation, arithmetic, arithmetic_on, extreme};
use crate::harness::{Form, check};

#[test]
fn follows_the_manual() {
    check(forms());
}

pub fn forms() -> Vec<Form> {
    let plain = PLAIN.iter().flat_map(|names| names.split_whitespace()).map(arithmetic);
    let hopper = HOPPER.split_whitespace().map(|opcode| arithmetic_on(90, opcode));
    let extremes = EXTREMES.split_whitespace().map(extreme);
    plain.chain(hopper).chain(extremes).chain(approximate()).collect()
}

const PLAIN: [&str; 5] = [
    "add.f16 add.rn.f16 add.ftz.f16 add.sat.f16 add.rn.sat.f16 add.f16x2 add.rn.f16x2 add.ftz.f16x2 add.sat.f16x2",
    "sub.f16 sub.rn.f16 sub.ftz.f16 sub.sat.f16 sub.f16x2 sub.rn.f16x2 sub.sat.f16x2",
    "mul.f16 mul.rn.f16 mul.ftz.f16 mul.sat.f16 mul.f16x2 mul.rn.f16x2 mul.sat.f16x2",
    "fma.rn.f16 fma.rn.ftz.f16 fma.rn.sat.f16 fma.rn.relu.f16 fma.rn.f16x2 fma.rn.sat.f16x2 fma.rn.relu.f16x2 \
     fma.rn.bf16 fma.rn.relu.bf16 fma.rn.bf16x2 fma.rn.relu.bf16x2",
    "neg.f16 neg.f16x2 neg.bf16 neg.bf16x2 abs.f16 abs.f16x2 abs.bf16 abs.bf16x2 neg.ftz.f16 abs.ftz.f16",
];

/// bf16 sums and products that need sm_90; before it nvcc writes an fma.
const HOPPER: &str = "add.bf16 add.rn.bf16 add.bf16x2 add.rn.bf16x2 sub.bf16 sub.rn.bf16 sub.bf16x2 sub.rn.bf16x2 \
    mul.bf16 mul.rn.bf16 mul.bf16x2 mul.rn.bf16x2";

const EXTREMES: &str = "min.f16 min.f16x2 min.NaN.f16 min.NaN.f16x2 min.ftz.f16 min.bf16 min.bf16x2 min.NaN.bf16 \
    min.NaN.bf16x2 max.f16 max.f16x2 max.NaN.f16 max.NaN.f16x2 max.ftz.f16 max.bf16 max.bf16x2 max.NaN.bf16 \
    max.NaN.bf16x2";

fn approximate() -> Vec<Form> {
    let one = |opcode: &str| approximate_one(opcode);
    "tanh.approx.f16 tanh.approx.f16x2 tanh.approx.bf16 tanh.approx.bf16x2 ex2.approx.f16 ex2.approx.f16x2 \
     ex2.approx.ftz.bf16 ex2.approx.ftz.bf16x2"
        .split_whitespace()
        .map(one)
        .collect()
}

fn approximate_one(opcode: &str) -> Form {
    let brain = opcode.contains("bf16");
    let target = if brain { 90 } else { 80 };
    match (opcode.starts_with("tanh"), brain) {
        (true, false) => approximation(opcode, target, f64::tanh, Bound::Absolute(-10.987)),
        (true, true) => approximation(opcode, target, f64::tanh, Bound::Absolute(-8.0)),
        (false, false) => approximation(opcode, target, f64::exp2, Bound::Relative(-9.9)),
        (false, true) => approximation(opcode, target, f64::exp2, Bound::Relative(-7.0)),
    }
}

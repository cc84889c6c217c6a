//! The checks of an op in bf16: on a GPU, real or in software, if `DOCRE_TEST_DEVICE=softgpu` or `cuda` asks for it,
//! else on the CPU.
//!
//! Activations and parameters are rounded to bf16 first. The reference is the op in f64 on the CPU; the plain
//! low-precision program is the op in f32 on the CPU with its results rounded to bf16, or code of the test's own
//! where eager bf16 would round inside the op too. The device's largest error of each tensor may be twice the plain
//! program's. Parameter gradients start at 1 and are added to. Bits are equal under another order of warps (or on
//! another number of threads), and in inference. Every comparison is written so that a NaN fails it.

#[path = "../common/gpu.rs"]
mod device;

pub use device::{counted, gate, gate_but_stores, gpu, reorder};

use device::cpu_in_bf16;

use crate::support::*;
use docre::device::Device;
use docre::dtype::DType;
use half::bf16;

pub fn round(values: &[f64]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(bf16::from_f32(x as f32))).collect()
}

/// The operand is f32 on a GPU.
pub fn wide(input: Input) -> Input {
    Input { wide: true, ..input }
}

/// Against the f32 op with its results rounded.
#[track_caller]
pub fn on_gpu(inputs: &[Input], op: Op) {
    let inputs = rounded(inputs);
    let twin = Device::cpu(1).unwrap();
    cpu(&twin).round();
    let dy = |n: usize| round(&output_gradient(n));
    check_in_bf16(&inputs, op, run_from(&twin, DType::F32, &inputs, op, 0.0, &dy));
}

/// Naive code with the roundings of eager bf16: (inputs, gradient of the output) -> value and gradients.
pub type PlainBf16<'a> = &'a dyn Fn(&[Vec<f64>], &[f64]) -> Outcome;

/// Against `plain`.
#[track_caller]
pub fn on_gpu_against(inputs: &[Input], op: Op, plain: PlainBf16) {
    let inputs = rounded(inputs);
    let n = value(&Device::cpu(1).unwrap(), DType::F64, &inputs, op).len();
    let values: Vec<Vec<f64>> = inputs.iter().map(|i| i.values.clone()).collect();
    check_in_bf16(&inputs, op, plain(&values, &round(&output_gradient(n))));
}

/// A size that no kernel takes is refused by name.
#[track_caller]
pub fn refused_on_gpu(inputs: &[Input], op: Op, words: &str) {
    let Some((device, _turn)) = gpu() else { return };
    let error = refusal(&device, &rounded(inputs), op);
    assert!(error.code() == "E-KERNEL" && error.to_string().contains(words), "{error}");
}

fn rounded(inputs: &[Input]) -> Vec<Input> {
    let round = |i: &Input| if i.wide { i.clone() } else { Input { values: round(&i.values), ..i.clone() } };
    inputs.iter().map(round).collect()
}

#[track_caller]
fn check_in_bf16(inputs: &[Input], op: Op, plain: Outcome) {
    if let (Some(device), Some(other)) = (cpu_in_bf16(2), cpu_in_bf16(1)) {
        [&device, &other].iter().for_each(|device| cpu(device).poison());
        return check_on([&device, &other], inputs, op, plain);
    }
    if let Some((device, _turn)) = gpu() {
        check_on([&device, &device], inputs, op, plain);
    }
}

/// Runs twice.
#[track_caller]
fn check_on([device, other]: [&Device; 2], inputs: &[Input], op: Op, plain: Outcome) {
    let dy = |n: usize| round(&output_gradient(n));
    let exact = run_from(&Device::cpu(2).unwrap(), DType::F64, inputs, op, 0.0, &dy);
    reorder(0);
    let first = run_from(device, DType::BF16, inputs, op, 1.0, &dy);
    within("value", &first.value, &plain.value, &exact.value);
    for (i, input) in inputs.iter().enumerate() {
        within(&format!("d{}", input.name), &first.grads[i], &plain.grads[i], &exact.grads[i]);
    }
    reorder(1);
    let again = run_from(other, DType::BF16, inputs, op, 1.0, &dy);
    assert_same_bits("value under another order", &again.value, &first.value);
    for ((input, a), b) in inputs.iter().zip(&again.grads).zip(&first.grads) {
        assert_same_bits(&format!("d{} under another order", input.name), a, b);
    }
    assert_same_bits("value in inference", &value(device, DType::BF16, inputs, op), &first.value);
}

/// The rule: twice the plain program's largest error. Below it a floor for what the plain program happens to do
/// exactly: 64 units of f32 of the largest value (sums of some hundred terms and ex2.approx; as for the gradients of
/// f32 on the CPU), and one such unit of the gradients' start at 1, to which they are added.
#[track_caller]
pub fn within(what: &str, gpu: &[f64], plain: &[f64], exact: &[f64]) {
    let unit = 0.5f64.powi(24);
    let (error, of_plain) = (worst(gpu, exact), worst(plain, exact));
    let bound = 2.0 * of_plain + unit * (64.0 * largest(exact) + 2.0);
    assert!(error <= bound, "{what}: error {error:e} is above {bound:e} (plain: {of_plain:e})");
}

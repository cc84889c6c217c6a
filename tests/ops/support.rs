//! The checks that every op passes. An op's test gives its inputs, the op, and a naive loop.
//!
//! 1. value: f64 against the naive loop in f64, 1e-12;
//! 2. gradient: f64 against central differences, 1e-6, and parameters accumulate;
//! 3. f32: at most twice the error of the naive loop in f32, plus a floor; gradients against f64;
//! 4. safety: fresh memory is NaN, and bits are equal over runs, for 1 and 2 threads, and in inference.
//!
//! Every comparison is written so that a NaN fails it.

pub use crate::gpu::{
    counted, gate, gate_but_stores, gpu, on_gpu, on_gpu_against, refused_on_gpu, round, wide, within,
};
use docre::device::Device;
use docre::dtype::{DType, Real};
use docre::error::Result;
use docre::rng::{Dropout, Stream, philox};
use docre::tape::{Grads, Tape};
use docre::tensor::Tensor;

/// Arithmetic with the standard library's functions, for the naive loops.
pub trait Plain: Real {
    fn std_exp(self) -> Self;
    fn std_ln(self) -> Self;
    fn std_tanh(self) -> Self;
    fn std_erf(self) -> Self {
        Self::of(docre::device::cpu::math::erf_f64(self.f64()))
    }
}

macro_rules! plain {
    ($t:ty) => {
        impl Plain for $t {
            fn std_exp(self) -> $t {
                <$t>::exp(self)
            }
            fn std_ln(self) -> $t {
                <$t>::ln(self)
            }
            fn std_tanh(self) -> $t {
                <$t>::tanh(self)
            }
        }
    };
}
plain!(f32);
plain!(f64);

/// An operand of the op under test.
#[derive(Clone, Debug)]
pub struct Input {
    pub name: &'static str,
    pub shape: Vec<usize>,
    /// Exact in f32, so that both types start from the same numbers.
    pub values: Vec<f64>,
    /// Its gradient is accumulated into the flat array.
    pub parameter: bool,
    /// On a GPU it is f32, not bf16.
    pub wide: bool,
}

/// `n` values of about unit variance, exact in f32.
pub fn random(seed: u64, n: usize) -> Vec<f64> {
    let mut stream = Stream::new(seed, 17);
    let mut one = || f64::from((stream.uniform() + stream.uniform() + stream.uniform() - 1.5) as f32 * 2.0);
    (0..n).map(|_| one()).collect()
}

pub fn activation(name: &'static str, shape: &[usize]) -> Input {
    let seed = name.bytes().fold(shape.len() as u64, |s, b| s * 31 + u64::from(b));
    Input { name, shape: shape.to_vec(), values: random(seed, shape.iter().product()), parameter: false, wide: false }
}

pub fn parameter(name: &'static str, shape: &[usize]) -> Input {
    Input { parameter: true, ..activation(name, shape) }
}

pub fn dropout_of(p: f64) -> Dropout {
    Dropout { p, seed: 0x1234_5678_9abc, op: 5, step: 9 }
}

/// The factor of one element, from the definition in spec §6.
pub fn mask(drop: Dropout, element: usize) -> f64 {
    let group = element as u64 / 4;
    let words = philox(drop.seed, [group as u32, (group >> 32) as u32, drop.op, drop.step]);
    let keep = f64::from(words[element % 4]) >= drop.p * 4_294_967_296.0;
    if keep { 1.0 / (1.0 - drop.p) } else { 0.0 }
}

pub type Op<'a> = &'a dyn Fn(&mut Tape, &[Tensor]) -> Result<Tensor>;

/// What an op gave: its output and the gradient of every input, for a fixed gradient of the output.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub value: Vec<f64>,
    pub grads: Vec<Vec<f64>>,
}

pub fn tensor(device: &Device, dtype: DType, shape: &[usize], values: &[f64]) -> Tensor {
    match dtype {
        DType::BF16 => Tensor::from_rounded(device, "test", shape, values).unwrap(),
        DType::F32 => Tensor::from_vec(device, "test", shape, values.iter().map(|&x| x as f32).collect()).unwrap(),
        DType::F64 => Tensor::from_vec(device, "test", shape, values.to_vec()).unwrap(),
    }
}

/// The inputs as tensors; parameters are views of one flat array, as in a model.
fn operands(device: &Device, dtype: DType, inputs: &[Input]) -> (Vec<Tensor>, usize) {
    let flat: Vec<f64> = inputs.iter().filter(|i| i.parameter).flat_map(|i| i.values.clone()).collect();
    let all = tensor(device, dtype, &[flat.len()], &flat);
    let mut at = 0;
    let operand = |i: &Input| match i.parameter {
        false => tensor(device, if i.wide { dtype.wide() } else { dtype }, &i.shape, &i.values),
        true => {
            at += i.values.len();
            all.view(at - i.values.len(), &i.shape).unwrap()
        }
    };
    (inputs.iter().map(operand).collect(), flat.len())
}

/// The gradient that the output receives. An output of one element is a loss: 1.
pub fn output_gradient(n: usize) -> Vec<f64> {
    if n == 1 { vec![1.0] } else { random(99, n) }
}

/// Forward and backward. Parameter gradients start at `before` and must be added to.
pub fn run(device: &Device, dtype: DType, inputs: &[Input], op: Op, before: f64) -> Outcome {
    run_from(device, dtype, inputs, op, before, &output_gradient)
}

/// As [`run`], for the gradient `dy(elements)` of the output.
pub fn run_from(
    device: &Device,
    dtype: DType,
    inputs: &[Input],
    op: Op,
    before: f64,
    dy: &dyn Fn(usize) -> Vec<f64>,
) -> Outcome {
    let (operands, count) = operands(device, dtype, inputs);
    let mut grads = Grads::new(device, dtype.wide(), count).unwrap();
    grads.flat_mut().fill(before).unwrap();
    let mut tape = Tape::training(7, 3);
    let y = op(&mut tape, &operands).unwrap();
    let dy = tensor(device, if y.dtype() == dtype { dtype } else { gradient_of(&y, dtype) }, y.shape(), &dy(y.len()));
    grads.put(&y, dy).unwrap();
    tape.backward(&mut grads).unwrap();
    let flat: Vec<f64> = grads.flat().to_f64().unwrap().iter().map(|g| g - before).collect();
    let gradient = |(input, x): (&Input, &Tensor)| match input.parameter {
        true => flat[x.offset()..x.offset() + x.len()].to_vec(),
        false => grads.take(x).map_or(vec![0.0; x.len()], |g| g.to_f64().unwrap()),
    };
    let grads = inputs.iter().zip(&operands).map(gradient).collect();
    Outcome { value: y.to_f64().unwrap(), grads }
}

/// The type of the gradient that an output receives: that of the loss where the output is wider than its inputs.
fn gradient_of(y: &Tensor, dtype: DType) -> DType {
    if dtype == DType::BF16 && y.shape().len() < 2 { y.dtype() } else { dtype }
}

/// The error of an op that refuses its operands, forward or backward.
pub fn refusal(device: &Device, inputs: &[Input], op: Op) -> docre::Error {
    let (operands, count) = operands(device, DType::BF16, inputs);
    let mut tape = Tape::training(7, 3);
    let attempt = op(&mut tape, &operands).and_then(|y| {
        let mut grads = Grads::new(device, DType::F32, count)?;
        grads.put(&y, tensor(device, DType::BF16, y.shape(), &output_gradient(y.len())))?;
        tape.backward(&mut grads)
    });
    attempt.expect_err("refused")
}

/// The output without a tape, in f64 or f32.
pub fn value(device: &Device, dtype: DType, inputs: &[Input], op: Op) -> Vec<f64> {
    let (operands, _) = operands(device, dtype, inputs);
    op(&mut Tape::inference(), &operands).unwrap().to_f64().unwrap()
}

/// A device whose fresh memory is NaN.
pub fn poisoned(threads: usize) -> Device {
    let device = Device::cpu(threads).unwrap();
    cpu(&device).poison();
    device
}

pub fn cpu(device: &Device) -> &docre::device::cpu::Cpu {
    match device {
        Device::Cpu(cpu) => cpu,
        Device::Cuda(_) => panic!("a CPU"),
    }
}

/// `|a - b| <= tolerance max(1, |b|)` for each element.
#[track_caller]
pub fn assert_close(what: &str, a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}[{i}]: {a} is not {b} to {tolerance}");
    }
}

#[track_caller]
pub fn assert_same_bits(what: &str, a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(!a.is_nan() && a.to_bits() == b.to_bits(), "{what}[{i}]: {a} and {b} differ in bits, or are NaN");
    }
}

/// Largest absolute error; a NaN counts as infinite.
pub fn worst(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, e| {
        if e <= m {
            m
        } else if e.is_nan() {
            f64::INFINITY
        } else {
            e
        }
    })
}

pub fn largest(a: &[f64]) -> f64 {
    a.iter().fold(0.0, |m, x| if x.abs() > m { x.abs() } else { m })
}

/// All checks; see the module.
#[track_caller]
pub fn check(
    inputs: &[Input],
    op: Op,
    plain64: &dyn Fn(&[Vec<f64>]) -> Vec<f64>,
    plain32: &dyn Fn(&[Vec<f32>]) -> Vec<f32>,
) {
    let device = poisoned(2);
    let exact: Vec<Vec<f64>> = inputs.iter().map(|i| i.values.clone()).collect();
    let reference = plain64(&exact);
    let wide = run(&device, DType::F64, inputs, op, 1.0);
    assert_close("value", &wide.value, &reference, 1e-12);
    check_gradients(&device, inputs, op, &wide.grads);
    let rounded: Vec<Vec<f32>> = exact.iter().map(|v| v.iter().map(|&x| x as f32).collect()).collect();
    let naive: Vec<f64> = plain32(&rounded).into_iter().map(f64::from).collect();
    let narrow = run(&device, DType::F32, inputs, op, 0.0);
    check_narrow(inputs, &narrow, &wide.grads, &reference, &naive);
    check_safety(inputs, op, &narrow);
}

/// The f32 rules. Floors, where naive f32 happens to be exact (copies, short sums): the fast functions
/// are good to 4e-7 = 6.7 units of 2^-24 of their largest value (`device::cpu::math`), so 7 such units.
/// Gradients have no naive f32 twin; sums of some hundred terms, each rounded a few times, stay
/// within 64 units of the largest, or 7 of the output's gradient, where all of them nearly cancel.
#[track_caller]
fn check_narrow(inputs: &[Input], narrow: &Outcome, wide: &[Vec<f64>], reference: &[f64], naive: &[f64]) {
    let unit = 0.5f64.powi(24);
    let (error, plain) = (worst(&narrow.value, reference), worst(naive, reference));
    let bound = 2.0 * plain + 7.0 * unit * largest(reference);
    assert!(error <= bound, "f32: error {error:e} is above {bound:e} (naive f32: {plain:e})");
    for ((input, narrow), wide) in inputs.iter().zip(&narrow.grads).zip(wide) {
        let (error, bound) = (worst(narrow, wide), unit * (64.0 * largest(wide)).max(7.0));
        assert!(error <= bound, "f32 gradient of {}: error {error:e} is above {bound:e}", input.name);
    }
}

/// Central differences of fourth order: error `h^4 f^(5) / 30`, about 1e-16, and rounding of 1e-12 of the loss.
#[track_caller]
pub fn check_gradients(device: &Device, inputs: &[Input], op: Op, grads: &[Vec<f64>]) {
    let h = 1e-4;
    for (i, input) in inputs.iter().enumerate() {
        for at in sample(input.values.len()) {
            let loss = |step: f64| {
                let mut moved = inputs.to_vec();
                moved[i].values[at] += step;
                let y = value(device, DType::F64, &moved, op);
                output_gradient(y.len()).iter().zip(&y).map(|(w, y)| w * y).sum::<f64>()
            };
            let want = (8.0 * (loss(h) - loss(-h)) - (loss(2.0 * h) - loss(-2.0 * h))) / (12.0 * h);
            let got = grads[i][at];
            let error = (got - want).abs();
            assert!(error <= 1e-6 * want.abs().max(1.0), "d{}[{at}]: {got}, by differences {want}", input.name);
        }
    }
}

/// At most 16 coordinates of `n`, the first and the last among them.
fn sample(n: usize) -> Vec<usize> {
    let mut some: Vec<usize> = (0..n.min(16)).map(|i| if n <= 16 { i } else { i * (n - 1) / 15 }).collect();
    some.dedup();
    some
}

/// Bits over runs, numbers of threads, and inference.
#[track_caller]
fn check_safety(inputs: &[Input], op: Op, first: &Outcome) {
    for threads in [1, 2] {
        let device = poisoned(threads);
        let again = run(&device, DType::F32, inputs, op, 0.0);
        assert_same_bits("value", &again.value, &first.value);
        for ((input, a), b) in inputs.iter().zip(&again.grads).zip(&first.grads) {
            assert_same_bits(&format!("d{} on {threads} threads", input.name), a, b);
        }
        assert_same_bits("value in inference", &value(&device, DType::F32, inputs, op), &first.value);
    }
}

/// A row's bits do not depend on the rows that share the call: each input in `by_row` is cut to row `i`.
#[track_caller]
pub fn check_rows_alone(inputs: &[Input], by_row: &[usize], op: Op, rows: &[usize]) {
    let device = poisoned(2);
    let all = value(&device, DType::F32, inputs, op);
    for &row in rows {
        let mut one = inputs.to_vec();
        for &i in by_row {
            let dim: usize = inputs[i].shape[1..].iter().product();
            one[i].shape[0] = 1;
            one[i].values = inputs[i].values[row * dim..(row + 1) * dim].to_vec();
        }
        let alone = value(&device, DType::F32, &one, op);
        assert_same_bits(&format!("row {row} alone"), &alone, &all[row * alone.len()..(row + 1) * alone.len()]);
    }
}

/// A document's bits do not depend on the documents that share the call. `inputs` is the packed call,
/// `alone` cuts one document out of it: its place among the output's elements and among each input's, its
/// own inputs, its op. Values and gradients of activations.
#[track_caller]
pub fn check_alone(inputs: &[Input], op: Op, alone_op: Op, output: usize, places: &[std::ops::Range<usize>]) {
    let device = poisoned(2);
    let all = run(&device, DType::F32, inputs, op, 0.0);
    let cut = |(input, place): (&Input, &std::ops::Range<usize>)| {
        let dim: usize = input.shape[1..].iter().product();
        let shape = [&[place.len() / dim.max(1)], &input.shape[1..]].concat();
        Input { shape, values: input.values[place.clone()].to_vec(), ..input.clone() }
    };
    let own: Vec<Input> = inputs.iter().zip(places).map(cut).collect();
    let dy = output_gradient(all.value.len());
    let alone = run_from(&device, DType::F32, &own, alone_op, 0.0, &|n| dy[output..output + n].to_vec());
    assert_same_bits("document alone", &alone.value, &all.value[output..output + alone.value.len()]);
    for (((input, place), alone), all) in own.iter().zip(places).zip(&alone.grads).zip(&all.grads) {
        if !input.parameter {
            assert_same_bits(&format!("d{} of a document alone", input.name), alone, &all[place.clone()]);
        }
    }
}

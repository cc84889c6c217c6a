use crate::support::*;
use docre::device::Device;
use docre::device::cuda::{Cuda, Launch};
use docre::dtype::DType;
use docre::ops::gelu::gelu;
use docre::ops::layernorm::layernorm;
use docre::ops::linear::{self, Norm, linear, linear_gelu, linear_norm, linear_wide};
use docre::rng::{Dropout, Stream};
use docre::tape::Tape;
use docre::tensor::Tensor;

/// x, w, then b and r where they are.
fn plain<T: Plain>(v: &[Vec<T>], (k, out): (usize, usize), b: Option<usize>, r: Option<usize>) -> Vec<T> {
    let rows = v[0].len() / k;
    let mut y = vec![T::ZERO; rows * out];
    for (i, y) in y.iter_mut().enumerate() {
        let (row, col) = (i / out, i % out);
        *y = (0..k).fold(T::ZERO, |s, j| s + v[0][row * k + j] * v[1][col * k + j]);
        *y += b.map_or(T::ZERO, |b| v[b][col]);
        *y += r.map_or(T::ZERO, |r| v[r][i]);
    }
    y
}

fn case(rows: usize, k: usize, out: usize, bias: bool, residual: bool) {
    let mut inputs = vec![activation("x", &[rows, k]), parameter("w", &[out, k])];
    let b = bias.then_some(2);
    let r = residual.then_some(2 + usize::from(bias));
    inputs.extend(bias.then(|| parameter("b", &[out])));
    inputs.extend(residual.then(|| activation("r", &[rows, out])));
    check(
        &inputs,
        &|tape, t| linear(tape, &t[0], &t[1], b.map(|b| &t[b]), r.map(|r| &t[r])),
        &|v| plain::<f64>(v, (k, out), b, r),
        &|v| plain::<f32>(v, (k, out), b, r),
    );
}

#[test]
fn five_checks() {
    for (bias, residual) in [(false, false), (true, false), (true, true), (false, true)] {
        case(7, 5, 3, bias, residual);
    }
    // Register tiles are 12 or 6 rows and 32 or 16 columns, the chunk of k is 512.
    for (rows, k, out) in [(1, 1, 1), (11, 31, 31), (12, 32, 32), (13, 33, 33), (97, 96, 7), (3, 513, 17), (2, 768, 96)]
    {
        case(rows, k, out, true, true);
    }
}

#[test]
fn a_row_has_the_same_bits_alone() {
    let inputs = [activation("x", &[300, 768]), parameter("w", &[97, 768]), parameter("b", &[97])];
    check_rows_alone(
        &inputs,
        &[0],
        &|tape, t| linear(tape, &t[0], &t[1], Some(&t[2]), None),
        &[0, 11, 12, 95, 96, 299],
    );
}

#[test]
fn no_rows() {
    case(0, 8, 4, true, true);
}

#[test]
fn shapes_are_checked() {
    let device = poisoned(1);
    let t = |shape: &[usize]| tensor(&device, docre::dtype::DType::F32, shape, &random(1, shape.iter().product()));
    let mut tape = docre::tape::Tape::inference();
    let error = linear(&mut tape, &t(&[2, 3]), &t(&[5, 4]), None, None).unwrap_err();
    assert!(error.to_string().contains("linear"), "{error}");
    assert!(linear(&mut tape, &t(&[2, 4]), &t(&[5, 4]), Some(&t(&[4])), None).is_err());
}

fn affine(rows: usize, k: usize, out: usize) -> [Input; 3] {
    [activation("x", &[rows, k]), parameter("w", &[out, k]), parameter("b", &[out])]
}

/// On the CPU they are what their names say, bit by bit.
#[test]
fn gelu_and_wide_compose() {
    let inputs = affine(13, 40, 24);
    let device = poisoned(2);
    let same = |a: Op, b: Op| {
        let [a, b] = [a, b].map(|op| run(&device, DType::F32, &inputs, op, 0.0));
        assert_same_bits("value", &a.value, &b.value);
        a.grads.iter().zip(&b.grads).for_each(|(a, b)| assert_same_bits("gradient", a, b));
    };
    same(&|tape, t| linear_wide(tape, &t[0], &t[1], Some(&t[2])), &|tape, t| {
        linear(tape, &t[0], &t[1], Some(&t[2]), None)
    });
    same(&|tape, t| linear_gelu(tape, &t[0], &t[1], &t[2]), &|tape, t| {
        let z = linear(tape, &t[0], &t[1], Some(&t[2]), None)?;
        gelu(tape, &z)
    });
}

const EPS: f64 = 0.1; // shows

/// x, w, b, the norm's weight and bias, and the residual where there is one.
fn normed(rows: usize, k: usize, out: usize, residual: bool) -> Vec<Input> {
    let mut inputs = affine(rows, k, out).to_vec();
    inputs.extend([parameter("weight", &[out]), parameter("bias", &[out])]);
    inputs.extend(residual.then(|| activation("r", &[rows, out])));
    inputs
}

fn fused(tape: &mut Tape, t: &[Tensor], drop: Dropout) -> docre::Result<Tensor> {
    let residual = t.get(5).cloned().map(linear::Residual::from);
    let norm = Norm { weight: &t[3], bias: &t[4], eps: EPS };
    Ok(linear_norm(tape, &t[0], (&t[1], &t[2]), residual.as_ref().map(|x| (x, drop)), norm)?.x)
}

fn composed(tape: &mut Tape, t: &[Tensor], drop: Dropout) -> docre::Result<Tensor> {
    let z = linear(tape, &t[0], &t[1], Some(&t[2]), None)?;
    let (x, branch) = t.get(5).map_or((&z, None), |r| (r, Some(&z)));
    layernorm(tape, x, branch, &t[3], &t[4], EPS, drop)
}

/// In one pass they have the bits of one after the other; 1032 columns are more than one pass takes.
#[test]
fn norm_composes() {
    for (rows, k, out) in [(0, 8, 8), (1, 5, 7), (13, 40, 96), (97, 24, 33), (30, 16, 1032)] {
        for (residual, p) in [(false, 0.0), (true, 0.0), (true, 0.3)] {
            let (inputs, drop) = (normed(rows, k, out, residual), dropout_of(p));
            for (dtype, threads) in [(DType::F64, 1), (DType::F32, 1), (DType::F32, 2)] {
                let device = poisoned(threads);
                let [a, b] = [
                    run(&device, dtype, &inputs, &|tape, t| fused(tape, t, drop), 1.0),
                    run(&device, dtype, &inputs, &|tape, t| composed(tape, t, drop), 1.0),
                ];
                assert_same_bits("value", &a.value, &b.value);
                a.grads.iter().zip(&b.grads).for_each(|(a, b)| assert_same_bits("gradient", a, b));
                let alone = value(&device, dtype, &inputs, &|tape, t| fused(tape, t, drop));
                assert_same_bits("value in inference", &alone, &a.value);
            }
        }
    }
}

/// Twelve layers on top of each other in bf16: the stream, which keeps what rounding takes, drifts less from f64 than one
/// that is rounded at every step; what was taken is less than a unit in the last place.
#[test]
fn the_stream_is_not_rounded() {
    const LAYERS: usize = 12;
    let (rows, dim) = (33, 96);
    let mut inputs = normed(rows, dim, dim, true);
    inputs[1].values.iter_mut().for_each(|w| *w *= 0.1);
    inputs.iter_mut().for_each(|input| input.values = round(&input.values));
    let exact = |tape: &mut Tape, t: &[Tensor]| {
        let mut x = linear::Residual::from(t[0].clone());
        for _ in 0..LAYERS {
            let norm = Norm { weight: &t[3], bias: &t[4], eps: EPS };
            x = linear_norm(tape, &x.x, (&t[1], &t[2]), Some((&x, Dropout::default())), norm)?;
        }
        Ok(x)
    };
    let rounded: Op = &|tape, t| {
        let mut t = t.to_vec();
        for _ in 0..LAYERS {
            t[5] = t[0].clone();
            t[0] = composed(tape, &t, Dropout::default())?;
        }
        Ok(t[0].clone())
    };
    let stream: Op = &|tape, t| Ok(exact(tape, t)?.x);
    let want = value(&poisoned(1), DType::F64, &inputs, rounded);
    let device = poisoned(2);
    let drift = |op: Op| {
        let got = value(&device, DType::BF16, &inputs, op);
        (got.iter().zip(&want).map(|(got, want)| (got - want).powi(2)).sum::<f64>() / want.len() as f64).sqrt()
    };
    let (kept, lost) = (drift(stream), drift(rounded));
    assert!(kept <= 0.8 * lost, "{kept:e} is not well below {lost:e}");
    let part = |i: usize| value(&device, DType::BF16, &inputs, &|tape, t| Ok(exact(tape, t)?.tensors()[i].clone()));
    let [rows, rest] = [0, 1].map(part);
    // Half a unit in the last of 8 digits.
    assert!(rows.iter().zip(&rest).all(|(row, rest)| rest.abs() <= row.abs() / 256.0), "the rest is no rest");
    assert!(largest(&rest) > 0.0);
}

#[test]
fn norm_on_the_gpu() {
    for (rows, k, out, residual, p) in
        [(7, 40, 24, true, 0.0), (65, 96, 136, true, 0.1), (65, 96, 160, true, 0.1), (9, 64, 32, false, 0.0)]
    {
        on_gpu(&normed(rows, k, out, residual), &|tape, t| fused(tape, t, dropout_of(p)));
    }
}

fn on_gpu_case(rows: usize, k: usize, out: usize, bias: bool, residual: bool) {
    let mut inputs = affine(rows, k, out)[..2 + usize::from(bias)].to_vec();
    inputs.extend(residual.then(|| activation("r", &[rows, out])));
    let r = residual.then(|| inputs.len() - 1);
    on_gpu(&inputs, &|tape, t| linear(tape, &t[0], &t[1], bias.then(|| &t[2]), r.map(|r| &t[r])));
}

/// Tiles are 128 or 64 rows and columns, and 64 or 32 terms; few rows are split over their terms.
#[test]
fn on_the_gpu() {
    for (bias, residual) in [(false, false), (true, false), (true, true), (false, true)] {
        on_gpu_case(7, 40, 24, bias, residual);
    }
    for (rows, k, out) in [(1, 8, 8), (63, 64, 72), (64, 32, 64), (65, 96, 136), (127, 384, 128), (129, 128, 96)] {
        on_gpu_case(rows, k, out, true, true);
    }
    // Large tiles on every GPU; then split: 12 steps of the forward pass, 16 of the gradient of the weight.
    on_gpu_case(1001, 32, 1544, true, true);
    on_gpu_case(5, 768, 768, true, true);
    on_gpu_case(1030, 96, 40, true, false);
    on_gpu_case(0, 32, 32, true, true);
}

#[test]
fn wide_on_the_gpu() {
    for (rows, k, out) in [(7, 768, 97), (1, 96, 19), (66, 64, 1), (131, 96, 97), (70, 384, 104), (0, 32, 97)] {
        on_gpu(&affine(rows, k, out), &|tape, t| linear_wide(tape, &t[0], &t[1], Some(&t[2])));
    }
    on_gpu(&affine(9, 32, 21)[..2], &|tape, t| linear_wide(tape, &t[0], &t[1], None));
}

#[test]
fn gelu_on_the_gpu() {
    for (rows, k, out) in [(1, 96, 384), (65, 64, 200), (130, 384, 72), (6, 768, 64), (1001, 32, 1544), (0, 32, 32)] {
        on_gpu(&affine(rows, k, out), &|tape, t| linear_gelu(tape, &t[0], &t[1], &t[2]));
    }
}

#[test]
fn refused_sizes_are_named_on_the_gpu() {
    let narrow: Op = &|tape, t| linear(tape, &t[0], &t[1], None, None);
    refused_on_gpu(&affine(3, 12, 8)[..2], narrow, "rows of 12 values");
    refused_on_gpu(&affine(3, 8, 97)[..2], narrow, "97 outputs in bf16");
    refused_on_gpu(&affine(1, 8, 3073)[..2], &|tape, t| linear_wide(tape, &t[0], &t[1], None), "3073 outputs");
}

/// Small integers, of which bf16 holds each and f32 every sum: equal to integer arithmetic to the last bit.
struct Integers {
    rows: usize,
    columns: usize,
    values: Vec<i64>,
}

impl Integers {
    fn new(rows: usize, columns: usize, seed: u64) -> Self {
        let mut stream = Stream::new(seed, 3);
        let values = (0..rows * columns).map(|_| (stream.uniform() * 31.0) as i64 - 15).collect();
        Integers { rows, columns, values }
    }
    fn t(&self) -> Self {
        let value = |i: usize| self.values[i % self.rows * self.columns + i / self.rows];
        Integers { rows: self.columns, columns: self.rows, values: (0..self.values.len()).map(value).collect() }
    }
    /// `self other^T`.
    fn times(&self, other: &Self) -> Vec<f64> {
        let (a, b) = (self.values.chunks(self.columns), || other.values.chunks(other.columns));
        let dot = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<i64>() as f64;
        a.flat_map(|a| b().map(move |b| dot(a, b))).collect()
    }
    fn tensor(&self, device: &Device) -> Tensor {
        let values: Vec<f64> = self.values.iter().map(|&x| x as f64).collect();
        tensor(device, DType::BF16, &[self.rows, self.columns], &values)
    }
}

/// `[m, n]` sums of k terms by the kernel of one tile, in `splits`: its grid and last arguments.
struct Exact<'a> {
    device: &'a Device,
    tile: [usize; 3],
    size: [usize; 3],
    splits: usize,
    /// What it moves is held to the gate.
    gated: bool,
}

impl Exact<'_> {
    fn cuda(&self) -> &Cuda {
        match self.device {
            Device::Cuda(cuda) => cuda,
            Device::Cpu(_) => panic!("a GPU"),
        }
    }
    fn name(&self, what: &str) -> &'static str {
        format!("linear_{what}_{}x{}", self.tile[0], self.tile[1]).leak()
    }
    fn sizes<'l>(&self, launch: Launch<'l>, with: &[usize]) -> Launch<'l> {
        let sizes = self.size.iter().chain(with);
        sizes.fold(launch, |launch, &size| launch.value(size as i32))
    }
    fn blocks(&self) -> [usize; 3] {
        [self.size[0].div_ceil(self.tile[0]), self.size[1].div_ceil(self.tile[1]), self.splits]
    }
    fn partials(&self) -> Tensor {
        let [m, n, _] = self.size;
        self.device.alloc("test", DType::F32, &[self.splits * m * (n + 1)]).unwrap()
    }
    fn zeros(&self, dtype: DType, shape: &[usize]) -> Tensor {
        self.device.zeros("test", dtype, shape).unwrap()
    }
    /// Adds the splits up; `launch` makes the launch, its arguments but for the sizes given.
    fn sum<'l>(&self, launch: impl FnOnce() -> Launch<'l>) {
        let [m, n, _] = self.size;
        if self.splits == 1 {
            return;
        }
        let launch = launch();
        let launch = [self.splits, m, n].iter().fold(launch, |launch, &size| launch.value(size as i32));
        launch.launch([(m * n + m).div_ceil(256), 1, 1], 256, 0).unwrap();
    }
    /// Launches the product, and holds what it moves to the gate: `output` bytes an element of the result.
    fn multiply(&self, name: &str, launch: Launch<'_>, output: usize) {
        let counted = counted(|| launch.launch(self.blocks(), 128, 49_152).unwrap());
        let ([m, n, k], [rows, columns, _]) = (self.size, self.blocks());
        let result = m * n * output;
        if self.gated {
            gate(&counted, name, 2 * (m + n) * k + result, 2 * (columns * m + rows * n) * k + result);
        }
    }
    /// x W^T in bf16 and f32, dy W, and dy^T x with the column sums of dy.
    fn check(&self) {
        let (a, b) = (Integers::new(self.size[0], self.size[2], 1), Integers::new(self.size[1], self.size[2], 2));
        let products = a.times(&b);
        if self.splits == 1 {
            self.forward(&a, &b, &products);
        }
        if self.splits == 1 && self.tile == [64, 64, 64] {
            self.wide(&a, &b, &products);
        }
        self.dx(&a, &b.t(), &products);
        self.dw(&a.t(), &b.t(), &products);
    }
    fn what(&self, what: &str) -> String {
        format!("{what} of {:?} by {:?} in {}", self.size, self.tile, self.splits)
    }
    fn forward(&self, x: &Integers, w: &Integers, want: &[f64]) {
        let ([m, n, _], cuda, name) = (self.size, self.cuda(), self.name("forward"));
        let (x, w) = (x.tensor(self.device), w.tensor(self.device));
        let mut y = self.zeros(DType::BF16, &[m, n]);
        let launch = cuda.kernel(name).input(&x).input(&w).maybe(None).maybe(None).output(&mut y);
        self.multiply(name, self.sizes(launch, &[]), 2);
        assert_same_bits(&self.what("x W^T"), &y.to_f64().unwrap(), &round(want));
    }
    fn wide(&self, x: &Integers, w: &Integers, want: &[f64]) {
        let ([m, n, _], cuda, name) = (self.size, self.cuda(), "linear_wide_forward");
        let (x, w) = (x.tensor(self.device), w.tensor(self.device));
        let mut y = self.zeros(DType::F32, &[m, n]);
        let launch = cuda.kernel(name).input(&x).input(&w).maybe(None).output(&mut y);
        self.multiply(name, self.sizes(launch, &[]), 4);
        assert_same_bits(&self.what("wide x W^T"), &y.to_f64().unwrap(), want);
    }
    fn dx(&self, dy: &Integers, w: &Integers, want: &[f64]) {
        let ([m, n, k], cuda, name) = (self.size, self.cuda(), self.name("dx"));
        let (dy, w) = (dy.tensor(self.device), w.tensor(self.device));
        let (mut dx, mut parts) = (self.zeros(DType::BF16, &[m, n]), self.partials());
        let launch = cuda.kernel(name).input(&dy).input(&w).output(&mut dx).output(&mut parts);
        self.multiply(name, self.sizes(launch, &[k]), 2);
        self.sum(|| cuda.kernel("linear_dx_sum").input(&parts).output(&mut dx));
        assert_same_bits(&self.what("dy W"), &dx.to_f64().unwrap(), &round(want));
    }
    fn dw(&self, dy: &Integers, x: &Integers, want: &[f64]) {
        let ([m, n, k], cuda, name) = (self.size, self.cuda(), self.name("dw"));
        let sums: Vec<f64> = (0..m).map(|j| (0..k).map(|i| dy.values[i * m + j]).sum::<i64>() as f64).collect();
        let (dy, x) = (dy.tensor(self.device), x.tensor(self.device));
        let (mut dw, mut db) = (self.zeros(DType::F32, &[m, n]), self.zeros(DType::F32, &[m]));
        let mut parts = self.partials();
        let launch = cuda.kernel(name).input(&dy).input(&x).output(&mut dw).output(&mut db);
        self.multiply(name, self.sizes(launch.output(&mut parts), &[m]), 8); // read and written
        self.sum(|| cuda.kernel("linear_dw_sum").input(&parts).output(&mut dw).output(&mut db));
        assert_same_bits(&self.what("dy^T x"), &dw.to_f64().unwrap(), want);
        assert_same_bits(&self.what("column sums of dy"), &db.to_f64().unwrap(), &sums);
    }
}

#[test]
fn exact_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    for tile in [[128, 128, 32], [128, 64, 32], [64, 64, 64]] {
        for (size, splits) in [
            ([8, 8, 8], 1),
            ([64, 72, 40], 1),
            ([120, 128, 96], 1),
            ([136, 200, 160], 1),
            ([128, 64, 768], 1),
            ([72, 136, 768], 4),
            ([8, 192, 264], 2),
            ([72, 72, 264], 1),
            ([8, 72, 1032], 2),
        ] {
            Exact { device: &device, tile, size, splits, gated: false }.check();
        }
    }
}

/// The rows of a mean document in BERT-base, rounded up: as rows of dy^T they must be whole sectors.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    for tile in [[128, 128, 32], [128, 64, 32], [64, 64, 64]] {
        Exact { device: &device, tile, size: [304, 768, 768], splits: 1, gated: true }.check();
    }
}

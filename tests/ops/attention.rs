use crate::support::*;
use docre::device::Device;
use docre::dtype::DType;
use docre::layout::Segments;
use docre::ops::attention::attention;
use docre::rng::Dropout;
use std::ops::Range;
use std::sync::Arc;

/// Keys per (row, head) in the numbering of dropout elements.
const STRIDE: usize = 512;

/// q, k or v (`part` 0, 1, 2) of one head of a row.
pub fn part<T: Plain>(qkv: &[T], row: usize, part: usize, head: usize, heads: usize, dim: usize) -> &[T] {
    &qkv[((3 * row + part) * heads + head) * dim..][..dim]
}

/// log-sum-exp of a query's scaled logits over the rows `keys`, and its probabilities.
pub fn softmax<T: Plain>(
    qkv: &[T],
    row: usize,
    keys: Range<usize>,
    head: usize,
    heads: usize,
    dim: usize,
) -> (T, Vec<T>) {
    let q = part(qkv, row, 0, head, heads, dim);
    let scale = T::ONE / T::of(dim as f64).sqrt();
    let dot = |j: usize| q.iter().zip(part(qkv, j, 1, head, heads, dim)).fold(T::ZERO, |s, (&a, &b)| s + a * b);
    let logits: Vec<T> = keys.map(|j| dot(j) * scale).collect();
    let top = logits.iter().fold(T::NEG_INFINITY, |a, &b| a.max(b));
    let total = logits.iter().fold(T::ZERO, |a, &x| a + (x - top).std_exp());
    (top + total.std_ln(), logits.iter().map(|&x| (x - top).std_exp() / total).collect())
}

/// Multiplies probabilities of (row, head) by their dropout factors.
pub fn drop_row<T: Plain>(p: &mut [T], drop: Dropout, row: usize, head: usize, heads: usize) {
    let first = (row * heads + head) * STRIDE;
    if !drop.is_off() {
        p.iter_mut().enumerate().for_each(|(j, p)| *p *= T::of(mask(drop, first + j)));
    }
}

fn plain<T: Plain>(qkv: &[T], segments: &Segments, heads: usize, dim: usize, drop: Dropout) -> Vec<T> {
    let mut out = Vec::new();
    for keys in segments.iter() {
        for (row, head) in keys.clone().flat_map(|row| (0..heads).map(move |head| (row, head))) {
            let (_, mut p) = softmax(qkv, row, keys.clone(), head, heads, dim);
            drop_row(&mut p, drop, row, head, heads);
            out.extend((0..dim).map(|c| {
                keys.clone().zip(&p).fold(T::ZERO, |s, (j, &p)| s + p * part(qkv, j, 2, head, heads, dim)[c])
            }));
        }
    }
    out
}

fn qkv(rows: usize, heads: usize, dim: usize) -> [Input; 1] {
    [activation("qkv", &[rows, 3 * heads * dim])]
}

fn case(lengths: &[usize], heads: usize, dim: usize, p: f64) {
    let segments = Arc::new(Segments::from_lengths(lengths.iter().copied()));
    let drop = dropout_of(p);
    check(
        &qkv(segments.rows(), heads, dim),
        &|tape, t| Ok(attention(tape, &t[0], &segments, heads, drop)?.out),
        &|v| plain::<f64>(&v[0], &segments, heads, dim, drop),
        &|v| plain::<f32>(&v[0], &segments, heads, dim, drop),
    );
}

#[test]
fn five_checks() {
    case(&[], 2, 4, 0.0);
    case(&[1], 1, 1, 0.0);
    case(&[0, 7, 0, 1], 2, 5, 0.1);
    case(&[2, 42], 12, 8, 0.1); // 96 wide
    case(&[5, 2], 12, 64, 0.0); // 768 wide
    // Register tiles are 12 or 6 rows and 32 or 16 columns; query rows come in blocks of 48.
    case(&[11, 12, 13], 2, 4, 0.1);
    case(&[31, 32, 33], 2, 33, 0.0);
    case(&[47, 48, 49], 1, 16, 0.1);
    case(&[97], 3, 7, 0.0);
}

/// The longest window, whose dropout elements touch those of the next row.
#[test]
fn a_full_window() {
    case(&[512], 1, 4, 0.1);
}

#[test]
fn the_log_sum_exp_is_that_of_the_logits() {
    let segments = Arc::new(Segments::from_lengths([3, 0, 49]));
    let (heads, dim) = (3, 8);
    let input = qkv(52, heads, dim);
    let op: Op = &|tape, t| Ok(attention(tape, &t[0], &segments, heads, dropout_of(0.1))?.lse);
    let lse = |keys: Range<usize>| {
        let q = &input[0].values;
        keys.clone()
            .flat_map(move |r| (0..heads).map(move |h| (r, h)))
            .map(move |(r, h)| softmax(q, r, keys.clone(), h, heads, dim).0)
    };
    let want: Vec<f64> = segments.iter().flat_map(lse).collect();
    assert_close("lse", &value(&poisoned(2), DType::F64, &input, op), &want, 1e-12);
}

/// Logits of hundreds must not overflow.
#[test]
fn large_logits() {
    let segments = Arc::new(Segments::from_lengths([20]));
    let mut input = qkv(20, 1, 16);
    input[0].values.iter_mut().for_each(|x| *x *= 32.0);
    let off = Dropout::default();
    let op: Op = &|tape, t| Ok(attention(tape, &t[0], &segments, 1, off)?.out);
    let want = plain::<f64>(&input[0].values, &segments, 1, 16, off);
    assert_close("f64", &value(&poisoned(1), DType::F64, &input, op), &want, 1e-10);
    // Logits of some 1000 are rounded to 2^-15, and so are the logarithms of the probabilities.
    assert_close("f32", &value(&poisoned(1), DType::F32, &input, op), &want, 1e-2);
}

#[test]
fn a_document_has_the_same_bits_alone() {
    let lengths = [13, 60, 7];
    let (all, one) = (Arc::new(Segments::from_lengths(lengths)), Arc::new(Segments::from_lengths([60])));
    let (heads, dim, off) = (3, 32, Dropout::default());
    check_alone(
        &qkv(80, heads, dim),
        &|tape, t| Ok(attention(tape, &t[0], &all, heads, off)?.out),
        &|tape, t| Ok(attention(tape, &t[0], &one, heads, off)?.out),
        13 * heads * dim,
        std::slice::from_ref(&(13 * 3 * heads * dim..73 * 3 * heads * dim)),
    );
}

#[test]
fn shapes_are_checked() {
    let t = |shape: &[usize]| tensor(&poisoned(1), DType::F32, shape, &random(1, shape.iter().product()));
    let segments = Arc::new(Segments::from_lengths([2]));
    let run = |x: &_, heads| attention(&mut docre::tape::Tape::inference(), x, &segments, heads, Dropout::default());
    for (shape, heads) in [([2, 10], 1), ([2, 12], 3), ([2, 12], 0), ([3, 12], 2)] {
        let error = run(&t(&shape), heads).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("attention")), "{shape:?}, {heads} heads");
    }
}

/// One sequence: its rows, and what is added to the last key's logit.
pub struct Line {
    pub rows: Vec<usize>,
    pub last_key_bias: f64,
}

/// Attention within `lines` as eager PyTorch does it: what each step gives is rounded to bf16.
pub fn plain_bf16(qkv: &[f64], dy: &[f64], lines: &[Line], heads: usize, dim: usize, drop: Dropout) -> Outcome {
    let (mut value, mut grad) = (vec![0.0; dy.len()], vec![0.0; qkv.len()]);
    let scale = 1.0 / (dim as f64).sqrt();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let times = |a: &[f64], b: &[f64]| round(&a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>());
    let axpy = |y: &mut [f64], a: f64, x: &[f64]| y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
    for (line, head) in lines.iter().flat_map(|line| (0..heads).map(move |head| (line, head))) {
        let scales = vec![scale; line.rows.len()];
        let part = |row, which| part(qkv, row, which, head, heads, dim);
        let column = |row, which| ((3 * row + which) * heads + head) * dim;
        // With every key or value.
        let products = |x: &[f64], which| round(&line.rows.iter().map(|&j| dot(x, part(j, which))).collect::<Vec<_>>());
        for &row in &line.rows {
            let (q, at) = (part(row, 0), (row * heads + head) * dim);
            let mut logits = times(&products(q, 1), &scales);
            *logits.last_mut().unwrap() += line.last_key_bias;
            let top = logits.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let total: f64 = logits.iter().map(|x| (x - top).exp()).sum();
            let p = round(&logits.iter().map(|x| (x - top).exp() / total).collect::<Vec<_>>());
            let mut factors = vec![1.0; p.len()];
            drop_row(&mut factors, drop, row, head, heads);
            let dy = &dy[at..at + dim];
            let dp = times(&products(dy, 2), &factors);
            let mean = dot(&p, &dp);
            let ds = round(&p.iter().zip(&dp).map(|(p, dp)| p * (dp - mean)).collect::<Vec<_>>());
            for ((&j, p), ds) in line.rows.iter().zip(times(&p, &factors)).zip(times(&ds, &scales)) {
                axpy(&mut value[at..at + dim], p, part(j, 2));
                axpy(&mut grad[column(row, 0)..][..dim], ds, part(j, 1));
                axpy(&mut grad[column(j, 1)..][..dim], ds, q);
                axpy(&mut grad[column(j, 2)..][..dim], p, dy);
            }
        }
    }
    Outcome { value: round(&value), grads: vec![round(&grad)] }
}

/// The GPU against `plain_bf16`: whole tensors with all the checks, and dq, dk, dv each by its own errors.
pub fn check_on_gpu(op: Op, lines: &[Line], heads: usize, dim: usize, drop: Dropout) {
    let rows = lines.iter().map(|line| line.rows.len()).sum();
    let mut input = qkv(rows, heads, dim);
    on_gpu_against(&input, op, &|v, dy| plain_bf16(&v[0], dy, lines, heads, dim, drop));
    let Some((device, _turn)) = gpu() else { return };
    input[0].values = round(&input[0].values);
    let dy = |n: usize| round(&output_gradient(n));
    let plain = plain_bf16(&input[0].values, &dy(rows * heads * dim), lines, heads, dim, drop);
    let exact = run_from(&Device::cpu(2).unwrap(), DType::F64, &input, op, 0.0, &dy);
    let found = run_from(&device, DType::BF16, &input, op, 0.0, &dy);
    for (which, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
        let of = |outcome: &Outcome| -> Vec<f64> {
            let row = |row| (0..heads).flat_map(move |head| part(&outcome.grads[0], row, which, head, heads, dim));
            (0..rows).flat_map(row).copied().collect()
        };
        within(name, &of(&found), &of(&plain), &of(&exact));
    }
}

fn gpu_case(lengths: &[usize], heads: usize, dim: usize, p: f64) {
    let segments = Arc::new(Segments::from_lengths(lengths.iter().copied()));
    let drop = dropout_of(p);
    let line = |rows: Range<usize>| Line { rows: rows.collect(), last_key_bias: 0.0 };
    let lines: Vec<Line> = segments.iter().filter(|rows| !rows.is_empty()).map(line).collect();
    check_on_gpu(&|tape, t| Ok(attention(tape, &t[0], &segments, heads, drop)?.out), &lines, heads, dim, drop);
}

#[test]
fn on_the_gpu() {
    gpu_case(&[], 2, 32, 0.1);
    gpu_case(&[1], 1, 32, 0.0);
    gpu_case(&[0, 7, 0, 1], 12, 64, 0.1); // 768 wide
    // Blocks own 64 rows; the others come in steps of 64, or 32 for heads of 64 and more.
    gpu_case(&[63, 64, 65, 7, 1, 130], 2, 32, 0.1);
    gpu_case(&[63, 64, 65], 1, 32, 0.0);
    gpu_case(&[31, 33, 130], 1, 64, 0.1);
    gpu_case(&[32, 97], 2, 64, 0.0);
    gpu_case(&[17, 65], 2, 48, 0.1);
    gpu_case(&[5, 66], 1, 96, 0.1);
    gpu_case(&[2, 70], 1, 128, 0.1);
    gpu_case(&[300], 1, 32, 0.5);
}

#[test]
fn the_log_sum_exp_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let segments = Arc::new(Segments::from_lengths([3, 0, 97]));
    let (heads, dim) = (3, 64);
    let mut input = qkv(100, heads, dim);
    input[0].values = round(&input[0].values);
    let op: Op = &|tape, t| Ok(attention(tape, &t[0], &segments, heads, dropout_of(0.1))?.lse);
    let want = value(&Device::cpu(1).unwrap(), DType::F64, &input, op);
    assert_close("lse", &value(&device, DType::BF16, &input, op), &want, 1e-6);
}

/// Logits of hundreds must not overflow: every row of P has one 1, and gradients of 0.
#[test]
fn large_logits_on_the_gpu() {
    let segments = Arc::new(Segments::from_lengths([70]));
    let mut input = qkv(70, 1, 32);
    input[0].values.iter_mut().for_each(|x| *x *= 32.0);
    let (off, lines) = (Dropout::default(), [Line { rows: (0..70).collect(), last_key_bias: 0.0 }]);
    on_gpu_against(&input, &|tape, t| Ok(attention(tape, &t[0], &segments, 1, off)?.out), &|v, dy| {
        plain_bf16(&v[0], dy, &lines, 1, 32, off)
    });
}

#[test]
fn other_head_sizes_are_refused_on_the_gpu() {
    let segments = Arc::new(Segments::from_lengths([2]));
    let op: Op = &|tape, t| Ok(attention(tape, &t[0], &segments, 2, Dropout::default())?.out);
    [1, 16, 40, 256].iter().for_each(|&dim| refused_on_gpu(&qkv(2, 2, dim), op, &format!("heads of {dim}")));
}

/// A document of about the mean length and one shorter, a layer of BERT-base without dropout.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let (lengths, heads, dim) = ([290, 131], 12, 64);
    let segments = Arc::new(Segments::from_lengths(lengths));
    let op: Op = &|tape, t| Ok(attention(tape, &t[0], &segments, heads, Dropout::default())?.out);
    let rows = segments.rows();
    let counted = counted(|| drop(run(&device, DType::BF16, &qkv(rows, heads, dim), op, 0.0)));

    // A block owns 64 rows of a head; the rows of the other side, which it reads all, come 32 at a time.
    let over = |each: &dyn Fn(usize, usize) -> usize| lengths.iter().map(|&len| each(len, len.div_ceil(64))).sum();
    let tiles: usize = over(&|_, tiles| tiles);
    let other: usize = over(&|len, tiles| tiles * len);
    // Of queries, keys, values, results or a gradient of them.
    let row = 2 * heads * dim;
    let (lse, terms) = (4 * heads * rows, 2 * 4 * heads * tiles * 64);
    // 32 bytes say to each of 128 threads where it is.
    let (list, lists) = (32 * tiles, heads * tiles * 128 * 32);
    // Of a block's 64 values of lse each is 4 bytes of a sector, beside 64 runs of 128 bytes: 8448 of 10240.
    gate_but_stores(
        &counted,
        "attention_forward_64",
        row * 4 * rows + lse + list,
        row * (2 * rows + 2 * other) + lse + lists,
        0.80,
    );
    // Four threads ask for a row's lse.
    gate(
        &counted,
        "attention_backward_queries_64",
        row * 6 * rows + lse + terms + list,
        row * (4 * rows + 2 * other) + 4 * lse + terms + lists,
    );
    let read = |times: &dyn Fn(usize) -> usize| -> usize {
        over(&|len, tiles| 2 * 4 * heads * times(tiles) * len.next_multiple_of(32))
    };
    gate(
        &counted,
        "attention_backward_keys_64",
        row * 6 * rows + read(&|_| 1) + list,
        row * (4 * rows + 2 * other) + read(&|tiles| tiles) + lists,
    );
}

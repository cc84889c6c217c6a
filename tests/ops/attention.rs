use crate::support::*;
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

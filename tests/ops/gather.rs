use crate::support::*;
use docre::device::Device;
use docre::dtype::DType;
use docre::layout::{Segments, Sources};
use docre::ops::gather::gather;
use docre::tape::{Grads, Tape};
use std::collections::BTreeSet;
use std::sync::Arc;

fn plain<T: Plain>(v: &[Vec<T>], s: &Sources, dim: usize) -> Vec<T> {
    let term = |j: usize, k: usize| T::of(s.weight[j]) * v[0][s.index[j] as usize * dim + k];
    s.rows.iter().flat_map(|r| (0..dim).map(move |k| r.clone().fold(T::ZERO, |a, j| a + term(j, k)))).collect()
}

/// Lists of 0, 1, 2, 3 sources; some rows of x are used often, some never.
pub fn sources(lists: usize, x_rows: usize) -> Sources {
    let rows = Segments::from_lengths((0..lists).map(|i| (i + 1) % 4));
    let index = (0..rows.rows()).map(|j| (j * j % x_rows.div_ceil(2)) as u32).collect();
    let weight = (0..rows.rows()).map(|j| f64::from((0.25 + j as f32 / 3.0).sin())).collect();
    Sources { rows, index, weight }
}

#[test]
fn five_checks() {
    for (lists, x_rows, dim) in [(0, 3, 4), (1, 1, 1), (7, 9, 5), (42, 20, 96), (22, 5, 768)] {
        let s = Arc::new(sources(lists, x_rows));
        let inputs = [activation("x", &[x_rows, dim])];
        check(&inputs, &|tape, t| gather(tape, &t[0], &s), &|v| plain::<f64>(v, &s, dim), &|v| {
            plain::<f32>(v, &s, dim)
        });
    }
}

#[test]
fn a_source_out_of_range_is_an_error() {
    let x = tensor(&poisoned(1), DType::F32, &[2, 1], &[1.0, 2.0]);
    let s = Sources { rows: Segments::from_lengths([1]), index: vec![2], weight: vec![1.0] };
    assert!(gather(&mut Tape::inference(), &x, &Arc::new(s)).is_err());
}

/// Rows of whole packs and others; activations (bf16) and logits (f32, whose gradient is bf16).
#[test]
fn on_the_gpu() {
    for (lists, x_rows, dim) in
        [(0, 3, 8), (1, 1, 1), (7, 9, 5), (63, 20, 32), (64, 64, 97), (65, 40, 96), (22, 30, 768), (9, 7, 1024)]
    {
        let s = Arc::new(sources(lists, x_rows));
        let x = activation("x", &[x_rows, dim]);
        on_gpu(std::slice::from_ref(&x), &|tape, t| gather(tape, &t[0], &s));
        on_gpu(&[wide(x)], &|tape, t| gather(tape, &t[0], &s));
    }
}

/// What the gather and its gradient do, and what they may: the sizes of a value of y and of dx.
fn gate_both(device: &Device, x: Input, s: Sources, [forward, backward]: [(&str, usize); 2]) {
    let (rows, x_rows, terms, dim) = (s.rows.len(), x.shape[0], s.index.len(), x.shape[1]);
    let used = s.index.iter().collect::<BTreeSet<_>>().len();
    let (x, s) = (tensor(device, if x.wide { DType::F32 } else { DType::BF16 }, &x.shape, &x.values), Arc::new(s));
    let (mut tape, mut grads) = (Tape::training(1, 1), Grads::new(device, DType::F32, 0).unwrap());
    let mut y = None;
    let first = counted(|| y = Some(gather(&mut tape, &x, &s).unwrap()));
    grads.put(&y.unwrap(), tensor(device, DType::BF16, &[rows, dim], &vec![1.0; rows * dim])).unwrap();
    let second = counted(|| tape.backward(&mut grads).unwrap());
    // A thread reads where its row's list begins and ends, and each entry of it: 8 bytes each.
    for (counted, (name, size), from, to) in [(first, forward, used, rows), (second, backward, rows, x_rows)] {
        let pack = if dim.is_multiple_of(16 / size) { 16 / size } else { 1 };
        let (row, lists) = (size * dim, 8 * (to + terms));
        gate(&counted, name, row * (from + to) + lists, row * (terms + to) + lists * dim / pack);
    }
}

/// A mean document in BERT-base: 290 rows out of two windows of which 30 rows are means of both; the logits of its 20
/// entities' pairs out of 400 cells, 97 classes, and 96 in whole packs.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let both = |i: u32| (130..160).contains(&i);
    let windows = Sources {
        rows: Segments::from_lengths((0..290).map(|i| if both(i) { 2 } else { 1 })),
        index: (0..290).flat_map(|i| [(i < 160).then_some(i), (i >= 130).then_some(i + 30)]).flatten().collect(),
        weight: (0..290).flat_map(|i| if both(i) { vec![0.5; 2] } else { vec![1.0] }).collect(),
    };
    gate_both(&device, activation("x", &[320, 768]), windows, [("gather_bf16", 2), ("gather_bf16", 2)]);
    for (classes, names) in [(97, ["gather_f32_ragged", "gather_bf16_ragged"]), (96, ["gather_f32", "gather_bf16"])] {
        let index: Vec<u32> = (0..400).filter(|cell| cell / 20 != cell % 20).collect();
        let rows = Segments::from_lengths(index.iter().map(|_| 1));
        let pairs = Sources { rows, weight: vec![1.0; index.len()], index };
        gate_both(&device, wide(activation("x", &[400, classes])), pairs, [(names[0], 4), (names[1], 2)]);
    }
}

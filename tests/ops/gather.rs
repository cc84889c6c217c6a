use crate::support::*;
use docre::layout::{Segments, Sources};
use docre::ops::gather::gather;
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
    let x = tensor(&poisoned(1), docre::dtype::DType::F32, &[2, 1], &[1.0, 2.0]);
    let s = Sources { rows: Segments::from_lengths([1]), index: vec![2], weight: vec![1.0] };
    assert!(gather(&mut docre::tape::Tape::inference(), &x, &Arc::new(s)).is_err());
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

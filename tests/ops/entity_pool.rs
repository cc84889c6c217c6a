use crate::gather::sources;
use crate::support::*;
use docre::dtype::DType;
use docre::layout::{Segments, Sources};
use docre::ops::entity_pool::entity_pool;
use std::sync::Arc;

fn plain<T: Plain>(v: &[Vec<T>], s: &Sources, dim: usize) -> Vec<T> {
    let pool = |range: std::ops::Range<usize>, k: usize| {
        let x: Vec<T> = range.map(|j| v[0][s.index[j] as usize * dim + k]).collect();
        match x[..] {
            [] => T::ZERO,
            [one] => one,
            _ => {
                let top = x.iter().fold(T::NEG_INFINITY, |a, &b| a.max(b));
                top + x.iter().fold(T::ZERO, |a, &x| a + (x - top).std_exp()).std_ln()
            }
        }
    };
    s.rows.iter().flat_map(|r| (0..dim).map(move |k| (r.clone(), k))).map(|(r, k)| pool(r, k)).collect()
}

#[test]
fn five_checks() {
    for (lists, rows, dim) in [(0, 3, 4), (1, 1, 1), (7, 9, 5), (42, 20, 96), (22, 40, 768)] {
        let s = Arc::new(sources(lists, rows));
        let inputs = [activation("h", &[rows, dim])];
        check(&inputs, &|tape, t| entity_pool(tape, &t[0], &s), &|v| plain::<f64>(v, &s, dim), &|v| {
            plain::<f32>(v, &s, dim)
        });
    }
}

#[test]
fn one_mention_is_copied_and_none_is_zero() {
    let s = Sources { rows: Segments::from_lengths([1, 0, 2]), index: vec![1, 0, 0], weight: vec![1.0, 0.5, 0.5] };
    let inputs = [Input { values: vec![1e3, -0.1, 88.5, 1e-30], ..activation("h", &[2, 2]) }];
    let got = value(&poisoned(1), DType::F64, &inputs, &|tape, t| entity_pool(tape, &t[0], &Arc::new(s.clone())));
    assert_same_bits("pool", &got[..4], &[88.5, 1e-30, 0.0, 0.0]);
    assert_close("a row listed twice", &got[4..], &[1e3 + 2f64.ln(), -0.1 + 2f64.ln()], 1e-15);
}

#[test]
fn on_the_gpu() {
    // Lists of 1, 2, 3 and no mentions, rows that several entities share, a row listed more than once.
    for (lists, rows, dim) in [(0, 3, 8), (1, 1, 32), (7, 9, 40), (42, 20, 96), (33, 31, 384), (22, 40, 768)] {
        let s = Arc::new(sources(lists, rows));
        on_gpu(&[activation("h", &[rows, dim])], &|tape, t| entity_pool(tape, &t[0], &s));
    }
    // Beyond what exp can take.
    let (s, mut h) = (Arc::new(sources(7, 9)), activation("h", &[9, 32]));
    h.values.iter_mut().for_each(|x| *x *= 100.0);
    on_gpu(&[h], &|tape, t| entity_pool(tape, &t[0], &s));
    let (ones, none) = (Segments::from_lengths([1; 65]), Segments::from_lengths([0; 3]));
    let copies = Sources { rows: ones, index: (0..65).map(|i| i * i % 7).collect(), weight: vec![1.0; 65] };
    let empty = Sources { rows: none, index: vec![], weight: vec![] };
    for s in [copies, empty].map(Arc::new) {
        on_gpu(&[activation("h", &[7, 32])], &|tape, t| entity_pool(tape, &t[0], &s));
    }
    let s = Arc::new(sources(7, 9));
    refused_on_gpu(
        &[activation("h", &[9, 12])],
        &|tape, t| entity_pool(tape, &t[0], &s),
        "entity_pool on the GPU: dim 12",
    );
}

/// The weights of two mentions add up to 1, to the rounding of each.
#[test]
fn weights_in_bf16_add_up() {
    let h = Input {
        values: (0..512).map(|i| f64::from(i * 37 % 384) / 32.0 - 6.0).collect(),
        ..activation("h", &[2, 256])
    };
    let rows = Segments::from_lengths([2]);
    let s = Arc::new(Sources { rows, index: vec![0, 1], weight: vec![1.0; 2] });
    let device = docre::device::Device::cpu_in(1, DType::BF16).unwrap();
    let op: Op = &|tape, t| entity_pool(tape, &t[0], &s);
    let found = run_from(&device, DType::BF16, &[h], op, 0.0, &|n| vec![1.0; n]);
    for (a, b) in found.grads[0][..256].iter().zip(&found.grads[0][256..]) {
        assert!((a + b - 1.0).abs() <= 1.0 / 256.0, "{a} + {b}");
    }
}

/// Mean documents: entities of one and two mentions.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let (tokens, entities, dim) = (4 * 290, 4 * 20, 768);
    let rows = Segments::from_lengths((0..entities).map(|e| 1 + e % 2));
    let mentions = rows.rows();
    let index = (0..mentions).map(|m| (m * 9) as u32).collect();
    let s = Arc::new(Sources { rows, index, weight: vec![1.0; mentions] });
    let op: Op = &|tape, t| entity_pool(tape, &t[0], &s);
    let counted = counted(|| drop(run(&device, DType::BF16, &[activation("h", &[tokens, dim])], op, 0.0)));

    // A thread of eight columns asks for both ends of a list, and for each of its entries.
    let (row, threads) = (2 * dim, dim / 8);
    let forward = row * (mentions + entities);
    gate(
        &counted,
        "entity_pool_forward",
        forward + 4 * (entities + mentions),
        forward + threads * (8 * entities + 4 * mentions),
    );
    // A mention of an entity of two reads both of them and, as every mention, dy and itself.
    let of_use = row * (mentions + mentions) + row * (entities / 2 + 4 * entities / 2);
    let lists = threads * (8 * tokens + 12 * mentions + 4 * (entities / 2 + 4 * entities / 2));
    let backward = row * (entities + mentions + tokens);
    gate(
        &counted,
        "entity_pool_backward",
        backward + 4 * (tokens + 2 * mentions + entities),
        of_use + row * tokens + lists,
    );
}

use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::layout::{Segments, Sources};
use docre::ops::gather::gather;
use std::sync::Arc;

pub fn bench(c: &mut Criterion) {
    let device = device();
    let x = tensor(&device, &[TOKENS, DIM]);
    let rows = Segments::from_lengths((0..TOKENS).map(|_| 2));
    let index = (0..2 * TOKENS).map(|j| (j * 7 % TOKENS) as u32).collect();
    let sources = Arc::new(Sources { rows, index, weight: vec![0.5; 2 * TOKENS] });
    measure(c, "gather", &device, 0, Throughput::Elements(x.len() as u64), |tape| gather(tape, &x, &sources));
}

use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::layout::Segments;
use docre::ops::attention::attention;
use docre::rng::Dropout;
use std::sync::Arc;

/// Throughput in multiply-adds of the forward pass.
pub fn bench(c: &mut Criterion) {
    let (device, heads) = (device(), 12);
    let qkv = tensor(&device, &[TOKENS, 3 * DIM]);
    let segments = Arc::new(Segments::from_lengths([TOKENS]));
    let products = Throughput::Elements((2 * TOKENS * TOKENS * DIM) as u64);
    for (name, p) in [("attention", 0.0), ("attention with dropout", 0.1)] {
        let drop = Dropout { p, seed: 1, op: 1, step: 1 };
        measure(c, name, &device, 0, products.clone(), |tape| Ok(attention(tape, &qkv, &segments, heads, drop)?.out));
    }
}

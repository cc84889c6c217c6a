use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::ops::linear::linear;

/// Throughput in multiply-adds of the forward pass; backward does twice as many.
pub fn bench(c: &mut Criterion) {
    let device = device();
    let (x, out) = (tensor(&device, &[TOKENS, DIM]), 4 * DIM);
    let flat = tensor(&device, &[out * DIM + out]);
    let (w, b) = (flat.view(0, &[out, DIM]).expect("a view"), flat.view(out * DIM, &[out]).expect("a view"));
    let products = Throughput::Elements((TOKENS * DIM * out) as u64);
    measure(c, "linear", &device, flat.len(), products, |tape| linear(tape, &x, &w, Some(&b), None));
}

use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::ops::dropout::dropout;
use docre::rng::Dropout;

pub fn bench(c: &mut Criterion) {
    let device = device();
    let x = tensor(&device, &[TOKENS, DIM]);
    let drop = Dropout { p: 0.1, seed: 1, op: 1, step: 1 };
    measure(c, "dropout", &device, 0, Throughput::Elements(x.len() as u64), |tape| dropout(tape, &x, drop));
}

use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::ops::gelu::gelu;

pub fn bench(c: &mut Criterion) {
    let device = device();
    let x = tensor(&device, &[TOKENS, 4 * DIM]);
    measure(c, "gelu", &device, 0, Throughput::Elements(x.len() as u64), |tape| gelu(tape, &x));
}

use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::ops::layernorm::layernorm;
use docre::rng::Dropout;

pub fn bench(c: &mut Criterion) {
    let device = device();
    let (x, branch) = (tensor(&device, &[TOKENS, DIM]), tensor(&device, &[TOKENS, DIM]));
    let flat = tensor(&device, &[2 * DIM]);
    let (weight, bias) = (flat.view(0, &[DIM]).expect("a view"), flat.view(DIM, &[DIM]).expect("a view"));
    for (name, p) in [("layernorm", 0.0), ("layernorm with dropout", 0.1)] {
        let drop = Dropout { p, seed: 1, op: 1, step: 1 };
        measure(c, name, &device, 2 * DIM, Throughput::Elements(x.len() as u64), |tape| {
            layernorm(tape, &x, Some(&branch), &weight, &bias, 1e-12, drop)
        });
    }
}

use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::ops::linear::{Norm, Stream, linear, linear_norm};
use docre::rng::Dropout;

/// Throughput in multiply-adds of the forward pass; backward does twice as many.
pub fn bench(c: &mut Criterion) {
    let device = device();
    let (x, out) = (tensor(&device, &[TOKENS, DIM]), 4 * DIM);
    let flat = tensor(&device, &[out * DIM + out]);
    let (w, b) = (flat.view(0, &[out, DIM]).expect("a view"), flat.view(out * DIM, &[out]).expect("a view"));
    let products = Throughput::Elements((TOKENS * DIM * out) as u64);
    measure(c, "linear", &device, flat.len(), products.clone(), |tape| linear(tape, &x, &w, Some(&b), None));
    let (x, out) = (tensor(&device, &[TOKENS, 4 * DIM]), DIM);
    let flat = tensor(&device, &[out * 4 * DIM + 3 * out]);
    let w = flat.view(0, &[out, 4 * DIM]).expect("a view");
    let [b, weight, bias] = [0, 1, 2].map(|i| flat.view(w.len() + i * out, &[out]).expect("a view"));
    let residual = Stream::from(tensor(&device, &[TOKENS, DIM]));
    measure(c, "linear_norm", &device, flat.len(), products, |tape| {
        let norm = Norm { weight: &weight, bias: &bias, eps: 1e-12 };
        Ok(linear_norm(tape, &x, (&w, &b), Some((&residual, Dropout::default())), norm)?.x)
    });
}

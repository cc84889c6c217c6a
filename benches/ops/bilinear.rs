use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::ops::bilinear::bilinear;

/// Throughput in multiply-adds of the forward pass, with the released sizes E = 1024 and k = 64.
pub fn bench(c: &mut Criterion) {
    let (device, cells, e, block) = (device(), ENTITIES * ENTITIES, 1024, 64);
    let (zs, zo) = (tensor(&device, &[cells, e]), tensor(&device, &[cells, e]));
    let w = tensor(&device, &[DIM, e * block]);
    let products = Throughput::Elements((cells * DIM * e * block) as u64);
    measure(c, "bilinear", &device, w.len(), products, |tape| bilinear(tape, &zs, &zo, &w, None, block));
}

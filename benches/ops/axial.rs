use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::layout::Tables;
use docre::ops::axial::{Axis, axial};
use std::sync::Arc;

/// Throughput in multiply-adds of the forward pass.
pub fn bench(c: &mut Criterion) {
    let (device, heads) = (device(), 8);
    let tables = Arc::new(Tables::exact(&[ENTITIES]));
    let qkv = tensor(&device, &[ENTITIES * ENTITIES, 3 * DIM]);
    let products = Throughput::Elements((2 * ENTITIES.pow(3) * DIM) as u64);
    for (name, axis) in [("axial subject", Axis::Subject), ("axial object", Axis::Object)] {
        measure(c, name, &device, 0, products.clone(), |tape| axial(tape, &qkv, &tables, heads, axis));
    }
}

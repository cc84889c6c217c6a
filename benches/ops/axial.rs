use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::layout::Tables;
use docre::ops::axial::{Axes, axial};
use std::sync::Arc;

/// Throughput in multiply-adds of the forward pass.
pub fn bench(c: &mut Criterion) {
    let (device, heads) = (device(), 8);
    let tables = Arc::new(Tables::exact(&[ENTITIES]));
    let qkv = tensor(&device, &[ENTITIES * ENTITIES, 6 * DIM]);
    let products = Throughput::Elements((4 * ENTITIES.pow(3) * DIM) as u64);
    measure_several(c, "axial", &device, 0, products, |tape| axial(tape, &qkv, &tables, heads, Axes::Both));
}

use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::layout::Grid;
use docre::ops::pair_combine::{Role, pair_combine};
use std::sync::Arc;

pub fn bench(c: &mut Criterion) {
    let (device, dim) = (device(), 1024);
    let grid = Arc::new(Grid::new(&[ENTITIES], 0));
    let (u, pairs) = (tensor(&device, &[ENTITIES, dim]), tensor(&device, &[grid.pairs.rows(), dim]));
    let bias = tensor(&device, &[dim]);
    for (name, role) in [("pair_combine subject", Role::Subject), ("pair_combine object", Role::Object)] {
        measure(c, name, &device, dim, Throughput::Elements((ENTITIES * ENTITIES * dim) as u64), |tape| {
            pair_combine(tape, &u, &pairs, &bias, &grid, role)
        });
    }
}

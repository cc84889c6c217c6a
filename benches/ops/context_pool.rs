use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::layout::Grid;
use docre::ops::context_pool::{Pooling, context_pool};
use std::sync::Arc;

/// Throughput in multiply-adds of the forward pass.
pub fn bench(c: &mut Criterion) {
    let (device, heads) = (device(), 12);
    let (documents, grid) = (Arc::new(document()), Arc::new(Grid::new(&[ENTITIES], 0)));
    let (a, h) = (tensor(&device, &[ENTITIES * heads * TOKENS]), tensor(&device, &[TOKENS, DIM]));
    let pooling = Pooling { heads, mean: false, epsilon: 1e-10 };
    let products = Throughput::Elements((grid.pairs.rows() * TOKENS * (DIM + heads)) as u64);
    measure(c, "context_pool", &device, 0, products, |tape| context_pool(tape, &a, &h, &documents, &grid, pooling));
}

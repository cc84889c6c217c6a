use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::layout::{Segments, Sources};
use docre::ops::entity_pool::entity_pool;
use std::sync::Arc;

pub fn bench(c: &mut Criterion) {
    let device = device();
    let h = tensor(&device, &[TOKENS, DIM]);
    let rows = Segments::from_lengths((0..ENTITIES).map(|e| 1 + e % 3));
    let mentions = rows.rows();
    let index = (0..mentions).map(|j| (j * 7 % TOKENS) as u32).collect();
    let lists = Arc::new(Sources { rows, index, weight: vec![1.0; mentions] });
    let elements = Throughput::Elements((mentions * DIM) as u64);
    measure(c, "entity_pool", &device, 0, elements, |tape| entity_pool(tape, &h, &lists));
}

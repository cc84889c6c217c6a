use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::ops::embedding::embedding;

pub fn bench(c: &mut Criterion) {
    let device = device();
    let flat = tensor(&device, &[(30_522 + 512 + 2) * DIM]);
    let table = |first: usize, rows: usize| flat.view(first * DIM, &[rows, DIM]).expect("a view");
    let (word, position, kind) = (table(0, 30_522), table(30_522, 512), table(31_034, 2));
    let ids: Vec<u32> = (0..TOKENS as u32).map(|i| if i % 10 == 0 { 1008 } else { i * 97 % 30_522 }).collect();
    let positions: Vec<u32> = (0..TOKENS as u32).collect();
    let elements = Throughput::Elements((TOKENS * DIM) as u64);
    measure(c, "embedding", &device, flat.len(), elements, |tape| {
        embedding(tape, &ids, &positions, &word, &position, &kind)
    });
}

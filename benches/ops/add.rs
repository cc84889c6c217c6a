use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::ops::add;

pub fn bench(c: &mut Criterion) {
    let device = device();
    let (mut a, b) = (tensor(&device, &[TOKENS, DIM]), tensor(&device, &[TOKENS, DIM]));
    let mut group = c.benchmark_group("add");
    group.throughput(Throughput::Bytes(12 * a.len() as u64));
    group.bench_function("accumulate", |bench| bench.iter(|| add::accumulate(&mut a, &b)));
    group.finish();
}

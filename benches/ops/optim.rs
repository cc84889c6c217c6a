use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::ops::optim::{Hyper, Span, adamw, global_norm};

pub fn bench(c: &mut Criterion) {
    let (device, n) = (device(), 8 << 20);
    let (mut x, g, mut m, mut v) =
        (tensor(&device, &[n]), tensor(&device, &[n]), tensor(&device, &[n]), tensor(&device, &[n]));
    let spans = [Span { range: 0..n, rate: 1e-5, decay: 0.0 }];
    let mut group = c.benchmark_group("optim");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(28 * n as u64));
    group.bench_function("adamw", |b| b.iter(|| adamw(&mut x, &g, &mut m, &mut v, &spans, Hyper::default(), 10, 1.0)));
    group.throughput(Throughput::Bytes(4 * n as u64));
    group.bench_function("global_norm", |b| b.iter(|| global_norm(&g)));
    group.finish();
}

use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::ops::optim::{Hyper, Span, update};

pub fn bench(c: &mut Criterion) {
    let (device, n) = (device(), 8 << 20);
    let (mut x, g, mut m, mut v) =
        (tensor(&device, &[n]), tensor(&device, &[n]), tensor(&device, &[n]), tensor(&device, &[n]));
    let spans = [Span { range: 0..n, rate: 1e-5, decay: 0.0 }];
    let mut group = c.benchmark_group("optim");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(32 * n as u64));
    group.bench_function("norm + adamw", |b| {
        b.iter(|| {
            update(&mut x, None, &g, &mut m, &mut v, &spans, Hyper::default(), 10, 1.0, None).and_then(|n| n.read())
        })
    });
    group.finish();
}

//! Every op by criterion, forward and with its backward pass: the cases of `docre bench kernels` for one mean document in
//! BERT-base's sizes, on all cores or `DOCRE_THREADS`. `cargo bench --bench ops -- layernorm`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use docre::bench::kernels;
use docre::device::Device;
use std::time::Duration;

fn all(c: &mut Criterion) {
    let threads = std::env::var("DOCRE_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let device = Device::cpu(threads).expect("a thread pool");
    let done = kernels::each(&device, 1, "", &mut |name, work, run| {
        let mut group = c.benchmark_group(name);
        group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        group.throughput(match work.flops {
            0.0 => Throughput::Bytes(work.bytes as u64),
            flops => Throughput::Elements(flops as u64),
        });
        group.bench_function("cpu", |b| b.iter(&mut *run));
        group.finish();
        Ok(())
    });
    done.expect("every case to run");
}

criterion_group!(benches, all);
criterion_main!(benches);

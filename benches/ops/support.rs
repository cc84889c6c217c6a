//! What the benches share. Sizes are those of a mean document: 290 tokens, 20 entities, d = 768.

use criterion::{Criterion, Throughput};
use docre::Result;
use docre::device::Device;
use docre::dtype::DType;
use docre::layout::{Documents, Segments, Window};
use docre::tape::{Grads, Tape};
use docre::tensor::Tensor;
use std::time::Duration;

pub const TOKENS: usize = 290;
pub const ENTITIES: usize = 20;
pub const DIM: usize = 768;

/// All cores, or `DOCRE_THREADS`.
pub fn device() -> Device {
    let threads = std::env::var("DOCRE_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    Device::cpu(threads).expect("a thread pool")
}

/// Values between -2 and 2.
pub fn tensor(device: &Device, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f32> =
        (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) as f32 / 1_073_741_824.0 - 2.0).collect();
    Tensor::from_vec(device, "bench", shape, values).expect("memory")
}

/// One window, eight sentences, and entities with one, two, one, two … mentions.
pub fn document() -> Documents {
    let mentions = Segments::from_lengths((0..ENTITIES).map(|e| 1 + e % 2));
    Documents {
        tokens: Segments::from_lengths([TOKENS]),
        windows: Segments::from_lengths([1]),
        window: vec![Window { rows: 0..TOKENS, keep: 0..TOKENS, first: 0 }],
        entities: Segments::from_lengths([ENTITIES]),
        mention: (0..mentions.rows()).map(|m| m * 7 % TOKENS).collect(),
        mentions,
        sentences: Segments::from_lengths([8]),
        sentence: (0..8).map(|s| 1 + s * 36..1 + (s + 1) * 36).collect(),
    }
}

/// Times `op` in inference, then with its backward pass. `params` are elements of parameters, all at
/// the start of one flat array.
pub fn measure(
    c: &mut Criterion,
    name: &str,
    device: &Device,
    params: usize,
    throughput: Throughput,
    op: impl Fn(&mut Tape) -> Result<Tensor>,
) {
    measure_several(c, name, device, params, throughput, |tape| Ok(vec![op(tape)?]));
}

/// As [`measure`], of an op with several outputs.
pub fn measure_several(
    c: &mut Criterion,
    name: &str,
    device: &Device,
    params: usize,
    throughput: Throughput,
    op: impl Fn(&mut Tape) -> Result<Vec<Tensor>>,
) {
    let mut group = c.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.throughput(throughput);
    group.bench_function("forward", |b| b.iter(|| op(&mut Tape::inference())));
    let mut grads = Grads::new(device, DType::F32, params).expect("memory");
    group.bench_function("forward+backward", |b| {
        b.iter(|| {
            let mut tape = Tape::training(1, 1);
            for y in op(&mut tape)? {
                grads.put(&y, y.clone())?;
            }
            tape.backward(&mut grads)
        })
    });
    group.finish();
}

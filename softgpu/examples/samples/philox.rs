use half::bf16;

use crate::check::{Random, Report};
use crate::gpu::{Failure, Gpu, grid, launch};
use crate::{Sample, sample};

pub const SAMPLES: &[Sample] = &[
    sample("philox_words", words, Some(&[&[1], &[255], &[256], &[257], &[768]]), "count"),
    sample("dropout_residual", dropout, Some(&[&[1], &[7], &[8], &[96], &[2049], &[7 * 768]]), "count"),
];

const THREADS: usize = 256;

fn words(gpu: &Gpu, size: &[usize]) -> Result<Report, Failure> {
    let mut report = Report::default();
    // The known answers that the generator's authors publish: counter and key all 0, all 1, and digits of pi.
    let known = [
        (0, 0, 0, 0, [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
        (u64::MAX, u32::MAX, u32::MAX, u64::MAX, [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
        (
            0x85a3_08d3_243f_6a88,
            0x1319_8a2e,
            0x0370_7344,
            0x299f_31d0_a409_3822,
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
        ),
    ];
    for (first, step, op, seed, right) in known {
        report.exact("known words", &generate(gpu, 1, first, seed, step, op)?, &right);
    }
    // Across the carry into the counter's second word.
    let first = (1 << 32) - size[0] as u64 / 2;
    let got = generate(gpu, size[0], first, 42, 7, 3)?;
    let right: Vec<u32> = (0..size[0] as u64).flat_map(|n| philox(42, 7, 3, first + n)).collect();
    report.exact("words", &got, &right);
    Ok(report)
}

fn generate(gpu: &Gpu, count: usize, first: u64, seed: u64, step: u32, op: u32) -> Result<Vec<u32>, Failure> {
    let function = gpu.function("philox", "philox_words")?;
    let mut words = gpu.fresh::<u32>(4 * count)?;
    let config = grid([count.div_ceil(THREADS), 1, 1], THREADS);
    let count = count as u64;
    launch!(gpu, function, config, &mut words, &count, &first, &seed, &step, &op)?;
    gpu.download(&words)
}

fn dropout(gpu: &Gpu, size: &[usize]) -> Result<Report, Failure> {
    let mut random = Random(size[0] as u64);
    let x = random.units(size[0], bf16::from_f32);
    let residual = random.units(size[0], bf16::from_f32);
    let (threshold, scale) = ((0.1 * 4_294_967_296.0) as u32, 1.0_f32 / 0.9);
    let (seed, step, op) = (0x0123_4567_89ab_cdef_u64, 11_u32, 5_u32);

    let function = gpu.function("philox", "dropout_residual")?;
    let (on_x, on_residual, mut y) = (gpu.upload(&x)?, gpu.upload(&residual)?, gpu.fresh::<bf16>(size[0])?);
    let count = size[0] as u64;
    let config = grid([size[0].div_ceil(8 * THREADS), 1, 1], THREADS);
    launch!(gpu, function, config, &on_x, &on_residual, &mut y, &count, &threshold, &scale, &seed, &step, &op)?;

    // A bf16 product and sum are exact in f64, and the kernel rounds once: so is the result, to the bit.
    let right = (0..size[0]).map(|e| {
        let keep = philox(seed, step, op, e as u64 / 4)[e % 4] >= threshold;
        let factor = if keep { bf16::from_f32(scale).to_f64() } else { 0.0 };
        bf16::from_f64(x[e].to_f64() * factor + residual[e].to_f64())
    });
    let mut report = Report::default();
    report.exact("y", &gpu.download(&y)?, &right.collect::<Vec<_>>());
    Ok(report)
}

/// The four words of number n, as samples/philox.cu defines them.
fn philox(seed: u64, step: u32, op: u32, n: u64) -> [u32; 4] {
    let mut counter = [n as u32, (n >> 32) as u32, step, op];
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let first = 0xd251_1f53 * u64::from(counter[0]);
        let third = 0xcd9e_8d57 * u64::from(counter[2]);
        let high = |product: u64| (product >> 32) as u32;
        counter = [high(third) ^ counter[1] ^ key[0], third as u32, high(first) ^ counter[3] ^ key[1], first as u32];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

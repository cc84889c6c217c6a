use cudarc::driver::LaunchConfig;
use cudarc::driver::sys::CUresult::{CUDA_ERROR_ASSERT, CUDA_ERROR_LAUNCH_FAILED};

use crate::check::{Random, Report};
use crate::gpu::{Failure, Gpu, grid, launch};
use crate::{Sample, Sizes, sample};

/// One value, around a warp, around a block, and several blocks that do not divide it.
const COUNTS: Sizes = Some(&[&[1], &[31], &[127], &[128], &[129], &[768]]);
/// The same, and how many blocks share the values.
const SHARED: Sizes = Some(&[&[1, 1], &[96, 3], &[1000, 5], &[5000, 40]]);

pub const SAMPLES: &[Sample] = &[
    sample("sum_atomic", sum_atomic, SHARED, "count blocks"),
    sample("sum_ordered", sum_ordered, SHARED, "count blocks"),
    sample("prefix_sum", prefix_sum, COUNTS, "count"),
    sample("warp_facts", warp_facts, COUNTS, "count"),
    sample(
        "reverse_halves",
        |gpu, size| permute(gpu, size, "reverse_halves", |i| i / 64 * 64 + 63 - i % 64),
        COUNTS,
        "count",
    ),
    sample(
        "rotate_warp",
        |gpu, size| permute(gpu, size, "rotate_warp", |i| i / 32 * 32 + (i + 1) % 32),
        COUNTS,
        "count",
    ),
    sample("histogram", histogram, SHARED, "count blocks"),
    sample("most_frequent", most_frequent, Some(&[&[1, 5], &[129, 40], &[96, 1]]), "count width"),
    sample("divisors", divisors, COUNTS, "count"),
    sample("say", say, Some(&[&[2]]), "blocks"),
    sample("check_assert", |gpu, size| checks(gpu, size, "check_assert"), COUNTS, "count"),
    sample("check_trap", |gpu, size| checks(gpu, size, "check_trap"), COUNTS, "count"),
    sample("assert_fires", |gpu, _| fires(gpu, "check_assert", CUDA_ERROR_ASSERT), None, "any"),
    sample("trap_fires", |gpu, _| fires(gpu, "check_trap", CUDA_ERROR_LAUNCH_FAILED), None, "any"),
];

const THREADS: usize = 128;
const FILE: &str = "reduce";

/// One thread for each of `count` values.
fn one_each(count: usize) -> LaunchConfig {
    grid([count.div_ceil(THREADS), 1, 1], THREADS)
}

/// Small integers: every order of the additions gives the same sum.
fn sum_atomic(gpu: &Gpu, size: &[usize]) -> Result<Report, Failure> {
    let values = Random(size[0] as u64).integers(size[0], -50, 51);
    let right = values.iter().sum::<i32>() as f32;
    let x = gpu.upload(&values.iter().map(|&v| v as f32).collect::<Vec<_>>())?;
    let mut total = gpu.zeros::<f32>(1)?;
    let (function, count) = (gpu.function(FILE, "sum_atomic")?, size[0] as i32);
    launch!(gpu, function, grid([size[1], 1, 1], THREADS), &x, &mut total, &count)?;
    let mut report = Report::default();
    report.exact("total", &gpu.download(&total)?, &[right]);
    Ok(report)
}

/// Twice, with the same counter: the second run must find it as the first did, and give the same bits.
fn sum_ordered(gpu: &Gpu, size: &[usize]) -> Result<Report, Failure> {
    let values = Random(size[0] as u64).units(size[0], |u| u);
    let x = gpu.upload(&values)?;
    let (function, count) = (gpu.function(FILE, "sum_ordered")?, size[0] as i32);
    let mut finished = gpu.zeros::<u32>(1)?;
    let mut totals = Vec::new();
    for _ in 0..2 {
        let (mut partials, mut total) = (gpu.fresh::<f32>(size[1])?, gpu.fresh::<f32>(1)?);
        let config = grid([size[1], 1, 1], THREADS);
        launch!(gpu, function, config, &x, &mut partials, &mut finished, &mut total, &count)?;
        totals.extend(gpu.download(&total)?);
    }
    let right: f64 = values.iter().map(|&v| f64::from(v)).sum();
    let plain: f32 = values.iter().sum();
    // A tree of about twelve additions of partial sums, which are at most the count's root in size.
    let floor = 12.0 * f64::from(f32::EPSILON) * (size[0] as f64).sqrt();
    let mut report = Report::default();
    report.close("total", &totals, &[plain, plain], &[right, right], floor);
    report.require(totals[0].to_bits() == totals[1].to_bits(), "a second run gave other bits");
    Ok(report)
}

/// Uploads x, launches `entry(x, y, count)` on a thread for each value, and downloads y.
fn map(gpu: &Gpu, entry: &str, x: &[i32], outputs: usize) -> Result<Vec<i32>, Failure> {
    let (on_x, mut y) = (gpu.upload(x)?, gpu.fresh::<i32>(outputs)?);
    let (function, count) = (gpu.function(FILE, entry)?, x.len() as i32);
    launch!(gpu, function, one_each(x.len()), &on_x, &mut y, &count)?;
    gpu.download(&y)
}

fn prefix_sum(gpu: &Gpu, size: &[usize]) -> Result<Report, Failure> {
    let x = Random(size[0] as u64).integers(size[0], -1000, 1000);
    let mut right = Vec::new();
    for block in x.chunks(THREADS) {
        let mut sum = 0;
        block.iter().for_each(|v| {
            sum += v;
            right.push(sum);
        });
    }
    let mut report = Report::default();
    report.exact("y", &map(gpu, "prefix_sum", &x, x.len())?, &right);
    Ok(report)
}

fn warp_facts(gpu: &Gpu, size: &[usize]) -> Result<Report, Failure> {
    let mut x = Random(size[0] as u64).integers(size[0], -3, 20);
    x[size[0] / 2] = -100;
    let warps = size[0].div_ceil(THREADS) * THREADS / 32;
    let mut padded = x.clone();
    padded.resize(warps * 32, 0);
    let right: Vec<i32> = padded.chunks(32).flat_map(facts).collect();
    let mut report = Report::default();
    report.exact("facts", &map(gpu, "warp_facts", &x, warps * 11)?, &right);
    Ok(report)
}

fn facts(warp: &[i32]) -> [i32; 11] {
    let odd = (0..32).fold(0_u32, |bits, lane| bits | ((warp[lane] & 1) as u32) << lane);
    let repeats = (0..32).filter(|&lane| warp[..lane].contains(&warp[lane])).count();
    [
        odd as i32,
        odd.count_ones() as i32,
        if odd == 0 { 0 } else { odd.trailing_zeros() as i32 + 1 },
        warp.iter().any(|&v| v < 0).into(),
        warp.iter().all(|&v| v > -100).into(),
        warp.iter().sum(),
        *warp.iter().min().unwrap_or(&0),
        *warp.iter().max().unwrap_or(&0),
        warp[5],
        warp[3], // what lane 0, which writes, receives from three lanes above
        repeats as i32,
    ]
}

/// y[i] = x[from(i)], or -1 where that is behind the end.
fn permute(gpu: &Gpu, size: &[usize], entry: &str, from: fn(usize) -> usize) -> Result<Report, Failure> {
    let x = Random(size[0] as u64).integers(size[0], 0, 1_000_000);
    let right: Vec<i32> = (0..size[0]).map(|i| x.get(from(i)).copied().unwrap_or(-1)).collect();
    let mut report = Report::default();
    report.exact("y", &map(gpu, entry, &x, x.len())?, &right);
    Ok(report)
}

fn histogram(gpu: &Gpu, size: &[usize]) -> Result<Report, Failure> {
    let x = Random(size[0] as u64).integers(size[0], 2, 15);
    let on_x = gpu.upload(&x)?;
    let mut counts = gpu.zeros::<i32>(16)?;
    let (mut largest, mut smallest) = (gpu.upload(&[i32::MIN])?, gpu.upload(&[i32::MAX])?);
    let (mut any_bits, mut half) = (gpu.zeros::<u32>(1)?, gpu.zeros::<f32>(1)?);
    let (function, count) = (gpu.function(FILE, "histogram")?, size[0] as i32);
    let config = grid([size[1], 1, 1], THREADS);
    launch!(gpu, function, config, &on_x, &mut counts, &mut largest, &mut smallest, &mut any_bits, &mut half, &count)?;
    let (least, most) = x.iter().fold((i32::MAX, i32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    let right: Vec<i32> = (0..16).map(|value| x.iter().filter(|&&v| v == value).count() as i32).collect();
    let mut report = Report::default();
    report.exact("counts", &gpu.download(&counts)?, &right);
    report.exact("largest", &gpu.download(&largest)?, &[most]);
    report.exact("smallest", &gpu.download(&smallest)?, &[least]);
    report.exact("any_bits", &gpu.download(&any_bits)?, &[x.iter().fold(0, |bits, v| bits | 1 << v)]);
    report.exact("largest_half", &gpu.download(&half)?, &[most as f32 / 2.0]);
    Ok(report)
}

fn most_frequent(gpu: &Gpu, size: &[usize]) -> Result<Report, Failure> {
    let x = Random(size[0] as u64).integers(size[0] * size[1], 0, 16);
    let right = x.chunks(size[1]).map(|row| {
        let count = |value: i32| row.iter().filter(|&&v| v == value).count();
        let best = (1..16).fold(0, |best, value| if count(value) > count(best) { value } else { best });
        best + 16 * count(best) as i32
    });
    let right: Vec<i32> = right.collect();
    let (on_x, mut y) = (gpu.upload(&x)?, gpu.fresh::<i32>(size[0])?);
    let (function, count, width) = (gpu.function(FILE, "most_frequent")?, size[0] as i32, size[1] as i32);
    launch!(gpu, function, one_each(size[0]), &on_x, &mut y, &count, &width)?;
    let mut report = Report::default();
    report.exact("y", &gpu.download(&y)?, &right);
    Ok(report)
}

fn divisors(gpu: &Gpu, size: &[usize]) -> Result<Report, Failure> {
    let mut random = Random(size[0] as u64);
    let mut numbers = || -> Vec<u32> { (0..size[0]).map(|_| random.integer(0, 5000) as u32 * 12).collect() };
    let (a, b) = (numbers(), numbers());
    let right: Vec<u32> = a.iter().zip(&b).map(|(&a, &b)| gcd(a, b)).collect();
    let (on_a, on_b, mut y) = (gpu.upload(&a)?, gpu.upload(&b)?, gpu.fresh::<u32>(size[0])?);
    let (function, count) = (gpu.function(FILE, "divisors")?, size[0] as i32);
    launch!(gpu, function, one_each(size[0]), &on_a, &on_b, &mut y, &count)?;
    let mut report = Report::default();
    report.exact("y", &gpu.download(&y)?, &right);
    Ok(report)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What it prints is for whoever reads the output: "block 0 of 2: 42 0.125 done", and one for block 1.
fn say(gpu: &Gpu, size: &[usize]) -> Result<Report, Failure> {
    let (function, number, fraction) = (gpu.function(FILE, "say")?, 42_i32, 0.125_f32);
    launch!(gpu, function, grid([size[0], 1, 1], THREADS), &number, &fraction)?;
    Ok(Report::default())
}

/// The checks hold.
fn checks(gpu: &Gpu, size: &[usize], entry: &str) -> Result<Report, Failure> {
    let x = gpu.upload(&Random(size[0] as u64).integers(size[0], 0, 9))?;
    let (function, count) = (gpu.function(FILE, entry)?, size[0] as i32);
    launch!(gpu, function, one_each(size[0]), &x, &count)?;
    Ok(Report::default())
}

/// A check that fails must come back as this error.
fn fires(gpu: &Gpu, entry: &str, right: cudarc::driver::sys::CUresult) -> Result<Report, Failure> {
    let x = gpu.upload(&[1, 2, -3, 4])?;
    let (function, count) = (gpu.function(FILE, entry)?, 4_i32);
    let launched = launch!(gpu, function, one_each(4), &x, &count);
    let mut report = Report::default();
    report.require(launched.is_err_and(|error| error.0 == right), &format!("{entry} did not return {right:?}"));
    Ok(report)
}

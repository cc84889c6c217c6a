use cudarc::driver::DeviceRepr;
use half::bf16;

use crate::check::{Random, Report, Value};
use crate::gpu::{Failure, Gpu, grid, launch};
use crate::{Sample, Sizes, sample};

/// Rows: one, and around the four warps of a block. Dims: less than a warp's packs, the usual ones, and the largest.
const SIZES: Sizes = Some(&[&[1, 8], &[3, 96], &[4, 96], &[5, 768], &[7, 1024], &[33, 768]]);

pub const SAMPLES: &[Sample] = &[
    sample("layernorm_bf16", |gpu, size| run(gpu, size, "layernorm_bf16", bf16::from_f32), SIZES, "rows dim"),
    sample("layernorm_f32", |gpu, size| run(gpu, size, "layernorm_f32", |x| x), SIZES, "rows dim"),
];

const WARPS: usize = 4;
const EPS: f32 = 1e-5;

fn run<T>(gpu: &Gpu, size: &[usize], entry: &str, narrow: fn(f32) -> T) -> Result<Report, Failure>
where
    T: Value + DeviceRepr + Default,
{
    let (rows, dim) = (size[0], size[1]);
    let mut random = Random((rows * 10_000 + dim) as u64);
    // Off centre, and every third row so flat that eps counts and that a variance in one pass would show.
    let spread = |row: usize| if row.is_multiple_of(3) { 0.01 } else { 2.0 };
    let x: Vec<T> = (0..rows * dim).map(|i| narrow(1.0 + spread(i / dim) * random.unit())).collect();
    let gamma = random.units(dim, |u| 1.0 + 0.5 * u);
    let beta = random.units(dim, |u| u);

    let function = gpu.function("layernorm", entry)?;
    let (on_x, on_gamma, on_beta) = (gpu.upload(&x)?, gpu.upload(&gamma)?, gpu.upload(&beta)?);
    let mut y = gpu.fresh::<T>(rows * dim)?;
    let (mut means, mut rstds) = (gpu.fresh::<f32>(rows)?, gpu.fresh::<f32>(rows)?);
    let config = grid([rows.div_ceil(WARPS), 1, 1], 32 * WARPS);
    let (rows, dim) = (rows as i32, dim as i32);
    launch!(gpu, function, config, &on_x, &on_gamma, &on_beta, &mut y, &mut means, &mut rstds, &rows, &dim, &EPS)?;

    let right = reference(&x, &gamma, &beta, dim as usize);
    let plain = plain(&x, &gamma, &beta, dim as usize);
    let plain_y: Vec<T> = plain.y.iter().map(|&value| narrow(value)).collect();
    let (y, means, rstds) = (gpu.download(&y)?, gpu.download(&means)?, gpu.download(&rstds)?);
    let mut report = Report::default();
    // Each row by itself, since a flat one may err more.
    for row in 0..rows as usize {
        let values = row * dim as usize..(row + 1) * dim as usize;
        // The reciprocal root is approximate (2 units in the last place) and the sums' order differs. What the mean
        // errs, y errs times rstd.
        let ulps = 8.0 * f64::from(f32::EPSILON);
        let (mean, rstd) = (right.mean[row].abs(), right.rstd[row]);
        let largest = right.y[values.clone()].iter().fold(0.0_f64, |most, v| most.max(v.abs()));
        let floor = ulps * (largest + mean * rstd);
        report.close("y", &y[values.clone()], &plain_y[values.clone()], &right.y[values], floor);
        report.close("mean", &means[row..=row], &plain.mean[row..=row], &right.mean[row..=row], ulps * mean);
        report.close("rstd", &rstds[row..=row], &plain.rstd[row..=row], &right.rstd[row..=row], ulps * rstd);
    }
    Ok(report)
}

#[derive(Default)]
struct Outputs<N> {
    y: Vec<N>,
    mean: Vec<N>,
    rstd: Vec<N>,
}

fn reference<T: Value>(x: &[T], gamma: &[f32], beta: &[f32], dim: usize) -> Outputs<f64> {
    let mut out = Outputs::default();
    for row in x.chunks(dim) {
        let mean = row.iter().map(|v| v.wide()).sum::<f64>() / dim as f64;
        let variance = row.iter().map(|v| (v.wide() - mean).powi(2)).sum::<f64>() / dim as f64;
        let rstd = 1.0 / (variance + f64::from(EPS)).sqrt();
        let affine = row.iter().zip(gamma.iter().zip(beta));
        out.y.extend(affine.map(|(v, (&g, &b))| (v.wide() - mean) * rstd * f64::from(g) + f64::from(b)));
        out.mean.push(mean);
        out.rstd.push(rstd);
    }
    out
}

/// The same in f32, in the order of the values.
fn plain<T: Value>(x: &[T], gamma: &[f32], beta: &[f32], dim: usize) -> Outputs<f32> {
    let mut out = Outputs::default();
    for row in x.chunks(dim) {
        let row: Vec<f32> = row.iter().map(|v| v.wide() as f32).collect();
        let mean = row.iter().sum::<f32>() / dim as f32;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / dim as f32;
        let rstd = 1.0 / (variance + EPS).sqrt();
        out.y.extend(row.iter().zip(gamma.iter().zip(beta)).map(|(v, (g, b))| (v - mean) * rstd * g + b));
        out.mean.push(mean);
        out.rstd.push(rstd);
    }
    out
}

use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{PARTIAL, add_to, block, chunk, sum, sum2};
use crate::dtype::Real;
use crate::rng::Dropout;
use crate::tape::Grads;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Blocks of an output that may not be wanted: then they are empty.
fn blocks<T: Real>(tensor: Option<&mut Tensor>, size: usize, count: usize) -> Vec<&mut [T]> {
    match tensor {
        Some(t) => t.slice_mut::<T>().chunks_mut(size).collect(),
        None => (0..count).map(|_| <&mut [T]>::default()).collect(),
    }
}

pub fn forward<T: Real>(
    x: &Tensor,
    branch: Option<&Tensor>,
    (weight, bias, eps): (&Tensor, &Tensor, f64),
    drop: Dropout,
    (y, saved, stats): (&mut Tensor, Option<&mut Tensor>, &mut Tensor),
) {
    let (dim, size) = (x.dim(), chunk(block(x.dim()), x.dim()));
    let (x, branch) = (x.slice::<T>(), branch.map(|b| b.slice::<T>()));
    let params = (weight.slice::<T>(), bias.slice::<T>(), T::of(eps));
    let saved = blocks::<T>(saved, size, x.len().div_ceil(size));
    let outputs = y.slice_mut::<T>().par_chunks_mut(size).zip(stats.slice_mut::<T>().par_chunks_mut(2 * block(dim)));
    outputs.zip(saved).enumerate().for_each(|(b, ((y, stats), saved))| {
        let first = b * size;
        vectorize(
            #[inline(always)]
            || {
                for (i, (y, stats)) in y.chunks_exact_mut(dim).zip(stats.chunks_exact_mut(2)).enumerate() {
                    let at = first + i * dim;
                    add_branch(&x[at..at + dim], branch.map(|b| &b[at..at + dim]), drop, at as u64, y);
                    if let Some(saved) = saved.get_mut(i * dim..(i + 1) * dim) {
                        saved.copy_from_slice(y);
                    }
                    normalise(y, params, stats);
                }
            },
        );
    });
}

#[inline(always)]
fn add_branch<T: Real>(x: &[T], branch: Option<&[T]>, drop: Dropout, at: u64, y: &mut [T]) {
    match branch {
        None => y.copy_from_slice(x),
        Some(branch) => {
            y.copy_from_slice(branch);
            drop.apply(at, y);
            add_to(y, x);
        }
    }
}

/// Normalises a row in place; its mean and 1 / sqrt(var + eps) go to `stats`.
#[inline(always)]
fn normalise<T: Real>(y: &mut [T], (weight, bias, eps): (&[T], &[T], T), stats: &mut [T]) {
    let n = T::of(y.len() as f64);
    let mean = sum(
        y,
        #[inline(always)]
        |v| v,
    ) / n;
    let var = sum(
        y,
        #[inline(always)]
        |v| (v - mean) * (v - mean),
    ) / n;
    let scale = T::ONE / (var + eps).sqrt();
    for ((y, &w), &b) in y.iter_mut().zip(weight).zip(bias) {
        *y = (*y - mean) * scale * w + b;
    }
    (stats[0], stats[1]) = (mean, scale);
}

pub fn backward<T: Real>(
    dy: &Tensor,
    (saved, stats): (&Tensor, &Tensor),
    (weight, bias): (&Tensor, &Tensor),
    drop: Dropout,
    (dx, dbranch): (&mut Tensor, Option<&mut Tensor>),
    grads: &mut Grads,
) {
    let (dim, size) = (dy.dim(), chunk(PARTIAL, dy.dim()));
    let (dy, saved, stats, w) = (dy.slice::<T>(), saved.slice::<T>(), stats.slice::<T>(), weight.slice::<T>());
    let dbranch = blocks::<T>(dbranch, size, dy.len().div_ceil(size));
    let outputs = dx.slice_mut::<T>().par_chunks_mut(size).zip(dbranch).enumerate();
    let partials: Vec<(Vec<T>, Vec<T>)> = outputs
        .map(|(b, (dx, dbranch))| {
            let (mut dweight, mut dbias) = (vec![T::ZERO; dim], vec![T::ZERO; dim]);
            let first = b * size;
            vectorize(
                #[inline(always)]
                || {
                    for (i, dx) in dx.chunks_exact_mut(dim).enumerate() {
                        let at = first + i * dim;
                        let (mean, scale) = (stats[at / dim * 2], stats[at / dim * 2 + 1]);
                        let dy = &dy[at..at + dim];
                        add_products(dy, &saved[at..at + dim], mean, scale, &mut dweight, dx);
                        add_to(&mut dbias, dy);
                        row_gradient(dy, w, scale, dx);
                        if let Some(dbranch) = dbranch.get_mut(i * dim..(i + 1) * dim) {
                            dbranch.copy_from_slice(dx);
                            drop.apply(at as u64, dbranch);
                        }
                    }
                },
            );
            (dweight, dbias)
        })
        .collect();
    partials.iter().for_each(|(dweight, _)| add_to(grads.param::<T>(weight), dweight));
    partials.iter().for_each(|(_, dbias)| add_to(grads.param::<T>(bias), dbias));
}

/// `hat = (s - mean) scale` and `dweight += dy hat`.
#[inline(always)]
fn add_products<T: Real>(dy: &[T], s: &[T], mean: T, scale: T, dweight: &mut [T], hat: &mut [T]) {
    for (((&dy, &s), dw), hat) in dy.iter().zip(s).zip(dweight).zip(hat) {
        *hat = (s - mean) * scale;
        *dw += dy * *hat;
    }
}

/// Turns the normalised row `dx` into the gradient of the sum.
#[inline(always)]
fn row_gradient<T: Real>(dy: &[T], weight: &[T], scale: T, dx: &mut [T]) {
    let n = T::of(dy.len() as f64);
    let mean = sum2(
        dy,
        weight,
        #[inline(always)]
        |d, w| d * w,
    ) / n;
    let slope = sum3(dy, weight, dx) / n;
    for ((dx, &dy), &w) in dx.iter_mut().zip(dy).zip(weight) {
        *dx = scale * (dy * w - mean - *dx * slope);
    }
}

/// `sum of a b c`, in the order of `rows::sum`.
#[inline(always)]
fn sum3<T: Real>(a: &[T], b: &[T], c: &[T]) -> T {
    let mut lanes = [T::ZERO; 32];
    let rows = a.as_chunks::<32>().0.iter().zip(b.as_chunks::<32>().0).zip(c.as_chunks::<32>().0);
    for ((a, b), c) in rows {
        for i in 0..32 {
            lanes[i] += a[i] * b[i] * c[i];
        }
    }
    let done = a.len() / 32 * 32;
    for (i, lane) in lanes.iter_mut().enumerate().take(a.len() - done) {
        *lane += a[done + i] * b[done + i] * c[done + i];
    }
    sum(
        &lanes,
        #[inline(always)]
        |v| v,
    )
}

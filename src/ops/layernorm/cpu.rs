use crate::device::cpu::rows;
use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{PARTIAL, add_to, block, chunk, dot, parts, sum};
use crate::dtype::{Element, Real, narrow, widen};
use crate::rng::Dropout;
use crate::tape::Grads;
use crate::tensor::Tensor;
use rayon::prelude::*;

pub fn forward<S: Element>(
    x: &Tensor,
    branch: Option<&Tensor>,
    (weight, bias, eps): (&Tensor, &Tensor, f64),
    drop: Dropout,
    (y, saved, stats): (&mut Tensor, Option<&mut Tensor>, &mut Tensor),
) {
    let (dim, size) = (x.dim(), chunk(block(x.dim()), x.dim()));
    let (x, branch) = (x.slice::<S>(), branch.map(|b| b.slice::<S>()));
    let norm = rows::Norm { weight: weight.slice::<S>(), bias: bias.slice(), eps: S::Wide::of(eps) };
    let saved = parts::<S>(saved, size, x.len().div_ceil(size));
    let stats = stats.slice_mut::<S::Wide>().par_chunks_mut(2 * block(dim));
    let outputs = y.slice_mut::<S>().par_chunks_mut(size).zip(stats).zip(saved);
    outputs.enumerate().for_each(|(b, ((y, stats), saved))| {
        let first = b * size;
        let mut row = Scratch::new(dim);
        vectorize(
            #[inline(always)]
            || {
                for (i, (y, stats)) in y.chunks_exact_mut(dim).zip(stats.as_chunks_mut().0).enumerate() {
                    let at = first + i * dim;
                    let x = &x[at..at + dim];
                    widen(branch.map_or(x, |branch| &branch[at..at + dim]), &mut row);
                    let mut residual: &[S] = &[];
                    if branch.is_some() {
                        drop.apply(at as u64, &mut row);
                        residual = x;
                    }
                    let sum = saved.get_mut(i * dim..(i + 1) * dim).unwrap_or_default();
                    *stats = rows::norm(&mut row, [residual], norm, rows::Normed { sum, y, rest: &mut [] });
                }
            },
        );
    });
}

pub fn backward<S: Element>(
    dy: &Tensor,
    (saved, stats): (&Tensor, &Tensor),
    (weight, bias): (&Tensor, &Tensor),
    drop: Dropout,
    (dx, dbranch): (&mut Tensor, Option<&mut Tensor>),
    grads: &mut Grads,
) {
    let (dim, size) = (dy.dim(), chunk(PARTIAL, dy.dim()));
    let (dy, saved, stats, w) = (dy.slice::<S>(), saved.slice::<S>(), stats.slice::<S::Wide>(), weight.slice::<S>());
    let dbranch = parts::<S>(dbranch, size, dy.len().div_ceil(size));
    let outputs = dx.slice_mut::<S>().par_chunks_mut(size).zip(dbranch).enumerate();
    let partials: Vec<[Vec<S::Wide>; 2]> = outputs
        .map(|(b, (dx, dbranch))| {
            let (mut dweight, mut dbias) = (vec![S::Wide::ZERO; dim], vec![S::Wide::ZERO; dim]);
            let (mut row, mut slope) = (Scratch::new(dim), Scratch::new(dim));
            let first = b * size;
            vectorize(
                #[inline(always)]
                || {
                    for (i, dx) in dx.chunks_exact_mut(dim).enumerate() {
                        let at = first + i * dim;
                        let (mean, scale) = (stats[at / dim * 2], stats[at / dim * 2 + 1]);
                        widen(&dy[at..at + dim], &mut slope);
                        add_products(&slope, &saved[at..at + dim], mean, scale, &mut dweight, &mut row);
                        add_to::<S::Wide>(&mut dbias, &slope);
                        slope.iter_mut().zip(w).for_each(|(dy, w)| *dy *= w.wide());
                        row_gradient(&slope, scale, &mut row);
                        narrow(&row, dx);
                        if let Some(dbranch) = dbranch.get_mut(i * dim..(i + 1) * dim) {
                            drop.apply(at as u64, &mut row);
                            narrow(&row, dbranch);
                        }
                    }
                },
            );
            [dweight, dbias]
        })
        .collect();
    partials.iter().for_each(|[dweight, _]| add_to::<S::Wide>(grads.param(weight), dweight));
    partials.iter().for_each(|[_, dbias]| add_to::<S::Wide>(grads.param(bias), dbias));
}

/// `hat = (s - mean) scale` and `dweight += dy hat`.
#[inline(always)]
fn add_products<S: Element>(
    dy: &[S::Wide],
    s: &[S],
    mean: S::Wide,
    scale: S::Wide,
    dweight: &mut [S::Wide],
    hat: &mut [S::Wide],
) {
    for (((&dy, &s), dw), hat) in dy.iter().zip(s).zip(dweight).zip(hat) {
        *hat = (s.wide() - mean) * scale;
        *dw += dy * *hat;
    }
}

/// Turns the normalised row `dx` into the gradient of the sum; g is the gradient of the normalised row.
#[inline(always)]
fn row_gradient<T: Real>(g: &[T], scale: T, dx: &mut [T]) {
    let n = T::of(g.len() as f64);
    let mean = sum(
        g,
        #[inline(always)]
        |g| g,
    ) / n;
    let slope = dot(g, dx) / n;
    for (dx, &g) in dx.iter_mut().zip(g) {
        *dx = scale * (g - mean - *dx * slope);
    }
}

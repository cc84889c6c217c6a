use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{block, chunk};
use crate::dtype::{Element, Real, narrow};
use crate::layout::Sources;
use crate::tensor::Tensor;
use rayon::prelude::*;

pub fn forward<S: Element>(h: &Tensor, mentions: &Sources, y: &mut Tensor) {
    let (dim, h) = (h.dim(), h.slice::<S>());
    y.slice_mut::<S>().par_chunks_mut(dim.max(1)).enumerate().for_each(|(e, y)| {
        let rows = &mentions.index[mentions.rows.range(e)];
        match rows {
            [] => y.fill(S::default()),
            [one] => y.copy_from_slice(&h[*one as usize * dim..][..dim]),
            many => {
                let mut pooled = Scratch::new(dim);
                logsumexp(h, dim, many, &mut pooled);
                narrow(&pooled, y);
            }
        }
    });
}

/// `log sum of exp(h)` over `rows`, not rounded.
fn logsumexp<S: Element>(h: &[S], dim: usize, rows: &[u32], sum: &mut [S::Wide]) {
    let mut top = Scratch::new(dim);
    top.fill(S::Wide::NEG_INFINITY);
    sum.fill(S::Wide::ZERO);
    vectorize(
        #[inline(always)]
        || {
            for &row in rows {
                top.iter_mut().zip(&h[row as usize * dim..][..dim]).for_each(|(top, &x)| *top = top.max(x.wide()));
            }
            for &row in rows {
                let h = &h[row as usize * dim..][..dim];
                sum.iter_mut().zip(h).zip(top.iter()).for_each(
                    #[inline(always)]
                    |((sum, &x), &top)| *sum += (x.wide() - top).exp(),
                );
            }
        },
    );
    sum.iter_mut().zip(top.iter()).for_each(|(sum, &top)| *sum = top + sum.ln());
}

/// `uses`: for each token row, the entities that have a mention there. y is made again: rounded, it would be wrong by as
/// much as the weights differ.
pub fn backward<S: Element>(dy: &Tensor, h: &Tensor, _y: &Tensor, mentions: &Sources, uses: &Sources, dh: &mut Tensor) {
    let dim = h.dim();
    let (dy, h) = (dy.slice::<S>(), h.slice::<S>());
    let mut pooled = vec![S::Wide::ZERO; mentions.rows.len() * dim];
    pooled.par_chunks_mut(dim.max(1)).enumerate().for_each(|(e, pooled)| {
        logsumexp(h, dim, &mentions.index[mentions.rows.range(e)], pooled);
    });
    dh.slice_mut::<S>().par_chunks_mut(chunk(block(dim), dim)).enumerate().for_each(|(b, dh)| {
        let first = b * block(dim);
        let mut sum = Scratch::new(dim);
        for (i, dh) in dh.chunks_exact_mut(dim).enumerate() {
            let row = first + i;
            let h = &h[row * dim..][..dim];
            sum.fill(S::Wide::ZERO);
            for &e in &uses.index[uses.rows.range(row)] {
                let at = e as usize * dim;
                add_share(&dy[at..at + dim], h, &pooled[at..at + dim], &mut sum);
            }
            narrow(&sum, dh);
        }
    });
}

/// `dh += dy exp(h - y)`.
fn add_share<S: Element>(dy: &[S], h: &[S], y: &[S::Wide], dh: &mut [S::Wide]) {
    vectorize(
        #[inline(always)]
        || {
            for (((dh, &dy), &h), &y) in dh.iter_mut().zip(dy).zip(h).zip(y) {
                *dh += dy.wide() * (h.wide() - y).exp();
            }
        },
    );
}

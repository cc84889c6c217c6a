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
            many => logsumexp(h, dim, many, y),
        }
    });
}

fn logsumexp<S: Element>(h: &[S], dim: usize, rows: &[u32], y: &mut [S]) {
    let (mut top, mut sum) = (Scratch::new(dim), Scratch::new(dim));
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
    narrow(&sum, y);
}

/// `uses`: for each token row, the entities that have a mention there.
pub fn backward<S: Element>(dy: &Tensor, h: &Tensor, y: &Tensor, _: &Sources, uses: &Sources, dh: &mut Tensor) {
    let dim = h.dim();
    let (dy, h, y) = (dy.slice::<S>(), h.slice::<S>(), y.slice::<S>());
    dh.slice_mut::<S>().par_chunks_mut(chunk(block(dim), dim)).enumerate().for_each(|(b, dh)| {
        let first = b * block(dim);
        let mut sum = Scratch::new(dim);
        for (i, dh) in dh.chunks_exact_mut(dim).enumerate() {
            let row = first + i;
            let h = &h[row * dim..][..dim];
            sum.fill(S::Wide::ZERO);
            for &e in &uses.index[uses.rows.range(row)] {
                let at = e as usize * dim;
                add_share(&dy[at..at + dim], h, &y[at..at + dim], &mut sum);
            }
            narrow(&sum, dh);
        }
    });
}

/// `dh += dy exp(h - y)`.
fn add_share<S: Element>(dy: &[S], h: &[S], y: &[S], dh: &mut [S::Wide]) {
    vectorize(
        #[inline(always)]
        || {
            for (((dh, &dy), &h), &y) in dh.iter_mut().zip(dy).zip(h).zip(y) {
                *dh += dy.wide() * (h.wide() - y.wide()).exp();
            }
        },
    );
}

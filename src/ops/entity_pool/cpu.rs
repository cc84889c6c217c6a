use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{block, chunk};
use crate::dtype::Real;
use crate::layout::Sources;
use crate::tensor::Tensor;
use rayon::prelude::*;

pub fn forward<T: Real>(h: &Tensor, mentions: &Sources, y: &mut Tensor) {
    let (dim, h) = (h.dim(), h.slice::<T>());
    y.slice_mut::<T>().par_chunks_mut(dim.max(1)).enumerate().for_each(|(e, y)| {
        let rows = &mentions.index[mentions.rows.range(e)];
        match rows {
            [] => y.fill(T::ZERO),
            [one] => y.copy_from_slice(&h[*one as usize * dim..][..dim]),
            many => logsumexp(h, dim, many, y),
        }
    });
}

fn logsumexp<T: Real>(h: &[T], dim: usize, rows: &[u32], y: &mut [T]) {
    let mut top = vec![T::NEG_INFINITY; dim];
    vectorize(
        #[inline(always)]
        || {
            for &row in rows {
                top.iter_mut().zip(&h[row as usize * dim..][..dim]).for_each(|(top, &x)| *top = top.max(x));
            }
            y.fill(T::ZERO);
            for &row in rows {
                let h = &h[row as usize * dim..][..dim];
                y.iter_mut().zip(h).zip(&top).for_each(
                    #[inline(always)]
                    |((y, &x), &top)| *y += (x - top).exp(),
                );
            }
        },
    );
    y.iter_mut().zip(&top).for_each(|(y, &top)| *y = top + y.ln());
}

/// `uses`: for each token row, the entities that have a mention there.
pub fn backward<T: Real>(dy: &Tensor, h: &Tensor, y: &Tensor, _: &Sources, uses: &Sources, dh: &mut Tensor) {
    let dim = h.dim();
    let (dy, h, y) = (dy.slice::<T>(), h.slice::<T>(), y.slice::<T>());
    dh.slice_mut::<T>().par_chunks_mut(chunk(block(dim), dim)).enumerate().for_each(|(b, dh)| {
        let first = b * block(dim);
        for (i, dh) in dh.chunks_exact_mut(dim).enumerate() {
            let row = first + i;
            let h = &h[row * dim..][..dim];
            dh.fill(T::ZERO);
            for &e in &uses.index[uses.rows.range(row)] {
                let at = e as usize * dim;
                add_share(&dy[at..at + dim], h, &y[at..at + dim], dh);
            }
        }
    });
}

/// `dh += dy exp(h - y)`.
fn add_share<T: Real>(dy: &[T], h: &[T], y: &[T], dh: &mut [T]) {
    vectorize(
        #[inline(always)]
        || {
            for (((dh, &dy), &h), &y) in dh.iter_mut().zip(dy).zip(h).zip(y) {
                *dh += dy * (h - y).exp();
            }
        },
    );
}

use super::Pooling;
use crate::device::cpu::gemm::{Mat, Operand, gemm};
use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{dot, split_mut, sum};
use crate::dtype::Real;
use crate::layout::{Documents, Grid};
use crate::tensor::Tensor;
use rayon::prelude::*;

/// The weights q of one document's pairs over its tokens, generated row by row.
struct PairWeights<'a, T> {
    /// `[entities, heads, tokens]`.
    attention: &'a [T],
    tokens: usize,
    heads: usize,
    scale: T,
    /// (a, b) of each pair.
    pairs: Vec<(u32, u32)>,
}

impl<'a, T: Real> PairWeights<'a, T> {
    fn new(attention: &'a [T], tokens: usize, entities: usize, pooling: Pooling) -> Self {
        let scale = if pooling.mean { T::of(1.0 / pooling.heads as f64) } else { T::ONE };
        let n = entities as u32;
        let pairs = (0..n).flat_map(|a| (a..n).map(move |b| (a, b))).collect();
        PairWeights { attention, tokens, heads: pooling.heads, scale, pairs }
    }
    fn row(&self, entity: u32, head: usize) -> &'a [T] {
        &self.attention[(entity as usize * self.heads + head) * self.tokens..][..self.tokens]
    }
    /// q of `pair` over the tokens `from..from + out.len()`.
    #[inline(always)]
    fn weights(&self, pair: usize, from: usize, out: &mut [T]) {
        let (a, b) = self.pairs[pair];
        let n = out.len();
        out.fill(T::ZERO);
        for head in 0..self.heads {
            let (x, y) = (&self.row(a, head)[from..from + n], &self.row(b, head)[from..from + n]);
            out.iter_mut().zip(x.iter().zip(y)).for_each(|(o, (x, y))| *o += *x * *y);
        }
        out.iter_mut().for_each(|o| *o *= self.scale);
    }
    /// 1 / (sum q + eps) of every pair.
    fn inverse_sums(&self, epsilon: f64, inverse: &mut [T]) {
        inverse.par_iter_mut().enumerate().for_each(|(p, inverse)| {
            let mut q = Scratch::new(self.tokens);
            vectorize(
                #[inline(always)]
                || {
                    self.weights(p, 0, &mut q);
                    *inverse = T::ONE / (sum(&q, |q| q) + T::of(epsilon));
                },
            )
        });
    }
}

/// Rows are pairs, columns are tokens.
impl<T: Real> Operand<T> for PairWeights<'_, T> {
    fn pack(&self, row: usize, rows: usize, k: usize, width: usize, out: &mut [T]) {
        let mut q = Scratch::new(out.len() / width);
        for i in 0..rows {
            vectorize(
                #[inline(always)]
                || self.weights(row + i, k, &mut q),
            );
            out[i..].iter_mut().step_by(width).zip(q.iter()).for_each(|(o, q)| *o = *q);
        }
    }
}

/// a = q / (sum q + eps) transposed: rows are tokens, columns are pairs.
struct Transposed<'a, T> {
    weights: &'a PairWeights<'a, T>,
    inverse: &'a [T],
}

impl<T: Real> Operand<T> for Transposed<'_, T> {
    fn pack(&self, row: usize, rows: usize, k: usize, width: usize, out: &mut [T]) {
        for (j, line) in out.chunks_exact_mut(width).enumerate() {
            vectorize(
                #[inline(always)]
                || {
                    self.weights.weights(k + j, row, &mut line[..rows]);
                    line.iter_mut().for_each(|x| *x *= self.inverse[k + j]);
                },
            );
        }
    }
}

pub fn forward<T: Real>(
    a: &Tensor,
    h: &Tensor,
    documents: &Documents,
    grid: &Grid,
    pooling: Pooling,
    c: &mut Tensor,
    inverse: &mut Tensor,
) {
    let (width, blocks) = (h.dim(), documents.attention(pooling.heads));
    let (a, h, c, inverse) = (a.slice::<T>(), h.slice::<T>(), c.slice_mut::<T>(), inverse.slice_mut::<T>());
    for d in 0..documents.len() {
        let (tokens, pairs) = (documents.tokens.range(d), grid.pairs.range(d));
        let weights = PairWeights::new(&a[blocks.range(d)], tokens.len(), documents.entities.length(d), pooling);
        let h = Mat::rows(&h[tokens.start * width..tokens.end * width], width);
        let c = &mut c[pairs.start * width..pairs.end * width];
        gemm(pairs.len(), width, tokens.len(), &weights, &h.t(), c, true);
        let inverse = &mut inverse[pairs];
        weights.inverse_sums(pooling.epsilon, inverse);
        c.par_chunks_mut(width).zip(inverse).for_each(|(c, inv)| c.iter_mut().for_each(|c| *c *= *inv));
    }
}

#[allow(clippy::too_many_arguments)] // the op's tensors, by name
pub fn backward<T: Real>(
    a: &Tensor,
    h: &Tensor,
    c: &Tensor,
    dc: &Tensor,
    inverse: &Tensor,
    documents: &Documents,
    grid: &Grid,
    pooling: Pooling,
    da: &mut Tensor,
    dh: &mut Tensor,
) {
    let (width, blocks) = (h.dim(), documents.attention(pooling.heads));
    let (a, h, c, dc) = (a.slice::<T>(), h.slice::<T>(), c.slice::<T>(), dc.slice::<T>());
    let inverse = inverse.slice::<T>();
    let (da, dh) = (da.slice_mut::<T>(), dh.slice_mut::<T>());
    for d in 0..documents.len() {
        let (tokens, pairs) = (documents.tokens.range(d), grid.pairs.range(d));
        let token_rows = tokens.start * width..tokens.end * width;
        let pair_rows = pairs.start * width..pairs.end * width;
        let weights = PairWeights::new(&a[blocks.range(d)], tokens.len(), documents.entities.length(d), pooling);
        let inverse = &inverse[pairs.clone()];
        let (c, dc) = (&c[pair_rows.clone()], Mat::rows(&dc[pair_rows], width));

        let dq = weight_gradients(&weights, inverse, c, dc, Mat::rows(&h[token_rows.clone()], width));
        attention_gradients(&weights, &dq, &mut da[blocks.range(d)]);

        let dh = &mut dh[token_rows];
        let a = Transposed { weights: &weights, inverse };
        gemm(tokens.len(), width, pairs.len(), &a, &dc.t(), dh, true);
    }
}

/// dq `[pairs, tokens]`.
fn weight_gradients<T: Real>(
    weights: &PairWeights<'_, T>,
    inverse: &[T],
    c: &[T],
    dc: Mat<'_, T>,
    h: Mat<'_, T>,
) -> Vec<T> {
    let (pairs, tokens, width) = (weights.pairs.len(), weights.tokens, h.row_stride);
    let mut dq = vec![T::ZERO; pairs * tokens];
    gemm(pairs, tokens, width, &dc, &h, &mut dq, true);
    dq.par_chunks_mut(tokens.max(1)).enumerate().for_each(|(p, dq)| {
        let row = p * width..(p + 1) * width;
        vectorize(
            #[inline(always)]
            || {
                let mean = dot(&dc.data[row.clone()], &c[row]);
                let factor = inverse[p] * weights.scale;
                dq.iter_mut().for_each(|x| *x = (*x - mean) * factor);
            },
        );
    });
    dq
}

/// dA of each entity: the sum over its pairs of dq times the other entity's rows, twice its own for (e, e).
fn attention_gradients<T: Real>(weights: &PairWeights<'_, T>, dq: &[T], da: &mut [T]) {
    let (heads, tokens) = (weights.heads, weights.tokens);
    let entities = da.len() / (heads * tokens).max(1);
    let parts = split_mut(da, std::iter::repeat_n(heads * tokens, entities));
    parts.into_par_iter().enumerate().for_each(|(e, da)| {
        da.fill(T::ZERO);
        for other in 0..entities {
            let (a, b) = (e.min(other), e.max(other));
            let pair = a * (2 * entities + 1 - a) / 2 + (b - a);
            let dq = &dq[pair * tokens..(pair + 1) * tokens];
            let twice = if e == other { T::of(2.0) } else { T::ONE };
            for (head, da) in da.chunks_exact_mut(tokens).enumerate() {
                let row = weights.row(other as u32, head);
                vectorize(
                    #[inline(always)]
                    || da.iter_mut().zip(dq.iter().zip(row)).for_each(|(da, (dq, x))| *da += twice * *dq * *x),
                );
            }
        }
    });
}

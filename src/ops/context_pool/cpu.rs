use super::Pooling;
use crate::device::cpu::gemm::{AsLeft, Factor, Left, Mat, Panels, Product, Right, block_rows, gemm, join};
use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{dot, split_mut, sum};
use crate::dtype::{Element, Real, narrow};
use crate::layout::{Documents, Grid};
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::ops::Range;

/// q of a pair over the tokens `from..from + out.len()`: `scale * sum over heads of x y`; x, y `[heads, tokens]`.
#[inline(always)]
pub fn joint_attention<T: Real>(x: &[T], y: &[T], tokens: usize, scale: T, from: usize, out: &mut [T]) {
    let places = from..from + out.len();
    out.fill(T::ZERO);
    for (x, y) in x.chunks_exact(tokens.max(1)).zip(y.chunks_exact(tokens.max(1))) {
        let (x, y) = (&x[places.clone()], &y[places.clone()]);
        out.iter_mut().zip(x.iter().zip(y)).for_each(|(o, (x, y))| *o += *x * *y);
    }
    out.iter_mut().for_each(|o| *o *= scale);
}

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
        let (scale, n) = (T::of(pooling.scale()), entities as u32);
        let pairs = (0..n).flat_map(|a| (a..n).map(move |b| (a, b))).collect();
        PairWeights { attention, tokens, heads: pooling.heads, scale, pairs }
    }
    /// `[heads, tokens]`.
    fn rows(&self, entity: u32) -> &'a [T] {
        let size = self.heads * self.tokens;
        &self.attention[entity as usize * size..][..size]
    }
    /// q of `pair` over the tokens `from..from + out.len()`.
    #[inline(always)]
    fn weights(&self, pair: usize, from: usize, out: &mut [T]) {
        let (a, b) = self.pairs[pair];
        joint_attention(self.rows(a), self.rows(b), self.tokens, self.scale, from, out);
    }
    /// 1 / (sum q + eps) of every pair. The sum is of the values that the product takes, so that the weights of a
    /// context add up to 1.
    fn inverse_sums<S: Element<Wide = T>>(&self, epsilon: f64, inverse: &mut [T]) {
        inverse.par_iter_mut().enumerate().for_each(|(p, inverse)| {
            let (mut q, mut rounded) = (Scratch::new(self.tokens), Scratch::<S>::new(self.tokens));
            vectorize(
                #[inline(always)]
                || {
                    self.weights(p, 0, &mut q);
                    narrow(&q, &mut rounded);
                    *inverse = T::ONE / (sum(&rounded, |q| q) + T::of(epsilon));
                },
            )
        });
    }
}

/// Rows are pairs, columns are tokens.
impl<S: Factor> AsLeft<S> for PairWeights<'_, S::Wide> {
    fn left(&self, row: usize, rows: usize, columns: Range<usize>) -> Left<'_, S> {
        let mut q = Scratch::new(columns.len());
        let fill = |i: usize, line: &mut [S]| {
            vectorize(
                #[inline(always)]
                || {
                    self.weights(row + i, columns.start, &mut q);
                    narrow(&q, line);
                },
            )
        };
        Left::generate(rows, columns.len(), fill)
    }
}

/// a = q / (sum q + eps) transposed: rows are tokens, columns are pairs.
struct Transposed<'a, T> {
    weights: &'a PairWeights<'a, T>,
    inverse: &'a [T],
}

impl<T: Real> Transposed<'_, T> {
    #[inline(always)]
    fn column<S: Element<Wide = T>>(&self, pair: usize, from: usize, q: &mut [T], out: &mut [S]) {
        self.weights.weights(pair, from, q);
        q.iter_mut().for_each(|x| *x *= self.inverse[pair]);
        narrow(q, out);
    }
}

impl<S: Factor> Panels<S> for Transposed<'_, S::Wide> {
    fn pack(&self, row: usize, rows: usize, columns: Range<usize>, width: usize, out: &mut [S::Unit]) {
        let mut q = Scratch::new(rows);
        let (mut first, mut second) = (Scratch::<S>::new(rows), Scratch::<S>::zeros(rows));
        for (line, pair) in out.chunks_exact_mut(width).zip(columns.clone().step_by(S::K)) {
            vectorize(
                #[inline(always)]
                || {
                    self.column(pair, row, &mut q, &mut first);
                    match S::K == 2 && pair + 1 < columns.end {
                        true => self.column(pair + 1, row, &mut q, &mut second),
                        false => second.fill(S::default()),
                    }
                    join(&first, &second, line);
                },
            );
        }
    }
}

impl<S: Factor> AsLeft<S> for Transposed<'_, S::Wide> {
    fn left(&self, row: usize, rows: usize, columns: Range<usize>) -> Left<'_, S> {
        Left::packed(self, row, rows, columns)
    }
}

pub fn forward<S: Factor>(
    a: &Tensor,
    h: &Tensor,
    documents: &Documents,
    grid: &Grid,
    pooling: Pooling,
    c: &mut Tensor,
    inverse: &mut Tensor,
) {
    let (width, blocks) = (h.dim(), documents.attention(pooling.heads));
    let (a, h, c, inverse) = (a.slice::<S::Wide>(), h.slice::<S>(), c.slice_mut::<S>(), inverse.slice_mut::<S::Wide>());
    for d in 0..documents.len() {
        let (tokens, pairs) = (documents.tokens.range(d), grid.pairs.range(d));
        let weights = PairWeights::new(&a[blocks.range(d)], tokens.len(), documents.entities.length(d), pooling);
        let h = Mat::rows(&h[tokens.start * width..tokens.end * width], width).t();
        let inverse = &mut inverse[pairs.clone()];
        weights.inverse_sums::<S>(pooling.epsilon, inverse);
        let c = &mut c[pairs.start * width..pairs.end * width];
        rounded_product((pairs.len(), width, tokens.len()), &weights, &h, c, |pair| inverse[pair]);
    }
}

/// `C = A B^T`, each row times its factor, rounded.
fn rounded_product<S: Factor>(
    size: (usize, usize, usize),
    a: &impl AsLeft<S>,
    b: &impl Panels<S>,
    c: &mut [S],
    factor: impl Fn(usize) -> S::Wide + Sync,
) {
    let columns = size.1;
    let blocks = c.par_chunks_mut((block_rows(size.0) * columns).max(1));
    Product::new(size, a, Right::Matrix(b)).run(blocks, |block, sums, c| {
        for (row, (sums, c)) in block.rows.clone().zip(block.rows_mut(sums, c, columns)) {
            vectorize(
                #[inline(always)]
                || c.iter_mut().zip(&*sums).for_each(|(c, sum)| *c = S::narrow(*sum * factor(row))),
            );
        }
    });
}

#[allow(clippy::too_many_arguments)] // the op's tensors, by name
pub fn backward<S: Factor>(
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
    let (a, h, c, dc) = (a.slice::<S::Wide>(), h.slice::<S>(), c.slice::<S>(), dc.slice::<S>());
    let inverse = inverse.slice::<S::Wide>();
    let (da, dh) = (da.slice_mut::<S::Wide>(), dh.slice_mut::<S>());
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
        rounded_product((tokens.len(), width, pairs.len()), &a, &dc.t(), dh, |_| S::Wide::ONE);
    }
}

/// dq `[pairs, tokens]`.
fn weight_gradients<S: Factor>(
    weights: &PairWeights<'_, S::Wide>,
    inverse: &[S::Wide],
    c: &[S],
    dc: Mat<'_, S>,
    h: Mat<'_, S>,
) -> Vec<S::Wide> {
    let (pairs, tokens, width) = (weights.pairs.len(), weights.tokens, h.row_stride);
    let mut dq = vec![S::Wide::ZERO; pairs * tokens];
    gemm::<S>((pairs, tokens, width), &dc, &h, &mut dq, true);
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
            for (da, row) in da.chunks_exact_mut(tokens).zip(weights.rows(other as u32).chunks_exact(tokens)) {
                vectorize(
                    #[inline(always)]
                    || da.iter_mut().zip(dq.iter().zip(row)).for_each(|(da, (dq, x))| *da += twice * *dq * *x),
                );
            }
        }
    });
}

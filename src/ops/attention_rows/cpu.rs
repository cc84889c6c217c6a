use super::EPSILON;
use crate::device::cpu::attention::Heads;
use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{axpy, dot, split_mut, sum};
use crate::dtype::{Element, Real, narrow};
use crate::layout::{Documents, Window};
use crate::rng::Dropout;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// The last layer's queries, keys and softmax statistics.
struct Layer<'a, S: Element> {
    qkv: &'a [S],
    lse: &'a [S::Wide],
    heads: Heads,
    drop: Dropout,
}

impl<'a, S: Element> Layer<'a, S> {
    fn new(qkv: &'a Tensor, lse: &'a Tensor, heads: usize, drop: Dropout) -> Self {
        let heads = Heads { count: heads, dim: qkv.dim() / 3 / heads };
        Layer { qkv: qkv.slice(), lse: lse.slice(), heads, drop }
    }
    fn query(&self, row: usize, head: usize) -> &'a [S] {
        &self.qkv[3 * row * self.heads.width() + head * self.heads.dim..][..self.heads.dim]
    }
    fn key(&self, row: usize, head: usize) -> &'a [S] {
        &self.qkv[(3 * row + 1) * self.heads.width() + head * self.heads.dim..][..self.heads.dim]
    }
    /// Probabilities before dropout from packed row `row` to every row of its window.
    #[inline(always)]
    fn probabilities(&self, row: usize, head: usize, window: &Window) -> Vec<S::Wide> {
        let (q, scale) = (self.query(row, head), self.heads.scale::<S::Wide>());
        let lse = self.lse[row * self.heads.count + head];
        let mut p: Vec<S::Wide> = window.rows.clone().map(|j| dot(q, self.key(j, head)) * scale - lse).collect();
        p.iter_mut().for_each(|p| *p = p.exp());
        p
    }
    #[inline(always)]
    fn drop_row(&self, row: usize, head: usize, values: &mut [S::Wide]) {
        self.drop.apply(self.heads.element(row, head), values);
    }
    /// The row of the mention at document position `token`: kept columns of all windows that keep it,
    /// summed. Renormalised if the document has several windows; the factor comes second.
    #[inline(always)]
    fn mention_row(&self, token: usize, head: usize, windows: &[Window], out: &mut [S::Wide]) -> S::Wide {
        out.fill(S::Wide::ZERO);
        for window in windows {
            let Some(row) = window.row(token) else { continue };
            let mut p = self.probabilities(row, head, window);
            self.drop_row(row, head, &mut p);
            axpy(S::Wide::ONE, &p[window.local()], &mut out[window.keep.clone()]);
        }
        if windows.len() < 2 {
            return S::Wide::ONE;
        }
        let factor = S::Wide::ONE / (sum(out, |x| x) + S::Wide::of(EPSILON));
        out.iter_mut().for_each(|x| *x *= factor);
        factor
    }
}

pub fn forward<S: Element>(
    qkv: &Tensor,
    lse: &Tensor,
    documents: &Documents,
    heads: usize,
    drop: Dropout,
    a: &mut Tensor,
) {
    let layer = Layer::<S>::new(qkv, lse, heads, drop);
    let of_entity: Vec<usize> =
        documents.entities.iter().enumerate().flat_map(|(d, range)| range.map(move |_| d)).collect();
    let size = |&d: &usize| heads * documents.tokens.length(d);
    let blocks = split_mut(a.slice_mut::<S::Wide>(), of_entity.iter().map(size));
    blocks.into_par_iter().enumerate().for_each(|(e, block)| {
        let (windows, tokens) = (documents.windows_of(of_entity[e]), documents.tokens.length(of_entity[e]));
        let mentions = documents.mentions_of(e);
        let share = S::Wide::of(1.0 / mentions.len().max(1) as f64);
        block.fill(S::Wide::ZERO);
        let mut row = vec![S::Wide::ZERO; tokens];
        for (head, out) in block.chunks_exact_mut(tokens.max(1)).enumerate() {
            for &token in mentions {
                vectorize(
                    #[inline(always)]
                    || {
                        layer.mention_row(token, head, windows, &mut row);
                        axpy(share, &row, out);
                    },
                );
            }
        }
    });
}

pub fn backward<S: Element>(
    qkv: &Tensor,
    lse: &Tensor,
    da: &Tensor,
    documents: &Documents,
    heads: usize,
    drop: Dropout,
    dqkv: &mut Tensor,
) {
    let layer = Layer::<S>::new(qkv, lse, heads, drop);
    let width = qkv.dim();
    let blocks = documents.attention(heads);
    let da = da.slice::<S::Wide>();
    let sizes = (0..documents.len()).map(|d| documents.rows_of(d).len() * width);
    let dqkv = dqkv.slice_mut::<S>();
    dqkv.fill(S::default()); // rows of no document
    let parts = split_mut(dqkv, sizes);
    parts.into_par_iter().enumerate().for_each(|(d, rounded)| {
        let dqkv = &mut Scratch::zeros(rounded.len());
        let document = Document {
            layer: &layer,
            windows: documents.windows_of(d),
            first_row: documents.rows_of(d).start,
            tokens: documents.tokens.length(d),
        };
        // The gradient of v is 0.
        for (e, da) in documents.entities.range(d).zip(da[blocks.range(d)].chunks(heads * document.tokens.max(1))) {
            let mentions = documents.mentions_of(e);
            for (head, da) in da.chunks_exact(document.tokens.max(1)).enumerate() {
                for &token in mentions {
                    let share = S::Wide::of(1.0 / mentions.len() as f64);
                    vectorize(
                        #[inline(always)]
                        || document.mention_backward(token, head, share, da, dqkv),
                    );
                }
            }
        }
        vectorize(
            #[inline(always)]
            || narrow(dqkv, rounded),
        );
    });
}

/// One document in the backward pass; its rows of dqkv have one owner.
struct Document<'a, S: Element> {
    layer: &'a Layer<'a, S>,
    windows: &'a [Window],
    first_row: usize,
    tokens: usize,
}

impl<S: Element> Document<'_, S> {
    /// Adds to dq of the mention's rows and dk of their windows, given `share * da` for the mention's row.
    #[inline(always)]
    fn mention_backward(&self, token: usize, head: usize, share: S::Wide, da: &[S::Wide], dqkv: &mut [S::Wide]) {
        let (mut factor, mut mean) = (S::Wide::ONE, S::Wide::ZERO);
        if self.windows.len() > 1 {
            // row = x / (sum x + eps): dx = (da - da . row) / (sum x + eps).
            let mut row = vec![S::Wide::ZERO; self.tokens];
            factor = self.layer.mention_row(token, head, self.windows, &mut row);
            mean = dot(da, &row);
        }
        for window in self.windows {
            let Some(at) = window.row(token) else { continue };
            let p = self.layer.probabilities(at, head, window);
            let mut dp = vec![S::Wide::ZERO; p.len()];
            for (dp, da) in dp[window.local()].iter_mut().zip(&da[window.keep.clone()]) {
                *dp = share * factor * (*da - mean);
            }
            self.layer.drop_row(at, head, &mut dp);
            self.softmax_backward(at, head, window, &p, &dp, dqkv);
        }
    }
    #[inline(always)]
    fn softmax_backward(
        &self,
        at: usize,
        head: usize,
        window: &Window,
        p: &[S::Wide],
        dp: &[S::Wide],
        dqkv: &mut [S::Wide],
    ) {
        let heads = self.layer.heads;
        let (mean, scale) = (dot(p, dp), heads.scale::<S::Wide>());
        let place = |row: usize, part: usize| (3 * (row - self.first_row) + part) * heads.width() + head * heads.dim;
        for (j, (p, dp)) in window.rows.clone().zip(p.iter().zip(dp)) {
            let ds = *p * (*dp - mean) * scale;
            axpy(ds, self.layer.key(j, head), &mut dqkv[place(at, 0)..][..heads.dim]);
            axpy(ds, self.layer.query(at, head), &mut dqkv[place(j, 1)..][..heads.dim]);
        }
    }
}

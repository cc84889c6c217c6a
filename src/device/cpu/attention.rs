//! Softmax attention over sequences of rows, shared by the encoder (rows of a window) and the axial layers (lines of a
//! table). A row has `3 heads dim` values: q, then k, then v.
//!
//! A task is one head of one sequence. It holds a block of [`BLOCK`] query rows of probabilities, never
//! L x L, and recomputes them in the backward pass from the log-sum-exp that the forward pass saved
//! (Dao et al., FlashAttention, arXiv 2205.14135).

use super::gemm::{Factor, Left, Mat, Packed, multiply};
use super::scratch::Scratch;
use super::simd::vectorize;
use super::vector::{dot, exp_and_sum, max};
use crate::dtype::{Element, Real, narrow};
use crate::rng::Dropout;
use rayon::prelude::*;

/// Query rows at a time: whole register tiles of every instruction set.
const BLOCK: usize = 48;

/// Keys per (row, head) in the numbering of dropout elements: no window is longer.
pub const DROPOUT_STRIDE: u64 = 512;

/// Row `i` of the sequence is row `base + i * stride` of the tensor.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    pub base: usize,
    pub stride: usize,
    pub len: usize,
    /// Added to every logit of the last key: log of how many equal keys it stands for.
    pub last_key_bias: f64,
}

impl Sequence {
    /// The sequence's rows of `all`, from `column` on.
    fn rows<'a, T>(&self, all: Mat<'a, T>, column: usize) -> Mat<'a, T> {
        Mat { row_stride: self.stride * all.row_stride, ..all.from(self.base, column) }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub count: usize,
    /// Channels a head.
    pub dim: usize,
}

impl Heads {
    pub fn width(&self) -> usize {
        self.count * self.dim
    }
    pub fn scale<T: Real>(&self) -> T {
        T::of(1.0 / (self.dim as f64).sqrt())
    }
    /// Number of the dropout element (row, head, key 0).
    pub fn element(&self, row: usize, head: usize) -> u64 {
        (row * self.count + head) as u64 * DROPOUT_STRIDE
    }
}

/// One head of one sequence: where its q, k and v are.
struct Task<'a, S> {
    qkv: Mat<'a, S>,
    seq: Sequence,
    heads: Heads,
    head: usize,
    drop: Dropout,
}

impl<'a, S: Factor> Task<'a, S> {
    /// q (0), k (1) or v (2) as a `[len, dim]` matrix.
    fn part(&self, part: usize) -> Mat<'a, S> {
        let column = part * self.heads.width() + self.head * self.heads.dim;
        self.seq.rows(self.qkv, column)
    }
    fn row(&self, i: usize) -> usize {
        self.seq.base + i * self.seq.stride
    }
    fn drop_row(&self, i: usize, values: &mut [S::Wide]) {
        if !self.drop.is_off() {
            let first = self.heads.element(self.row(i), self.head);
            vectorize(
                #[inline(always)]
                || self.drop.apply(first, values),
            );
        }
    }
    /// Scores to their exponentials over the largest, in place; the row's log-sum-exp, and what makes them
    /// probabilities.
    fn exponentials(&self, scores: &mut [S::Wide]) -> (S::Wide, S::Wide) {
        let (scale, bias) = (self.heads.scale::<S::Wide>(), S::Wide::of(self.seq.last_key_bias));
        vectorize(
            #[inline(always)]
            || {
                if let Some(last) = scores.last_mut() {
                    *last += bias / scale;
                }
                let top = max(scores) * scale;
                let total = exp_and_sum(scores, scale, top);
                (top + total.ln(), S::Wide::ONE / total)
            },
        )
    }
    /// Scores to probabilities from a known log-sum-exp, in place.
    fn probabilities(&self, scores: &mut [S::Wide], lse: S::Wide) {
        let (scale, bias) = (self.heads.scale::<S::Wide>(), S::Wide::of(self.seq.last_key_bias));
        vectorize(
            #[inline(always)]
            || {
                if let Some(last) = scores.last_mut() {
                    *last += bias / scale;
                }
                scores.iter_mut().for_each(|s| *s = (*s * scale - lse).exp());
            },
        )
    }

    /// Output `[len, dim]` and log-sum-exp `[len]`.
    fn forward(&self) -> (Vec<S::Wide>, Vec<S::Wide>) {
        let (len, dim) = (self.seq.len, self.heads.dim);
        let (mut out, mut lse) = (vec![S::Wide::ZERO; len * dim], vec![S::Wide::ZERO; len]);
        let keys = Packed::right(&self.part(1), 0, len, 0..dim);
        let values = Packed::right(&self.part(2).t(), 0, dim, 0..len);
        let mut scores = Scratch::new(BLOCK.min(len) * len);
        for from in (0..len).step_by(BLOCK) {
            let rows = BLOCK.min(len - from);
            let scores = &mut scores[..rows * len];
            multiply(&Left::new(&self.part(0), from, rows, 0..dim), &keys, scores, len, true);
            let mut inverse = [S::Wide::ONE; BLOCK];
            for (i, row) in scores.chunks_exact_mut(len).enumerate() {
                (lse[from + i], inverse[i]) = self.exponentials(row);
                self.drop_row(from + i, row);
            }
            let weights = Rounded::<S>::new(scores);
            let left = Mat::rows(&weights, len);
            let out = &mut out[from * dim..(from + rows) * dim];
            multiply(&Left::new(&left, 0, rows, 0..len), &values, out, dim, true);
            for (out, inverse) in out.chunks_exact_mut(dim).zip(inverse) {
                out.iter_mut().for_each(|x| *x *= inverse);
            }
        }
        (out, lse)
    }

    /// dq, dk, dv side by side: `[len, 3 dim]`. `dout` is the `[len, dim]` gradient of this head's output.
    fn backward(&self, dout: Mat<'_, S>, lse: impl Fn(usize) -> S::Wide) -> Vec<S::Wide> {
        let (len, dim) = (self.seq.len, self.heads.dim);
        let (width, scale) = (3 * dim, self.heads.scale::<S::Wide>());
        let mut stage = vec![S::Wide::ZERO; len * width];
        let keys = Packed::right(&self.part(1), 0, len, 0..dim);
        let keys_down = Packed::right(&self.part(1).t(), 0, dim, 0..len);
        let values = Packed::right(&self.part(2), 0, len, 0..dim);
        let size = BLOCK.min(len) * len;
        let mut mask = Scratch::new(len);
        let (mut probs, mut dprobs) = (Scratch::new(size), Scratch::new(size));
        for from in (0..len).step_by(BLOCK) {
            let rows = BLOCK.min(len - from);
            let (p, dp) = (&mut probs[..rows * len], &mut dprobs[..rows * len]);
            multiply(&Left::new(&self.part(0), from, rows, 0..dim), &keys, p, len, true);
            multiply(&Left::new(&dout, from, rows, 0..dim), &values, dp, len, true);
            for (i, (p, dp)) in p.chunks_exact_mut(len).zip(dp.chunks_exact_mut(len)).enumerate() {
                self.probabilities(p, lse(from + i));
                mask.fill(S::Wide::ONE);
                self.drop_row(from + i, &mut mask);
                vectorize(
                    #[inline(always)]
                    || {
                        dp.iter_mut().zip(mask.iter()).for_each(|(d, m)| *d *= *m);
                        let mean = dot::<S::Wide>(p, dp);
                        dp.iter_mut().zip(&*p).for_each(|(d, p)| *d = *p * (*d - mean) * scale);
                        p.iter_mut().zip(mask.iter()).for_each(|(p, m)| *p *= *m);
                    },
                );
            }
            let (p, dp) = (Rounded::<S>::new(p), Rounded::<S>::new(dp));
            let (p, dp) = (Mat::rows(&p, len), Mat::rows(&dp, len));
            multiply(&Left::new(&dp, 0, rows, 0..len), &keys_down, &mut stage[from * width..], width, true);
            let queries = Packed::right(&self.part(0).from(from, 0).t(), 0, dim, 0..rows);
            multiply(&Left::new(&dp.t(), 0, len, 0..rows), &queries, &mut stage[dim..], width, false);
            let douts = Packed::right(&dout.from(from, 0).t(), 0, dim, 0..rows);
            multiply(&Left::new(&p.t(), 0, len, 0..rows), &douts, &mut stage[2 * dim..], width, false);
        }
        stage
    }
}

/// Values as products take them: as they are, or rounded.
enum Rounded<'a, S> {
    Same(&'a [S]),
    Own(Scratch<S>),
}

impl<'a, S: Factor> Rounded<'a, S> {
    fn new(values: &'a [S::Wide]) -> Self {
        if S::DTYPE == S::Wide::DTYPE {
            return Rounded::Same(bytemuck::cast_slice(values));
        }
        let mut own = Scratch::new(values.len());
        vectorize(
            #[inline(always)]
            || narrow(values, &mut own),
        );
        Rounded::Own(own)
    }
}

impl<S: Factor> std::ops::Deref for Rounded<'_, S> {
    type Target = [S];
    fn deref(&self) -> &[S] {
        match self {
            Rounded::Same(values) => values,
            Rounded::Own(values) => values,
        }
    }
}

/// Which task and which row of it hold row `r` of the tensor: (sequence, index).
fn places(sequences: &[Sequence], rows: usize) -> Vec<(u32, u32)> {
    let mut places = vec![(0, 0); rows];
    for (s, seq) in sequences.iter().enumerate() {
        (0..seq.len).for_each(|i| places[seq.base + i * seq.stride] = (s as u32, i as u32));
    }
    places
}

fn tasks<'a, S: Factor>(
    qkv: Mat<'a, S>,
    sequences: &'a [Sequence],
    heads: Heads,
    drop: Dropout,
) -> impl IndexedParallelIterator<Item = Task<'a, S>> {
    let task = move |t: usize| Task { qkv, seq: sequences[t / heads.count], heads, head: t % heads.count, drop };
    (0..sequences.len() * heads.count).into_par_iter().map(task)
}

/// `out [rows, heads dim]` and `lse [rows, heads]`; every row belongs to exactly one sequence.
pub fn forward<S: Factor>(
    qkv: Mat<'_, S>,
    sequences: &[Sequence],
    heads: Heads,
    drop: Dropout,
    out: &mut [S],
    lse: &mut [S::Wide],
) {
    let (dim, width) = (heads.dim, heads.width());
    let done: Vec<_> = tasks(qkv, sequences, heads, drop).map(|task| task.forward()).collect();
    let places = places(sequences, out.len() / width);
    let rows = out.par_chunks_mut(width).zip(lse.par_chunks_mut(heads.count)).zip(&places).with_min_len(BLOCK);
    rows.for_each(|((out, lse), &(s, i))| {
        for h in 0..heads.count {
            let (o, l) = &done[s as usize * heads.count + h];
            narrow(&o[i as usize * dim..][..dim], &mut out[h * dim..(h + 1) * dim]);
            lse[h] = l[i as usize];
        }
    });
}

/// `3 heads dim` columns, from `column` on, of each row of `dqkv`, which is as wide as `qkv`'s; from
/// `dout [rows, heads dim]`.
#[allow(clippy::too_many_arguments)] // the op's tensors, by name
pub fn backward<S: Factor>(
    qkv: Mat<'_, S>,
    lse: &[S::Wide],
    dout: &[S],
    sequences: &[Sequence],
    heads: Heads,
    drop: Dropout,
    dqkv: &mut [S],
    column: usize,
) {
    let (dim, width) = (heads.dim, heads.width());
    let run = |task: Task<'_, S>| {
        let dout = task.seq.rows(Mat::rows(dout, width), task.head * dim);
        task.backward(dout, |i| lse[task.row(i) * heads.count + task.head])
    };
    let done: Vec<_> = tasks(qkv, sequences, heads, drop).map(run).collect();
    let places = places(sequences, dqkv.len() / qkv.row_stride);
    dqkv.par_chunks_mut(qkv.row_stride).zip(&places).with_min_len(BLOCK).for_each(|(row, &(s, i))| {
        let row = &mut row[column..];
        for h in 0..heads.count {
            let stage = &done[s as usize * heads.count + h][i as usize * 3 * dim..][..3 * dim];
            for part in 0..3 {
                narrow(&stage[part * dim..][..dim], &mut row[part * width + h * dim..][..dim]);
            }
        }
    });
}

//! Softmax attention over sequences of rows, shared by the encoder (rows of a window) and the axial layers (lines of a
//! table). A row has `3 heads dim` values: q, then k, then v.
//!
//! A task is one head of one sequence. It holds a block of [`BLOCK`] query rows of probabilities, never
//! L x L, and recomputes them in the backward pass from the log-sum-exp that the forward pass saved
//! (Dao et al., FlashAttention, arXiv 2205.14135).

use super::gemm::{Factor, Left, Mat, Packed, multiply};
use super::rows;
use super::scratch::Scratch;
use super::simd::vectorize;
use super::vector::{LANES, dot};
use crate::dtype::{Real, narrow};
use crate::rng::Dropout;
use rayon::prelude::*;
use std::marker::PhantomData;

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
    /// Of (row, head).
    fn place(&self, i: usize) -> usize {
        self.row(i) * self.heads.count + self.head
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
    /// Scores of all keys, and what makes them nothing behind the last.
    #[inline(always)]
    fn complete(&self, scores: &mut [S::Wide]) {
        let len = self.seq.len;
        scores[len - 1] += S::Wide::of(self.seq.last_key_bias) / self.heads.scale();
        scores[len..].fill(S::Wide::NEG_INFINITY);
    }
    /// The exponentials of row `i` of scores over the largest, dropped out and rounded; the row's log-sum-exp, and what
    /// makes them probabilities. A NaN among the scores makes both one.
    fn exponentials(&self, i: usize, scores: &mut [S::Wide], to: &mut [S]) -> (S::Wide, S::Wide) {
        let scale = self.heads.scale::<S::Wide>();
        vectorize(
            #[inline(always)]
            || {
                self.complete(scores);
                let [top, total] = if self.drop.is_off() {
                    rows::exponentials(scores, scale, Some(to))
                } else {
                    let found = rows::exponentials::<S>(scores, scale, None);
                    self.drop.apply(self.heads.element(self.row(i), self.head), scores);
                    narrow(scores, to);
                    found
                };
                (top + total.ln(), S::Wide::ONE / total)
            },
        )
    }
    /// Scores to probabilities from a known log-sum-exp, in place.
    fn probabilities(&self, scores: &mut [S::Wide], lse: S::Wide) {
        let scale = self.heads.scale::<S::Wide>();
        vectorize(
            #[inline(always)]
            || {
                self.complete(scores);
                scores.iter_mut().for_each(|s| *s = (*s * scale - lse).exp());
            },
        )
    }

    /// This head's columns of `out` and of `lse`.
    fn forward(&self, out: &Parts<'_, S>, lse: &Parts<'_, S::Wide>) {
        let (len, dim) = (self.seq.len, self.heads.dim);
        let keys = Packed::right(&self.part(1), 0, len, 0..dim).whole();
        let values = Packed::right(&self.part(2).t(), 0, dim, 0..len);
        let width = width(len);
        let size = BLOCK.min(len) * width;
        let (mut scores, mut weights) = (Scratch::new(size), Scratch::<S>::new(size));
        let mut sums = Scratch::new(BLOCK.min(len) * dim);
        for from in (0..len).step_by(BLOCK) {
            let rows = BLOCK.min(len - from);
            let (scores, weights) = (&mut scores[..rows * width], &mut weights[..rows * width]);
            multiply(&Left::new(&self.part(0), from, rows, 0..dim), &keys, scores, width, true);
            let mut inverse = [S::Wide::ONE; BLOCK];
            let lines = scores.chunks_exact_mut(width).zip(weights.chunks_exact_mut(width));
            for (i, (scores, weights)) in lines.enumerate() {
                let (sum, of_row) = self.exponentials(from + i, scores, weights);
                // SAFETY: this task's alone.
                unsafe { lse.part(self.place(from + i), 1)[0] = sum };
                inverse[i] = of_row;
            }
            let weights = Mat::rows(&*weights, width);
            let left = Left::new(&weights, 0, rows, 0..len.next_multiple_of(S::K));
            multiply(&left, &values, &mut sums[..rows * dim], dim, true);
            for (i, (sums, inverse)) in sums[..rows * dim].chunks_exact_mut(dim).zip(inverse).enumerate() {
                // SAFETY: as above.
                let out = unsafe { out.part(self.place(from + i) * dim, dim) };
                vectorize(
                    #[inline(always)]
                    || {
                        sums.iter_mut().for_each(|x| *x *= inverse);
                        narrow(sums, out);
                    },
                );
            }
        }
    }

    /// This head's columns of dq, dk and dv, from `column` on. `dout` is the `[len, dim]` gradient of this head's output.
    fn backward(&self, dout: Mat<'_, S>, lse: &[S::Wide], dqkv: &Parts<'_, S>, column: usize) {
        let (len, dim) = (self.seq.len, self.heads.dim);
        let (width, of_stage, scale) = (width(len), 3 * dim, self.heads.scale::<S::Wide>());
        let mut stage = Scratch::zeros(len * of_stage);
        let keys = Packed::right(&self.part(1), 0, len, 0..dim).whole();
        let keys_down = Packed::right(&self.part(1).t(), 0, dim, 0..len);
        let values = Packed::right(&self.part(2), 0, len, 0..dim).whole();
        let size = BLOCK.min(len) * width;
        let mut mask = Scratch::new(width);
        let (mut probs, mut dprobs) = (Scratch::new(size), Scratch::new(size));
        let (mut weights, mut dscores) = (Scratch::<S>::new(size), Scratch::<S>::new(size));
        for from in (0..len).step_by(BLOCK) {
            let rows = BLOCK.min(len - from);
            let (p, dp) = (&mut probs[..rows * width], &mut dprobs[..rows * width]);
            multiply(&Left::new(&self.part(0), from, rows, 0..dim), &keys, p, width, true);
            multiply(&Left::new(&dout, from, rows, 0..dim), &values, dp, width, true);
            let rounded = weights.chunks_exact_mut(width).zip(dscores.chunks_exact_mut(width));
            let wide = p.chunks_exact_mut(width).zip(dp.chunks_exact_mut(width));
            for (i, ((p, dp), (weights, dscores))) in wide.zip(rounded).enumerate() {
                self.probabilities(p, lse[self.place(from + i)]);
                mask.fill(S::Wide::ONE);
                self.drop_row(from + i, &mut mask);
                vectorize(
                    #[inline(always)]
                    || {
                        dp[len..].fill(S::Wide::ZERO);
                        dp.iter_mut().zip(mask.iter()).for_each(|(d, m)| *d *= *m);
                        let mean = dot::<S::Wide>(p, dp);
                        dp.iter_mut().zip(&*p).for_each(|(d, p)| *d = *p * (*d - mean) * scale);
                        p.iter_mut().zip(mask.iter()).for_each(|(p, m)| *p *= *m);
                        narrow(dp, dscores);
                        narrow(p, weights);
                    },
                );
            }
            let (p, dp) = (Mat::rows(&weights[..rows * width], width), Mat::rows(&dscores[..rows * width], width));
            let left = Left::new(&dp, 0, rows, 0..len.next_multiple_of(S::K));
            multiply(&left, &keys_down, &mut stage[from * of_stage..], of_stage, true);
            let queries = Packed::right(&self.part(0).from(from, 0).t(), 0, dim, 0..rows);
            multiply(&Left::new(&dp.t(), 0, len, 0..rows), &queries, &mut stage[dim..], of_stage, false);
            let douts = Packed::right(&dout.from(from, 0).t(), 0, dim, 0..rows);
            multiply(&Left::new(&p.t(), 0, len, 0..rows), &douts, &mut stage[2 * dim..], of_stage, false);
        }
        for (i, stage) in stage.chunks_exact(of_stage).enumerate() {
            for (part, values) in stage.chunks_exact(dim).enumerate() {
                let at = self.row(i) * self.qkv.row_stride + column + part * self.heads.width() + self.head * dim;
                // SAFETY: this task's alone.
                narrow(values, unsafe { dqkv.part(at, dim) });
            }
        }
    }
}

/// Room of a row of scores: whole vectors, so that no loop over it has a rest.
fn width(len: usize) -> usize {
    len.next_multiple_of(LANES)
}

/// What tasks write side by side.
struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` of which each thread takes elements of its own.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    fn new(data: &'a mut [T]) -> Self {
        Parts { start: data.as_mut_ptr(), len: data.len(), memory: PhantomData }
    }
    /// Elements `from..from + n`.
    ///
    /// # Safety
    /// Nobody else has one of them at the time.
    #[allow(clippy::mut_from_ref)] // as promised
    unsafe fn part(&self, from: usize, n: usize) -> &mut [T] {
        assert!(from + n <= self.len);
        // SAFETY: in bounds of what was borrowed for 'a, and promised to be of one holder.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), n) }
    }
}

/// Every one of `rows` rows belongs to exactly one sequence: so tasks write apart from each other.
fn check(sequences: &[Sequence], rows: usize) {
    let mut taken = vec![false; rows];
    for row in sequences.iter().flat_map(|seq| (0..seq.len).map(|i| seq.base + i * seq.stride)) {
        assert!(!std::mem::replace(&mut taken[row], true), "row {row} is in two sequences");
    }
    assert!(taken.into_iter().all(|taken| taken), "a row is in no sequence");
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
    check(sequences, lse.len() / heads.count);
    let (out, lse) = (Parts::new(out), Parts::new(lse));
    tasks(qkv, sequences, heads, drop).for_each(|task| task.forward(&out, &lse));
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
    check(sequences, lse.len() / heads.count);
    let dqkv = Parts::new(dqkv);
    tasks(qkv, sequences, heads, drop).for_each(|task| {
        let dout = task.seq.rows(Mat::rows(dout, heads.width()), task.head * heads.dim);
        task.backward(dout, lse, &dqkv, column);
    });
}

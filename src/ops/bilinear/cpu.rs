use crate::device::cpu::gemm::{CHUNK, Left, Mat, Operand, Packed, Start, gemm, gemm_onto, multiply};
use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{add_column_sums, axpy, dot};
use crate::dtype::Real;
use crate::tape::Grads;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// The outer products `[cells, E k]`, generated.
#[derive(Clone, Copy)]
struct Outer<'a, T> {
    zs: &'a [T],
    zo: &'a [T],
    e: usize,
    block: usize,
}

impl<'a, T: Real> Outer<'a, T> {
    fn new(zs: &'a Tensor, zo: &'a Tensor, block: usize) -> Self {
        Outer { zs: zs.slice(), zo: zo.slice(), e: zs.dim(), block }
    }
    /// Runs of one i: for outer index `from..from + len`: (offset in the run list, index of i in z_s, first j
    /// in z_o, length).
    fn runs(&self, from: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let k = self.block;
        let mut at = 0;
        std::iter::from_fn(move || {
            (at < len).then(|| {
                let (i, j) = ((from + at) / k, (from + at) % k);
                let n = (k - j).min(len - at);
                let run = (at, i, i / k * k + j, n);
                at += n;
                run
            })
        })
    }
}

/// Rows are cells, columns the outer index.
impl<T: Real> Operand<T> for Outer<'_, T> {
    fn pack(&self, row: usize, rows: usize, k: usize, width: usize, out: &mut [T]) {
        // Columns of z for these cells, so that a packed line is one product of two short vectors.
        let len = out.len() / width;
        let column = |z: &[T], c: usize, to: &mut [T]| {
            to[..rows].iter_mut().enumerate().for_each(|(r, t)| *t = z[(row + r) * self.e + c]);
        };
        let group = self.block;
        let mut objects = Scratch::zeros(group * width);
        let mut subject = Scratch::zeros(width);
        let mut held = usize::MAX;
        for (at, i, j, n) in self.runs(k, len) {
            if held != i / group {
                held = i / group;
                objects.chunks_exact_mut(width).enumerate().for_each(|(c, to)| column(self.zo, held * group + c, to));
            }
            column(self.zs, i, &mut subject);
            let first = (j - held * group) * width;
            vectorize(
                #[inline(always)]
                || {
                    let lines = out[at * width..(at + n) * width].chunks_exact_mut(width);
                    for (line, object) in lines.zip(objects[first..].chunks_exact(width)) {
                        line.iter_mut().zip(object.iter().zip(subject.iter())).for_each(|(o, (x, y))| *o = *x * *y);
                    }
                },
            );
        }
    }
}

/// Rows are the outer index, columns cells.
struct Transposed<'a, T>(Outer<'a, T>);

impl<T: Real> Operand<T> for Transposed<'_, T> {
    fn pack(&self, row: usize, rows: usize, k: usize, width: usize, out: &mut [T]) {
        let outer = &self.0;
        vectorize(
            #[inline(always)]
            || {
                for (cell, line) in out.chunks_exact_mut(width).enumerate() {
                    let at = (k + cell) * outer.e;
                    let (zs, zo) = (&outer.zs[at..at + outer.e], &outer.zo[at..at + outer.e]);
                    for (to, i, j, n) in outer.runs(row, rows) {
                        line[to..to + n].iter_mut().zip(&zo[j..j + n]).for_each(|(o, z)| *o = zs[i] * *z);
                    }
                }
            },
        );
    }
}

pub fn forward<T: Real>(zs: &Tensor, zo: &Tensor, w: &Tensor, b: Option<&Tensor>, block: usize, y: &mut Tensor) {
    let (cells, out, k) = (zs.rows(), w.rows(), w.dim());
    let start = b.map_or(Start::Zero, |b| Start::Given { bias: Some(b.slice()), residual: None });
    let (bl, w) = (Outer::<T>::new(zs, zo, block), Mat::rows(w.slice::<T>(), k));
    gemm_onto(cells, out, k, &bl, &w, y.slice_mut(), start);
}

pub fn backward_weight<T: Real>(
    dy: &Tensor,
    zs: &Tensor,
    zo: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    block: usize,
    grads: &mut Grads,
) {
    let (cells, out) = (dy.rows(), dy.dim());
    let dy = Mat::rows(dy.slice::<T>(), out);
    let outer = Transposed(Outer::new(zs, zo, block));
    gemm(out, w.dim(), cells, &dy.t(), &outer, grads.param::<T>(w), false);
    if let Some(b) = b {
        add_column_sums(dy.data, out, grads.param::<T>(b));
    }
}

/// Cells whose block of S is in flight on one thread.
const CELLS: usize = 48;

pub fn backward_inputs<T: Real>(
    dy: &Tensor,
    zs: &Tensor,
    zo: &Tensor,
    w: &Tensor,
    block: usize,
    dzs: &mut Tensor,
    dzo: &mut Tensor,
) {
    let (e, out) = (zs.dim(), dy.dim());
    let (dy, w) = (Mat::rows(dy.slice::<T>(), out), Mat::rows(w.slice::<T>(), w.dim()));
    let outer = Outer::<T>::new(zs, zo, block);
    let (dzs, dzo) = (dzs.slice_mut::<T>(), dzo.slice_mut::<T>());
    dzo.fill(T::ZERO);
    // About 1024 columns of S at a time, a whole number of values of i.
    let step = (1024 / block).clamp(1, block);
    for group in (0..e).step_by(block) {
        for first in (group..group + block).step_by(step) {
            let subjects = first..(first + step).min(group + block);
            let columns = subjects.len() * block;
            let chunks: Vec<(usize, Packed<T>)> = (0..out)
                .step_by(CHUNK)
                .map(|k| (k, Packed::right_parallel(&w.t(), first * block, columns, k, CHUNK.min(out - k))))
                .collect();
            let blocks = dzs.par_chunks_mut(CELLS * e).zip(dzo.par_chunks_mut(CELLS * e)).enumerate();
            blocks.for_each(|(b, (dzs, dzo))| {
                let cells = dzs.len() / e;
                let mut s = Scratch::new(cells * columns);
                for (k, right) in &chunks {
                    let left = Left::new(&dy, b * CELLS, cells, *k, CHUNK.min(out - *k));
                    multiply(&left, right, &mut s, columns, *k == 0);
                }
                for (r, s) in s.chunks_exact(columns).enumerate() {
                    let (at, row) = ((b * CELLS + r) * e, r * e);
                    let zo = &outer.zo[at + group..][..block];
                    vectorize(
                        #[inline(always)]
                        || {
                            for (i, s) in subjects.clone().zip(s.chunks_exact(block)) {
                                dzs[row + i] = dot(s, zo);
                                axpy(outer.zs[at + i], s, &mut dzo[row + group..][..block]);
                            }
                        },
                    );
                }
            });
        }
    }
}

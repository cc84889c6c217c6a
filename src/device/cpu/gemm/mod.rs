//! Matrix product: the one seam through which every dense product on the CPU goes.
//!
//! `A[m, k] B[n, k]^T`, both operands described by how rows of them are made ([`AsLeft`]) or packed ([`Panels`]), so
//! that transposes, columns of a wider matrix and generated operands (the grouped bilinear's outer products) cost
//! nothing extra. B is packed in panels of `[k][width]`, once for good where it is a weight that does not change;
//! rows of A are read in place where they can be. A register tile of `mr x nr` accumulators walks down k (Goto and van
//! de Geijn 2008; BLIS). Sums are f32 for bf16 and f32, and the caller gets them block by block while they are in the
//! caches ([`Product::run`]): bias, gelu, residual and rounding cost no pass over memory.
//!
//! Deterministic: an element is the sum over k in order, in chunks of [`Operand::CHUNK`], whatever m, the
//! blocking or the number of threads, so a row's bits do not depend on the rows that share the call.

#[cfg(target_arch = "x86_64")]
mod dot;
pub mod int8;
mod operand;
#[cfg(target_arch = "x86_64")]
mod panel;
mod tile;

pub use operand::{AsLeft, Left, Mat, Packed, Panels, join};
use tile::Out;
pub use tile::{Factor, Operand};

use super::scratch::{LARGEST, Scratch};
use super::simd::{self, Kernel};
use crate::dtype::Real;
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// [`Operand::CHUNK`] unless a type has its own.
pub const CHUNK: usize = 512;

/// Columns of C that a task sums at a time: the sums and a panel of B stay in the second-level cache.
pub const SLAB: usize = 1024;

/// `C[rows of A, rows of B] = A B^T` or `C += A B^T`, on the calling thread.
/// C has rows of `stride` elements; only the rows of A times the rows of B of it are touched.
pub fn multiply<S: Operand>(a: &Left<'_, S>, b: &Packed<S>, c: &mut [S::Sum], stride: usize, assign: bool) {
    assert!(a.units() == b.units);
    multiply_part(a, b, 0..b.rows, 0, c, stride, assign);
}

/// Of `b` the rows of `columns`, which begin at a panel, and the units from `from` on, as many as `a` has.
fn multiply_part<S: Operand>(
    a: &Left<'_, S>,
    b: &Packed<S>,
    columns: Range<usize>,
    from: usize,
    c: &mut [S::Sum],
    stride: usize,
    assign: bool,
) {
    assert!(from + a.units() <= b.units && columns.start.is_multiple_of(b.width) && columns.end <= b.rows);
    simd::run(Multiply { a, b, columns, from, c, stride, assign });
}

struct Multiply<'a, S: Operand> {
    a: &'a Left<'a, S>,
    b: &'a Packed<S>,
    columns: Range<usize>,
    from: usize,
    c: &'a mut [S::Sum],
    stride: usize,
    assign: bool,
}

impl<S: Operand> Kernel for Multiply<'_, S> {
    type Output = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        match (tile::size::<S>().mr, self.b.width) {
            (12, 32) => self.tiles::<12, 32, FMA>(),
            (12, 16) => self.tiles::<12, 16, FMA>(),
            (6, 16) => self.tiles::<6, 16, FMA>(),
            (6, 8) => self.tiles::<6, 8, FMA>(),
            (4, 8) => self.tiles::<4, 8, FMA>(),
            _ => self.tiles::<4, 4, FMA>(),
        }
    }
}

impl<S: Operand> Multiply<'_, S> {
    /// Each panel of B stays in the nearer caches while all rows of A pass.
    #[inline(always)]
    fn tiles<const MR: usize, const NR: usize, const FMA: bool>(self) {
        let (units, width) = (self.a.units(), self.columns.len());
        let panels = self.b.units().chunks_exact((NR * self.b.units).max(1)).skip(self.columns.start / NR);
        for (jb, panel) in panels.take(width.div_ceil(NR)).enumerate() {
            let lines = &panel.as_chunks::<NR>().0[self.from..self.from + units];
            let columns = NR.min(width - jb * NR);
            for (ia, rows) in self.a.tiles(MR).enumerate() {
                let data = &mut self.c[ia * MR * self.stride + jb * NR..];
                let out = Out { data, stride: self.stride, columns, assign: self.assign };
                S::tile::<MR, NR, FMA>(rows, lines, out);
            }
        }
    }
}

/// The right operand.
pub enum Right<'a, S: Operand, B> {
    Matrix(&'a B),
    /// Packed in whole, with as many columns as the product.
    Packed(&'a Packed<S>),
}

/// `A[rows, k] B[columns, k]^T`.
pub struct Product<'a, S: Operand, A, B> {
    rows: usize,
    columns: usize,
    k: usize,
    left: &'a A,
    right: Right<'a, S, B>,
    block: usize,
}

thread_local! {
    /// This thread has work of its own, as the others have: its products need not be cut for them.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` on a thread while all others have as much to do.
pub fn beside_others<R>(f: impl FnOnce() -> R) -> R {
    let before = BUSY.replace(true);
    let found = f();
    BUSY.set(before);
    found
}

/// Rows that a task computes of a product with `rows`: whole register tiles of any type, at least 24 and at most as many
/// as keep the sums in the second-level cache; so many that the thread with the most to do ends first.
pub fn block_rows(rows: usize) -> usize {
    const MOST: usize = 96;
    // What a task costs beside its rows, in rows: it reads all of B.
    const PASS: usize = 6;
    let mut blocks = (24..MOST + 1).step_by(tile::size::<f32>().mr).rev();
    if BUSY.get() {
        return blocks.rfind(|&block| block >= rows).unwrap_or(MOST);
    }
    let tasks = |block: usize| rows.div_ceil(block).div_ceil(rayon::current_num_threads());
    blocks.min_by_key(|&block| tasks(block) * (block + PASS)).unwrap_or(MOST)
}

/// Sums of a product: rows `rows`, columns `columns`, dense.
pub struct Block {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Block {
    /// Each row of `sums` with the same columns of its row in `out`, which has the block's rows, `width` wide.
    pub fn rows_mut<'a, T, O>(
        &self,
        sums: &'a mut [T],
        out: &'a mut [O],
        width: usize,
    ) -> impl Iterator<Item = (&'a mut [T], &'a mut [O])> {
        let columns = self.columns.clone();
        let of_row = move |row: &'a mut [O]| &mut row[columns.clone()];
        sums.chunks_exact_mut(self.columns.len().max(1)).zip(out.chunks_exact_mut(width).map(of_row))
    }
}

impl<'a, S: Operand, A: AsLeft<S>, B: Panels<S>> Product<'a, S, A, B> {
    pub fn new((rows, columns, k): (usize, usize, usize), left: &'a A, right: Right<'a, S, B>) -> Self {
        Product { rows, columns, k, left, right, block: block_rows(rows) }
    }
    /// Computes on all threads of the current pool and hands every block of sums to `finish`, with the output that
    /// belongs to its rows: `outs` are one for every [`block_rows`].
    pub fn run<O: Send>(
        &self,
        outs: impl IndexedParallelIterator<Item = O>,
        finish: impl Fn(&Block, &mut [S::Sum], &mut O) + Sync,
    ) {
        if self.rows == 0 || self.columns == 0 {
            return;
        }
        // Of k: panels that a thread's scratch keeps for the next product.
        let span = LARGEST / size_of::<S::Unit>() * S::K / self.columns.next_multiple_of(tile::size::<S>().nr);
        let span = (span / S::CHUNK * S::CHUNK).max(S::CHUNK);
        match &self.right {
            Right::Packed(packed) => self.in_one(packed, outs, finish),
            Right::Matrix(b) if self.k <= span => {
                self.in_one(&Packed::right_parallel(*b, 0, self.columns, 0..self.k), outs, finish)
            }
            Right::Matrix(b) => self.in_spans(*b, span, outs, finish),
        }
    }

    fn rows_of(&self, task: usize) -> Range<usize> {
        task * self.block..((task + 1) * self.block).min(self.rows)
    }

    fn in_one<O: Send>(
        &self,
        right: &Packed<S>,
        outs: impl IndexedParallelIterator<Item = O>,
        finish: impl Fn(&Block, &mut [S::Sum], &mut O) + Sync,
    ) {
        assert!(right.rows == self.columns && right.units == self.k.div_ceil(S::K));
        outs.enumerate().for_each(|(task, mut out)| {
            for first in (0..self.columns).step_by(SLAB) {
                let block = Block { rows: self.rows_of(task), columns: first..(first + SLAB).min(self.columns) };
                let mut sums = Scratch::new(block.rows.len() * block.columns.len());
                self.sum(&block, right, 0..self.k, &mut sums, true);
                finish(&block, &mut sums, &mut out);
            }
        });
    }

    /// Where panels of all of B would be large: part of k by part, the sums of all of C kept in between.
    fn in_spans<O: Send>(
        &self,
        right: &B,
        span: usize,
        outs: impl IndexedParallelIterator<Item = O>,
        finish: impl Fn(&Block, &mut [S::Sum], &mut O) + Sync,
    ) {
        let block = |task: usize| Block { rows: self.rows_of(task), columns: 0..self.columns };
        let size = self.block * self.columns;
        let mut sums = vec![bytemuck::Zeroable::zeroed(); self.rows * self.columns];
        for from in (0..self.k).step_by(span) {
            let part = from..(from + span).min(self.k);
            let right = Packed::right_parallel(right, 0, self.columns, part.clone());
            let tasks = sums.par_chunks_mut(size).enumerate();
            tasks.for_each(|(task, sums)| self.sum(&block(task), &right, part.clone(), sums, from == 0));
        }
        let tasks = outs.zip(sums.par_chunks_mut(size)).enumerate();
        tasks.for_each(|(task, (mut out, sums))| finish(&block(task), sums, &mut out));
    }

    /// Adds the part of k that `right` has.
    fn sum(&self, block: &Block, right: &Packed<S>, part: Range<usize>, sums: &mut [S::Sum], assign: bool) {
        if part.is_empty() {
            sums.fill(bytemuck::Zeroable::zeroed());
        }
        for from in part.clone().step_by(S::CHUNK) {
            let left = self.left.left(block.rows.start, block.rows.len(), from..(from + S::CHUNK).min(part.end));
            let (columns, unit) = (block.columns.clone(), (from - part.start) / S::K);
            multiply_part(&left, right, columns, unit, sums, block.columns.len(), assign && from == part.start);
        }
    }
}

/// Floating-point operations a second that tiles reach on all threads of the current pool while everything stays in the
/// first-level cache: the ceiling of products on this machine.
pub fn ceiling<S: Factor>() -> f64 {
    const TIMES: usize = 20_000;
    let k = 512 / size_of::<S>(); // 16 KiB of B
    let tile::Size { mr, nr } = tile::size::<S>();
    let once = || {
        let values: Vec<S> =
            (0..mr.max(nr) * k).map(|i| S::narrow(S::Wide::of((i % 251) as f64 / 251.0 - 0.5))).collect();
        let (matrix, mut c) = (Mat::rows(&values, k), vec![S::Wide::ZERO; mr * nr]);
        let (left, right) = (Left::packed(&matrix, 0, mr, 0..k), Packed::right(&matrix, 0, nr, 0..k));
        for _ in 0..TIMES {
            multiply::<S>(&left, std::hint::black_box(&right), &mut c, nr, false);
        }
    };
    let flops = (2 * mr * nr * k * TIMES * rayon::current_num_threads()) as f64;
    let rate = |_| {
        let start = std::time::Instant::now();
        rayon::broadcast(|_| once());
        flops / start.elapsed().as_secs_f64()
    };
    (0..5).map(rate).fold(0.0, f64::max)
}

/// `C[m, n] = A[m, k] B[n, k]^T` (assign) or `C += A B^T`, on all threads of the current pool; C is row-major, `n` wide.
pub fn gemm<S: Factor>(
    (m, n, k): (usize, usize, usize),
    a: &impl AsLeft<S>,
    b: &impl Panels<S>,
    c: &mut [S::Wide],
    assign: bool,
) {
    debug_assert!(c.len() == m * n);
    let product = Product::new((m, n, k), a, Right::Matrix(b));
    product.run(c.par_chunks_mut((product.block * n).max(1)), |block, sums, c| {
        for (sums, c) in block.rows_mut(sums, c, n) {
            match assign {
                true => c.copy_from_slice(sums),
                false => add(c, sums),
            }
        }
    });
}

fn add<T: Real>(c: &mut [T], sums: &[T]) {
    simd::vectorize(
        #[inline(always)]
        || super::vector::add_to(c, sums),
    );
}

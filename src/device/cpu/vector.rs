//! Reductions and row-wise loops in a fixed order.
//!
//! Blocks are fixed by the row length alone, so that no bit depends on the number of threads, and a
//! row's bits do not depend on the rows beside it.

use super::simd::vectorize;
use crate::dtype::Real;
use rayon::prelude::*;

/// Rows whose column sums make one partial. Part of the definition of the result's bits.
pub const PARTIAL: usize = 64;

/// Running values of a reduction: two registers of AVX-512 or four of AVX2 hide the latency of an
/// addition. Part of the definition of the result's bits.
const LANES: usize = 32;

/// Rows that a task takes, `dim` wide: 64 KiB of f32, far above the cost of a task.
pub fn block(dim: usize) -> usize {
    ((1 << 14) / dim.max(1)).max(1)
}

/// Elements of a block of `rows` rows; never 0, which no chunking takes.
pub fn chunk(rows: usize, dim: usize) -> usize {
    (rows * dim).max(1)
}

/// `sum of f(x)` in 32 lanes (element i goes to lane i mod 32), lanes added pairwise.
#[inline(always)]
pub fn sum<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    sum2(x, x, |x, _| f(x))
}

/// `sum of f(x, y)`, in the order of [`sum`].
#[inline(always)]
pub fn sum2<T: Real>(x: &[T], y: &[T], f: impl Fn(T, T) -> T) -> T {
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    let mut lanes = [T::ZERO; LANES];
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane += f(x, y);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            let other = lanes[i + half];
            lanes[i] += other;
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum of `x[i] y[i]`, in the order of [`sum`].
#[inline(always)]
pub fn dot<T: Real>(x: &[T], y: &[T]) -> T {
    sum2(x, y, |x, y| x * y)
}

/// The largest element, in the lanes of [`sum`]; a NaN if there is one, -infinity of nothing.
#[inline(always)]
pub fn max<T: Real>(x: &[T]) -> T {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [T::NEG_INFINITY; LANES];
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = lanes[i].max(block[i]);
        }
    }
    lanes.iter_mut().zip(rest).for_each(
        #[inline(always)]
        |(lane, &x)| *lane = lane.max(x),
    );
    lanes.iter().fold(
        T::NEG_INFINITY,
        #[inline(always)]
        |top, &x| top.max(x),
    )
}

/// `into += x`, elementwise.
#[inline(always)]
pub fn add_to<T: Real>(into: &mut [T], x: &[T]) {
    into.iter_mut().zip(x).for_each(|(a, &b)| *a += b);
}

/// `y += alpha x`.
#[inline(always)]
pub fn axpy<T: Real>(alpha: T, x: &[T], y: &mut [T]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += alpha * *x);
}

/// `sums[j] += sum over rows of data[row][j]`, rows in order: partials of [`PARTIAL`] rows, added in order.
pub fn add_column_sums<T: Real>(data: &[T], width: usize, sums: &mut [T]) {
    let partials: Vec<Vec<T>> = data
        .par_chunks(chunk(PARTIAL, width))
        .map(|block| {
            let mut sum = vec![T::ZERO; width];
            vectorize(
                #[inline(always)]
                || block.chunks_exact(width).for_each(|row| add_to(&mut sum, row)),
            );
            sum
        })
        .collect();
    partials.iter().for_each(|partial| add_to(sums, partial));
}

/// Splits `data` into consecutive mutable parts of the given lengths.
pub fn split_mut<T>(data: &mut [T], lengths: impl IntoIterator<Item = usize>) -> Vec<&mut [T]> {
    let mut rest = data;
    lengths
        .into_iter()
        .map(|n| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(n);
            rest = tail;
            part
        })
        .collect()
}

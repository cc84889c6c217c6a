//! Reductions and row-wise loops in a fixed order.
//!
//! Blocks are fixed by the row length alone, so that no bit depends on the number of threads, and a
//! row's bits do not depend on the rows beside it.

use super::simd::vectorize;
use crate::dtype::{Element, Real};
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::hint::black_box;

/// Rows whose column sums make one partial. Part of the definition of the result's bits.
pub const PARTIAL: usize = 64;

/// Running values of a reduction: two registers of AVX-512 or four of AVX2 hide the latency of an
/// addition. Part of the definition of the result's bits.
pub const LANES: usize = 32;

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
pub fn sum<S: Element>(x: &[S], f: impl Fn(S::Wide) -> S::Wide) -> S::Wide {
    sum2(x, x, |x, _| f(x))
}

/// `sum of f(x, y)`, in the order of [`sum`].
#[inline(always)]
pub fn sum2<S: Element>(x: &[S], y: &[S], f: impl Fn(S::Wide, S::Wide) -> S::Wide) -> S::Wide {
    let (xs, x_rest) = x.as_chunks::<LANES>();
    let (ys, y_rest) = y.as_chunks::<LANES>();
    let mut lanes = [S::Wide::ZERO; LANES];
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..LANES {
            lanes[i] += f(x[i].wide(), y[i].wide());
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane += f(x.wide(), y.wide());
    }
    // Through memory: lanes that are only ever folded were kept, and added to, one by one.
    pairwise(black_box(lanes))
}

/// The sum of lanes: of i and i + 16, of these i and i + 8, and so on. Of f32 by hand where there are instructions for it:
/// compilers add one lane after another.
#[inline(always)]
pub fn pairwise<T: Real>(lanes: [T; LANES]) -> T {
    #[cfg(target_arch = "x86_64")]
    {
        use super::simd::{Level, level};
        if T::DTYPE == crate::dtype::DType::F32 && level() <= Level::Avx512 {
            // SAFETY: the machine has the instructions.
            return bytemuck::cast(unsafe { super::bf16::pairwise(bytemuck::cast_slice(&lanes)) });
        }
    }
    fold(lanes, |a, b| a + b)
}

#[inline(always)]
fn fold<T: Real>(lanes: [T; LANES], f: impl Fn(T, T) -> T) -> T {
    let halve = {
        #[inline(always)]
        |x: &[T], i: usize| f(x[i], x[i + x.len() / 2])
    };
    let x: [T; 16] = std::array::from_fn(|i| halve(&lanes, i));
    let x: [T; 8] = std::array::from_fn(|i| halve(&x, i));
    let x: [T; 4] = std::array::from_fn(|i| halve(&x, i));
    let x: [T; 2] = std::array::from_fn(|i| halve(&x, i));
    halve(&x, 0)
}

/// Sum of `x[i] y[i]`, in the order of [`sum`].
#[inline(always)]
pub fn dot<S: Element>(x: &[S], y: &[S]) -> S::Wide {
    sum2(x, y, |x, y| x * y)
}

/// The largest element, in the lanes of [`sum`]; a NaN if there is one, -infinity of nothing.
#[inline(always)]
pub fn max<T: Real>(x: &[T]) -> T {
    largest(x, |a, b| a.max(b))
}

/// The largest number, in one instruction where [`max`] takes four; NaNs may be passed over.
#[inline(always)]
pub fn max_number<T: Real>(x: &[T]) -> T {
    largest(x, |a, b| if b > a { b } else { a })
}

#[inline(always)]
fn largest<T: Real>(x: &[T], larger: impl Fn(T, T) -> T) -> T {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [T::NEG_INFINITY; LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], block[i]);
        }
    }
    fold(black_box(lanes), larger) // as in `sum2`
}

/// `into += x`, elementwise.
#[inline(always)]
pub fn add_to<S: Element>(into: &mut [S::Wide], x: &[S]) {
    into.iter_mut().zip(x).for_each(
        #[inline(always)]
        |(a, &b)| *a += b.wide(),
    );
}

/// `into[i] = f(x[i])`, rounded.
#[inline(always)]
pub fn map<S: Element>(x: &[S], into: &mut [S], f: impl Fn(S::Wide) -> S::Wide) {
    into.iter_mut().zip(x).for_each(
        #[inline(always)]
        |(y, x)| *y = S::narrow(f(x.wide())),
    );
}

/// `into[i] = f(x[i], y[i])`, rounded.
#[inline(always)]
pub fn map2<S: Element>(x: &[S], y: &[S], into: &mut [S], f: impl Fn(S::Wide, S::Wide) -> S::Wide) {
    into.iter_mut().zip(x.iter().zip(y)).for_each(
        #[inline(always)]
        |(z, (x, y))| *z = S::narrow(f(x.wide(), y.wide())),
    );
}

/// Consecutive parts of an output that may not be wanted: then `count` empty ones.
pub fn parts<S: Element>(tensor: Option<&mut Tensor>, size: usize, count: usize) -> Vec<&mut [S]> {
    match tensor {
        Some(t) => t.slice_mut::<S>().chunks_mut(size).collect(),
        None => (0..count).map(|_| <&mut [S]>::default()).collect(),
    }
}

/// `y += alpha x`.
#[inline(always)]
pub fn axpy<S: Element>(alpha: S::Wide, x: &[S], y: &mut [S::Wide]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += alpha * x.wide());
}

/// `sums[j] += sum over rows of data[row][j]`, rows in order: partials of [`PARTIAL`] rows, added in order.
pub fn add_column_sums<S: Element>(data: &[S], width: usize, sums: &mut [S::Wide]) {
    let partials: Vec<Vec<S::Wide>> = data
        .par_chunks(chunk(PARTIAL, width))
        .map(|block| {
            let mut sum = vec![S::Wide::ZERO; width];
            vectorize(
                #[inline(always)]
                || block.chunks_exact(width).for_each(|row| add_to(&mut sum, row)),
            );
            sum
        })
        .collect();
    partials.iter().for_each(|partial| add_to::<S::Wide>(sums, partial));
}

/// Rows of `data`, `width` long, by columns: for every `slab` columns their part of each row.
pub fn columns_mut<T>(data: &mut [T], width: usize, slab: usize) -> Vec<Vec<&mut [T]>> {
    let rows = data.len() / width.max(1);
    let mut slabs: Vec<_> = (0..width.div_ceil(slab)).map(|_| Vec::with_capacity(rows)).collect();
    for row in data.chunks_exact_mut(width.max(1)) {
        slabs.iter_mut().zip(row.chunks_mut(slab)).for_each(|(slab, part)| slab.push(part));
    }
    slabs
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

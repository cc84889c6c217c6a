//! What ends a product, row by row in one pass or as few as there can be: x is a row of sums that are not rounded yet,
//! `adds` are rows to add to it, an empty one nothing. Rows are as long as x, or it panics. Called within
//! [`vectorize`](super::simd::vectorize).

use super::math;
use super::vector::{LANES, add_to, max_number, pairwise, sum};
use crate::dtype::{Element, Real, narrow};
#[cfg(target_arch = "x86_64")]
use {super::bf16, crate::dtype::DType};

/// There are instructions for rows of this type and length.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn by_hand<S: Element>(len: usize) -> bool {
    S::DTYPE == DType::BF16 && len.is_multiple_of(LANES) && bf16::here()
}

/// `to = x + adds`, rounded. Leaves x with what it likes.
#[inline(always)]
pub fn add<S: Element, const N: usize>(x: &mut [S::Wide], adds: [&[S]; N], to: &mut [S]) {
    check(x.len(), to, adds);
    #[cfg(target_arch = "x86_64")]
    if by_hand::<S>(x.len()) {
        let (adds, to) = (adds.map(bytemuck::cast_slice), bytemuck::cast_slice_mut(to));
        // SAFETY: the machine has the instructions.
        return unsafe { bf16::add(bytemuck::cast_slice(x), adds, to) };
    }
    add_all(x, adds);
    narrow(x, to);
}

/// `rows` may be empty.
fn check<T, const N: usize>(len: usize, row: &[T], rows: [&[T]; N]) {
    assert!(row.len() == len && rows.iter().all(|row| row.is_empty() || row.len() == len), "rows of different lengths");
}

/// `z = x + adds` and `to = gelu(z)`, both rounded, z only afterwards; an empty z is not wanted.
#[inline(always)]
pub fn gelu<S: Element, const N: usize>(x: &mut [S::Wide], adds: [&[S]; N], z: &mut [S], to: &mut [S]) {
    check(x.len(), to, adds);
    check(x.len(), to, [z]);
    #[cfg(target_arch = "x86_64")]
    if by_hand::<S>(x.len()) {
        let (adds, [z, to]) = (adds.map(bytemuck::cast_slice), [z, to].map(bytemuck::cast_slice_mut));
        // SAFETY: the machine has the instructions.
        return unsafe { bf16::gelu(bytemuck::cast_slice(x), adds, z, to) };
    }
    add_all(x, adds);
    narrow(x, z);
    x.iter_mut().for_each(
        #[inline(always)]
        |x| *x = math::gelu(*x),
    );
    narrow(x, to);
}

/// A layer norm's weight, bias and epsilon.
#[derive(Clone, Copy)]
pub struct Norm<'a, S: Element> {
    pub weight: &'a [S],
    pub bias: &'a [S],
    pub eps: S::Wide,
}

/// What [`norm`] writes, rounded; empty ones are not wanted.
pub struct Normed<'a, S> {
    /// What is normalised.
    pub sum: &'a mut [S],
    pub y: &'a mut [S],
    /// What rounding took from y.
    pub rest: &'a mut [S],
}

/// `y = LayerNorm(x + adds)`; the row's mean and 1 / sqrt(variance + eps).
#[inline(always)]
pub fn norm<S: Element, const N: usize>(
    x: &mut [S::Wide],
    adds: [&[S]; N],
    norm: Norm<'_, S>,
    into: Normed<'_, S>,
) -> [S::Wide; 2] {
    check(x.len(), into.y, adds);
    check(x.len(), norm.weight, [norm.bias, &*into.sum, &*into.rest]);
    #[cfg(target_arch = "x86_64")]
    if by_hand::<S>(x.len()) {
        let [weight, bias] = [norm.weight, norm.bias].map(bytemuck::cast_slice);
        let norm = Norm { weight, bias, eps: bytemuck::cast(norm.eps) };
        let [sum, y, rest] = [into.sum, into.y, into.rest].map(bytemuck::cast_slice_mut);
        let (x, adds) = (bytemuck::cast_slice_mut(x), adds.map(bytemuck::cast_slice));
        // SAFETY: the machine has the instructions.
        return unsafe { bf16::norm(x, adds, norm, Normed { sum, y, rest }) }.map(bytemuck::cast);
    }
    add_all(x, adds);
    narrow(x, into.sum);
    let stats = normalise(x, norm);
    narrow(x, into.y);
    if !into.rest.is_empty() {
        x.iter_mut().zip(&*into.y).for_each(|(x, y)| *x -= y.wide());
        narrow(x, into.rest);
    }
    stats
}

/// `x += adds`.
#[inline(always)]
pub fn add_all<S: Element, const N: usize>(x: &mut [S::Wide], adds: [&[S]; N]) {
    adds.iter().for_each(
        #[inline(always)]
        |add| add_to(x, add),
    );
}

#[inline(always)]
fn normalise<S: Element>(x: &mut [S::Wide], Norm { weight, bias, eps }: Norm<'_, S>) -> [S::Wide; 2] {
    let n = S::Wide::of(x.len() as f64);
    let mean = sum(
        x,
        #[inline(always)]
        |v| v,
    ) / n;
    let var = sum(
        x,
        #[inline(always)]
        |v| (v - mean) * (v - mean),
    ) / n;
    let scale = S::Wide::ONE / (var + eps).sqrt();
    for ((x, w), b) in x.iter_mut().zip(weight).zip(bias) {
        *x = (*x - mean) * scale * w.wide() + b.wide();
    }
    [mean, scale]
}

/// `exp(scale (x - largest x))` of whole blocks of [`LANES`], rounded, in `to` or, without one, as they are in x; `scale`
/// times the largest x, and the sum before rounding, in the order of [`sum`]. A NaN in x makes the sum one.
#[inline(always)]
pub fn exponentials<S: Element>(x: &mut [S::Wide], scale: S::Wide, to: Option<&mut [S]>) -> [S::Wide; 2] {
    assert!(x.len().is_multiple_of(LANES) && to.as_ref().is_none_or(|to| to.len() == x.len()));
    #[cfg(target_arch = "x86_64")]
    if by_hand::<S>(x.len()) {
        let (x, to) = (bytemuck::cast_slice_mut(x), to.map(bytemuck::cast_slice_mut));
        // SAFETY: the machine has the instructions.
        return unsafe { bf16::exponentials(x, bytemuck::cast(scale), to) }.map(bytemuck::cast);
    }
    let top = max_number(x) * scale;
    let mut lanes = [S::Wide::ZERO; LANES];
    for block in x.as_chunks_mut::<LANES>().0 {
        for i in 0..LANES {
            block[i] = block[i].fma(scale, -top).exp();
            lanes[i] += block[i];
        }
    }
    if let Some(to) = to {
        narrow(x, to);
    }
    [top, pairwise(lanes)]
}

//! Register tiles: the inner loop of every product.

use super::CHUNK;
#[cfg(target_arch = "x86_64")]
use super::dot;
use crate::device::cpu::simd::{self, Level};
use crate::dtype::{Element, Real};
use half::bf16;

/// Rows and columns of accumulators.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub mr: usize,
    pub nr: usize,
}

/// 24 (AVX-512) or 12 (AVX2) accumulators leave registers for one row of B and a broadcast of A.
pub fn size<S: Operand>() -> Size {
    let (mr, register) = match simd::level() {
        Level::Avx512Bf16 | Level::Avx512 => (12, 64),
        Level::Avx2 => (6, 32),
        Level::Portable => (4, 16),
    };
    Size { mr, nr: 2 * register / size_of::<S::Sum>() }
}

/// Rows of A as a tile walks down them: element k of row i is `data[i * row + k * step]`, `step` units apart.
#[derive(Clone, Copy)]
pub struct Rows<'a, S> {
    pub data: &'a [S],
    pub rows: usize,
    pub row: usize,
    pub step: usize,
}

/// What products multiply.
pub trait Operand: bytemuck::Pod + Default + Send + Sync {
    /// What a panel holds: [`Operand::K`] consecutive values of k.
    type Unit: bytemuck::Pod + Send + Sync;
    /// What products are summed in.
    type Sum: Sum;
    const K: usize;
    /// Elements of k summed at a time. Part of the definition of the result's bits.
    const CHUNK: usize = CHUNK;
    /// `c[i][j] = sum over k of a[i][k] b[k][j]`, or `+=`, for the at most `MR` rows of `a`. In `a`, a unit's values lie
    /// next to each other.
    fn tile<const MR: usize, const NR: usize, const FMA: bool>(
        a: Rows<'_, Self>,
        b: &[[Self::Unit; NR]],
        c: Out<'_, Self::Sum>,
    );
}

/// An element of a tensor that products take.
pub trait Factor: Element + Operand<Sum = <Self as Element>::Wide> {
    fn unit(first: Self, second: Self) -> Self::Unit;
}

pub trait Sum: bytemuck::Pod + Send + Sync {
    fn plus(self, other: Self) -> Self;
}

impl<T: Real> Sum for T {
    #[inline(always)]
    fn plus(self, other: T) -> T {
        self + other
    }
}

/// Where a tile's sums go: the first `columns` of each row.
pub struct Out<'a, T> {
    pub data: &'a mut [T],
    pub stride: usize,
    pub columns: usize,
    /// Not added to what is there.
    pub assign: bool,
}

impl<T: Sum> Out<'_, T> {
    #[inline(always)]
    pub fn store<const NR: usize>(self, acc: &[[T; NR]]) {
        for (i, line) in acc.iter().enumerate() {
            let out = &mut self.data[i * self.stride..i * self.stride + self.columns];
            match (self.assign, <&mut [T; NR]>::try_from(&mut *out)) {
                (true, Ok(out)) => *out = *line,
                (true, Err(_)) => out.copy_from_slice(&line[..self.columns]),
                (false, Ok(out)) => (0..NR).for_each(|j| out[j] = out[j].plus(line[j])),
                (false, Err(_)) => out.iter_mut().zip(line).for_each(|(o, x)| *o = o.plus(*x)),
            }
        }
    }
}

impl<T: Real> Factor for T {
    #[inline(always)]
    fn unit(first: T, _: T) -> T {
        first
    }
}

impl<T: Real> Operand for T {
    type Unit = T;
    type Sum = T;
    const K: usize = 1;
    #[inline(always)]
    fn tile<const MR: usize, const NR: usize, const FMA: bool>(a: Rows<'_, T>, b: &[[T; NR]], c: Out<'_, T>) {
        let acc = match (a.rows == MR, a.row == 1 && a.step == MR) {
            (true, true) => packed::<T, MR, NR, FMA>(a.data, b),
            _ => in_place::<T, MR, NR, FMA>(a, b),
        };
        c.store(&acc[..a.rows]);
    }
}

/// From a panel of A.
#[inline(always)]
fn packed<T: Real, const MR: usize, const NR: usize, const FMA: bool>(a: &[T], b: &[[T; NR]]) -> [[T; NR]; MR] {
    let mut acc = [[T::ZERO; NR]; MR];
    for (a, b) in a.as_chunks::<MR>().0.iter().zip(b) {
        for i in 0..MR {
            for j in 0..NR {
                acc[i][j] = if FMA { a[i].fma(b[j], acc[i][j]) } else { a[i] * b[j] + acc[i][j] };
            }
        }
    }
    acc
}

/// Of fewer than `MR` rows the last one stands in for the missing ones.
#[inline(always)]
fn in_place<T: Real, const MR: usize, const NR: usize, const FMA: bool>(
    a: Rows<'_, T>,
    b: &[[T; NR]],
) -> [[T; NR]; MR] {
    let mut acc = [[T::ZERO; NR]; MR];
    a.check(b.len(), 1);
    let at: [usize; MR] = std::array::from_fn(|i| i.min(a.rows - 1) * a.row);
    for (k, b) in b.iter().enumerate() {
        for i in 0..MR {
            // SAFETY: in bounds by the check above.
            let x = unsafe { *a.data.get_unchecked(at[i] + k * a.step) };
            for j in 0..NR {
                acc[i][j] = if FMA { x.fma(b[j], acc[i][j]) } else { x * b[j] + acc[i][j] };
            }
        }
    }
    acc
}

impl<S> Rows<'_, S> {
    /// Every row has `units` units of `size` elements.
    #[inline(always)]
    pub fn check(&self, units: usize, size: usize) {
        assert!(self.rows > 0);
        let last = (self.rows - 1) * self.row + units.saturating_sub(1) * self.step;
        assert!(units == 0 || last + size <= self.data.len());
    }
}

/// Two values of k, the first in the lower half, as `vdpbf16ps` takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Pair(u32);

impl Pair {
    #[inline(always)]
    fn first(self) -> f32 {
        f32::from_bits(self.0 << 16)
    }
    #[inline(always)]
    fn second(self) -> f32 {
        f32::from_bits(self.0 & 0xFFFF_0000)
    }
}

impl Factor for bf16 {
    #[inline(always)]
    fn unit(first: bf16, second: bf16) -> Pair {
        Pair(u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16)
    }
}

impl Operand for bf16 {
    type Unit = Pair;
    type Sum = f32;
    const K: usize = 2;
    /// Sums go to the second-level cache and back less often; where bf16 has instructions, it is large enough for the
    /// 288 KiB that a block of A then has.
    const CHUNK: usize = 3 * CHUNK;
    #[inline(always)]
    fn tile<const MR: usize, const NR: usize, const FMA: bool>(a: Rows<'_, bf16>, b: &[[Pair; NR]], c: Out<'_, f32>) {
        a.check(b.len(), 2);
        #[cfg(target_arch = "x86_64")]
        if NR == dot::COLUMNS && MR <= dot::ROWS && simd::level() == Level::Avx512Bf16 {
            return dot::bf16::tile(a, b.as_flattened(), c);
        }
        let acc = in_software::<MR, NR, FMA>(a, b);
        c.store(&acc[..a.rows]);
    }
}

#[inline(always)]
fn in_software<const MR: usize, const NR: usize, const FMA: bool>(
    a: Rows<'_, bf16>,
    b: &[[Pair; NR]],
) -> [[f32; NR]; MR] {
    let mut acc = [[0.0; NR]; MR];
    let at: [usize; MR] = std::array::from_fn(|i| i.min(a.rows - 1) * a.row);
    for (k, b) in b.iter().enumerate() {
        let (mut low, mut high) = ([0.0; NR], [0.0; NR]);
        for j in 0..NR {
            (low[j], high[j]) = (b[j].first(), b[j].second());
        }
        for i in 0..MR {
            // SAFETY: in bounds by the caller's check.
            let x = unsafe { a.data.get_unchecked(at[i] + k * a.step..).get_unchecked(..2) };
            for (x, b) in [(x[0].wide(), &low), (x[1].wide(), &high)] {
                for j in 0..NR {
                    acc[i][j] = if FMA { x.fma(b[j], acc[i][j]) } else { x * b[j] + acc[i][j] };
                }
            }
        }
    }
    acc
}

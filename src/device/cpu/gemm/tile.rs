//! Register tiles: the inner loop of every product.

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
pub fn size<S: Element>() -> Size {
    let lanes = |bytes: usize| bytes / S::Wide::DTYPE.size();
    match simd::level() {
        Level::Avx512Bf16 | Level::Avx512 => Size { mr: 12, nr: 2 * lanes(64) },
        Level::Avx2 => Size { mr: 6, nr: 2 * lanes(32) },
        Level::Portable => Size { mr: 4, nr: 2 * lanes(16) },
    }
}

/// Rows of A as a tile walks down them: element k of row i is `data[i * row + k * step]`, `step` units apart.
#[derive(Clone, Copy)]
pub struct Rows<'a, S> {
    pub data: &'a [S],
    pub rows: usize,
    pub row: usize,
    pub step: usize,
}

/// An element that products take.
pub trait Factor: Element {
    /// What a panel holds: [`Factor::K`] consecutive values of k.
    type Unit: bytemuck::Pod + Send + Sync;
    const K: usize;
    fn unit(first: Self, second: Self) -> Self::Unit;
    /// `c[i][j] = sum over k of a[i][k] b[k][j]`, or `+=`, for the at most `MR` rows of `a`. In `a`, a unit's values lie
    /// next to each other.
    fn tile<const MR: usize, const NR: usize, const FMA: bool>(
        a: Rows<'_, Self>,
        b: &[[Self::Unit; NR]],
        c: Out<'_, Self::Wide>,
    );
}

/// Where a tile's sums go: the first `columns` of each row.
pub struct Out<'a, T> {
    pub data: &'a mut [T],
    pub stride: usize,
    pub columns: usize,
    /// Not added to what is there.
    pub assign: bool,
}

impl<T: Real> Out<'_, T> {
    #[inline(always)]
    fn store<const NR: usize>(self, acc: &[[T; NR]]) {
        for (i, line) in acc.iter().enumerate() {
            let out = &mut self.data[i * self.stride..i * self.stride + self.columns];
            match (self.assign, <&mut [T; NR]>::try_from(&mut *out)) {
                (true, Ok(out)) => *out = *line,
                (true, Err(_)) => out.copy_from_slice(&line[..self.columns]),
                (false, Ok(out)) => (0..NR).for_each(|j| out[j] += line[j]),
                (false, Err(_)) => out.iter_mut().zip(line).for_each(|(o, x)| *o += *x),
            }
        }
    }
}

impl<T: Real> Factor for T {
    type Unit = T;
    const K: usize = 1;
    #[inline(always)]
    fn unit(first: T, _: T) -> T {
        first
    }
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
    fn check(&self, units: usize, size: usize) {
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
    type Unit = Pair;
    const K: usize = 2;
    #[inline(always)]
    fn unit(first: bf16, second: bf16) -> Pair {
        Pair(u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16)
    }
    #[inline(always)]
    fn tile<const MR: usize, const NR: usize, const FMA: bool>(a: Rows<'_, bf16>, b: &[[Pair; NR]], c: Out<'_, f32>) {
        a.check(b.len(), 2);
        #[cfg(target_arch = "x86_64")]
        if NR == dot::COLUMNS && MR <= dot::ROWS && simd::level() == Level::Avx512Bf16 {
            return dot::tile(a, b.as_flattened(), c);
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

/// With the instruction for it.
#[cfg(target_arch = "x86_64")]
mod dot {
    use super::{Out, Pair, Rows};
    use half::bf16;
    use std::arch::x86_64::*;

    pub const ROWS: usize = 12;
    pub const COLUMNS: usize = 32;

    /// The caller has checked the bounds of `a` and that the machine has AVX512_BF16.
    #[inline(always)]
    pub fn tile(a: Rows<'_, bf16>, b: &[Pair], c: Out<'_, f32>) {
        // Fewer rows are less work: a kernel for each number of them.
        macro_rules! of_rows {
            ($($rows:literal)*) => {
                match a.rows {
                    // SAFETY: as said above.
                    $($rows => unsafe { run::<$rows>(a, b, c) },)*
                    rows => unreachable!("{rows} rows in a tile"),
                }
            };
        }
        of_rows!(1 2 3 4 5 6 7 8 9 10 11 12)
    }

    /// # Safety
    /// The machine has AVX512_BF16, and `a` has R rows of as many pairs as `b` has.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn run<const R: usize>(a: Rows<'_, bf16>, b: &[Pair], c: Out<'_, f32>) {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        let (row, step) = (a.row, a.step);
        let mut at = a.data.as_ptr();
        let (lines, _) = b.as_chunks::<COLUMNS>();
        for line in lines {
            // SAFETY: a line is two registers; row i of this k has two values at `at + i * row`, by the caller's promise.
            unsafe {
                let low = as_bf16(_mm512_loadu_si512(line.as_ptr().cast()));
                let high = as_bf16(_mm512_loadu_si512(line.as_ptr().add(16).cast()));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = as_bf16(_mm512_set1_epi32(at.add(i * row).cast::<i32>().read_unaligned()));
                    sums[0] = _mm512_dpbf16_ps(sums[0], x, low);
                    sums[1] = _mm512_dpbf16_ps(sums[1], x, high);
                }
                at = at.wrapping_add(step);
            }
        }
        // Masks of the columns that there are.
        let there = u32::MAX >> (COLUMNS - c.columns.clamp(1, COLUMNS));
        let masks = [there as u16, (there >> 16) as u16];
        for (i, sums) in sums.iter().enumerate() {
            let out = c.data[i * c.stride..i * c.stride + c.columns].as_mut_ptr();
            for (half, mask) in masks.into_iter().enumerate() {
                let out = out.wrapping_add(16 * half);
                // SAFETY: the columns of the mask are within the row's, just cut out.
                unsafe {
                    let before = if c.assign { _mm512_setzero_ps() } else { _mm512_maskz_loadu_ps(mask, out) };
                    _mm512_mask_storeu_ps(out, mask, _mm512_add_ps(before, sums[half]));
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn as_bf16(x: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes of any bits.
        unsafe { std::mem::transmute(x) }
    }
}

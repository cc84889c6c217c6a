//! Element types. The CPU's code is written once over [`Element`], what a tensor holds, and the [`Real`] that it
//! computes in: f32 for f32 and bf16; f64 is the reference against which gradients and golden numbers are checked.

#[cfg(target_arch = "x86_64")]
use crate::device::cpu::bf16 as by_hand;
use half::bf16;
use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// Activations and weights in products: on a GPU always, on a CPU where it was asked for.
    BF16,
    F32,
    F64,
}

impl DType {
    pub fn size(self) -> usize {
        match self {
            DType::BF16 => 2,
            DType::F32 => 4,
            DType::F64 => 8,
        }
    }
    /// The type of statistics, logits and sums beside activations of this type.
    pub fn wide(self) -> DType {
        match self {
            DType::BF16 => DType::F32,
            wide => wide,
        }
    }
}

/// An element of a tensor.
pub trait Element: Copy + Debug + Default + PartialOrd + Send + Sync + bytemuck::Pod + 'static {
    /// What is computed in: the element itself, f32 for bf16.
    type Wide: Real;
    const DTYPE: DType;
    fn wide(self) -> Self::Wide;
    /// Rounds to the nearest, ties to even; a NaN stays one.
    fn narrow(x: Self::Wide) -> Self;
    /// See [`narrow`].
    #[inline(always)]
    fn narrow_row(from: &[Self::Wide], to: &mut [Self]) {
        narrow_each(from, to);
    }
    /// `to = factor * from`, rounded as [`narrow`] does.
    #[inline(always)]
    fn scale_row(factor: Self::Wide, from: &[Self], to: &mut [Self]) {
        scale_each(factor, from, to);
    }
}

impl Element for bf16 {
    type Wide = f32;
    const DTYPE: DType = DType::BF16;
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    /// As `bf16::from_f32`, without a branch.
    #[inline(always)]
    fn narrow(x: f32) -> bf16 {
        let bits = x.to_bits();
        let rounded = (bits.wrapping_add(0x7FFF + (bits >> 16 & 1))) >> 16;
        let quiet = bits >> 16 | 0x40;
        bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16)
    }
    #[inline(always)]
    fn narrow_row(from: &[f32], to: &mut [bf16]) {
        #[cfg(target_arch = "x86_64")]
        if by_hand::here() {
            // SAFETY: the machine has the instructions.
            return unsafe { by_hand::narrow(from, to) };
        }
        narrow_each(from, to);
    }
    #[inline(always)]
    fn scale_row(factor: f32, from: &[bf16], to: &mut [bf16]) {
        #[cfg(target_arch = "x86_64")]
        if by_hand::here() {
            // SAFETY: the machine has the instructions.
            return unsafe { by_hand::scale(factor, from, to) };
        }
        scale_each(factor, from, to);
    }
}

/// Widens a row.
#[inline(always)]
pub fn widen<S: Element>(from: &[S], to: &mut [S::Wide]) {
    to.iter_mut().zip(from).for_each(
        #[inline(always)]
        |(to, from)| *to = from.wide(),
    );
}

/// Rounds a row to its type. With an instruction for it, numbers below the smallest normal one become 0.
#[inline(always)]
pub fn narrow<S: Element>(from: &[S::Wide], to: &mut [S]) {
    S::narrow_row(from, to);
}

#[inline(always)]
fn narrow_each<S: Element>(from: &[S::Wide], to: &mut [S]) {
    to.iter_mut().zip(from).for_each(
        #[inline(always)]
        |(to, from)| *to = S::narrow(*from),
    );
}

#[inline(always)]
fn scale_each<S: Element>(factor: S::Wide, from: &[S], to: &mut [S]) {
    to.iter_mut().zip(from).for_each(
        #[inline(always)]
        |(to, from)| *to = S::narrow(factor * from.wide()),
    );
}

/// A floating-point number to compute in, with the functions that the model needs.
///
/// The f32 functions are short polynomials that the compiler can vectorise (bounds beside each in
/// `device::cpu::math`, tested there); the f64 ones are the standard library's.
pub trait Real:
    Element<Wide = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;
    fn of(x: f64) -> Self;
    fn f64(self) -> f64;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn tanh(self) -> Self;
    fn erf(self) -> Self;
    fn sqrt(self) -> Self;
    fn fma(self, b: Self, c: Self) -> Self;
    fn is_finite(self) -> bool;
    /// The larger of two; a NaN in either gives NaN.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other || !self.self_equal() { self } else { other }
    }
    #[inline(always)]
    #[allow(clippy::eq_op)]
    fn self_equal(self) -> bool {
        self == self
    }
}

impl Element for f32 {
    type Wide = f32;
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(x: f32) -> f32 {
        x
    }
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn of(x: f64) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        self as f64
    }
    #[inline(always)]
    fn exp(self) -> f32 {
        crate::device::cpu::math::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> f32 {
        f32::ln(self)
    }
    #[inline(always)]
    fn tanh(self) -> f32 {
        crate::device::cpu::math::tanh(self)
    }
    #[inline(always)]
    fn erf(self) -> f32 {
        crate::device::cpu::math::erf(self)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn fma(self, b: f32, c: f32) -> f32 {
        f32::mul_add(self, b, c)
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
}

impl Element for f64 {
    type Wide = f64;
    const DTYPE: DType = DType::F64;
    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }
    #[inline(always)]
    fn narrow(x: f64) -> f64 {
        x
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;
    #[inline(always)]
    fn of(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> f64 {
        f64::ln(self)
    }
    #[inline(always)]
    fn tanh(self) -> f64 {
        f64::tanh(self)
    }
    #[inline(always)]
    fn erf(self) -> f64 {
        crate::device::cpu::math::erf_f64(self)
    }
    #[inline(always)]
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn fma(self, b: f64, c: f64) -> f64 {
        f64::mul_add(self, b, c)
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
}

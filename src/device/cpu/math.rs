//! exp, tanh and erf for f32 without branches, so that loops over them become vector code.
//! Relative errors against f64 are measured in `tests/math.rs`. Fused multiply-adds halve the work where the machine has
//! them; an x86 without (before 2013) pays a call for each.

use crate::dtype::Real;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// exp(x): relative error <= 1e-7 for |x| <= 87; 0 below -87.3, infinity above 88.72.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts (Cody and Waite): the first has 11 trailing zero bits, so n * HI is exact.
    const HI: f32 = 0.693_359_4;
    const LO: f32 = -2.121_944_4e-4;
    let t = x.mul_add(LOG2E, 12_582_912.0); // 1.5 * 2^23: x / ln 2 rounded to an integer n, in the low bits of t
    let n = t - 12_582_912.0;
    let r = (-n).mul_add(LO, (-n).mul_add(HI, x));
    // 1 + r + r^2 q(r) with the q of degree 4 whose largest relative error is smallest on |r| <= ln 2 / 2: 3e-9.
    let p = 1.381_453_9e-3f32;
    let p = p.mul_add(r, 8.368_745e-3);
    let p = p.mul_add(r, 4.166_839e-2);
    let p = p.mul_add(r, 0.166_665_21);
    let p = p.mul_add(r, 0.499_999_94);
    let p = p.mul_add(r, 1.0).mul_add(r, 1.0);
    // Times 2^n, by adding n to the exponent: between the two limits the result is a normal number.
    let y = f32::from_bits(p.to_bits().wrapping_add(t.to_bits() << 23));
    let y = if x < -87.3 { 0.0 } else { y };
    // False for a NaN too, which stays one.
    if x <= 88.72 { y } else { x + f32::INFINITY }
}

/// tanh(x): absolute error <= 2e-7. Near 0 an odd series keeps the relative error small.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let c = if a > 10.0 { 10.0 } else { a };
    let e = exp(2.0 * c);
    let large = 1.0 - 2.0 / (e + 1.0);
    let s = x * x;
    // tanh x / x up to x^12: below 0.3 the next term is under 1e-9.
    let p = 21_844.0f32 / 6_081_075.0;
    let p = p.mul_add(s, -1_382.0 / 155_925.0);
    let p = p.mul_add(s, 62.0 / 2_835.0);
    let p = p.mul_add(s, -17.0 / 315.0);
    let p = p.mul_add(s, 2.0 / 15.0);
    let p = p.mul_add(s, -1.0 / 3.0);
    let small = a * p.mul_add(s, 1.0);
    let y = if a < 0.3 { small } else { large };
    let y = if x < 0.0 { -y } else { y };
    if x.is_nan() { x } else { y }
}

/// erf(x): absolute and relative error <= 4e-7. One rational function, x P(x^2) / Q(x^2), for |x| < 3.9
/// (the coefficients that Eigen and XLA use); beyond, 1 - erf is below 4e-8.
/// No second formula for small x: a choice of two made the compiler branch, and loops over it scalar.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let s = x * x;
    let p = -2.726_142_3e-10f32;
    let p = p.mul_add(s, 2.770_681_4e-8);
    let p = p.mul_add(s, -2.101_024e-6);
    let p = p.mul_add(s, -5.692_506_4e-5);
    let p = p.mul_add(s, -7.349_906_3e-4);
    let p = p.mul_add(s, -2.954_6e-3);
    let p = p.mul_add(s, -1.609_603_3e-2);
    let q = -1.456_607_2e-5f32;
    let q = q.mul_add(s, -2.133_740_5e-4);
    let q = q.mul_add(s, -1.682_827e-3);
    let q = q.mul_add(s, -7.373_329e-3);
    let q = q.mul_add(s, -1.426_473_9e-2);
    let y = x * (p / q); // in this order nothing small underflows
    let y = if x > 3.9 { 1.0 } else { y };
    if x < -3.9 { -1.0 } else { y }
}

/// erf(x) in f64 to about 1e-15: the Maclaurin series below 2.5, a continued fraction of erfc above.
pub fn erf_f64(x: f64) -> f64 {
    let a = x.abs();
    if a.is_nan() {
        return x;
    }
    let y = if a < 2.5 { erf_series(a) } else { 1.0 - erfc_fraction(a) };
    if x < 0.0 { -y } else { y }
}

/// erf(a) = 2/sqrt(pi) exp(-a^2) sum 2^n a^(2n+1) / (2n+1)!!: all terms positive, nothing cancels.
fn erf_series(a: f64) -> f64 {
    let (mut term, mut sum, mut n) = (a, a, 1.0);
    while term > 1e-18 * sum {
        term *= 2.0 * a * a / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-a * a).exp() * sum
}

/// erfc(a) = exp(-a^2)/sqrt(pi) * 1/(a + (1/2)/(a + 1/(a + (3/2)/(a + ...)))) for a >= 2.5.
fn erfc_fraction(a: f64) -> f64 {
    if a > 27.0 {
        return 0.0;
    }
    let tail = (1..=120).rev().fold(a, |f, k| a + 0.5 * k as f64 / f);
    (-a * a).exp() / (std::f64::consts::PI.sqrt() * tail)
}

/// x/2 (1 + erf(x / sqrt 2)).
#[inline(always)]
pub fn gelu<T: Real>(x: T) -> T {
    x * normal(x)
}

/// The derivative of [`gelu`].
#[inline(always)]
pub fn gelu_slope<T: Real>(x: T) -> T {
    let density = T::of(0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2) * (T::of(-0.5) * x * x).exp();
    normal(x) + x * density
}

/// The standard normal distribution function.
#[inline(always)]
fn normal<T: Real>(x: T) -> T {
    T::of(0.5) * (T::ONE + (x * T::of(FRAC_1_SQRT_2)).erf())
}

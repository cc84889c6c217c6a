//! exp, tanh and erf for f32 without branches, so that loops over them become vector code.
//! Relative errors against f64 are measured in `tests/math.rs`.

/// exp(x): relative error <= 1.5e-7 for |x| <= 87; 0 below -87.3, infinity above 88.7.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts (Cody and Waite): the first has 11 trailing zero bits, so n * HI is exact.
    const HI: f32 = 0.693_359_4;
    const LO: f32 = -2.121_944_4e-4;
    // f32::clamp would turn into max/min that drop a NaN; this keeps it.
    let c = if x < -87.3 { -87.3 } else { x };
    let c = if c > 88.72 { 88.72 } else { c };
    let n = (c * LOG2E + 12_582_912.0) - 12_582_912.0; // round to nearest: 1.5 * 2^23
    let r = (c - n * HI) - n * LO;
    // Taylor to degree 7 on |r| <= ln 2 / 2: the next term is 5e-9.
    let p = 1.0 / 5_040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = (p * r) * r + r + 1.0;
    // 2^n by exponent bits in two halves, since n = 128 is reached near the top.
    let m = n as i32;
    let half = m >> 1;
    let a = f32::from_bits(((half + 127) << 23) as u32);
    let b = f32::from_bits(((m - half + 127) << 23) as u32);
    let y = p * a * b;
    let y = if x < -87.3 { 0.0 } else { y };
    if x > 88.72 { f32::INFINITY } else { y }
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
    let p = 21_844.0 / 6_081_075.0;
    let p = p * s - 1_382.0 / 155_925.0;
    let p = p * s + 62.0 / 2_835.0;
    let p = p * s - 17.0 / 315.0;
    let p = p * s + 2.0 / 15.0;
    let p = p * s - 1.0 / 3.0;
    let small = a * (p * s + 1.0);
    let y = if a < 0.3 { small } else { large };
    let y = if x < 0.0 { -y } else { y };
    if x.is_nan() { x } else { y }
}

/// erf(x): absolute error <= 3e-7 (Abramowitz and Stegun 7.1.26 is 1.5e-7 in exact arithmetic);
/// near 0 the Maclaurin series, so that GELU of small inputs keeps its relative accuracy.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152_1;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_72;
    let p = p * t + 0.254_829_6;
    let large = 1.0 - p * t * exp(-(a * a));
    let s = a * a;
    // 2/sqrt(pi) * sum (-1)^n x^(2n+1) / (n! (2n+1)), to n = 7: below 0.7 the next term is under 1e-8.
    let q = -1.0 / 75_600.0;
    let q = q * s + 1.0 / 9_360.0;
    let q = q * s - 1.0 / 1_320.0;
    let q = q * s + 1.0 / 216.0;
    let q = q * s - 1.0 / 42.0;
    let q = q * s + 0.1;
    let q = q * s - 1.0 / 3.0;
    let small = std::f32::consts::FRAC_2_SQRT_PI * a * (q * s + 1.0);
    let y = if a < 0.7 { small } else { large };
    let y = if x < 0.0 { -y } else { y };
    if x.is_nan() { x } else { y }
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

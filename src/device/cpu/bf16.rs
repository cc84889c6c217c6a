//! Rows of bf16 with the instructions of AVX512_BF16, for [`rows`](super::rows) and [`dtype`](crate::dtype). Functions
//! need a machine that has what they enable, see [`here`], and those that [`rows`](super::rows) describes rows of whole
//! blocks of 32.

use super::math::erf_f64;
use super::rows::{Norm, Normed};
use super::simd::{Level, level};
use crate::dtype::Element;
use half::bf16;
use std::arch::x86_64::*;
use std::f32::consts::{LN_2, LOG2_E};
use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::sync::LazyLock;

/// This machine has the instructions.
#[inline(always)]
pub fn here() -> bool {
    level() == Level::Avx512Bf16
}

/// Rounds a row.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16")]
pub fn narrow(from: &[f32], to: &mut [bf16]) {
    let n = from.len().min(to.len());
    let (blocks, rest) = from[..n].as_chunks::<16>();
    let (outs, out_rest) = to[..n].as_chunks_mut::<16>();
    for (from, to) in blocks.iter().zip(outs) {
        store(load(from), to);
    }
    last(rest, out_rest);
}

/// `to = factor * from`, rounded.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16")]
pub fn scale(factor: f32, from: &[bf16], to: &mut [bf16]) {
    let n = from.len().min(to.len());
    let (blocks, rest) = from[..n].as_chunks::<16>();
    let (outs, out_rest) = to[..n].as_chunks_mut::<16>();
    for (from, to) in blocks.iter().zip(outs) {
        store(_mm512_mul_ps(widen(from), _mm512_set1_ps(factor)), to);
    }
    let mut wide = [0.0; 16];
    wide.iter_mut().zip(rest).for_each(|(wide, x)| *wide = factor * x.wide());
    last(&wide[..rest.len()], out_rest);
}

/// See [`rows::add`](super::rows::add).
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16")]
pub fn add<const N: usize>(x: &[f32], adds: [&[bf16]; N], to: &mut [bf16]) {
    for (i, (x, to)) in x.as_chunks().0.iter().zip(to.as_chunks_mut().0).enumerate() {
        store(sum(x, adds, i), to);
    }
}

/// See [`rows::gelu`](super::rows::gelu).
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16")]
pub fn gelu<const N: usize>(x: &[f32], adds: [&[bf16]; N], z: &mut [bf16], to: &mut [bf16]) {
    let (z, cubics) = (z.as_chunks_mut().0, &*CUBICS);
    for (i, (x, to)) in x.as_chunks().0.iter().zip(to.as_chunks_mut().0).enumerate() {
        let sum = sum(x, adds, i);
        if let Some(z) = z.get_mut(i) {
            store(sum, z);
        }
        store(gelu_of(sum, cubics), to);
    }
}

/// See [`rows::norm`](super::rows::norm); the same bits as without these instructions, but for 0 instead of what is below
/// the smallest normal number.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16")]
pub fn norm<const N: usize>(
    x: &mut [f32],
    adds: [&[bf16]; N],
    norm: Norm<'_, bf16>,
    into: Normed<'_, bf16>,
) -> [f32; 2] {
    let (n, x) = (x.len() as f32, x.as_chunks_mut().0);
    let kept = into.sum.as_chunks_mut().0;
    let mut sums = [_mm512_setzero_ps(); 2];
    for (i, x) in x.iter_mut().enumerate() {
        let sum = sum(x, adds, i);
        put(sum, x);
        sums[i % 2] = _mm512_add_ps(sums[i % 2], sum);
        if let Some(kept) = kept.get_mut(i) {
            store(sum, kept);
        }
    }
    let mean = total(sums) / n;
    let mut sums = [_mm512_setzero_ps(); 2];
    for (i, x) in x.iter().enumerate() {
        let off = _mm512_sub_ps(load(x), _mm512_set1_ps(mean));
        sums[i % 2] = _mm512_add_ps(sums[i % 2], _mm512_mul_ps(off, off));
    }
    let scale = 1.0 / (total(sums) / n + norm.eps).sqrt();
    let params = norm.weight.as_chunks().0.iter().zip(norm.bias.as_chunks().0);
    let rest = into.rest.as_chunks_mut().0;
    for (i, ((x, y), (weight, bias))) in x.iter().zip(into.y.as_chunks_mut().0).zip(params).enumerate() {
        let off = _mm512_sub_ps(load(x), _mm512_set1_ps(mean));
        let scaled = _mm512_mul_ps(_mm512_mul_ps(off, _mm512_set1_ps(scale)), widen(weight));
        let wide = _mm512_add_ps(scaled, widen(bias));
        store(wide, y);
        if let Some(rest) = rest.get_mut(i) {
            store(_mm512_sub_ps(wide, widen(y)), rest);
        }
    }
    [mean, scale]
}

/// See [`rows::exponentials`](super::rows::exponentials).
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx512bf16")]
pub fn exponentials(x: &mut [f32], scale: f32, to: Option<&mut [bf16]>) -> [f32; 2] {
    let blocks = x.as_chunks_mut::<16>().0.as_chunks_mut::<2>().0;
    let halves = |[low, high]: &[[f32; 16]; 2]| [load(low), load(high)];
    let mut most = [_mm512_set1_ps(f32::NEG_INFINITY); 2];
    for block in &*blocks {
        let [low, high] = halves(block);
        most = [_mm512_max_ps(most[0], low), _mm512_max_ps(most[1], high)];
    }
    let top = _mm512_reduce_max_ps(_mm512_max_ps(most[0], most[1])) * scale;
    let [by, less] = [scale, -top].map(|x| _mm512_set1_ps(x * LOG2_E));
    let mut sums = [_mm512_setzero_ps(); 2];
    let mut to = to.map(|to| to.as_chunks_mut::<32>().0);
    for (i, block) in blocks.iter_mut().enumerate() {
        let [low, high] = halves(block).map(|x| exp2(_mm512_fmadd_ps(x, by, less)));
        sums = [_mm512_add_ps(sums[0], low), _mm512_add_ps(sums[1], high)];
        match &mut to {
            // SAFETY: both are 64 bytes of any bits.
            Some(to) => to[i] = unsafe { std::mem::transmute::<__m512bh, [bf16; 32]>(_mm512_cvtne2ps_pbh(high, low)) },
            None => {
                put(low, &mut block[0]);
                put(high, &mut block[1]);
            }
        }
    }
    [top, total(sums)]
}

/// `x / 2 + a P(a)` with `a = |x|` and `P(a) = erf(a / sqrt 2) / 2`, a cubic in each of [`CUBICS`]' intervals: in half the
/// time of the rational function of [`erf`](super::math::erf). Absolute error of P: 3e-7.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn gelu_of(x: __m512, cubics: &[[[f32; 16]; 2]; 4]) -> __m512 {
    let a = _mm512_andnot_ps(_mm512_set1_ps(-0.0), x);
    let magic = _mm512_set1_ps(12_582_912.0); // 1.5 * 2^23: the nearest interval's number, in the low bits of the sum
    let within = _mm512_min_ps(_mm512_set1_ps(31.0 * STEP), a); // in this order a NaN stays one
    let t = _mm512_fmadd_ps(within, _mm512_set1_ps(1.0 / STEP), magic);
    let off = _mm512_fnmadd_ps(_mm512_sub_ps(t, magic), _mm512_set1_ps(STEP), within);
    let interval = _mm512_castps_si512(t);
    let of = |c: &[[f32; 16]; 2]| _mm512_permutex2var_ps(load(&c[0]), interval, load(&c[1]));
    let p = cubics[1..].iter().fold(of(&cubics[0]), |p, c| _mm512_fmadd_ps(p, off, of(c)));
    _mm512_fmadd_ps(a, p, _mm512_mul_ps(x, _mm512_set1_ps(0.5)))
}

/// Between the middles of two intervals of [`CUBICS`].
const STEP: f32 = 0.1796875;

/// Of u^3, u^2, u and 1 the coefficients of P(k STEP + u), k < 32, |u| <= r = STEP / 2, see [`gelu_of`]: its series, of
/// which the fourth power is replaced by what is nearest to it among lower ones, r^2 u^2 - r^4 / 8 (Chebyshev's T4). From
/// 30.5 STEP = 5.48 on P is one half.
static CUBICS: LazyLock<[[[f32; 16]; 2]; 4]> = LazyLock::new(|| {
    let mut cubics = [[[0.0; 16]; 2]; 4];
    let r = f64::from(STEP) / 2.0;
    for k in 0..32 {
        let a = 2.0 * r * k as f64;
        let density = (-0.5 * a * a).exp() / (2.0 * PI).sqrt();
        let fourth = (3.0 * a - a.powi(3)) * density / 24.0;
        let ones = 0.5 * erf_f64(a * FRAC_1_SQRT_2) - fourth * r.powi(4) / 8.0;
        let of = [(a * a - 1.0) * density / 6.0, fourth * r * r - a * density / 2.0, density, ones];
        let last = [0.0, 0.0, 0.0, 0.5];
        let of = if k == 31 { last } else { of };
        cubics.iter_mut().zip(of).for_each(|(cubic, c)| cubic[k / 16][k % 16] = c as f32);
    }
    cubics
});

/// 2^z, relative error 2e-7; 0 below the smallest normal numbers, infinity above the largest, NaN of a NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(z: __m512) -> __m512 {
    // Of the polynomials of this degree that begin 1 + f ln 2 the one with the smallest largest relative error on
    // |f| <= 1/2: 1e-7.
    const POWERS: [f32; 6] = [1.330_060_5e-3, 9.669_691e-3, 5.550_558_5e-2, 0.240_222_83, LN_2, 1.0];
    let magic = _mm512_set1_ps(12_582_912.0); // 1.5 * 2^23: what is added to it becomes a whole number
    let z = _mm512_max_ps(_mm512_set1_ps(-160.0), z); // -infinity has no fraction; in this order a NaN stays one
    let whole = _mm512_sub_ps(_mm512_add_ps(z, magic), magic);
    _mm512_scalef_ps(horner(&POWERS, _mm512_sub_ps(z, whole)), whole)
}

/// The polynomial with these coefficients, the highest power's first.
#[inline]
#[target_feature(enable = "avx512f")]
fn horner<const N: usize>(coefficients: &[f32; N], x: __m512) -> __m512 {
    let add = |sum, &c| _mm512_fmadd_ps(sum, x, _mm512_set1_ps(c));
    coefficients[1..].iter().fold(_mm512_set1_ps(coefficients[0]), add)
}

/// `x` and block i of each of `adds` that has one.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum<const N: usize>(x: &[f32; 16], adds: [&[bf16]; N], i: usize) -> __m512 {
    let mut sum = load(x);
    for add in adds {
        if let Some(add) = add.as_chunks().0.get(i) {
            sum = _mm512_add_ps(sum, widen(add));
        }
    }
    sum
}

/// See [`vector::pairwise`](super::vector::pairwise).
#[inline]
#[target_feature(enable = "avx512f")]
pub fn pairwise(lanes: &[f32]) -> f32 {
    let (halves, _) = lanes.as_chunks();
    total([load(&halves[0]), load(&halves[1])])
}

/// In that order: the instructions add halves, quarters and so on.
#[inline]
#[target_feature(enable = "avx512f")]
fn total([low, high]: [__m512; 2]) -> f32 {
    _mm512_reduce_add_ps(_mm512_add_ps(low, high))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[f32; 16]) -> __m512 {
    // SAFETY: 16 elements.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn put(x: __m512, to: &mut [f32; 16]) {
    // SAFETY: 16 elements.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen(x: &[bf16; 16]) -> __m512 {
    // SAFETY: 16 elements of two bytes.
    let bits = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn store(x: __m512, to: &mut [bf16; 16]) {
    // SAFETY: both are 32 bytes of any bits.
    *to = unsafe { std::mem::transmute::<__m256bh, [bf16; 16]>(_mm512_cvtneps_pbh(x)) };
}

/// Fewer than 16, by the same instruction, so that a value's bits do not depend on its place.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn last(from: &[f32], to: &mut [bf16]) {
    if from.is_empty() {
        return;
    }
    let (mut wide, mut out) = ([0.0; 16], [bf16::ZERO; 16]);
    wide[..from.len()].copy_from_slice(from);
    store(load(&wide), &mut out);
    to.copy_from_slice(&out[..from.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_before_it_is_rounded() {
        if !here() {
            eprintln!("SKIPPED: no instructions for bf16 on this machine");
            return;
        }
        for i in 0..320_000 {
            let x = i as f32 / 20_000.0 - 8.0;
            let mut y = [0.0; 16];
            // SAFETY: the machine has the instructions.
            unsafe { put(gelu_of(_mm512_set1_ps(x), &CUBICS), &mut y) };
            let error = 0.5 * f64::from(x) * (1.0 + erf_f64(f64::from(x) * FRAC_1_SQRT_2)) - f64::from(y[0]);
            assert!(error.abs() <= 3e-7 * f64::from(x.abs()), "gelu({x}): off by {error:e}");
        }
    }
}

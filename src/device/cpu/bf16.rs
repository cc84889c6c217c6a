//! Rows of bf16 with the instructions of AVX512_BF16.

use half::bf16;

/// Rounds a row. False: this machine has no instruction for it, and nothing was done.
#[inline(always)]
pub fn narrow(from: &[f32], to: &mut [bf16]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if x86::here() {
        // SAFETY: the machine has the instructions.
        unsafe { x86::narrow(from, to) };
        return true;
    }
    let _ = (from, to);
    false
}

/// `to = factor * from`, rounded. False as for [`narrow`].
#[inline(always)]
pub fn scale(factor: f32, from: &[bf16], to: &mut [bf16]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if x86::here() {
        // SAFETY: the machine has the instructions.
        unsafe { x86::scale(factor, from, to) };
        return true;
    }
    let _ = (factor, from, to);
    false
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::device::cpu::simd::{Level, level};
    use crate::dtype::Element;
    use half::bf16;
    use std::arch::x86_64::*;

    #[inline(always)]
    pub fn here() -> bool {
        level() == Level::Avx512Bf16
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub fn narrow(from: &[f32], to: &mut [bf16]) {
        let n = from.len().min(to.len());
        let (blocks, rest) = from[..n].as_chunks::<16>();
        let (outs, out_rest) = to[..n].as_chunks_mut::<16>();
        for (from, to) in blocks.iter().zip(outs) {
            // SAFETY: both are 16 elements.
            store(unsafe { _mm512_loadu_ps(from.as_ptr()) }, to);
        }
        last(rest, out_rest);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub fn scale(factor: f32, from: &[bf16], to: &mut [bf16]) {
        let n = from.len().min(to.len());
        let (blocks, rest) = from[..n].as_chunks::<16>();
        let (outs, out_rest) = to[..n].as_chunks_mut::<16>();
        let by = _mm512_set1_ps(factor);
        for (from, to) in blocks.iter().zip(outs) {
            // SAFETY: 16 elements of two bytes.
            let bits = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
            let wide = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)));
            store(_mm512_mul_ps(wide, by), to);
        }
        let mut wide = [0.0; 16];
        wide.iter_mut().zip(rest).for_each(|(wide, x)| *wide = factor * x.wide());
        last(&wide[..rest.len()], out_rest);
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
        // SAFETY: 16 elements.
        store(unsafe { _mm512_loadu_ps(wide.as_ptr()) }, &mut out);
        to.copy_from_slice(&out[..from.len()]);
    }
}

//! Panels with AVX-512. Made by the compiler's code, unit by unit, they took 7 % of a training step.

use super::dot::COLUMNS;
use half::bf16;
use std::arch::x86_64::*;

/// Bytes of a register, 16 units of four.
const REGISTER: usize = 64;

/// Columns that are loaded ahead of their turn: they may lie a page apart, where no machine guesses the next.
const AHEAD: usize = 8;

/// Of a matrix with contiguous columns, `stride` apart, panels `[units][W]` of `rows` rows: unit j of a row has its values
/// in columns 2 j and 2 j + 1, zero beyond the last of `columns`. All panels at once, so that a column is read from end
/// to end. The caller has checked that the machine has the instructions; what is beyond the last row stays.
#[inline(always)]
pub fn pair_columns<const W: usize>(data: &[bf16], stride: usize, rows: usize, columns: usize, out: &mut [u32]) {
    let units = columns.div_ceil(2);
    assert!(columns == 0 || (columns - 1) * stride + rows <= data.len());
    assert!(rows.div_ceil(W) * units * W <= out.len());
    // SAFETY: promised by the caller; all is in bounds.
    unsafe { pair_columns_in_bounds::<W>(data.as_ptr(), stride, rows, columns, out.as_mut_ptr()) }
}

/// # Safety
/// The machine has the instructions; rows, columns and panels are in bounds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pair_columns_in_bounds<const W: usize>(
    data: *const bf16,
    stride: usize,
    rows: usize,
    columns: usize,
    out: *mut u32,
) {
    let units = columns.div_ceil(2);
    for u in 0..units {
        let first = data.wrapping_add(2 * u * stride);
        let ahead = first.wrapping_add(AHEAD * stride);
        let comes = if 2 * u + AHEAD + 1 < columns { rows } else { 0 };
        let there = if 2 * u + 1 < columns { u16::MAX } else { 0 };
        // SAFETY: a prefetch reads nothing; of both columns what the masks have is there, and so is its place in the line.
        unsafe {
            for at in (0..comes).step_by(REGISTER / 2) {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(at).cast());
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(stride + at).cast());
            }
            for (p, from) in (0..rows).step_by(W).enumerate() {
                let line = out.wrapping_add((p * units + u) * W);
                let rows = W.min(rows - from);
                for i in (0..rows).step_by(16) {
                    let mask = u16::MAX >> (16 - (rows - i).min(16));
                    let first = first.wrapping_add(from + i);
                    let low = _mm256_maskz_loadu_epi16(mask, first.cast());
                    let high = _mm256_maskz_loadu_epi16(mask & there, first.wrapping_add(stride).cast());
                    let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
                    let units = _mm512_or_si512(_mm512_cvtepu16_epi32(low), high);
                    _mm512_mask_storeu_epi32(line.wrapping_add(i).cast(), mask, units);
                }
            }
        }
    }
}

/// Of rows `stride` bytes apart and `bytes` long, whose units of four bytes lie one after another, a panel:
/// `out[j][i]` becomes unit j of row i; zero beyond the last byte and beyond `rows`. By blocks of 16 x 16 units. The
/// caller has checked that the machine has the instructions.
#[inline(always)]
pub fn transpose(data: &[u8], stride: usize, rows: usize, bytes: usize, out: &mut [[u32; COLUMNS]]) {
    assert!(bytes.div_ceil(4) == out.len() && (1..=COLUMNS).contains(&rows));
    assert!((rows - 1) * stride + bytes <= data.len());
    // SAFETY: promised by the caller; the rows are in bounds.
    unsafe { transpose_in_bounds(data, stride, rows, bytes, out) }
}

/// # Safety
/// The machine has the instructions, and `rows` rows of `bytes` are in `data`.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn transpose_in_bounds(data: &[u8], stride: usize, rows: usize, bytes: usize, out: &mut [[u32; COLUMNS]]) {
    for (b, lines) in out.chunks_mut(16).enumerate() {
        let from = b * REGISTER;
        let there = u64::MAX >> (REGISTER - (bytes - from).min(REGISTER));
        for half in 0..COLUMNS / 16 {
            // SAFETY: the bytes of the mask are in the row.
            let row = |i| unsafe {
                let i = half * 16 + i;
                let at = data.as_ptr().wrapping_add(i * stride + from);
                _mm512_maskz_loadu_epi8(if i < rows { there } else { 0 }, at.cast())
            };
            for (line, column) in lines.iter_mut().zip(block(std::array::from_fn(row))) {
                // SAFETY: 16 units.
                unsafe { _mm512_storeu_si512(line.as_mut_ptr().add(half * 16).cast(), column) };
            }
        }
    }
}

/// The columns of 16 rows of 16 units.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn block(x: [__m512i; 16]) -> [__m512i; 16] {
    let (mut y, mut z) = (x, x);
    // Units of two rows alternate, then of four: z[4 r + c] has, quarter by quarter q, units 4 q + c of rows 4 r to 4 r + 3.
    for i in (0..16).step_by(2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for i in (0..16).step_by(4) {
        for h in 0..2 {
            z[i + 2 * h] = _mm512_unpacklo_epi64(y[i + h], y[i + h + 2]);
            z[i + 2 * h + 1] = _mm512_unpackhi_epi64(y[i + h], y[i + h + 2]);
        }
    }
    // Quarters 0 and 2, and 1 and 3, of two groups of rows, then of all four.
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    for c in 0..4 {
        let even = [0, 8].map(|r| _mm512_shuffle_i32x4::<EVEN>(z[r + c], z[r + 4 + c]));
        let odd = [0, 8].map(|r| _mm512_shuffle_i32x4::<ODD>(z[r + c], z[r + 4 + c]));
        y[c] = _mm512_shuffle_i32x4::<EVEN>(even[0], even[1]);
        y[4 + c] = _mm512_shuffle_i32x4::<EVEN>(odd[0], odd[1]);
        y[8 + c] = _mm512_shuffle_i32x4::<ODD>(even[0], even[1]);
        y[12 + c] = _mm512_shuffle_i32x4::<ODD>(odd[0], odd[1]);
    }
    y
}

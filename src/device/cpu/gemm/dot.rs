//! Tiles with the dot-product instructions of AVX-512, `vdpbf16ps` and `vpdpbusd`: both add to 16 sums the products of
//! 16 units of four bytes with one.

pub const ROWS: usize = 12;
pub const COLUMNS: usize = 32;

/// Fewer rows are less work: a kernel for each number of them.
macro_rules! run_rows {
    ($a:ident, $b:ident, $c:ident: $($rows:literal)*) => {
        match $a.rows {
            // SAFETY: promised by the caller of `tile`.
            $($rows => unsafe { run::<$rows>($a, $b, $c) },)*
            rows => unreachable!("{rows} rows in a tile"),
        }
    };
}

/// A module with the tile of one instruction: how a register of sums is made, loaded, stored, and added to.
macro_rules! tile {
    ($name:ident: $element:ty, $unit:ty => $sum:ty, $features:literal,
     $zero:ident, $load:ident, $store:ident, $add:ident, |$sums:ident, $x:ident, $line:ident| $dot:expr) => {
        pub mod $name {
            use super::COLUMNS;
            use crate::device::cpu::gemm::tile::{Out, Rows};
            use std::arch::x86_64::*;

            /// The caller has checked the bounds of `a` and that the machine has the instruction.
            #[inline(always)]
            pub fn tile(a: Rows<'_, $element>, b: &[$unit], c: Out<'_, $sum>) {
                run_rows!(a, b, c: 1 2 3 4 5 6 7 8 9 10 11 12)
            }

            /// # Safety
            /// The machine has the instruction, and `a` has R rows of as many units as `b` has lines.
            #[target_feature(enable = $features)]
            unsafe fn run<const R: usize>(a: Rows<'_, $element>, b: &[$unit], c: Out<'_, $sum>) {
                let mut sums = [[$zero(); 2]; R];
                let (row, step) = (a.row, a.step);
                let mut at = a.data.as_ptr();
                let (lines, _) = b.as_chunks::<COLUMNS>();
                for line in lines {
                    // SAFETY: a line is two registers; row i of this k has a unit at `at + i * row`, by the caller's promise.
                    unsafe {
                        let low = _mm512_loadu_si512(line.as_ptr().cast());
                        let high = _mm512_loadu_si512(line.as_ptr().add(16).cast());
                        for (i, sums) in sums.iter_mut().enumerate() {
                            let $x = _mm512_set1_epi32(at.add(i * row).cast::<i32>().read_unaligned());
                            for (sums, $line) in sums.iter_mut().zip([low, high]) {
                                let $sums = *sums;
                                *sums = $dot;
                            }
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
                            let before = if c.assign { $zero() } else { $load(mask, out) };
                            $store(out, mask, $add(before, sums[half]));
                        }
                    }
                }
            }
        }
    };
}

tile!(bf16: half::bf16, crate::device::cpu::gemm::tile::Pair => f32, "avx512f,avx512bf16",
    _mm512_setzero_ps, _mm512_maskz_loadu_ps, _mm512_mask_storeu_ps, _mm512_add_ps,
    // 64 bytes of any bits are 32 values of bf16.
    |sums, x, line| _mm512_dpbf16_ps(sums, std::mem::transmute::<__m512i, __m512bh>(x), std::mem::transmute::<__m512i, __m512bh>(line)));

tile!(int8: u8, [i8; 4] => i32, "avx512f,avx512vnni",
    _mm512_setzero_si512, _mm512_maskz_loadu_epi32, _mm512_mask_storeu_epi32, _mm512_add_epi32,
    |sums, x, line| _mm512_dpbusd_epi32(sums, x, line));

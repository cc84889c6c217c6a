//! Products of weights in eight bits: a scale for each row of either operand, sums in 32 bits, exact.
//!
//! `x ~ s q` with whole q between -127 and 127: s is the row's largest magnitude over 127. The instruction (`vpdpbusd`)
//! takes bytes without sign on the left, so left operands are `q + 128`, and what 128 adds is 128 times the sum of a
//! column of B, known when the weight is packed. (Symmetric per-channel weights and per-token activations: Jacob et
//! al., arXiv 1712.05877; Dettmers et al., arXiv 2208.07339.)

use super::tile::{Operand, Out, Rows, Sum};
use super::{AsLeft, Block, Left, Packed, Panels, Product, Right};
use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::dtype::Element;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;
#[cfg(target_arch = "x86_64")]
use {super::dot, crate::device::cpu::simd};

/// Values of k that a sum of 32 bits takes: 127 * 127 times as many stay below 2^31. (With 128 added to the left ones a
/// sum may wrap around on its way; taking the same off again brings it back.)
pub const LONGEST: usize = 133_000;

/// The largest |q|.
const MOST: f32 = 127.0;

/// On the left `q + 128`, in panels q itself.
impl Operand for u8 {
    type Unit = [i8; 4];
    type Sum = i32;
    const K: usize = 4;
    #[inline(always)]
    fn tile<const MR: usize, const NR: usize, const FMA: bool>(a: Rows<'_, u8>, b: &[[[i8; 4]; NR]], c: Out<'_, i32>) {
        a.check(b.len(), 4);
        #[cfg(target_arch = "x86_64")]
        if NR == dot::COLUMNS && MR <= dot::ROWS && simd::level() == simd::Level::Avx512Bf16 {
            return dot::int8::tile(a, b.as_flattened(), c);
        }
        let mut acc = [[0i32; NR]; MR];
        for (i, acc) in acc[..a.rows].iter_mut().enumerate() {
            for (k, b) in b.iter().enumerate() {
                let x = &a.data[i * a.row + k * a.step..][..4];
                for (acc, b) in acc.iter_mut().zip(b) {
                    *acc += (0..4).map(|u| i32::from(x[u]) * i32::from(b[u])).sum::<i32>();
                }
            }
        }
        c.store(&acc[..a.rows]);
    }
}

/// Wraps around, as the instructions do.
impl Sum for i32 {
    #[inline(always)]
    fn plus(self, other: i32) -> i32 {
        self.wrapping_add(other)
    }
}

/// `to = q + 128`, q being `from * inverse`, at most 127, rounded.
#[inline(always)]
pub fn quantize(from: &[bf16], inverse: f32, to: &mut [u8]) {
    // Added to a number below 2^22 in size, this leaves it, rounded to the nearest whole one, in the low bits.
    const WHOLE: f32 = 12_582_912.0; // 1.5 * 2^23
    to.iter_mut().zip(from).for_each(
        #[inline(always)]
        |(to, x)| *to = x.wide().mul_add(inverse, WHOLE + 128.0).to_bits() as u8,
    );
}

/// The largest magnitude; a NaN if there is one: as whole numbers their bits are the largest.
#[inline(always)]
pub fn largest(x: &[bf16]) -> f32 {
    let bits: &[u16] = bytemuck::cast_slice(x);
    bf16::from_bits(bits.iter().fold(0, |most, b| most.max(b & 0x7FFF))).wide()
}

/// Of a row whose largest magnitude is `largest`: s, and 1 / s or 0. A NaN or an infinity makes s one.
pub fn scales(largest: f32) -> (f32, f32) {
    (largest / MOST, if largest > 0.0 { MOST / largest } else { 0.0 })
}

/// Rows of a matrix as left operands, and their scales.
pub struct Tokens {
    values: Scratch<u8>,
    dim: usize,
    pub scales: Scratch<f32>,
}

impl Tokens {
    pub fn new(x: &[bf16], dim: usize) -> Self {
        let rows = x.len() / dim.max(1);
        let (mut values, mut scales) = (Scratch::new(x.len()), Scratch::new(rows));
        let lines = values.par_chunks_exact_mut(dim.max(1)).zip(scales.par_iter_mut()).with_min_len(32);
        lines.zip(x.par_chunks_exact(dim.max(1))).for_each(|((to, scale), x)| {
            vectorize(
                #[inline(always)]
                || {
                    let (s, inverse) = self::scales(largest(x));
                    *scale = s;
                    quantize(x, inverse, to);
                },
            );
        });
        Tokens { values, dim, scales }
    }
}

impl AsLeft<u8> for Tokens {
    fn left(&self, row: usize, rows: usize, columns: Range<usize>) -> Left<'_, u8> {
        Left::of_rows(&self.values, self.dim, row, rows, columns)
    }
}

/// A weight `[rows, k]` as a right operand.
pub struct Weight {
    packed: Packed<u8>,
    k: usize,
    /// Of each row: s, and what 128 on the left adds to a sum.
    scales: Vec<f32>,
    offsets: Vec<i32>,
}

/// Rows of q.
struct Whole<'a> {
    values: &'a [i8],
    k: usize,
}

impl Panels<u8> for Whole<'_> {
    fn pack(&self, row: usize, rows: usize, columns: Range<usize>, width: usize, out: &mut [[i8; 4]]) {
        for i in 0..rows {
            let line = &self.values[(row + i) * self.k..][columns.clone()];
            for (unit, q) in out[i..].iter_mut().step_by(width).zip(line.chunks(4)) {
                *unit = [0; 4];
                unit[..q.len()].copy_from_slice(q);
            }
        }
    }
}

impl Weight {
    /// Of `[rows, k]` values. `None`: rows that are too long for sums in 32 bits.
    pub fn new(values: &[bf16], rows: usize, k: usize) -> Option<Self> {
        if k > LONGEST || k == 0 {
            return None;
        }
        let mut whole = vec![0i8; rows * k];
        let made: Vec<(f32, i32)> = (whole.par_chunks_exact_mut(k).zip(values.par_chunks_exact(k)))
            .map(|(to, from)| {
                let (s, inverse) = self::scales(largest(from));
                let mut biased = Scratch::<u8>::new(k);
                quantize(from, inverse, &mut biased);
                to.iter_mut().zip(biased.iter()).for_each(|(to, &b)| *to = (b ^ 128) as i8);
                (s, 128 * to.iter().map(|&q| i32::from(q)).sum::<i32>())
            })
            .collect();
        let (scales, offsets) = made.into_iter().unzip();
        Some(Weight { packed: Packed::right_kept(&Whole { values: &whole, k }, rows, k), k, scales, offsets })
    }
    pub fn bytes(&self) -> usize {
        self.packed.bytes() + size_of_val(&self.scales[..]) + size_of_val(&self.offsets[..])
    }
    /// As [`Product::run`] for `rows` rows of `left`, whose row i is `scales[i]` times its values.
    pub fn run<O: Send>(
        &self,
        (left, rows, scales): (&impl AsLeft<u8>, usize, &[f32]),
        outs: impl IndexedParallelIterator<Item = O>,
        finish: impl Fn(&Block, &mut [f32], &mut O) + Sync,
    ) {
        let product = Product::new((rows, self.scales.len(), self.k), left, Right::<u8, Whole>::Packed(&self.packed));
        product.run(outs, |block, sums, out| {
            let columns = block.columns.clone();
            for (sums, &scale) in sums.chunks_exact_mut(columns.len()).zip(&scales[block.rows.clone()]) {
                vectorize(
                    #[inline(always)]
                    || scale_back(sums, scale, &self.scales[columns.clone()], &self.offsets[columns.clone()]),
                );
            }
            finish(block, bytemuck::cast_slice_mut(sums), out);
        });
    }
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weight {{ rows: {}, k: {} }}", self.scales.len(), self.k)
    }
}

/// Sums become the bits of f32 in their place.
#[inline(always)]
fn scale_back(sums: &mut [i32], scale: f32, scales: &[f32], offsets: &[i32]) {
    sums.iter_mut().zip(scales.iter().zip(offsets)).for_each(
        #[inline(always)]
        |(sum, (of_column, offset))| {
            *sum = (sum.wrapping_sub(*offset) as f32 * (scale * of_column)).to_bits() as i32;
        },
    );
}

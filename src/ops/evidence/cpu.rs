use super::{FLOOR, Gold, Pooling};
use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{split_mut, sum};
use crate::dtype::Real;
use crate::layout::EvidencePairs;
use crate::ops::context_pool::cpu::joint_attention;
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::ops::Range;

/// Where each entity's rows of A are: `[heads, tokens]`.
fn blocks(pairs: &EvidencePairs, heads: usize) -> Vec<Range<usize>> {
    let documents = &pairs.documents;
    let mut blocks = Vec::with_capacity(documents.entities.rows());
    for (d, all) in documents.attention(heads).iter().enumerate() {
        let size = heads * documents.tokens.length(d);
        blocks.extend((0..documents.entities.length(d)).map(|e| all.start + e * size..all.start + (e + 1) * size));
    }
    blocks
}

pub fn forward<T: Real>(a: &Tensor, pairs: &EvidencePairs, pooling: Pooling, p: &mut Tensor, inverse: &mut Tensor) {
    let (a, blocks, documents) = (a.slice::<T>(), blocks(pairs, pooling.heads), &pairs.documents);
    let rows = split_mut(p.slice_mut::<T>(), pairs.rows.iter().map(|row| row.len()));
    rows.into_par_iter().zip(inverse.slice_mut::<T>()).enumerate().for_each(|(pair, (p, inverse))| {
        let d = pairs.cells[pair].document as usize;
        let [x, y] = pairs.entities(pair).map(|e| &a[blocks[e].clone()]);
        let mut q = Scratch::new(documents.tokens.length(d));
        vectorize(
            #[inline(always)]
            || {
                joint_attention(x, y, q.len(), T::of(pooling.scale()), 0, &mut q);
                *inverse = T::ONE / (sum(&q, |q| q) + T::of(pooling.epsilon));
                for (p, sentence) in p.iter_mut().zip(documents.sentences_of(d)) {
                    *p = sum(&q[sentence.clone()], |q| q) * *inverse;
                }
            },
        );
    });
}

pub fn loss<T: Real>(
    p: &Tensor,
    inverse: &Tensor,
    pairs: &EvidencePairs,
    pooling: Pooling,
    gold: Gold,
    (term, slopes): (&mut Tensor, &mut Tensor),
) {
    let (p, inverse) = (p.slice::<T>(), inverse.slice::<T>());
    let mean = 1.0 / gold.pairs.max(1) as f64;
    let mut total = 0.0;
    let rows = split_mut(slopes.slice_mut::<T>(), pairs.rows.iter().map(|row| row.len() + 1));
    for ((row, slopes), inverse) in pairs.rows.iter().zip(rows).zip(inverse) {
        let (p, v) = (&p[row.clone()], &gold.shares[row]);
        let factor = gold.weight * mean * pooling.scale() * inverse.f64();
        let mut reached = 0.0;
        for (slope, (p, &v)) in slopes.iter_mut().zip(p.iter().zip(v)) {
            let p = p.f64();
            let low = p <= FLOOR; // not of a NaN
            if v > 0.0 {
                total += v * (v.ln() - if low { FLOOR.ln() } else { p.ln() });
            }
            reached += if low { 0.0 } else { v };
            *slope = T::of(if low { 0.0 } else { v / p });
        }
        slopes[p.len()] = T::ZERO;
        slopes.iter_mut().for_each(|slope| *slope = T::of(factor * (reached - slope.f64())));
    }
    term.slice_mut::<f64>()[0] = total * mean;
}

pub fn backward<T: Real>(a: &Tensor, slopes: &Tensor, pairs: &EvidencePairs, pooling: Pooling, da: &mut Tensor) {
    let (a, slopes, blocks) = (a.slice::<T>(), slopes.slice::<T>(), blocks(pairs, pooling.heads));
    let parts = split_mut(da.slice_mut::<T>(), blocks.iter().map(|block| block.len()));
    parts.into_par_iter().zip(pairs.by_entity()).for_each(|(da, uses)| {
        da.fill(T::ZERO);
        for (pair, other) in uses {
            let d = pairs.cells[pair].document as usize;
            let row = &slopes[pairs.rows.starts[pair] + pair..][..pairs.rows.length(pair) + 1];
            let mut dq = Scratch::new(pairs.documents.tokens.length(d));
            dq.fill(row[row.len() - 1]);
            for (slope, sentence) in row.iter().zip(pairs.documents.sentences_of(d)) {
                dq[sentence.clone()].fill(*slope);
            }
            let tokens = dq.len().max(1);
            for (da, x) in da.chunks_exact_mut(tokens).zip(a[blocks[other].clone()].chunks_exact(tokens)) {
                vectorize(
                    #[inline(always)]
                    || da.iter_mut().zip(dq.iter().zip(x)).for_each(|(da, (dq, x))| *da += *dq * *x),
                );
            }
        }
    });
}

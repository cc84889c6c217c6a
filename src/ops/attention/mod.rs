//! Multi-head self-attention of the encoder over packed sequences.
//!
//! `out[i] = sum_j dropout(softmax_j(q_i k_j / sqrt(dim))) v_j` within each segment and head.
//! qkv `[rows, 3 d]` (q, k, v), out `[rows, d]`, lse `[rows, heads]`: log-sum-exp of the scaled logits,
//! saved for the backward pass (which recomputes probabilities) and for `attention_rows`.
//! Reads 3 N d and writes N d values plus lse; no L x L tensor exists.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::{Error, Result};
use crate::layout::Segments;
use crate::rng::Dropout;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::sync::Arc;

/// What [`attention`] returns.
pub struct Attended {
    pub out: Tensor,
    pub lse: Tensor,
}

/// Attention within each of `segments` (at most 512 rows each where dropout is on).
pub fn attention(
    tape: &mut Tape,
    qkv: &Tensor,
    segments: &Arc<Segments>,
    heads: usize,
    drop: Dropout,
) -> Result<Attended> {
    let (rows, width) = (qkv.rows(), qkv.dim() / 3);
    if heads == 0 || qkv.dim() != 3 * width || width % heads != 0 {
        return Err(Error::shape("attention", "columns of qkv", format!("3 x {heads} heads"), qkv.shape()));
    }
    if segments.rows() != rows {
        return Err(Error::shape("attention", "rows of qkv", segments.rows(), rows));
    }
    let mut out = qkv.device().alloc("attention", qkv.dtype(), &[rows, width])?;
    let mut lse = qkv.device().alloc("attention.lse", qkv.dtype().wide(), &[rows, heads])?;
    dispatch!("attention", qkv.device(), qkv.dtype(), forward(qkv, segments, heads, drop, &mut out, &mut lse))?;
    let out = out.settled();
    let (x, l, y, segments) = (qkv.clone(), lse.clone(), out.clone(), segments.clone());
    tape.record(move |grads| {
        let Some(dy) = grads.take(&y) else { return Ok(()) };
        let mut dx = x.device().alloc("attention.dx", x.dtype(), x.shape())?;
        dispatch!(
            "attention.backward",
            x.device(),
            x.dtype(),
            backward(&x, &y, &l, &dy, &segments, heads, drop, &mut dx)
        )?;
        grads.put(&x, dx)
    });
    Ok(Attended { out, lse })
}

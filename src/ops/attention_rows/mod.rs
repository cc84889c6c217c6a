//! Attention rows of the entities: `A_e[h, j]` = mean over the mentions of e of the last layer's attention
//! probability from the mention's marker to document position j, in head h (spec §3).
//!
//! Computed from q, k and the log-sum-exp of that layer, so that no `[heads, L, L]` tensor exists. In
//! training the probabilities are those after attention dropout, by the same mask. A document of several
//! windows: kept rows and columns are mapped to document positions, summed over windows and divided by
//! (row sum + 1e-10) (spec §2). Output: blocks of `[entities, heads, tokens]`, one a document, in one flat
//! tensor. Entities without a mention have a row of zeros.
//!
//! Backward: the softmax's gradient is linear in that of the probabilities, so it adds to the one of
//! `attention`: dq of the mention rows and dk of every key; v takes no part.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::{Error, Result};
use crate::layout::Documents;
use crate::rng::Dropout;
use crate::tape::Tape;
use crate::tensor::{Tensor, check_shape};
use std::sync::Arc;

/// Added to a row's sum before the division (spec §2).
pub const EPSILON: f64 = 1e-10;

/// `drop` is the one that `attention` was given for the same qkv.
pub fn attention_rows(
    tape: &mut Tape,
    qkv: &Tensor,
    lse: &Tensor,
    documents: &Arc<Documents>,
    heads: usize,
    drop: Dropout,
) -> Result<Tensor> {
    check_shape("attention_rows", "lse", lse, &[qkv.rows(), heads])?;
    if documents.window.last().is_some_and(|w| w.rows.end > qkv.rows()) {
        return Err(Error::shape("attention_rows", "rows of qkv", documents.window.last(), qkv.rows()));
    }
    let size = documents.attention(heads).rows();
    let mut a = qkv.device().alloc("attention_rows", qkv.dtype().wide(), &[size])?;
    dispatch!("attention_rows", qkv.device(), qkv.dtype(), forward(qkv, lse, documents, heads, drop, &mut a))?;
    let (x, lse, y, documents) = (qkv.clone(), lse.clone(), a.clone(), documents.clone());
    tape.record(move |grads| {
        let Some(da) = grads.take(&y) else { return Ok(()) };
        let mut dx = x.device().alloc("attention_rows.dx", x.dtype(), x.shape())?;
        dispatch!(
            "attention_rows.backward",
            x.device(),
            x.dtype(),
            backward(&x, &lse, &da, &documents, heads, drop, &mut dx)
        )?;
        grads.put(&x, dx)
    });
    Ok(a)
}

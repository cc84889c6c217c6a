//! Localized context pooling (spec §3): `c_so = a_so^T H`, `a_so = q / (sum q + eps)`,
//! `q_so = scale * sum over heads of A_s * A_o`.
//!
//! Symmetric in (s, o), so one row for each unordered pair (`Grid::pairs`). A: the blocks of
//! `attention_rows`; H `[tokens, d]`; c `[pairs, d]`. q is generated while it is packed for the product and
//! divided by its sum afterwards, so the forward pass holds nothing of size pairs x tokens; it keeps
//! 1 / (sum q + eps) `[pairs]`. Backward recomputes q and, on the CPU, holds its gradient for one document at a time:
//! `dq = (dc H^T - dc . c) / (sum q + eps)`, `dA_s += dq A_o`, `dH += a^T dc`.

pub(super) mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::{Error, Result};
use crate::layout::{Documents, Grid};
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::sync::Arc;

/// How the heads' products become one weight a token.
#[derive(Clone, Copy, Debug)]
pub struct Pooling {
    pub heads: usize,
    /// True: mean over heads (ATLOP); false: sum (KD-DocRE).
    pub mean: bool,
    pub epsilon: f64,
}

impl Pooling {
    /// Of the sum over heads.
    pub fn scale(&self) -> f64 {
        if self.mean { 1.0 / self.heads as f64 } else { 1.0 }
    }
}

/// Context of every unordered pair.
pub fn context_pool(
    tape: &mut Tape,
    a: &Tensor,
    h: &Tensor,
    documents: &Arc<Documents>,
    grid: &Arc<Grid>,
    pooling: Pooling,
) -> Result<Tensor> {
    let size = documents.attention(pooling.heads).rows();
    if a.len() != size || h.rows() != documents.tokens.rows() {
        let want = (size, documents.tokens.rows());
        return Err(Error::shape("context_pool", "(attention, tokens)", want, (a.len(), h.rows())));
    }
    if grid.entities != documents.entities {
        return Err(Error::shape("context_pool", "entities of the grid", &documents.entities, &grid.entities));
    }
    let (device, dtype) = (h.device(), h.dtype());
    let mut c = device.alloc("context_pool", dtype, &[grid.pairs.rows(), h.dim()])?;
    let mut inverse = device.alloc("context_pool.inverse", dtype.wide(), &[grid.pairs.rows()])?;
    dispatch!("context_pool", device, dtype, forward(a, h, documents, grid, pooling, &mut c, &mut inverse))?;
    let c = c.settled();
    let (a, h, y, documents, grid) = (a.clone(), h.clone(), c.clone(), documents.clone(), grid.clone());
    tape.record(move |grads| {
        let Some(dc) = grads.take(&y) else { return Ok(()) };
        let mut da = a.device().alloc("context_pool.da", a.dtype(), a.shape())?;
        let mut dh = h.device().alloc("context_pool.dh", h.dtype(), h.shape())?;
        dispatch!(
            "context_pool.backward",
            h.device(),
            h.dtype(),
            backward(&a, &h, &y, &dc, &inverse, &documents, &grid, pooling, &mut da, &mut dh)
        )?;
        grads.put(&a, da)?;
        grads.put(&h, dh)
    });
    Ok(c)
}

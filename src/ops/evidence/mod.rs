//! Evidence sentences of entity pairs (spec §11; Ma et al., EACL 2023): how the attention of a pair, the same
//! `a_so = q / (sum q + eps)` that weighs its context, is spread over sentences, and the loss that moves it.
//!
//! `p_so[sentence]` = sum of a_so over the sentence's word pieces. `L = mean over pairs of KL(v || p)`, v the gold
//! share of each sentence: `sum over sentences of v (ln v - ln max(p, FLOOR))`.
//! A: the blocks of `attention_rows`; p: packed rows, one a pair, one value a sentence. q is made twice and never held
//! for more than one pair; kept is 1 / (sum q + eps) `[pairs]`.
//!
//! Gradient: with w = weight / pairs and m the sum of v where p is above the floor,
//! `dq[l] = w (m - v/p of l's sentence) / (sum q + eps)`, v/p = 0 outside of all sentences and at the floor;
//! `dA_s += dq A_o`, twice for s = o. The dq of a pair has one value a sentence and one for the rest: forward keeps
//! these `slopes`, and backward reads them and A once for each use of an entity.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::EvidencePairs;
use crate::ops::context_pool::Pooling;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::sync::Arc;

/// A sentence with less attention costs as much as one with this, and has no gradient: the loss stays finite where
/// gold evidence gets no attention at all.
pub const FLOOR: f64 = 1e-10;

/// What attention should be: `shares`, laid out as `pairs.rows`, add up to 1 for each pair.
#[derive(Clone, Copy, Debug)]
pub struct Gold<'a> {
    pub shares: &'a [f64],
    /// The loss counts so much in what is minimised.
    pub weight: f64,
    /// Pairs over which the mean is taken: those of the whole batch, so that parts of a split one add up.
    pub pairs: usize,
}

/// The evidence distribution p of every pair, `[pairs.rows.rows()]`; without a gradient.
pub fn evidence(a: &Tensor, pairs: &Arc<EvidencePairs>, pooling: Pooling) -> Result<Tensor> {
    Ok(distributions(a, pairs, pooling)?.0)
}

/// p, and 1 / (sum q + eps) of every pair.
fn distributions(a: &Tensor, pairs: &Arc<EvidencePairs>, pooling: Pooling) -> Result<(Tensor, Tensor)> {
    let size = pairs.documents.attention(pooling.heads).rows();
    if a.len() != size {
        return Err(Error::shape("evidence", "attention", size, a.len()));
    }
    let mut p = a.device().alloc("evidence", a.dtype(), &[pairs.rows.rows()])?;
    let mut inverse = a.device().alloc("evidence.inverse", a.dtype(), &[pairs.cells.len()])?;
    dispatch!("evidence", a.device(), a.dtype(), wide forward(a, pairs, pooling, &mut p, &mut inverse))?;
    Ok((p, inverse))
}

/// The loss, without its weight, as a tensor of one F64: reading it waits for the device. `a` receives its gradient.
pub fn evidence_loss(
    tape: &mut Tape,
    a: &Tensor,
    pairs: &Arc<EvidencePairs>,
    pooling: Pooling,
    gold: Gold,
) -> Result<Tensor> {
    if gold.shares.len() != pairs.rows.rows() {
        return Err(Error::shape("evidence", "gold shares", pairs.rows.rows(), gold.shares.len()));
    }
    let (p, inverse) = distributions(a, pairs, pooling)?;
    let device = a.device();
    let mut term = device.alloc("evidence.loss", DType::F64, &[1])?;
    let mut slopes = device.alloc("evidence.slopes", a.dtype(), &[p.len() + inverse.len()])?;
    let into = (&mut term, &mut slopes);
    dispatch!("evidence.loss", device, a.dtype(), wide loss(&p, &inverse, pairs, pooling, gold, into))?;
    let (a, pairs) = (a.clone(), pairs.clone());
    tape.record(move |grads| {
        let mut da = a.device().alloc("evidence.da", a.dtype(), a.shape())?;
        dispatch!("evidence.backward", a.device(), a.dtype(), wide backward(&a, &slopes, &pairs, pooling, &mut da))?;
        grads.put(&a, da)
    });
    Ok(term)
}

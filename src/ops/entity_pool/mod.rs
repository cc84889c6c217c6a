//! Entity representations: elementwise logsumexp over the rows of an entity's mentions (spec §3).
//!
//! h `[tokens, d]`, y `[entities, d]`: `y[e] = log sum over m of exp(h[mention m of e])`. One mention is
//! copied exactly; an entity without mentions is 0. The weights of `mentions` are not read (the same
//! lists serve the mean of attention rows); a row listed twice counts twice.
//! Backward recomputes the softmax weights from h and y, or where y is rounded from h alone:
//! `dh[t] = sum over e that use t of dy[e] exp(h[t] - y[e])`, e ascending.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::Result;
use crate::layout::Sources;
use crate::tape::Tape;
use crate::tensor::{Tensor, check_shape};
use std::sync::Arc;

/// One row an entity from the rows of its mentions; see the module.
pub fn entity_pool(tape: &mut Tape, h: &Tensor, mentions: &Arc<Sources>) -> Result<Tensor> {
    check_shape("entity_pool", "h", h, &[h.rows(), h.dim()])?;
    mentions.check("entity_pool", h.rows())?;
    let mut y = h.device().alloc("entity_pool", h.dtype(), &[mentions.rows.len(), h.dim()])?;
    dispatch!("entity_pool", h.device(), h.dtype(), forward(h, mentions, &mut y))?;
    let y = y.settled();
    if tape.is_recording() {
        let (h, mentions, out) = (h.clone(), mentions.clone(), y.clone());
        tape.record(move |grads| {
            let Some(dy) = grads.take(&out) else { return Ok(()) };
            let mut dh = h.device().alloc("entity_pool.dh", h.dtype(), h.shape())?;
            let uses = mentions.transposed(h.rows());
            dispatch!(
                "entity_pool.backward",
                h.device(),
                h.dtype(),
                backward(&dy, &h, &out, &mentions, &uses, &mut dh)
            )?;
            grads.put(&h, dh)
        });
    }
    Ok(y)
}

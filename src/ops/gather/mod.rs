//! Gather: each row of y is a weighted sum of rows of x, `y[i] = sum over j of weight[j] x[index[j]]`.
//!
//! x `[n, d]`, y `[sources.rows.len(), d]`; a row without sources is 0, one source of weight 1 is
//! copied. Reads one row a source, writes y once. Backward is the gather of the transposed index,
//! `dx[k] = sum of weight dy[i]` over the rows i that use k, ascending: nothing is saved but x's shape.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::Result;
use crate::layout::Sources;
use crate::tape::Tape;
use crate::tensor::{Tensor, check_shape};
use std::sync::Arc;

/// Rows of `x` summed as `sources` says.
pub fn gather(tape: &mut Tape, x: &Tensor, sources: &Arc<Sources>) -> Result<Tensor> {
    check_shape("gather", "x", x, &[x.rows(), x.dim()])?;
    sources.check("gather", x.rows())?;
    let mut y = x.device().alloc("gather", x.dtype(), &[sources.rows.len(), x.dim()])?;
    dispatch!("gather", x.device(), x.dtype(), weighted(x, sources, &mut y))?;
    let y = y.settled();
    if tape.is_recording() {
        let (x, sources, out) = (x.clone(), sources.clone(), y.clone());
        tape.record(move |grads| {
            let Some(dy) = grads.take(&out) else { return Ok(()) };
            // Logits, f32 on a GPU too, have a gradient in bf16 there.
            let mut dx = x.device().alloc("gather.dx", dy.dtype(), x.shape())?;
            dispatch!("gather.backward", x.device(), dy.dtype(), backward(&dy, &sources, &mut dx))?;
            grads.put(&x, dx)
        });
    }
    Ok(y)
}

//! Attention along one axis of packed n x n tables (spec §4): axis 0 lets the cells (., o) of one object
//! attend to each other, axis 1 the cells (s, .) of one subject.
//!
//! qkv `[cells, 3 d]`, out `[cells, d]`. A table with a pad index adds log(repeat) to that key's logit,
//! which equals attending to `repeat` identical pad entities. Diagonal cells are queries and keys like
//! any other. Backward recomputes probabilities from the saved log-sum-exp.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::{Error, Result};
use crate::layout::Tables;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::sync::Arc;

/// Along which index the cells attend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Along the subject, the object fixed.
    Subject,
    /// Along the object, the subject fixed.
    Object,
}

/// Attention along `axis` of every table.
pub fn axial(tape: &mut Tape, qkv: &Tensor, tables: &Arc<Tables>, heads: usize, axis: Axis) -> Result<Tensor> {
    let (cells, width) = (qkv.rows(), qkv.dim() / 3);
    if heads == 0 || qkv.dim() != 3 * width || width % heads != 0 {
        return Err(Error::shape("axial", "columns of qkv", format!("3 x {heads} heads"), qkv.shape()));
    }
    if tables.cells.rows() != cells {
        return Err(Error::shape("axial", "rows of qkv", tables.cells.rows(), cells));
    }
    let mut out = qkv.device().alloc("axial", qkv.dtype(), &[cells, width])?;
    let mut lse = qkv.device().alloc("axial.lse", qkv.dtype().wide(), &[cells, heads])?;
    dispatch!("axial", qkv.device(), qkv.dtype(), forward(qkv, tables, heads, axis, &mut out, &mut lse))?;
    let out = out.settled();
    let (x, y, tables) = (qkv.clone(), out.clone(), tables.clone());
    tape.record(move |grads| {
        let Some(dy) = grads.take(&y) else { return Ok(()) };
        let mut dx = x.device().alloc("axial.dx", x.dtype(), x.shape())?;
        dispatch!("axial.backward", x.device(), x.dtype(), backward(&x, &y, &lse, &dy, &tables, heads, axis, &mut dx))?;
        grads.put(&x, dx)
    });
    Ok(out)
}

//! Attention along one axis or both of packed n x n tables (spec §4): axis 0 lets the cells (., o) of one object
//! attend to each other, axis 1 the cells (s, .) of one subject.
//!
//! qkv `[cells, axes, 3 d]`, for each axis an out `[cells, d]`. A table with a pad index adds log(repeat) to that
//! key's logit, which equals attending to `repeat` identical pad entities. Diagonal cells are queries and keys like
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

/// Along which axes one call attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axes {
    Subject,
    Object,
    Both,
}

impl Axes {
    /// In the order of their columns in qkv.
    pub fn each(self) -> &'static [Axis] {
        match self {
            Axes::Subject => &[Axis::Subject],
            Axes::Object => &[Axis::Object],
            Axes::Both => &[Axis::Subject, Axis::Object],
        }
    }
}

/// Attention along each of `axes` of every table, in one launch: an output an axis.
pub fn axial(tape: &mut Tape, qkv: &Tensor, tables: &Arc<Tables>, heads: usize, axes: Axes) -> Result<Vec<Tensor>> {
    let (cells, parts) = (qkv.rows(), 3 * axes.each().len());
    let width = qkv.dim() / parts;
    if heads == 0 || !qkv.dim().is_multiple_of(parts * heads) {
        return Err(Error::shape("axial", "columns of qkv", format!("{parts} x {heads} heads"), qkv.shape()));
    }
    if tables.cells.rows() != cells {
        return Err(Error::shape("axial", "rows of qkv", tables.cells.rows(), cells));
    }
    let each = |tag, dtype, shape: [usize; 2]| -> Result<Vec<Tensor>> {
        axes.each().iter().map(|_| qkv.device().alloc(tag, dtype, &shape)).collect()
    };
    let mut out = each("axial", qkv.dtype(), [cells, width])?;
    let mut lse = each("axial.lse", qkv.dtype().wide(), [cells, heads])?;
    dispatch!("axial", qkv.device(), qkv.dtype(), forward(qkv, tables, heads, axes, &mut out, &mut lse))?;
    let out: Vec<Tensor> = out.into_iter().map(Tensor::settled).collect();
    let (x, y, tables) = (qkv.clone(), out.clone(), tables.clone());
    tape.record(move |grads| {
        let dy = y.iter().map(|y| grads.take(y).map_or_else(|| y.device().zeros("axial.dy", y.dtype(), y.shape()), Ok));
        let dy = dy.collect::<Result<Vec<_>>>()?;
        let mut dx = x.device().alloc("axial.dx", x.dtype(), x.shape())?;
        dispatch!("axial.backward", x.device(), x.dtype(), backward(&x, &y, &lse, &dy, &tables, heads, axes, &mut dx))?;
        grads.put(&x, dx)
    });
    Ok(out)
}

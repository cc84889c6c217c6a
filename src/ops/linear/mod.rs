//! Linear map: `y = x W^T + b (+ residual)`.
//!
//! x `[rows, in]`, W `[out, in]` as Hugging Face stores it, b `[out]`, residual and y `[rows, out]`.
//! Backward: `dx = dy W`, `dW += dy^T x`, `db += column sums of dy`, and the residual receives dy itself.

mod cpu;

use crate::dispatch;
use crate::error::{Error, Result};
use crate::tape::Tape;
use crate::tensor::{Tensor, check_shape, same_dtype};

/// `x W^T + b + residual`; see the module for shapes.
pub fn linear(
    tape: &mut Tape,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let (rows, out) = (x.rows(), w.rows());
    if x.dim() != w.dim() {
        return Err(Error::shape("linear", "columns of x", w.dim(), x.shape()));
    }
    same_dtype("linear", &[x, w])?;
    for (what, t, want) in [("bias", b, &[out][..]), ("residual", residual, &[rows, out])] {
        if let Some(t) = t {
            same_dtype("linear", &[x, t])?;
            check_shape("linear", what, t, want)?;
        }
    }
    let mut y = x.device().alloc("linear", x.dtype(), &[rows, out])?;
    dispatch!(cpu: "linear", x.device(), x.dtype(), forward(x, w, b, residual, &mut y))?;
    let y = y.settled();
    let (x, w, b, residual, out) = (x.clone(), w.clone(), b.cloned(), residual.cloned(), y.clone());
    tape.record(move |grads| {
        let Some(dy) = grads.take(&out) else { return Ok(()) };
        let mut dx = x.device().alloc("linear.dx", x.dtype(), x.shape())?;
        dispatch!(cpu: "linear.backward", x.device(), x.dtype(), backward(&dy, &x, &w, b.as_ref(), &mut dx, grads))?;
        grads.put(&x, dx)?;
        residual.map_or(Ok(()), |r| grads.put(&r, dy))
    });
    Ok(y)
}

//! Linear map: `y = x W^T + b (+ residual)`.
//!
//! x `[rows, in]`, W `[out, in]` as Hugging Face stores it, b `[out]`, residual and y `[rows, out]`.
//! Backward: `dx = dy W`, `dW += dy^T x`, `db += column sums of dy`, and the residual receives dy itself.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::gelu;
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
    check(x, w, b, residual)?;
    let y = product(x, w, b, residual, x.dtype())?.settled();
    record(tape, x, w, b, residual, &y);
    Ok(y)
}

/// `x W^T + b`, not rounded to x's type: for logits, whose differences decide. Its gradient comes in x's type.
pub fn linear_wide(tape: &mut Tape, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    check(x, w, b, None)?;
    let y = product(x, w, b, None, x.dtype().wide())?;
    record(tape, x, w, b, None, &y);
    Ok(y)
}

/// `gelu(x W^T + b)` in one pass, which keeps `x W^T + b` for the backward pass and applies gelu before it rounds.
pub fn linear_gelu(tape: &mut Tape, x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    check(x, w, Some(b), None)?;
    let room = || x.device().alloc("linear.gelu", x.dtype(), &[x.rows(), w.rows()]);
    let (mut z, mut y) = (tape.is_recording().then(room).transpose()?, room()?);
    dispatch!("linear.gelu", x.device(), x.dtype(), forward_gelu(x, w, b, z.as_mut(), &mut y))?;
    let (z, y) = (z.map(Tensor::settled), y.settled());
    if let Some(z) = &z {
        record(tape, x, w, Some(b), None, z);
        gelu::record(tape, z, &y);
    }
    Ok(y)
}

fn check(x: &Tensor, w: &Tensor, b: Option<&Tensor>, residual: Option<&Tensor>) -> Result<()> {
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
    Ok(())
}

fn product(x: &Tensor, w: &Tensor, b: Option<&Tensor>, residual: Option<&Tensor>, dtype: DType) -> Result<Tensor> {
    let mut y = x.device().alloc("linear", dtype, &[x.rows(), w.rows()])?;
    dispatch!("linear", x.device(), x.dtype(), forward(x, w, b, residual, &mut y))?;
    Ok(y)
}

/// The backward pass of `y = x W^T + b + residual`.
fn record(tape: &mut Tape, x: &Tensor, w: &Tensor, b: Option<&Tensor>, residual: Option<&Tensor>, y: &Tensor) {
    let (x, w, b, residual, out) = (x.clone(), w.clone(), b.cloned(), residual.cloned(), y.clone());
    tape.record(move |grads| {
        let Some(dy) = grads.take(&out) else { return Ok(()) };
        let mut dx = x.device().alloc("linear.dx", x.dtype(), x.shape())?;
        dispatch!("linear.backward", x.device(), x.dtype(), backward(&dy, &x, &w, b.as_ref(), &mut dx, grads))?;
        grads.put(&x, dx)?;
        residual.map_or(Ok(()), |r| grads.put(&r, dy))
    });
}

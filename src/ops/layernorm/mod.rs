//! Residual and layer norm: `y = weight * (s - mean s) / sqrt(var s + eps) + bias`, `s = x + dropout(branch)`.
//!
//! x, branch, y `[rows, d]`, weight and bias `[d]`. Statistics in two passes over a row that is in the
//! cache: reads 2, writes 1 value an element, or 2 in training, where s is saved (x itself, without a
//! copy, if there is no branch) with mean and 1/sqrt(var + eps) of each row.
//! Backward, with `h = (s - mean) r`, `g = dy weight`: `dx = r (g - mean g - h mean(g h))`, the branch
//! gets dropout(dx) with the mask made again (dx itself if dropout is off); weight and bias accumulate
//! `dy h` and `dy` in partials of 64 rows. Element `row d + col` of dropout.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::Result;
use crate::rng::Dropout;
use crate::tape::Tape;
use crate::tensor::{Tensor, check_shape, same_dtype};

/// `LayerNorm(x + dropout(branch))`; see the module.
pub fn layernorm(
    tape: &mut Tape,
    x: &Tensor,
    branch: Option<&Tensor>,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    drop: Dropout,
) -> Result<Tensor> {
    let (rows, dim) = (x.rows(), x.dim());
    same_dtype("layernorm", &[x, weight, bias, branch.unwrap_or(x)])?;
    check_shape("layernorm", "x", x, &[rows, dim])?;
    check_shape("layernorm", "branch", branch.unwrap_or(x), x.shape())?;
    check_shape("layernorm", "weight", weight, &[dim])?;
    check_shape("layernorm", "bias", bias, &[dim])?;
    let mut y = x.device().alloc("layernorm", x.dtype(), x.shape())?;
    let mut stats = x.device().alloc("layernorm.stats", x.dtype().wide(), &[rows, 2])?;
    let keep = tape.is_recording() && branch.is_some();
    let mut sum = if keep { Some(x.device().alloc("layernorm.sum", x.dtype(), x.shape())?) } else { None };
    let params = (weight, bias, eps);
    let into = (&mut y, sum.as_mut(), &mut stats);
    dispatch!("layernorm", x.device(), x.dtype(), forward(x, branch, params, drop, into))?;
    let (y, sum) = (y.settled(), sum.map(Tensor::settled));
    if tape.is_recording() {
        let (x, branch, weight, bias, out) = (x.clone(), branch.cloned(), weight.clone(), bias.clone(), y.clone());
        let sum = sum.unwrap_or_else(|| x.clone());
        tape.record(move |grads| {
            let Some(dy) = grads.take(&out) else { return Ok(()) };
            let mut dx = x.device().alloc("layernorm.dx", x.dtype(), x.shape())?;
            let masked = branch.is_some() && !drop.is_off();
            let mut dbranch =
                if masked { Some(x.device().alloc("layernorm.dbranch", x.dtype(), x.shape())?) } else { None };
            let saved = (&sum, &stats);
            let params = (&weight, &bias);
            let into = (&mut dx, dbranch.as_mut());
            dispatch!("layernorm.backward", x.device(), x.dtype(), backward(&dy, saved, params, drop, into, grads))?;
            let dx = dx.settled(); // before it is shared
            if let Some(branch) = &branch {
                grads.put(branch, dbranch.unwrap_or_else(|| dx.clone()))?;
            }
            grads.put(&x, dx)
        });
    }
    Ok(y)
}

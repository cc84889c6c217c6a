//! Residual and layer norm: `y = weight * (s - mean s) / sqrt(var s + eps) + bias`, `s = x + dropout(branch)`.
//!
//! x, branch, y `[rows, d]`, weight and bias `[d]`. Statistics in two passes over a row that is in the
//! cache: reads 2, writes 1 value an element, or 2 in training, where s is saved (x itself, without a
//! copy, if there is no branch) with mean and 1/sqrt(var + eps) of each row.
//! Backward, with `h = (s - mean) r`, `g = dy weight`: `dx = r (g - mean g - h mean(g h))`, the branch
//! gets dropout(dx) with the mask made again (dx itself if dropout is off); weight and bias accumulate
//! `dy h` and `dy` in partials of 64 rows. Element `row d + col` of dropout.

pub(super) mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::Result;
use crate::rng::Dropout;
use crate::tape::{Grads, Tape};
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
    same_dtype("layernorm", &[x, branch.unwrap_or(x)])?;
    check_shape("layernorm", "x", x, &[rows, dim])?;
    check_shape("layernorm", "branch", branch.unwrap_or(x), x.shape())?;
    check_parameters(x, dim, weight, bias)?;
    let mut y = x.device().alloc("layernorm", x.dtype(), x.shape())?;
    let mut stats = x.device().alloc("layernorm.stats", x.dtype().wide(), &[rows, 2])?;
    let keep = tape.is_recording() && branch.is_some();
    let mut sum = if keep { Some(x.device().alloc("layernorm.sum", x.dtype(), x.shape())?) } else { None };
    let params = (weight, bias, eps);
    let into = (&mut y, sum.as_mut(), &mut stats);
    dispatch!("layernorm", x.device(), x.dtype(), forward(x, branch, params, drop, into))?;
    let (y, sum) = (y.settled(), sum.map(Tensor::settled));
    if tape.is_recording() {
        let (x, branch, out) = (x.clone(), branch.cloned(), y.clone());
        let drop = if branch.is_some() { drop } else { Dropout::default() };
        let sum = sum.unwrap_or_else(|| x.clone());
        let saved = Saved { sum, stats, weight: weight.clone(), bias: bias.clone(), drop };
        tape.record(move |grads| {
            let Some(dy) = grads.take(&out) else { return Ok(()) };
            let [dx, dbranch] = saved.backward(dy, grads)?;
            if let Some(branch) = &branch {
                grads.put(branch, dbranch)?;
            }
            grads.put(&x, dx)
        });
    }
    Ok(y)
}

/// Of rows of `dim` elements of the type of `like`.
pub(super) fn check_parameters(like: &Tensor, dim: usize, weight: &Tensor, bias: &Tensor) -> Result<()> {
    same_dtype("layernorm", &[like, weight, bias])?;
    check_shape("layernorm", "weight", weight, &[dim])?;
    check_shape("layernorm", "bias", bias, &[dim])
}

/// What the backward pass needs: s, its rows' statistics, the parameters, and the dropout of the branch.
pub(super) struct Saved {
    pub sum: Tensor,
    pub stats: Tensor,
    pub weight: Tensor,
    pub bias: Tensor,
    pub drop: Dropout,
}

impl Saved {
    /// The gradients of x and of the branch, from the output's; frees what it needed.
    pub fn backward(self, dy: Tensor, grads: &mut Grads) -> Result<[Tensor; 2]> {
        let mut dx = dy.device().alloc("layernorm.dx", dy.dtype(), dy.shape())?;
        let mut dbranch = match self.drop.is_off() {
            true => None,
            false => Some(dy.device().alloc("layernorm.dbranch", dy.dtype(), dy.shape())?),
        };
        let (saved, params) = ((&self.sum, &self.stats), (&self.weight, &self.bias));
        let into = (&mut dx, dbranch.as_mut());
        dispatch!("layernorm.backward", dy.device(), dy.dtype(), backward(&dy, saved, params, self.drop, into, grads))?;
        let dx = dx.settled(); // before it is shared
        let dbranch = dbranch.unwrap_or_else(|| dx.clone());
        Ok([dx, dbranch])
    }
}

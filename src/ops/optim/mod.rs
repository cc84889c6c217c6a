//! AdamW in the released form, behind a clip by the norm of the whole gradient (spec §6).
//!
//! `g = min(1, clip / (norm + 1e-6)) grad`; `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`;
//! `theta -= rate sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt v + eps)`, then `theta -= rate decay theta`.
//! eps is not divided by the correction: early steps differ from PyTorch's form. Over flat arrays, one
//! span a parameter group; what no span covers stays as it is. Where the norm is not finite all stays as
//! it is: norm, clip factor and that decision are made where the gradient is, and nobody waits for them. So that the
//! norms of several steps can be read late, a step may be told of the one before: both are taken or neither.
//! Reads 5 values an element (the gradient twice) and writes 3, and the rounded copy of the weights.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, check_shape, same_dtype};
use std::ops::Range;

/// Consecutive elements with one learning rate and one weight decay.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub range: Range<usize>,
    pub rate: f64,
    pub decay: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
}

impl Default for Hyper {
    fn default() -> Self {
        Hyper { beta1: 0.9, beta2: 0.999, eps: 1e-6 }
    }
}

impl Hyper {
    /// What the released form multiplies the rate of step `t` with.
    fn correction(self, t: u64) -> f64 {
        (1.0 - self.beta2.powf(t as f64)).sqrt() / (1.0 - self.beta1.powf(t as f64))
    }
}

/// Keeps the clip factor finite where the norm is 0, as in PyTorch's `clip_grad_norm_`.
const SLACK: f64 = 1e-6;

/// The gradient's norm, where the gradient is: reading it waits for the device.
#[derive(Clone, Debug)]
pub struct Norm {
    /// F64: the norm, and the factor that the gradient was scaled by, NaN where the update changed nothing.
    values: Tensor,
}

impl Norm {
    /// The Euclidean norm before the clip, summed in a fixed order; f32 cannot overflow it. Not finite (a NaN or
    /// an infinity was in the gradient): the update changed nothing.
    pub fn read(&self) -> Result<f64> {
        Ok(self.values.to_f64()?[0])
    }
}

/// One step, the `t`-th (from 1), of `weights` and their moments, with the gradient scaled down to a norm of at
/// most `clip`. `copy` receives the new weights in bf16. `spans` ascend and do not overlap. Where the update `after`
/// changed nothing, this one changes nothing either.
#[allow(clippy::too_many_arguments)]
pub fn update(
    weights: &mut Tensor,
    mut copy: Option<&mut Tensor>,
    grad: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    spans: &[Span],
    hyper: Hyper,
    t: u64,
    clip: f64,
    after: Option<&Norm>,
) -> Result<Norm> {
    let (device, dtype) = (grad.device(), grad.dtype());
    same_dtype("adamw", &[grad, weights, m, v])?;
    if let Some(other) = copy.as_deref().map(|c| c.dtype()).filter(|&of_copy| of_copy != DType::BF16) {
        return Err(Error::shape("adamw", "dtype of the copy", DType::BF16, other));
    }
    let written = [("weights", &mut *weights), ("m", &mut *m), ("v", &mut *v)];
    for (what, tensor) in written.into_iter().chain(copy.as_deref_mut().map(|c| ("the copy", c))) {
        check_shape("adamw", what, tensor, grad.shape())?;
        if !tensor.is_unique() {
            return Err(Error::shape("adamw", what, "held by nobody else", "shared"));
        }
    }
    check_spans(spans, grad.len())?;
    let mut values = device.alloc("norm", DType::F64, &[2])?;
    let (after, norm) = (after.map(|after| &after.values), &mut values);
    dispatch!("adamw", device, dtype, wide update(weights, copy, grad, (m, v), spans, hyper, t, clip, after, norm))?;
    Ok(Norm { values })
}

fn check_spans(spans: &[Span], len: usize) -> Result<()> {
    let mut end = 0;
    for span in spans {
        if span.range.start < end || span.range.end < span.range.start || span.range.end > len {
            return Err(Error::shape("adamw", "a span", format!("within {end}..{len}"), &span.range));
        }
        end = span.range.end;
    }
    Ok(())
}

/// The first of the named ranges with a NaN or an infinity in it.
pub fn first_non_finite<'a>(grad: &Tensor, names: &[(&'a str, Range<usize>)]) -> Result<Option<&'a str>> {
    let found = dispatch!("first_non_finite", grad.device(), grad.dtype(), wide first_non_finite(grad, names))?;
    Ok(found.map(|i| names[i].0))
}

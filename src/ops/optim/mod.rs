//! AdamW in the released form, and the checks of a gradient that precede a step (spec §6).
//!
//! `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, g scaled by the clip factor;
//! `theta -= rate sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt v + eps)`, then `theta -= rate decay theta`.
//! eps is not divided by the correction: early steps differ from PyTorch's form. Over flat arrays, one
//! span a parameter group; what no span covers stays as it is. Reads 4 and writes 3 values an element.

mod cpu;

use crate::dispatch;
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

/// One step, the `t`-th (from 1), of `value` and its moments; `spans` ascend and do not overlap.
#[allow(clippy::too_many_arguments)]
pub fn adamw(
    value: &mut Tensor,
    grad: &Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    spans: &[Span],
    hyper: Hyper,
    t: u64,
    clip_scale: f64,
) -> Result<()> {
    same_dtype("adamw", &[grad, value, m, v])?;
    for (what, tensor) in [("value", &mut *value), ("m", &mut *m), ("v", &mut *v)] {
        check_shape("adamw", what, tensor, grad.shape())?;
        if !tensor.is_unique() {
            return Err(Error::shape("adamw", what, "held by nobody else", "shared"));
        }
    }
    check_spans(spans, grad.len())?;
    let (device, dtype) = (grad.device(), grad.dtype());
    dispatch!(cpu: "adamw", device, dtype, step(value, grad, (m, v), spans, hyper, t, clip_scale))?;
    Ok(())
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

/// The Euclidean norm, summed in f64 in a fixed order. f32 cannot overflow it; a NaN or an infinity in
/// `grad` gives a norm that is not finite.
pub fn global_norm(grad: &Tensor) -> Result<f64> {
    Ok(dispatch!(cpu: "global_norm", grad.device(), grad.dtype(), sum_of_squares(grad))?.sqrt())
}

/// The first of the named ranges with a NaN or an infinity in it.
pub fn first_non_finite<'a>(grad: &Tensor, names: &[(&'a str, Range<usize>)]) -> Result<Option<&'a str>> {
    let found = dispatch!(cpu: "first_non_finite", grad.device(), grad.dtype(), first_non_finite(grad, names))?;
    Ok(found.map(|i| names[i].0))
}

//! GELU with erf: `y = x/2 (1 + erf(x / sqrt 2))`.
//!
//! Elementwise; reads and writes one value each. Backward keeps x and recomputes erf and exp:
//! `dx = dy (Phi(x) + x phi(x))`, Phi and phi the standard normal distribution and its density.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::Result;
use crate::tape::Tape;
use crate::tensor::Tensor;

/// `x/2 (1 + erf(x / sqrt 2))`, elementwise.
pub fn gelu(tape: &mut Tape, x: &Tensor) -> Result<Tensor> {
    let mut y = x.device().alloc("gelu", x.dtype(), x.shape())?;
    dispatch!("gelu", x.device(), x.dtype(), forward(x, &mut y))?;
    let y = y.settled();
    record(tape, x, &y);
    Ok(y)
}

/// The backward pass of `y = gelu(x)`.
pub(super) fn record(tape: &mut Tape, x: &Tensor, y: &Tensor) {
    let (x, out) = (x.clone(), y.clone());
    tape.record(move |grads| {
        let Some(dy) = grads.take(&out) else { return Ok(()) };
        let mut dx = x.device().alloc("gelu.dx", x.dtype(), x.shape())?;
        dispatch!("gelu.backward", x.device(), x.dtype(), backward(&dy, &x, &mut dx))?;
        grads.put(&x, dx)
    });
}

//! Sums: of two activations, and of gradients where an activation has several uses. Reads 2N values, writes N.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::Result;
use crate::tape::Tape;
use crate::tensor::{Tensor, check_shape, same_dtype};

/// `into += other`; nobody else may hold `into`.
pub fn accumulate(into: &mut Tensor, other: &Tensor) -> Result<()> {
    same_dtype("add", &[into, other])?;
    check_shape("add", "other", other, into.shape())?;
    dispatch!("add", into.device(), into.dtype(), accumulate(into, other))?;
    Ok(())
}

/// `a + b` in fresh memory.
pub fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    same_dtype("add", &[a, b])?;
    check_shape("add", "b", b, a.shape())?;
    let mut y = a.device().alloc("add", a.dtype(), a.shape())?;
    dispatch!("add", a.device(), a.dtype(), sum(a, b, &mut y))?;
    Ok(y.settled())
}

/// `a + b`; both receive the gradient of the sum.
pub fn add(tape: &mut Tape, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let y = sum(a, b)?;
    let (a, b, made) = (a.clone(), b.clone(), y.clone());
    tape.record(move |grads| {
        let Some(dy) = grads.take(&made) else { return Ok(()) };
        grads.put(&a, dy.clone())?;
        grads.put(&b, dy)
    });
    Ok(y)
}

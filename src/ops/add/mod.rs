//! Sums of gradients where an activation has several uses. Reads 2N values, writes N.

mod cpu;

use crate::dispatch;
use crate::error::Result;
use crate::tensor::{Tensor, check_shape, same_dtype};

/// `into += other`; nobody else may hold `into`.
pub fn accumulate(into: &mut Tensor, other: &Tensor) -> Result<()> {
    same_dtype("add", &[into, other])?;
    check_shape("add", "other", other, into.shape())?;
    dispatch!("add", into.device(), into.dtype(), accumulate(into, other));
    Ok(())
}

/// `a + b` in fresh memory.
pub fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mut y = a.device().zeros("add", a.dtype(), a.shape())?;
    accumulate(&mut y, a)?;
    accumulate(&mut y, b)?;
    Ok(y)
}

//! Dropout: `y = x * mask`, mask `0 | 1/(1-p)` by counter (see `rng`), element = flat index.
//!
//! Reads and writes one value an element; nothing is saved, backward makes the mask again:
//! `dx = dy * mask`. Switched off, it is the same tensor: no copy, no node on the tape.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::Result;
use crate::rng::Dropout;
use crate::tape::Tape;
use crate::tensor::Tensor;

/// `x * mask` of `drop`.
pub fn dropout(tape: &mut Tape, x: &Tensor, drop: Dropout) -> Result<Tensor> {
    if drop.is_off() {
        return Ok(x.clone());
    }
    let mut y = x.device().alloc("dropout", x.dtype(), x.shape())?;
    dispatch!("dropout", x.device(), x.dtype(), masked(x, drop, &mut y))?;
    let y = y.settled();
    let (x, out) = (x.clone(), y.clone());
    tape.record(move |grads| {
        let Some(dy) = grads.take(&out) else { return Ok(()) };
        let mut dx = x.device().alloc("dropout.dx", x.dtype(), x.shape())?;
        dispatch!("dropout.backward", x.device(), x.dtype(), masked(&dy, drop, &mut dx))?;
        grads.put(&x, dx)
    });
    Ok(y)
}

//! Grouped bilinear form (spec §3): `y = W bl (+ b)`, where bl is the concatenation over groups g of the outer
//! products `z_s^g (x) z_o^g`, index `g k k + i k + j`.
//!
//! z_s, z_o `[cells, E]`, W `[out, E k]`, b `[out]`, y `[cells, out]`. The outer products are generated row
//! by row for the matrix product, one chunk at a time: the `[cells, E k]` tensor never exists,
//! forward or backward. Backward: `dW += dY^T bl`; S = dY W in blocks of 48 cells x about 256 columns, each
//! reduced at once to `dz_s[i] += S[i, :] . z_o` and `dz_o += z_s[i] S[i, :]`. On a GPU (k is 32 or 64) y is bf16
//! without b, and f32 with it.

mod cpu;
mod cuda;

use crate::dispatch;
use crate::error::{Error, Result};
use crate::tape::Tape;
use crate::tensor::{Tensor, check_shape, same_dtype};

/// `block` is k, the side of a group's outer product; it divides E.
pub fn bilinear(
    tape: &mut Tape,
    zs: &Tensor,
    zo: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    block: usize,
) -> Result<Tensor> {
    let (cells, e, out) = (zs.rows(), zs.dim(), w.rows());
    same_dtype("bilinear", &[zs, zo, w])?;
    check_shape("bilinear", "z_o", zo, zs.shape())?;
    check_shape("bilinear", "weight", w, &[out, e * block])?;
    b.map_or(Ok(()), |b| check_shape("bilinear", "bias", b, &[out]))?;
    if block == 0 || e % block != 0 {
        return Err(Error::shape("bilinear", "block", format!("a divisor of {e}"), block));
    }
    // With a bias it is a classifier, and its logits stay wide.
    let dtype = if b.is_some() { zs.dtype().wide() } else { zs.dtype() };
    let mut y = zs.device().alloc("bilinear", dtype, &[cells, out])?;
    dispatch!("bilinear", zs.device(), zs.dtype(), forward(zs, zo, w, b, block, &mut y))?;
    let y = if b.is_some() { y } else { y.settled() };
    let (zs, zo, w, b, made) = (zs.clone(), zo.clone(), w.clone(), b.cloned(), y.clone());
    tape.record(move |grads| {
        let Some(dy) = grads.take(&made) else { return Ok(()) };
        let (device, dtype) = (zs.device(), zs.dtype());
        let mut dzs = device.alloc("bilinear.dz", dtype, zs.shape())?;
        let mut dzo = device.alloc("bilinear.dz", dtype, zo.shape())?;
        dispatch!("bilinear.dw", device, dtype, backward_weight(&dy, &zs, &zo, &w, b.as_ref(), block, grads))?;
        dispatch!("bilinear.dz", device, dtype, backward_inputs(&dy, &zs, &zo, &w, block, &mut dzs, &mut dzo))?;
        grads.put(&zs, dzs)?;
        grads.put(&zo, dzo)
    });
    Ok(y)
}

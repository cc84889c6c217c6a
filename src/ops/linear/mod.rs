//! Linear map: `y = x W^T + b (+ residual)`.
//!
//! x `[rows, in]`, W `[out, in]` as Hugging Face stores it, b `[out]`, residual and y `[rows, out]`.
//! Backward: `dx = dy W`, `dW += dy^T x`, `db += column sums of dy`, and the residual receives dy itself.

mod cpu;
mod cuda;

use crate::device::Device;
use crate::device::cpu::{Cpu, gemm};
use crate::dispatch;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::{gelu, layernorm};
use crate::rng::Dropout;
use crate::tape::{Grads, Tape};
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

/// The residual stream: rows as products take them and, where [`linear_norm`] went on with one in bf16 on a CPU, what
/// rounding took from them, for the next sum. Roundings of the stream itself are most of what sets bf16 apart from f32.
#[derive(Clone)]
pub struct Residual {
    pub x: Tensor,
    rest: Option<Tensor>,
}

impl From<Tensor> for Residual {
    fn from(x: Tensor) -> Self {
        Residual { x, rest: None }
    }
}

impl Residual {
    /// Of what [`Residual::tensors`] gave.
    pub fn of(tensors: &[Tensor]) -> Self {
        Residual { x: tensors[0].clone(), rest: tensors.get(1).cloned() }
    }
    /// Their sum is the stream.
    pub fn tensors(&self) -> Vec<Tensor> {
        self.parts().cloned().collect()
    }
    fn parts(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.x).chain(&self.rest)
    }
}

/// The layer norm behind a linear map.
pub struct Norm<'a> {
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub eps: f64,
}

/// `LayerNorm(residual + dropout(x W^T + b))`, or `LayerNorm(x W^T + b)` without a residual, see [`layernorm`]: on a CPU
/// row by row in the pass that makes `x W^T + b`, which is not rounded in between; else one op after the other.
pub fn linear_norm(
    tape: &mut Tape,
    x: &Tensor,
    (w, b): (&Tensor, &Tensor),
    residual: Option<(&Residual, Dropout)>,
    norm: Norm<'_>,
) -> Result<Residual> {
    let drop = residual.map_or(Dropout::default(), |(_, drop)| drop);
    let residual = residual.map(|(stream, _)| stream);
    let Some(on) = fuses(x, w.rows()) else {
        let z = linear(tape, x, w, Some(b), None)?;
        let (x, branch) = residual.map_or((&z, None), |residual| (&residual.x, Some(&z)));
        let Norm { weight, bias, eps } = norm;
        return layernorm::layernorm(tape, x, branch, weight, bias, eps, drop).map(Residual::from);
    };
    check(x, w, Some(b), residual.map(|r| &r.x))?;
    layernorm::check_parameters(x, w.rows(), norm.weight, norm.bias)?;
    let shape = [x.rows(), w.rows()];
    let room = |tag, dtype| x.device().alloc(tag, dtype, &shape);
    let mut y = room("linear.norm", x.dtype())?;
    let mut stats = x.device().alloc("layernorm.stats", x.dtype().wide(), &[x.rows(), 2])?;
    let mut rest =
        (x.dtype() == DType::BF16 && residual.is_some()).then(|| room("linear.norm.rest", x.dtype())).transpose()?;
    let mut sum = tape.is_recording().then(|| room("layernorm.sum", x.dtype())).transpose()?;
    let _span = on.profile.span("linear.norm");
    let into = cpu::Normed { y: &mut y, rest: rest.as_mut(), sum: sum.as_mut(), stats: &mut stats };
    on.run(|| match x.dtype() {
        DType::BF16 => cpu::forward_norm::<half::bf16>(x, (w, b), (residual, drop), &norm, into),
        DType::F32 => cpu::forward_norm::<f32>(x, (w, b), (residual, drop), &norm, into),
        DType::F64 => cpu::forward_norm::<f64>(x, (w, b), (residual, drop), &norm, into),
    });
    if let Some(sum) = sum {
        let (x, w, b, out) = (x.clone(), w.clone(), b.clone(), y.clone());
        let residual = residual.map(|r| r.x.clone());
        let (weight, bias) = (norm.weight.clone(), norm.bias.clone());
        let saved = layernorm::Saved { sum, stats, weight, bias, drop };
        tape.record(move |grads| {
            let Some(dy) = grads.take(&out) else { return Ok(()) };
            let [dsum, dz] = saved.backward(dy, grads)?;
            propagate(grads, &dz, &x, &w, Some(&b))?;
            residual.map_or(Ok(()), |residual| grads.put(&residual, dsum))
        });
    }
    Ok(Residual { x: y, rest })
}

/// The CPU that has a row of `width` sums at a time, and is not asked to round what ops hand on.
fn fuses(x: &Tensor, width: usize) -> Option<&Cpu> {
    match x.device() {
        Device::Cpu(cpu) if width <= gemm::SLAB && !cpu.rounds() => Some(cpu),
        _ => None,
    }
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
        propagate(grads, &dy, &x, &w, b.as_ref())?;
        residual.map_or(Ok(()), |r| grads.put(&r, dy))
    });
}

/// Gives x, W and b their gradients of `x W^T + b`, whose own is `dy`.
fn propagate(grads: &mut Grads, dy: &Tensor, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<()> {
    let mut dx = x.device().alloc("linear.dx", x.dtype(), x.shape())?;
    dispatch!("linear.backward", x.device(), x.dtype(), backward(dy, x, w, b, &mut dx, grads))?;
    grads.put(x, dx)
}

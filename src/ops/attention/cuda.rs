use super::cpu::sequences;
use crate::device::cpu::attention::Heads;
use crate::device::cuda::Cuda;
use crate::device::cuda::attention::{Tiled, tiles};
use crate::error::Result;
use crate::layout::Segments;
use crate::rng::Dropout;
use crate::tensor::Tensor;
use std::slice::{from_mut, from_ref};
use std::sync::Arc;

fn tiled<'a>(cuda: &'a Cuda, segments: &Arc<Segments>, heads: Heads, drop: Dropout) -> Result<Tiled<'a>> {
    let tiles = cuda.layout(segments, "attention.tiles", |segments| tiles(sequences(segments)))?;
    Ok(Tiled { cuda, op: "attention", tiles, axes: 1, heads, drop })
}

pub fn forward(
    cuda: &Cuda,
    qkv: &Tensor,
    segments: &Arc<Segments>,
    heads: usize,
    drop: Dropout,
    out: &mut Tensor,
    lse: &mut Tensor,
) -> Result<()> {
    let heads = Heads { count: heads, dim: out.dim() / heads };
    tiled(cuda, segments, heads, drop)?.forward(qkv, from_mut(out), from_mut(lse))
}

#[allow(clippy::too_many_arguments)] // the op's tensors, by name
pub fn backward(
    cuda: &Cuda,
    qkv: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    dout: &Tensor,
    segments: &Arc<Segments>,
    heads: usize,
    drop: Dropout,
    dqkv: &mut Tensor,
) -> Result<()> {
    let heads = Heads { count: heads, dim: out.dim() / heads };
    tiled(cuda, segments, heads, drop)?.backward(qkv, from_ref(out), from_ref(lse), from_ref(dout), dqkv)
}

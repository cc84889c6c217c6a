//! Launches of kernels/context_pool.cu.

use super::Pooling;
use crate::device::cuda::{Cuda, Words};
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::{Documents, Grid};
use crate::tensor::Tensor;
use std::sync::Arc;

const THREADS: usize = 256;
/// Entities along an edge of a tile of pairs, tokens of a tile, columns of a block: as in the kernels.
const SIDE: usize = 8;
const TOKENS: usize = 64;
const COLUMNS: usize = 256;
/// `Place` of the kernels, in words.
const PLACE: usize = 8;

/// One `Place` for each (first, second) that `tiles(entities, tokens)` gives for a document.
fn places<I>(documents: &Documents, tiles: impl Fn(usize, usize) -> I) -> Vec<i32>
where
    I: Iterator<Item = (usize, usize)>,
{
    let (mut places, mut area, mut pair) = (Vec::new(), 0, 0);
    for (entities, tokens) in documents.entities.iter().zip(documents.tokens.iter()) {
        let (n, token, length) = (entities.len(), tokens.start, tokens.len());
        for (first, second) in tiles(n, length) {
            places.extend([token, length, area, n, pair, first, second, 0].map(|x| x as i32));
        }
        area += n * length;
        pair += n * (n + 1) / 2;
    }
    places
}

/// First indices of tiles of `of`, `size` at a time.
fn starts(of: usize, size: usize) -> impl Iterator<Item = usize> + Clone {
    (0..of).step_by(size)
}

fn pair_tiles(documents: &Documents) -> Vec<i32> {
    places(documents, |n, _| {
        starts(n, SIDE).flat_map(move |a| starts(n, SIDE).filter(move |&b| b >= a).map(move |b| (a, b)))
    })
}

fn token_tiles(documents: &Documents) -> Vec<i32> {
    places(documents, |_, tokens| starts(tokens, TOKENS).map(|token| (token, 0)))
}

fn entity_tiles(documents: &Documents) -> Vec<i32> {
    places(documents, |n, tokens| {
        starts(tokens, TOKENS).flat_map(move |token| starts(n, SIDE).map(move |a| (token, a)))
    })
}

fn check(cuda: &Cuda, dim: usize) -> Result<()> {
    match dim.is_multiple_of(8) {
        true => Ok(()),
        false => Err(cuda.refuse("context_pool", format!("dim {dim}: a multiple of 8 is needed"))),
    }
}

fn count(places: &Words) -> usize {
    places.len() / PLACE
}

/// `AttentionGradient` of the kernels.
fn attention_gradient_bytes(heads: usize) -> usize {
    let pairs = SIDE * SIDE;
    let (ring, dq, factors) = (4 * 64 * 64 * 2, pairs * (TOKENS + 8) * 4, 2 * pairs * 4);
    ring + dq + factors + SIDE * heads * TOKENS * 4
}

#[allow(clippy::too_many_arguments)] // the op's tensors, by name
pub fn forward(
    cuda: &Cuda,
    a: &Tensor,
    h: &Tensor,
    documents: &Arc<Documents>,
    _: &Grid,
    pooling: Pooling,
    c: &mut Tensor,
    inverse: &mut Tensor,
) -> Result<()> {
    let dim = h.dim();
    check(cuda, dim)?;
    let places = cuda.layout(documents, "context_pool.pair_tiles", pair_tiles)?;
    let kernel = cuda.kernel("context_pool_forward").input(a).input(h).words(&places).output(c).output(inverse);
    let kernel = kernel.value(pooling.heads as i32).value(dim as i32).value(pooling.scale() as f32);
    kernel.value(pooling.epsilon as f32).launch([count(&places), dim.div_ceil(COLUMNS), 1], THREADS, 0)
}

#[allow(clippy::too_many_arguments)] // the op's tensors, by name
pub fn backward(
    cuda: &Cuda,
    a: &Tensor,
    h: &Tensor,
    c: &Tensor,
    dc: &Tensor,
    inverse: &Tensor,
    documents: &Arc<Documents>,
    _: &Grid,
    pooling: Pooling,
    da: &mut Tensor,
    dh: &mut Tensor,
) -> Result<()> {
    let (pairs, dim, heads, scale) = (c.rows(), h.dim(), pooling.heads, pooling.scale() as f32);
    check(cuda, dim)?;
    let shared = attention_gradient_bytes(heads);
    if shared > cuda.shared_bytes() {
        let room = cuda.shared_bytes();
        return Err(cuda.refuse("context_pool", format!("{heads} heads need {shared} of {room} bytes shared memory")));
    }
    let mut means = h.device().alloc("context_pool.means", DType::F32, &[pairs])?;
    let kernel = cuda.kernel("context_pool_means").input(c).input(dc).output(&mut means);
    kernel.value(pairs as i32).value(dim as i32).launch([pairs.div_ceil(THREADS / 32), 1, 1], THREADS, 0)?;

    let places = cuda.layout(documents, "context_pool.entity_tiles", entity_tiles)?;
    let kernel =
        cuda.kernel("context_pool_attention_gradient").input(a).input(h).input(dc).input(inverse).input(&means);
    let kernel = kernel.words(&places).output(da).value(heads as i32).value(dim as i32).value(scale);
    kernel.launch([count(&places), 1, 1], THREADS, shared)?;

    let places = cuda.layout(documents, "context_pool.token_tiles", token_tiles)?;
    let kernel = cuda.kernel("context_pool_hidden_gradient").input(a).input(dc).input(inverse).words(&places);
    let kernel = kernel.output(dh).value(heads as i32).value(dim as i32).value(scale);
    kernel.launch([count(&places), dim.div_ceil(COLUMNS), 1], THREADS, 0)
}

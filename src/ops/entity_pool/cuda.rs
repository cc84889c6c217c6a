//! Launches of kernels/entity_pool.cu.

use crate::device::cuda::{Cuda, Words};
use crate::error::Result;
use crate::layout::{Segments, Sources};
use crate::tensor::Tensor;
use std::sync::Arc;

const THREADS: usize = 256;
/// Of a thread.
const COLUMNS: usize = 8;

/// Starts of the mentions of each entity, and their rows.
fn lists(cuda: &Cuda, mentions: &Arc<Sources>) -> Result<(Words, Words)> {
    let rows = |s: &Sources| s.index.iter().map(|&row| row as i32).collect();
    Ok((
        cuda.layout(mentions, "entity_pool.starts", |s| starts(&s.rows))?,
        cuda.layout(mentions, "entity_pool.mentions", rows)?,
    ))
}

fn starts(segments: &Segments) -> Vec<i32> {
    segments.starts.iter().map(|&start| start as i32).collect()
}

/// Blocks for `rows` of the result.
fn blocks(cuda: &Cuda, rows: usize, dim: usize) -> Result<[usize; 3]> {
    if !dim.is_multiple_of(COLUMNS) {
        return Err(cuda.refuse("entity_pool", format!("dim {dim}: a multiple of {COLUMNS} is needed")));
    }
    Ok([(rows * dim / COLUMNS).div_ceil(THREADS), 1, 1])
}

pub fn forward(cuda: &Cuda, h: &Tensor, mentions: &Arc<Sources>, y: &mut Tensor) -> Result<()> {
    let (entities, dim) = (y.rows(), h.dim());
    let blocks = blocks(cuda, entities, dim)?;
    let (starts, rows) = lists(cuda, mentions)?;
    let kernel = cuda.kernel("entity_pool_forward").input(h).words(&starts).words(&rows).output(y);
    kernel.value(entities as i32).value(dim as i32).launch(blocks, THREADS, 0)
}

pub fn backward(
    cuda: &Cuda,
    dy: &Tensor,
    h: &Tensor,
    _: &Tensor,
    mentions: &Arc<Sources>,
    uses: &Sources,
    dh: &mut Tensor,
) -> Result<()> {
    let (tokens, dim) = (h.rows(), h.dim());
    let blocks = blocks(cuda, tokens, dim)?;
    let (from, rows) = lists(cuda, mentions)?;
    let (use_starts, uses) = (cuda.upload(&starts(&uses.rows))?, cuda.upload(&uses.index)?);
    let kernel = cuda.kernel("entity_pool_backward").input(dy).input(h).words(&from).words(&rows);
    let kernel = kernel.words(&use_starts).words(&uses).output(dh).value(tokens as i32).value(dim as i32);
    kernel.launch(blocks, THREADS, 0)
}

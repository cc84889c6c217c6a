use crate::device::cuda::{Cuda, Words};
use crate::dtype::DType;
use crate::error::Result;
use crate::tape::Grads;
use crate::tensor::Tensor;

const THREADS: usize = 256;
/// Of a block in backward, as in the kernels; and the columns it takes.
const WARPS: usize = 8;
const CHUNK: usize = 256;

pub fn forward(
    cuda: &Cuda,
    ids: &[u32],
    positions: &[u32],
    word: &Tensor,
    position: &Tensor,
    token_type: &Tensor,
    y: &mut Tensor,
) -> Result<()> {
    let (rows, dim) = (y.rows(), y.dim());
    let packs = y.len() / 8;
    if word.dtype() != DType::BF16 || !dim.is_multiple_of(8) || packs > i32::MAX as usize {
        let why = format!("{:?}, dim {dim}, {rows} rows: bf16 and a multiple of 8 are needed", word.dtype());
        return Err(cuda.refuse("embedding", why));
    }
    let numbers = cuda.upload(&[ids, positions].concat())?;
    let kernel = cuda.kernel("embedding_forward").words(&numbers).input(word).input(position).input(token_type);
    let kernel = kernel.output(y).value(rows as i32).value(dim as i32);
    kernel.launch([packs.div_ceil(THREADS), 1, 1], THREADS, 0)
}

pub fn backward(
    cuda: &Cuda,
    dy: &Tensor,
    ids: &[u32],
    positions: &[u32],
    tables: [&Tensor; 3],
    grads: &mut Grads,
) -> Result<()> {
    let dim = dy.dim();
    let chunks = dim.div_ceil(CHUNK);
    let (words, count) = buckets(cuda, ids)?;
    let kernel = cuda.kernel("embedding_backward_words").input(dy).words(&words).gradient(grads.flat_mut(), tables[0]);
    kernel.value(count as i32).value(dim as i32).launch([count, chunks, 1], 32 * WARPS, 0)?;

    let (places, count) = buckets(cuda, positions)?;
    let blocks = count.div_ceil(WARPS);
    let mut partials = dy.device().alloc("embedding.partials", DType::F32, &[blocks, dim])?;
    let kernel = cuda.kernel("embedding_backward_positions").input(dy).words(&places);
    let kernel = kernel.gradient(grads.flat_mut(), tables[1]).output(&mut partials);
    kernel.value(count as i32).value(dim as i32).launch([blocks, chunks, 1], 32 * WARPS, 0)?;

    let kernel = cuda.kernel("embedding_backward_types").input(&partials);
    let kernel = kernel.value(blocks as i32).value(dim as i32).gradient(grads.flat_mut(), tables[2]);
    kernel.launch([dim.div_ceil(32), blocks.min(1), 1], 32 * WARPS, 0)
}

/// The rows by their number: the begins of the buckets and their end, the number of each, the rows. And how many.
fn buckets(cuda: &Cuda, numbers: &[u32]) -> Result<(Words, usize)> {
    let mut order: Vec<u32> = (0..numbers.len() as u32).collect();
    order.sort_by_key(|&row| numbers[row as usize]);
    let (mut begin, mut number) = (vec![0], Vec::new());
    for uses in order.chunk_by(|&a, &b| numbers[a as usize] == numbers[b as usize]) {
        begin.push(begin[number.len()] + uses.len() as u32);
        number.push(numbers[uses[0] as usize]);
    }
    let count = number.len();
    Ok((cuda.upload(&[begin, number, order].concat())?, count))
}

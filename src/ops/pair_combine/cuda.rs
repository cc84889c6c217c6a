use super::Role;
use crate::device::cuda::{Cuda, Words};
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::Grid;
use crate::tape::Grads;
use crate::tensor::Tensor;
use std::sync::Arc;

/// Columns of a block, and numbers of a line.
const COLUMNS: usize = 256;
const LINE: usize = 8;

/// `Line` of kernels/pair_combine.cu: every index of every table, the pad index too.
fn lines(cuda: &Cuda, grid: &Arc<Grid>) -> Result<Words> {
    cuda.layout(grid, "pair_combine.lines", |grid| {
        let tables = &grid.tables;
        let of_document = |d: usize| {
            let (side, n) = (tables.side[d], grid.entities.length(d));
            let (cell, pair, entity) = (tables.cells.starts[d], grid.pairs.starts[d], grid.entities.starts[d]);
            (0..side).flat_map(move |index| [cell, side, index, n, pair, entity, 0, 0])
        };
        (0..tables.len()).flat_map(of_document).map(|x| x as i32).collect()
    })
}

fn check_dim(cuda: &Cuda, dim: usize) -> Result<()> {
    match dim.is_multiple_of(8) {
        true => Ok(()),
        false => Err(cuda.refuse("pair_combine", format!("dim {dim}: a multiple of 8 is needed"))),
    }
}

pub fn forward(
    cuda: &Cuda,
    u: &Tensor,
    c: &Tensor,
    bias: &Tensor,
    grid: &Arc<Grid>,
    role: Role,
    z: &mut Tensor,
) -> Result<()> {
    let (lines, dim) = (lines(cuda, grid)?, z.dim());
    check_dim(cuda, dim)?;
    cuda.kernel("pair_combine_forward")
        .input(u)
        .input(c)
        .input(bias)
        .words(&lines)
        .output(z)
        .value(dim as i32)
        .value(i32::from(role == Role::Subject))
        .launch([lines.len() / LINE, dim.div_ceil(COLUMNS), 1], 128, 0)
}

#[allow(clippy::too_many_arguments)]
pub fn backward(
    cuda: &Cuda,
    dz: &Tensor,
    z: &Tensor,
    bias: &Tensor,
    grid: &Arc<Grid>,
    role: Role,
    (du, dc): (&mut Tensor, &mut Tensor),
    grads: &mut Grads,
) -> Result<()> {
    let (words, dim) = (lines(cuda, grid)?, z.dim());
    check_dim(cuda, dim)?;
    let lines = words.len() / LINE;
    let mut partials = z.device().alloc("pair_combine.partials", DType::F32, &[lines, dim])?;
    cuda.kernel("pair_combine_backward")
        .input(dz)
        .input(z)
        .words(&words)
        .output(du)
        .output(dc)
        .output(&mut partials)
        .value(dim as i32)
        .value(i32::from(role == Role::Subject))
        .launch([lines, dim.div_ceil(COLUMNS), 1], 128, 0)?;
    cuda.kernel("pair_combine_bias_gradient")
        .input(&partials)
        .gradient(grads.flat_mut(), bias)
        .value(lines as i32)
        .value(dim as i32)
        .launch([dim.div_ceil(128), 1, 1], 256, 0)
}

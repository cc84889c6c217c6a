use crate::device::cuda::Cuda;
use crate::dtype::DType;
use crate::error::Result;
use crate::rng::Dropout;
use crate::tape::Grads;
use crate::tensor::Tensor;

/// As in the kernels.
const FORWARD_WARPS: usize = 4;
const BACKWARD_WARPS: usize = 8;
/// Rows of a block in backward, at least: fewer would make the partial sums weigh.
const BLOCK_ROWS: usize = 16;

/// One of four kernels by the registers that a row of `x` needs.
fn by_dim(cuda: &Cuda, names: [&'static str; 4], x: &Tensor) -> Result<&'static str> {
    let dim = x.dim();
    if x.dtype() != DType::BF16 {
        return Err(cuda.refuse("layernorm", format!("{:?}: bf16 is needed", x.dtype())));
    }
    if dim == 0 || dim > 1024 || !dim.is_multiple_of(8) {
        return Err(cuda.refuse("layernorm", format!("dim {dim}: a multiple of 8, at most 1024, is needed")));
    }
    Ok(names[(dim - 1) / 256])
}

pub fn forward(
    cuda: &Cuda,
    x: &Tensor,
    branch: Option<&Tensor>,
    (weight, bias, eps): (&Tensor, &Tensor, f64),
    drop: Dropout,
    (y, saved, stats): (&mut Tensor, Option<&mut Tensor>, &mut Tensor),
) -> Result<()> {
    let (rows, dim) = (x.rows(), x.dim());
    let names = ["layernorm_forward_256", "layernorm_forward_512", "layernorm_forward_768", "layernorm_forward_1024"];
    let kernel = cuda.kernel(by_dim(cuda, names, x)?).input(x).maybe(branch).input(weight).input(bias);
    let kernel = kernel.output(y).maybe_output(saved).output(stats);
    let kernel = kernel.value(rows as i32).value(dim as i32).value(eps as f32).dropout(drop);
    kernel.launch([rows.div_ceil(FORWARD_WARPS), 1, 1], 32 * FORWARD_WARPS, 0)
}

pub fn backward(
    cuda: &Cuda,
    dy: &Tensor,
    (saved, stats): (&Tensor, &Tensor),
    (weight, bias): (&Tensor, &Tensor),
    drop: Dropout,
    (dx, dbranch): (&mut Tensor, Option<&mut Tensor>),
    grads: &mut Grads,
) -> Result<()> {
    let (rows, dim) = (dy.rows(), dy.dim());
    let names =
        ["layernorm_backward_256", "layernorm_backward_512", "layernorm_backward_768", "layernorm_backward_1024"];
    let blocks = rows.div_ceil(BLOCK_ROWS).min(cuda.multiprocessors());
    let mut partials = dy.device().alloc("layernorm.partials", DType::F32, &[2, blocks, dim])?;
    let kernel = cuda.kernel(by_dim(cuda, names, dy)?).input(dy).input(saved).input(stats).input(weight);
    let kernel = kernel.output(dx).maybe_output(dbranch).output(&mut partials);
    let kernel = kernel.value(rows as i32).value(dim as i32).dropout(drop);
    kernel.launch([blocks, 1, 1], 32 * BACKWARD_WARPS, 0)?;
    let kernel = cuda.kernel("layernorm_parameters").input(&partials).value(blocks as i32).value(dim as i32);
    let kernel = kernel.gradient(grads.flat_mut(), weight).gradient(grads.flat_mut(), bias);
    kernel.launch([dim.div_ceil(32), 2 * blocks.min(1), 1], 256, 0)
}

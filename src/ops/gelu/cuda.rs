use crate::device::cuda::Cuda;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

const THREADS: usize = 256;

/// Threads take 8 elements each.
fn blocks(cuda: &Cuda, x: &Tensor) -> Result<[usize; 3]> {
    match x.dtype() {
        DType::BF16 => Ok([x.len().div_ceil(8 * THREADS), 1, 1]),
        other => Err(cuda.refuse("gelu", format!("{other:?}: bf16 is needed"))),
    }
}

pub fn forward(cuda: &Cuda, x: &Tensor, y: &mut Tensor) -> Result<()> {
    let blocks = blocks(cuda, x)?;
    cuda.kernel("gelu_forward").input(x).output(y).value(x.len()).launch(blocks, THREADS, 0)
}

pub fn backward(cuda: &Cuda, dy: &Tensor, x: &Tensor, dx: &mut Tensor) -> Result<()> {
    let blocks = blocks(cuda, x)?;
    cuda.kernel("gelu_backward").input(dy).input(x).output(dx).value(x.len()).launch(blocks, THREADS, 0)
}

use crate::device::cuda::Cuda;
use crate::dtype::DType;
use crate::error::Result;
use crate::rng::Dropout;
use crate::tensor::Tensor;

const THREADS: usize = 256;

pub fn masked(cuda: &Cuda, x: &Tensor, drop: Dropout, y: &mut Tensor) -> Result<()> {
    if x.dtype() != DType::BF16 {
        return Err(cuda.refuse("dropout", format!("{:?}: bf16 is needed", x.dtype())));
    }
    let count = x.len();
    let blocks = [count.div_ceil(8 * THREADS), 1, 1];
    cuda.kernel("dropout_masked").input(x).output(y).value(count).dropout(drop).launch(blocks, THREADS, 0)
}

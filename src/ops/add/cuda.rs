use crate::device::cuda::Cuda;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

const THREADS: usize = 256;

/// The kernel, and the blocks of it for `count` elements: a thread takes 16 bytes.
fn kernel(cuda: &Cuda, dtype: DType, count: usize) -> Result<(&'static str, [usize; 3])> {
    let name = match dtype {
        DType::BF16 => "add_bf16",
        DType::F32 => "add_f32",
        DType::F64 => return Err(cuda.refuse("add", "f64: bf16 or f32 is needed".into())),
    };
    Ok((name, [count.div_ceil(16 / dtype.size() * THREADS), 1, 1]))
}

pub fn accumulate(cuda: &Cuda, into: &mut Tensor, other: &Tensor) -> Result<()> {
    let (name, blocks) = kernel(cuda, into.dtype(), into.len())?;
    let sum = cuda.kernel(name).input(into).input(other).output(into);
    sum.value(other.len()).launch(blocks, THREADS, 0)
}

pub fn sum(cuda: &Cuda, a: &Tensor, b: &Tensor, y: &mut Tensor) -> Result<()> {
    let (name, blocks) = kernel(cuda, a.dtype(), a.len())?;
    cuda.kernel(name).input(a).input(b).output(y).value(a.len()).launch(blocks, THREADS, 0)
}

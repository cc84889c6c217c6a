use super::{Hyper, SLACK, Span};
use crate::device::cuda::Cuda;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;
use std::ops::Range;

const THREADS: usize = 256;
/// Elements of a block, as kernels/optim.cu has them.
const NORM_BLOCK: usize = 1 << 14;
const STEP_BLOCK: usize = 4 * THREADS;

#[allow(clippy::too_many_arguments)]
pub fn update(
    cuda: &Cuda,
    weights: &mut Tensor,
    mut copy: Option<&mut Tensor>,
    grad: &Tensor,
    (m, v): (&mut Tensor, &mut Tensor),
    spans: &[Span],
    hyper: Hyper,
    t: u64,
    clip: f64,
    after: Option<&Tensor>,
    norm: &mut Tensor,
) -> Result<()> {
    let flat = [&*weights, grad, m, v].into_iter().chain(copy.as_deref());
    let offsets = flat.map(Tensor::offset).chain(spans.iter().map(|s| s.range.start));
    if let Some(at) = offsets.into_iter().find(|at| !at.is_multiple_of(8)) {
        return Err(cuda.refuse("adamw", format!("an array or a span that starts at element {at}, no multiple of 8")));
    }
    let blocks = grad.len().div_ceil(NORM_BLOCK);
    let mut partials = grad.device().alloc("gradient_norm.partials", DType::F64, &[blocks])?;
    cuda.kernel("gradient_norm_partials").input(grad).output(&mut partials).value(grad.len()).launch(
        [blocks, 1, 1],
        THREADS,
        0,
    )?;
    let launch = cuda.kernel("gradient_norm").input(&partials).maybe(after).output(norm);
    launch.value(blocks as i32).value(clip).value(SLACK).launch([1, 1, 1], THREADS, 0)?;
    for span in spans {
        let (rate, decay) = (span.rate * hyper.correction(t), span.rate * span.decay);
        let (one_less1, one_less2) = (1.0 - hyper.beta1, 1.0 - hyper.beta2);
        let step = [hyper.beta1, hyper.beta2, one_less1, one_less2, hyper.eps, rate, decay].map(|x| x as f32);
        cuda.kernel("adamw")
            .output(weights)
            .maybe_output(copy.as_deref_mut())
            .input(grad)
            .output(m)
            .output(v)
            .input(norm)
            .value(span.range.start)
            .value(span.range.len())
            .value(step)
            .launch([span.range.len().div_ceil(STEP_BLOCK), 1, 1], THREADS, 0)?;
    }
    Ok(())
}

/// Looks on the CPU, one range after another: the path of an error.
pub fn first_non_finite(_: &Cuda, grad: &Tensor, names: &[(&str, Range<usize>)]) -> Result<Option<usize>> {
    for (i, (_, range)) in names.iter().enumerate() {
        let values = grad.view(range.start, &[range.len()])?.to_cpu()?;
        if !values.slice::<f32>().iter().all(|x| x.is_finite()) {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

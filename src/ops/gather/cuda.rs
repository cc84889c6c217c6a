use crate::device::cuda::{Cuda, Words};
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::Sources;
use crate::tensor::Tensor;
use std::sync::Arc;

const THREADS: usize = 256;

pub fn weighted(cuda: &Cuda, x: &Tensor, sources: &Arc<Sources>, y: &mut Tensor) -> Result<()> {
    let lists = cuda.layout(sources, "gather.rows", lists)?;
    sum_rows(cuda, x, &lists, y)
}

pub fn backward(cuda: &Cuda, dy: &Tensor, sources: &Arc<Sources>, dx: &mut Tensor) -> Result<()> {
    let rows = dx.rows();
    let uses = |s: &Sources| lists(&s.transposed(rows));
    let made = cuda.layout(sources, "gather.uses", uses)?;
    // The same sources may gather from another tensor that has more rows.
    let right = made.len() == 2 * (rows + sources.index.len());
    let made = if right { made } else { cuda.upload(&uses(sources))? };
    sum_rows(cuda, dy, &made, dx)
}

/// Pairs: where each row's sources begin and end, then the sources' rows and weights.
fn lists(sources: &Sources) -> Vec<i32> {
    let ranges = sources.rows.iter().flat_map(|r| [r.start as i32, r.end as i32]);
    let weight = |w: f64| (w as f32).to_bits() as i32;
    ranges.chain(sources.index.iter().zip(&sources.weight).flat_map(|(&i, &w)| [i as i32, weight(w)])).collect()
}

fn sum_rows(cuda: &Cuda, x: &Tensor, lists: &Words, y: &mut Tensor) -> Result<()> {
    let (rows, dim, dtype) = (y.rows(), y.dim(), y.dtype());
    let pack = 16 / dtype.size();
    let whole = dim.is_multiple_of(pack);
    let name = match (dtype, whole) {
        (DType::BF16, true) => "gather_bf16",
        (DType::BF16, false) => "gather_bf16_ragged",
        (DType::F32, true) => "gather_f32",
        (DType::F32, false) => "gather_f32_ragged",
        (DType::F64, _) => return Err(cuda.refuse("gather", "f64: bf16 or f32 is needed".into())),
    };
    let threads = y.len() / if whole { pack } else { 1 };
    if threads > i32::MAX as usize {
        return Err(cuda.refuse("gather", format!("{rows} rows of {dim}: at most 2^31 parts are possible")));
    }
    let launch = cuda.kernel(name).input(x).words(lists).output(y).value(rows as i32).value(dim as i32);
    launch.launch([threads.div_ceil(THREADS), 1, 1], THREADS, 0)
}

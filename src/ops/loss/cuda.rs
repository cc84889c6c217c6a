use super::{Distillation, Objective, TeacherLogits};
use crate::device::cuda::Cuda;
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::Labels;
use crate::tensor::Tensor;

/// Shared memory that a block takes without being scarce: what every GPU gives without asking.
const MODEST: usize = 48 << 10;

/// `terms` and, where there is one, `dlogits`, as on the CPU.
pub fn all(
    cuda: &Cuda,
    logits: &Tensor,
    labels: &Labels,
    objective: Objective,
    teacher: Option<&TeacherLogits>,
    cells: usize,
    (terms, dlogits): (&mut Tensor, Option<&mut Tensor>),
) -> Result<()> {
    let (rows, classes) = (logits.rows(), logits.dim());
    let a_row = 4 * classes * (1 + usize::from(teacher.is_some())) + 8 * labels.words();
    // Eight rows at least: they begin at a sector, in f32 and in bf16.
    let rows_a_block = if 16 * a_row <= MODEST { 16 } else { 8 };
    let shared = rows_a_block * a_row;
    if shared + 1024 > cuda.shared_bytes() {
        let most = (cuda.shared_bytes() - 1024) / 8;
        return Err(
            cuda.refuse("loss", format!("{classes} classes: {a_row} bytes a cell, at most {most} are possible"))
        );
    }
    let (kind, setting, one) = match objective {
        Objective::AdaptiveFocal { gamma, released } => (0, gamma, f32::from(u8::from(released))),
        Objective::AdaptiveThreshold => (1, 0.0, 0.0),
        Objective::BalancedSoftmax => (2, 0.0, 0.0),
        Objective::Atgl { alpha } => (3, alpha, 0.0),
    };
    let distillation = i32::from(teacher.is_some_and(|t| t.kind == Distillation::Kl));
    let mean = 1.0 / cells.max(1) as f64; // documents without a cell cost nothing
    let blocks = rows.div_ceil(rows_a_block);
    let mut partials = logits.device().alloc("loss.partials", DType::F64, &[blocks, 2])?;
    cuda.kernel("loss_cells")
        .input(logits)
        .maybe(teacher.map(|t| &t.logits))
        .words(&cuda.upload(&labels.bits)?)
        .maybe_output(dlogits)
        .output(&mut partials)
        .value(rows as i32)
        .value(classes as i32)
        .value(rows_a_block as i32)
        .value(kind)
        .value(setting as f32)
        .value(one)
        .value(distillation)
        .value(teacher.map_or(0.0, |t| t.weight) as f32)
        .value(mean as f32)
        .launch([blocks, 1, 1], 32 * rows_a_block, shared)?;
    cuda.kernel("loss_total").input(&partials).output(terms).value(blocks as i32).value(mean).launch([1, 1, 1], 256, 0)
}

//! Launches of kernels/bilinear.cu.

use crate::device::cuda::Cuda;
use crate::dtype::DType;
use crate::error::Result;
use crate::tape::Grads;
use crate::tensor::Tensor;

/// Tiles of a block in the kernels of y and of dzs and dzo.
const CELLS: usize = 128;
const OUTS: usize = 128;
/// Values of t (subject values of all groups) that parts are made of.
const SUBJECTS: usize = 16;
/// Parts of each sum of y, as many for few cells as for many, so that what a cell gives does not depend on the cells beside
/// it: enough for one document to occupy a GPU, and the sums of thousands of cells still cost little.
const FORWARD_PARTS: usize = 5;
/// Cells of a launch of them: the sums of the parts need ten times as much room as y of these cells.
const FORWARD_CELLS: usize = 8192;
/// What a block of dW owns: outs, and products' columns, so many values of t of all their group's object values.
const WEIGHT_OUTS: usize = 64;
const WEIGHT_COLUMNS: usize = 512;
/// Rows of dy are multiples of this many values, or are copied into such rows.
const STRIDE: usize = 64;

/// The kernels for one side of the blocks, and their dynamic shared memory.
struct Kernels {
    forward: (&'static str, usize),
    weight: &'static str,
    inputs: (&'static str, usize),
}

fn kernels(cuda: &Cuda, e: usize, block: usize) -> Result<Kernels> {
    if e * block > i32::MAX as usize {
        return Err(cuda.refuse("bilinear", format!("width {e} x {block}: at most 2^31 is needed")));
    }
    match block {
        32 => Ok(Kernels {
            forward: ("bilinear_forward_32", 81_920),
            weight: "bilinear_weight_32",
            inputs: ("bilinear_inputs_32", 81_920),
        }),
        64 => Ok(Kernels {
            forward: ("bilinear_forward_64", 90_112),
            weight: "bilinear_weight_64",
            inputs: ("bilinear_inputs_64", 98_304),
        }),
        _ => Err(cuda.refuse("bilinear", format!("block {block}: 32 or 64 is needed"))),
    }
}

/// Into how many parts the work of each tile, `units` steps, is divided, so that the GPU's processors, one tile each at
/// a time, are done soonest. `extra`: what a part's sums cost to write and to add up, in hundredths of a step.
fn parts(cuda: &Cuda, tiles: usize, units: usize, extra: usize, choices: impl Iterator<Item = usize>) -> usize {
    let rounds = |parts: usize| (tiles * parts).div_ceil(cuda.multiprocessors());
    let cost = |parts: usize| 100 * units.div_ceil(parts) + if parts > 1 { extra } else { 0 };
    choices.min_by_key(|&parts| rounds(parts) * cost(parts)).unwrap_or(1)
}

/// For the sums of each part of `count` elements of y; a part begins at a whole sector of 32 bytes.
fn room_for_parts(y: &Tensor, parts: usize, count: usize) -> Result<Tensor> {
    y.device().alloc("bilinear.partials", DType::F32, &[parts, count.next_multiple_of(8)])
}

/// Elements `from..from + count` of y = the sum of `partials` `[parts, ..]`, in the order of the parts, `+ b`.
fn finish(cuda: &Cuda, partials: &Tensor, b: Option<&Tensor>, y: &mut Tensor, [from, count]: [usize; 2]) -> Result<()> {
    let columns = y.dim();
    let threads = if columns.is_multiple_of(4) { count / 4 } else { count };
    let name = if y.dtype() == DType::F32 { "bilinear_finish_f32" } else { "bilinear_finish_bf16" };
    let to = y.device_pointer_mut() + (from * y.dtype().size()) as u64;
    let launch = cuda.kernel(name).input(partials).maybe(b).value(to).value(count).value(columns as i32);
    launch.value(partials.rows() as i32).launch([threads.div_ceil(256), 1, 1], 256, 0)
}

pub fn forward(
    cuda: &Cuda,
    zs: &Tensor,
    zo: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    block: usize,
    y: &mut Tensor,
) -> Result<()> {
    let (cells, e, out) = (zs.rows(), zs.dim(), w.rows());
    let (kernel, shared) = kernels(cuda, e, block)?.forward;
    let units = e / SUBJECTS;
    let per = units.div_ceil(FORWARD_PARTS);
    let parts = units.div_ceil(per);
    let mut partials = room_for_parts(y, parts, cells.min(FORWARD_CELLS) * out)?;
    for from in (0..cells).step_by(FORWARD_CELLS) {
        let here = FORWARD_CELLS.min(cells - from);
        let [zs, zo] = [zs, zo].map(|z| z.device_pointer() + (2 * from * e) as u64);
        let launch = cuda.kernel(kernel).value(zs).value(zo).input(w).output(&mut partials);
        let launch = launch.value(here as i32).value(e as i32).value(out as i32).value((per * SUBJECTS) as i32);
        launch.launch([here.div_ceil(CELLS), out.div_ceil(OUTS), parts], 256, shared)?;
        finish(cuda, &partials, b, y, [from, here].map(|cells| cells * out))?;
    }
    Ok(())
}

/// dy with rows of a multiple of STRIDE values, itself where it has them; and its column sums over groups of rows.
fn aligned(cuda: &Cuda, dy: &Tensor, with_sums: bool) -> Result<(Tensor, Option<Tensor>)> {
    let (cells, out) = (dy.rows(), dy.dim());
    let stride = out.next_multiple_of(STRIDE);
    let rows = (48 * 1024 / (2 * out)).clamp(1, 32); // of a block
    let blocks = cells.div_ceil(rows);
    let alloc = |dtype, shape: &[usize]| dy.device().alloc("bilinear.dy", dtype, shape);
    let mut padded = (stride != out).then(|| alloc(DType::BF16, &[cells, stride])).transpose()?;
    let mut sums = with_sums.then(|| alloc(DType::F32, &[blocks, out])).transpose()?;
    if padded.is_some() || sums.is_some() {
        let launch = cuda.kernel("bilinear_columns").input(dy);
        let launch = launch.maybe_output(sums.as_mut()).maybe_output(padded.as_mut());
        let launch = launch.value(cells as i32).value(out as i32).value(stride as i32).value(rows as i32);
        launch.launch([blocks, 1, 1], 256, rows * out * 2)?;
    }
    Ok((padded.unwrap_or_else(|| dy.clone()), sums))
}

#[expect(clippy::too_many_arguments)] // those of cpu.rs, and the device
pub fn backward_weight(
    cuda: &Cuda,
    dy: &Tensor,
    zs: &Tensor,
    zo: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    block: usize,
    grads: &mut Grads,
) -> Result<()> {
    let (cells, e, out) = (zs.rows(), zs.dim(), w.rows());
    let kernel = kernels(cuda, e, block)?.weight;
    if cells == 0 || out == 0 {
        return Ok(());
    }
    let (dy, sums) = aligned(cuda, dy, b.is_some())?;
    let launch =
        cuda.kernel(kernel).input(&dy).value(dy.dim() as i32).input(zs).input(zo).gradient(grads.flat_mut(), w);
    let launch = launch.value(cells as i32).value(e as i32).value(out as i32);
    launch.launch([out.div_ceil(WEIGHT_OUTS), e * block / WEIGHT_COLUMNS, 1], 256, 0)?;
    let (Some(b), Some(sums)) = (b, sums) else { return Ok(()) };
    let launch = cuda.kernel("bilinear_bias").input(&sums).gradient(grads.flat_mut(), b);
    launch.value(out as i32).value(sums.rows() as i32).launch([out.div_ceil(256), 1, 1], 256, 0)
}

#[expect(clippy::too_many_arguments)] // those of cpu.rs, and the device
pub fn backward_inputs(
    cuda: &Cuda,
    dy: &Tensor,
    zs: &Tensor,
    zo: &Tensor,
    w: &Tensor,
    block: usize,
    dzs: &mut Tensor,
    dzo: &mut Tensor,
) -> Result<()> {
    let (cells, e, out) = (zs.rows(), zs.dim(), w.rows());
    let (kernel, shared) = kernels(cuda, e, block)?.inputs;
    if cells == 0 {
        return Ok(());
    }
    let (dy, _) = aligned(cuda, dy, false)?;
    let (tiles, groups, units) = (cells.div_ceil(CELLS), e / block, block / SUBJECTS);
    let parts = parts(cuda, tiles * groups, units, 5, [1, 2, 4].into_iter().filter(|&parts| parts <= units));
    let mut partials = match parts {
        1 => None,
        _ => Some(room_for_parts(dzo, parts, dzo.len())?),
    };
    let launch = cuda.kernel(kernel).input(&dy).value(dy.dim() as i32).input(zs).input(zo).input(w).output(dzs);
    let launch = launch.maybe_output((parts == 1).then_some(&mut *dzo)).maybe_output(partials.as_mut());
    let launch = launch.value(cells as i32).value(e as i32).value(out as i32).value(parts as i32);
    launch.launch([tiles, groups * parts, 1], 256, shared)?;
    let count = dzo.len();
    partials.map_or(Ok(()), |partials| finish(cuda, &partials, None, dzo, [0, count]))
}

use crate::device::cuda::{Cuda, Launch};
use crate::dtype::DType;
use crate::error::Result;
use crate::tape::Grads;
use crate::tensor::Tensor;

/// What a block of kernels/linear.cu owns of a product, and how many terms it takes at a time.
struct Tile {
    m: usize,
    n: usize,
    k: usize,
    /// Of the tensor cores' rate: the part that shared memory can feed, with larger fragments reused more often.
    share: f64,
}

/// In the order of the kernels' names.
const TILES: [Tile; 3] = [
    Tile { m: 128, n: 128, k: 32, share: 0.75 },
    Tile { m: 128, n: 64, k: 32, share: 0.65 },
    Tile { m: 64, n: 64, k: 64, share: 0.5 },
];
const FORWARD: [&str; 3] = ["linear_forward_128x128", "linear_forward_128x64", "linear_forward_64x64"];
const GELU: [&str; 3] = ["linear_gelu_forward_128x128", "linear_gelu_forward_128x64", "linear_gelu_forward_64x64"];
const WIDE: [&str; 3] = ["", "", "linear_wide_forward"];
const DX: [&str; 3] = ["linear_dx_128x128", "linear_dx_128x64", "linear_dx_64x64"];
const DW: [&str; 3] = ["linear_dw_128x128", "linear_dw_128x64", "linear_dw_64x64"];

/// GEMM_THREADS and GEMM_SHARED_BYTES of kernels/gemm.cuh, PAD_ROWS of kernels/linear.cu.
const THREADS: usize = 128;
const SHARED_BYTES: usize = 49_152;
const PAD_ROWS: usize = 8;
/// Of a backward pass.
const MOST_SPLITS: usize = 8;

/// A product `[m, k] [n, k]^T` on the GPU: its kernel, grid, and room for partial sums where its terms are split.
struct Product {
    m: usize,
    n: usize,
    kernel: &'static str,
    blocks: [usize; 3],
    partials: Option<Tensor>,
    k: usize,
}

impl Product {
    /// As [`Product::plan`], of a forward pass: every tile adds a sum's terms up one after the other, and they are never
    /// split, so that what a row gives does not depend on the rows beside it.
    fn forward(cuda: &Cuda, like: &Tensor, names: [&'static str; 3], sizes: [usize; 3]) -> Result<Self> {
        Self::plan(cuda, like, names, sizes, 1, 0)
    }
    /// The cheapest of the tiles that have a kernel, for `[m, n]` sums of `k` terms. `extra`: sums a row besides.
    fn plan(
        cuda: &Cuda,
        like: &Tensor,
        names: [&'static str; 3],
        [m, n, k]: [usize; 3],
        most_splits: usize,
        extra: usize,
    ) -> Result<Self> {
        if [m, n, k].iter().any(|&size| size > i32::MAX as usize / 2) {
            return Err(cuda.refuse("linear", format!("{m} x {n} x {k}: sizes below 2^30 are needed")));
        }
        let plans = TILES.iter().zip(names).filter(|(_, name)| !name.is_empty());
        let plans = plans.flat_map(|(tile, name)| (1..=most_splits).map(move |splits| (tile, name, splits)));
        let cost = |tile: &Tile, splits| clocks(tile, [m, n, k], splits, cuda.multiprocessors());
        let plans = plans.filter(|(tile, _, splits)| *splits == 1 || splits_well(tile, [m, n, k], *splits));
        let best = plans.min_by(|a, b| cost(a.0, a.2).total_cmp(&cost(b.0, b.2)));
        let (tile, kernel, splits) = best.ok_or_else(|| cuda.refuse("linear", "no kernel".into()))?;
        let room = splits * m * (n + extra);
        let partials = (splits > 1).then(|| like.device().alloc("linear.partials", DType::F32, &[room]));
        let blocks = [m.div_ceil(tile.m), n.div_ceil(tile.n), splits];
        Ok(Product { m, n, kernel, blocks, partials: partials.transpose()?, k })
    }
    /// Behind the operands and outputs come the sizes.
    fn launch(&self, operands: Launch<'_>, stride: Option<usize>) -> Result<()> {
        let sizes = [self.m, self.n, self.k].into_iter().chain(stride);
        let launch = sizes.fold(operands, |launch, size| launch.value(size as i32));
        launch.launch(self.blocks, THREADS, SHARED_BYTES)
    }
    /// The launch that adds the splits up, where there are any: `outputs` gives it its arguments between the partial
    /// sums and the sizes. A thread takes 4 neighbours of a row, and `extra` threads have work of their own.
    fn sum<'a>(
        &self,
        cuda: &'a Cuda,
        kernel: &'static str,
        extra: usize,
        outputs: impl FnOnce(Launch<'a>) -> Launch<'a>,
    ) -> Result<()> {
        let Some(partials) = &self.partials else { return Ok(()) };
        let launch = outputs(cuda.kernel(kernel).input(partials));
        let launch = [self.blocks[2], self.m, self.n].into_iter().fold(launch, |l, size| l.value(size as i32));
        let threads = self.m * self.n.div_ceil(4) + extra;
        launch.launch([threads.div_ceil(256), 1, 1], 256, 0)
    }
}

/// Splits of at least 4 steps of the ring, none of them empty, of a product whose elements a 32-bit number counts.
fn splits_well(tile: &Tile, [m, n, k]: [usize; 3], splits: usize) -> bool {
    let steps = k.div_ceil(tile.k);
    let share = steps.div_ceil(splits);
    share >= 4 && share * (splits - 1) < steps && m * n < i32::MAX as usize
}

/// Clocks that the busiest multiprocessor takes: a model to compare plans with, which no GPU has confirmed yet. A
/// clock is 1024 products (A100); a block costs some 1000 more to fill its ring and to store; splits write and read
/// their sums at some 2500 bytes a clock, by a launch of its own (3000 clocks).
fn clocks(tile: &Tile, [m, n, k]: [usize; 3], splits: usize, multiprocessors: usize) -> f64 {
    let blocks = m.div_ceil(tile.m) * n.div_ceil(tile.n) * splits;
    let steps = k.div_ceil(tile.k).div_ceil(splits);
    let products = (steps * tile.m * tile.n * tile.k) as f64;
    let block = products / (1024.0 * tile.share) + 1000.0;
    let extra = if splits > 1 { (8 * splits * m * n) as f64 / 2500.0 + 3000.0 } else { 0.0 };
    blocks.div_ceil(multiprocessors) as f64 * block + extra
}

pub fn forward(
    cuda: &Cuda,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    residual: Option<&Tensor>,
    y: &mut Tensor,
) -> Result<()> {
    let sizes = check(cuda, x, w, y.dtype())?;
    let wide = y.dtype() == DType::F32;
    let product = Product::forward(cuda, x, if wide { WIDE } else { FORWARD }, sizes)?;
    let operands = cuda.kernel(product.kernel).input(x).input(w).maybe(b);
    let operands = if wide { operands } else { operands.maybe(residual) };
    product.launch(operands.output(y), None)
}

/// `y = GELU(z)`, `z = x W^T + b`, which is kept where the caller gives it a tensor.
pub fn forward_gelu(
    cuda: &Cuda,
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    z: Option<&mut Tensor>,
    y: &mut Tensor,
) -> Result<()> {
    let sizes = check(cuda, x, w, y.dtype())?;
    let product = Product::forward(cuda, x, GELU, sizes)?;
    let operands = cuda.kernel(product.kernel).input(x).input(w).input(b);
    product.launch(operands.maybe_output(z).output(y), None)
}

/// m, n and k of the forward pass, if the kernels take them.
fn check(cuda: &Cuda, x: &Tensor, w: &Tensor, y: DType) -> Result<[usize; 3]> {
    let (out, k) = (w.rows(), x.dim());
    if !k.is_multiple_of(8) || k == 0 {
        return Err(cuda.refuse("linear", format!("rows of {k} values: a multiple of 8 is needed")));
    }
    if y != DType::F32 && !out.is_multiple_of(8) {
        return Err(cuda.refuse("linear", format!("{out} outputs in bf16: a multiple of 8 is needed")));
    }
    if 2 * PAD_ROWS * out > SHARED_BYTES && !out.is_multiple_of(8) {
        return Err(cuda.refuse("linear", format!("{out} outputs: a multiple of 8, or at most 3072, is needed")));
    }
    Ok([x.rows(), out, k])
}

pub fn backward(
    cuda: &Cuda,
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    dx: &mut Tensor,
    grads: &mut Grads,
) -> Result<()> {
    let (rows, k, out) = (x.rows(), x.dim(), w.rows());
    if dy.is_empty() {
        return Ok(());
    }
    let padded = pad(cuda, dy, out)?;
    let dy = padded.as_ref().unwrap_or(dy);
    let stride = dy.len() / rows;

    let mut product = Product::plan(cuda, x, DX, [rows, k, out], MOST_SPLITS, 0)?;
    let operands = cuda.kernel(product.kernel).input(dy).input(w).output(dx);
    let operands = operands.maybe_output(product.partials.as_mut());
    product.launch(operands, Some(stride))?;
    product.sum(cuda, "linear_dx_sum", 0, |launch| launch.output(dx))?;

    let mut product = Product::plan(cuda, x, DW, [out, k, rows], MOST_SPLITS, 1)?;
    let operands = gradients(cuda.kernel(product.kernel).input(dy).input(x), grads, w, b);
    let operands = operands.maybe_output(product.partials.as_mut());
    product.launch(operands, Some(stride))?;
    product.sum(cuda, "linear_dw_sum", out, |launch| gradients(launch, grads, w, b))
}

fn gradients<'a>(launch: Launch<'a>, grads: &mut Grads, w: &Tensor, b: Option<&Tensor>) -> Launch<'a> {
    let launch = launch.gradient(grads.flat_mut(), w);
    match b {
        Some(b) => launch.gradient(grads.flat_mut(), b),
        None => launch.maybe(None),
    }
}

/// dy with its rows lengthened by zeros to whole sectors, where they are no whole packs.
fn pad(cuda: &Cuda, dy: &Tensor, out: usize) -> Result<Option<Tensor>> {
    if out.is_multiple_of(8) {
        return Ok(None);
    }
    let (rows, stride) = (dy.len() / out, out.next_multiple_of(16));
    let mut padded = dy.device().alloc("linear.dy", DType::BF16, &[rows, stride])?;
    let launch = cuda.kernel("linear_pad").input(dy).output(&mut padded);
    let launch = launch.value(rows as i32).value(out as i32).value(stride as i32);
    launch.launch([rows.div_ceil(PAD_ROWS), 1, 1], THREADS, 2 * PAD_ROWS * out)?;
    Ok(Some(padded))
}

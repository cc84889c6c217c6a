use super::Axes;
use super::cpu::sequences;
use crate::device::cpu::attention::{Heads, Sequence};
use crate::device::cuda::attention::{Tiled, of_head_size, refuse, tiles, words};
use crate::device::cuda::{Cuda, Launch, Words};
use crate::error::Result;
use crate::layout::Tables;
use crate::rng::Dropout;
use crate::tensor::Tensor;
use std::ops::RangeInclusive;
use std::sync::Arc;

const THREADS: usize = 128;
/// Rows of shared memory that a block has, for one or more lines.
const ROWS: usize = 64;
/// Lines by their cells; each sort has its kernels, and a work list for each choice of axes.
const SORTS: [(RangeInclusive<usize>, [&str; 3]); 3] = [
    (1..=16, ["axial.subject.16", "axial.object.16", "axial.both.16"]),
    (17..=32, ["axial.subject.32", "axial.object.32", "axial.both.32"]),
    (33..=64, ["axial.subject.64", "axial.object.64", "axial.both.64"]),
];
const LONG: [&str; 3] = ["axial.subject.long", "axial.object.long", "axial.both.long"];

/// All lines of one sort.
struct Lines<'a> {
    cuda: &'a Cuda,
    longest: usize,
    /// `Sequence`s of kernels/attention.cuh: those of one axis, then as many of the other.
    lines: Words,
    axes: usize,
    heads: Heads,
}

impl<'a> Lines<'a> {
    fn new(cuda: &'a Cuda, sort: usize, tables: &Arc<Tables>, heads: Heads, axes: Axes) -> Result<Self> {
        let (cells, kinds) = &SORTS[sort];
        let of_sort = |s: &Sequence| cells.contains(&s.len);
        let list = |tables: &Tables| sequences(tables, axes).iter().filter(|s| of_sort(s)).flat_map(words).collect();
        let lines = cuda.layout(tables, kinds[axes as usize], list)?;
        Ok(Lines { cuda, longest: *cells.end(), lines, axes: axes.each().len(), heads })
    }
    fn kernel(&self, back: bool) -> Result<Launch<'a>> {
        let size = self.heads.dim;
        let name = match (back, self.longest) {
            (false, 16) => of_head_size!(size, "axial_forward", "_16"),
            (false, 32) => of_head_size!(size, "axial_forward", "_32"),
            (false, _) => of_head_size!(size, "axial_forward", "_64"),
            (true, 16) => of_head_size!(size, "axial_backward", "_16"),
            (true, 32) => of_head_size!(size, "axial_backward", "_32"),
            (true, _) => of_head_size!(size, "axial_backward", "_64"),
        };
        Ok(self.cuda.kernel(name.ok_or_else(|| refuse(self.cuda, "axial", self.heads))?))
    }
    /// `values`: bf16 values of shared memory.
    fn launch(&self, launch: Launch<'_>, values: usize) -> Result<()> {
        let count = self.lines.len() / 4 / self.axes;
        let blocks = (count * self.heads.count).div_ceil(ROWS / self.longest);
        let scale: f32 = self.heads.scale();
        let launch = launch.value(count as i32).value(self.heads.count as i32).value(scale);
        launch.launch([blocks, 1, self.axes], THREADS, 2 * values)
    }
    fn forward(&self, qkv: &Tensor, out: &mut [Tensor]) -> Result<()> {
        let launch = self.kernel(false)?.input(qkv).words(&self.lines).outputs(out);
        self.launch(launch, 3 * ROWS * self.heads.dim)
    }
    fn backward(&self, qkv: &Tensor, dout: &[Tensor], dqkv: &mut Tensor) -> Result<()> {
        let launch = self.kernel(true)?.input(qkv).inputs(dout).words(&self.lines).output(dqkv);
        self.launch(launch, 4 * ROWS * self.heads.dim + 2 * ROWS * self.longest)
    }
}

/// Lines that are too long for the kernels of kernels/axial.cu.
fn long<'a>(cuda: &'a Cuda, tables: &Arc<Tables>, heads: Heads, axes: Axes) -> Result<Tiled<'a>> {
    let list = |tables: &Tables| tiles(sequences(tables, axes).into_iter().filter(|s| s.len > ROWS));
    let tiles = cuda.layout(tables, LONG[axes as usize], list)?;
    Ok(Tiled { cuda, op: "axial", tiles, axes: axes.each().len(), heads, drop: Dropout::default() })
}

fn heads_of(qkv: &Tensor, count: usize, axes: Axes) -> Heads {
    Heads { count, dim: qkv.dim() / (3 * axes.each().len() * count) }
}

/// Of `lse`, only the rows of long lines are written: the others' backward pass does without.
pub fn forward(
    cuda: &Cuda,
    qkv: &Tensor,
    tables: &Arc<Tables>,
    heads: usize,
    axes: Axes,
    out: &mut [Tensor],
    lse: &mut [Tensor],
) -> Result<()> {
    let heads = heads_of(qkv, heads, axes);
    for sort in 0..SORTS.len() {
        Lines::new(cuda, sort, tables, heads, axes)?.forward(qkv, out)?;
    }
    long(cuda, tables, heads, axes)?.forward(qkv, out, lse)
}

#[allow(clippy::too_many_arguments)] // the op's tensors, by name
pub fn backward(
    cuda: &Cuda,
    qkv: &Tensor,
    out: &[Tensor],
    lse: &[Tensor],
    dout: &[Tensor],
    tables: &Arc<Tables>,
    heads: usize,
    axes: Axes,
    dqkv: &mut Tensor,
) -> Result<()> {
    let heads = heads_of(qkv, heads, axes);
    for sort in 0..SORTS.len() {
        Lines::new(cuda, sort, tables, heads, axes)?.backward(qkv, dout, dqkv)?;
    }
    long(cuda, tables, heads, axes)?.backward(qkv, out, lse, dout, dqkv)
}

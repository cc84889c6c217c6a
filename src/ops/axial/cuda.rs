use super::Axis;
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
/// Lines by their cells; each sort has its kernels, and a work list for each axis.
const SORTS: [(RangeInclusive<usize>, [&str; 2]); 3] = [
    (1..=16, ["axial.subject.16", "axial.object.16"]),
    (17..=32, ["axial.subject.32", "axial.object.32"]),
    (33..=64, ["axial.subject.64", "axial.object.64"]),
];
const LONG: [&str; 2] = ["axial.subject.long", "axial.object.long"];

/// All lines of one sort.
struct Lines<'a> {
    cuda: &'a Cuda,
    longest: usize,
    lines: Words,
    heads: Heads,
}

impl<'a> Lines<'a> {
    fn new(cuda: &'a Cuda, sort: usize, tables: &Arc<Tables>, heads: Heads, axis: Axis) -> Result<Self> {
        let (cells, kinds) = &SORTS[sort];
        let of_sort = |s: &Sequence| cells.contains(&s.len);
        let list = |tables: &Tables| sequences(tables, axis).iter().filter(|s| of_sort(s)).flat_map(words).collect();
        Ok(Lines { cuda, longest: *cells.end(), lines: cuda.layout(tables, kinds[axis as usize], list)?, heads })
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
        let count = self.lines.len() / 4;
        let blocks = (count * self.heads.count).div_ceil(ROWS / self.longest);
        let scale: f32 = self.heads.scale();
        let launch = launch.value(count as i32).value(self.heads.count as i32).value(scale);
        launch.launch([blocks, 1, 1], THREADS, 2 * values)
    }
    fn forward(&self, qkv: &Tensor, out: &mut Tensor) -> Result<()> {
        let launch = self.kernel(false)?.input(qkv).words(&self.lines).output(out);
        self.launch(launch, 3 * ROWS * self.heads.dim)
    }
    fn backward(&self, qkv: &Tensor, dout: &Tensor, dqkv: &mut Tensor) -> Result<()> {
        let launch = self.kernel(true)?.input(qkv).input(dout).words(&self.lines).output(dqkv);
        self.launch(launch, 4 * ROWS * self.heads.dim + 2 * ROWS * self.longest)
    }
}

/// Lines that are too long for the kernels of kernels/axial.cu.
fn long<'a>(cuda: &'a Cuda, tables: &Arc<Tables>, heads: Heads, axis: Axis) -> Result<Tiled<'a>> {
    let list = |tables: &Tables| tiles(sequences(tables, axis).into_iter().filter(|s| s.len > ROWS));
    let tiles = cuda.layout(tables, LONG[axis as usize], list)?;
    Ok(Tiled { cuda, op: "axial", tiles, heads, drop: Dropout::default() })
}

/// Of `lse`, only the rows of long lines are written: the others' backward pass does without.
pub fn forward(
    cuda: &Cuda,
    qkv: &Tensor,
    tables: &Arc<Tables>,
    heads: usize,
    axis: Axis,
    out: &mut Tensor,
    lse: &mut Tensor,
) -> Result<()> {
    let heads = Heads { count: heads, dim: out.dim() / heads };
    for sort in 0..SORTS.len() {
        Lines::new(cuda, sort, tables, heads, axis)?.forward(qkv, out)?;
    }
    long(cuda, tables, heads, axis)?.forward(qkv, out, lse)
}

#[allow(clippy::too_many_arguments)] // the op's tensors, by name
pub fn backward(
    cuda: &Cuda,
    qkv: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    dout: &Tensor,
    tables: &Arc<Tables>,
    heads: usize,
    axis: Axis,
    dqkv: &mut Tensor,
) -> Result<()> {
    let heads = Heads { count: heads, dim: out.dim() / heads };
    for sort in 0..SORTS.len() {
        Lines::new(cuda, sort, tables, heads, axis)?.backward(qkv, dout, dqkv)?;
    }
    long(cuda, tables, heads, axis)?.backward(qkv, out, lse, dout, dqkv)
}

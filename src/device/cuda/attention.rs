//! Launches of kernels/attention.cu, shared by the encoder (windows) and the axial layers (long lines of a table).

use super::{Cuda, Words};
use crate::device::cpu::attention::{Heads, Sequence};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::Dropout;
use crate::tensor::Tensor;

/// Rows of a sequence that one block owns.
const TILE: usize = 64;
const THREADS: usize = 128;

/// The kernel `NAME_<head size>SUFFIX`, for the head sizes that there are.
macro_rules! of_head_size {
    ($size:expr, $name:literal, $suffix:literal) => {
        match $size {
            32 => Some(concat!($name, "_32", $suffix)),
            48 => Some(concat!($name, "_48", $suffix)),
            64 => Some(concat!($name, "_64", $suffix)),
            96 => Some(concat!($name, "_96", $suffix)),
            128 => Some(concat!($name, "_128", $suffix)),
            _ => None,
        }
    };
}
pub(crate) use of_head_size;

/// What an op says to heads of any other size.
pub(crate) fn refuse(cuda: &Cuda, op: &str, heads: Heads) -> Error {
    cuda.refuse(op, format!("heads of {}: 32, 48, 64, 96 or 128 is needed", heads.dim))
}

/// `Sequence` of kernels/attention.cuh.
pub(crate) fn words(sequence: &Sequence) -> [i32; 4] {
    let bias = (sequence.last_key_bias as f32).to_bits() as i32;
    [sequence.base as i32, sequence.stride as i32, sequence.len as i32, bias]
}

/// The blocks' work, `Tile` of kernels/attention.cu: 64 rows of a sequence each.
pub(crate) fn tiles(sequences: impl IntoIterator<Item = Sequence>) -> Vec<i32> {
    let of = |s: Sequence| {
        let [base, stride, len, bias] = words(&s);
        (0..len).step_by(TILE).flat_map(move |first| [base, stride, len, bias, first, 0, 0, 0])
    };
    sequences.into_iter().flat_map(of).collect()
}

/// Attention within the sequences of a work list, along one axis or two: qkv and its gradient are
/// `[rows, axes, 3 d]`, and each axis has its own out and lse.
pub(crate) struct Tiled<'a> {
    pub cuda: &'a Cuda,
    pub op: &'static str,
    /// See [`tiles`]; those of one axis, then as many of the other.
    pub tiles: Words,
    pub axes: usize,
    pub heads: Heads,
    pub drop: Dropout,
}

impl Tiled<'_> {
    /// Each tile's block for each head.
    fn blocks(&self) -> [usize; 3] {
        [self.tiles.len() / 8 / self.axes, self.heads.count, self.axes]
    }
    /// Bytes of shared memory: tiles of `owned` rows, and two stages of two times STEP rows with `terms` f32 values
    /// a row.
    fn shared(&self, owned: usize, terms: usize) -> usize {
        let step = if self.heads.dim < 64 { 64 } else { 32 };
        2 * self.heads.dim * (owned * TILE + 4 * step) + 2 * step * terms * 4
    }
    fn launch(&self, launch: super::Launch<'_>, shared: usize) -> Result<()> {
        let scale: f32 = self.heads.scale();
        let launch = launch.value(self.heads.count as i32).value(scale).dropout(self.drop);
        launch.launch(self.blocks(), THREADS, shared)
    }

    /// Writes the rows of `out` and `lse` that belong to a sequence.
    pub fn forward(&self, qkv: &Tensor, out: &mut [Tensor], lse: &mut [Tensor]) -> Result<()> {
        let name = of_head_size!(self.heads.dim, "attention_forward", "");
        let name = name.ok_or_else(|| refuse(self.cuda, self.op, self.heads))?;
        let launch = self.cuda.kernel(name).input(qkv).words(&self.tiles).outputs(out).outputs(lse);
        self.launch(launch, self.shared(1, 0))
    }
    /// Writes the rows of `dqkv` that belong to a sequence.
    pub fn backward(
        &self,
        qkv: &Tensor,
        out: &[Tensor],
        lse: &[Tensor],
        dout: &[Tensor],
        dqkv: &mut Tensor,
    ) -> Result<()> {
        let [tiles, heads, axes] = self.blocks();
        if tiles == 0 {
            return Ok(());
        }
        let mut terms = qkv.device().alloc("attention.row_terms", DType::F32, &[axes, heads, tiles, 2, TILE])?;
        let queries = of_head_size!(self.heads.dim, "attention_backward_queries", "");
        let queries = self.cuda.kernel(queries.ok_or_else(|| refuse(self.cuda, self.op, self.heads))?);
        let queries = queries.input(qkv).inputs(out).inputs(lse).inputs(dout).words(&self.tiles);
        self.launch(queries.output(dqkv).output(&mut terms), self.shared(2, 0))?;
        let keys = of_head_size!(self.heads.dim, "attention_backward_keys", "");
        let keys = self.cuda.kernel(keys.ok_or_else(|| refuse(self.cuda, self.op, self.heads))?);
        let keys = keys.input(qkv).inputs(dout).input(&terms).words(&self.tiles).output(dqkv);
        self.launch(keys, self.shared(2, 2))
    }
}

use super::{Axes, Axis};
use crate::device::cpu::attention::{self, Heads, Sequence};
use crate::device::cpu::gemm::{Factor, Mat};
use crate::layout::Tables;
use crate::rng::Dropout;
use crate::tensor::Tensor;

/// Every line of every table along each of `axes`.
pub fn sequences(tables: &Tables, axes: Axes) -> Vec<Sequence> {
    axes.each().iter().flat_map(|&axis| lines(tables, axis)).collect()
}

fn lines(tables: &Tables, axis: Axis) -> impl Iterator<Item = Sequence> {
    let line = move |d: usize, i: usize| {
        let (base, n) = (tables.cells.starts[d], tables.side[d]);
        let last_key_bias = (tables.repeat[d].max(1) as f64).ln();
        match axis {
            Axis::Subject => Sequence { base: base + i, stride: n, len: n, last_key_bias },
            Axis::Object => Sequence { base: base + i * n, stride: 1, len: n, last_key_bias },
        }
    };
    (0..tables.len()).flat_map(move |d| (0..tables.side[d]).map(move |i| line(d, i)))
}

/// q, k and v of axis number `a` of `axes`, and the column where they start.
fn part<'a, S: Factor>(qkv: &'a Tensor, axes: Axes, a: usize) -> (Mat<'a, S>, usize) {
    let column = a * qkv.dim() / axes.each().len();
    (Mat::rows(qkv.slice::<S>(), qkv.dim()).from(0, column), column)
}

pub fn forward<S: Factor>(
    qkv: &Tensor,
    tables: &Tables,
    heads: usize,
    axes: Axes,
    out: &mut [Tensor],
    lse: &mut [Tensor],
) {
    for (a, &axis) in axes.each().iter().enumerate() {
        let heads = Heads { count: heads, dim: out[a].dim() / heads };
        let (qkv, _) = part::<S>(qkv, axes, a);
        let lines: Vec<_> = lines(tables, axis).collect();
        attention::forward(qkv, &lines, heads, Dropout::default(), out[a].slice_mut(), lse[a].slice_mut());
    }
}

/// `_out` is for GPUs; here its products with `dout` are summed anew.
#[allow(clippy::too_many_arguments)] // the op's tensors, by name
pub fn backward<S: Factor>(
    qkv: &Tensor,
    _out: &[Tensor],
    lse: &[Tensor],
    dout: &[Tensor],
    tables: &Tables,
    heads: usize,
    axes: Axes,
    dqkv: &mut Tensor,
) {
    for (a, &axis) in axes.each().iter().enumerate() {
        let heads = Heads { count: heads, dim: dout[a].dim() / heads };
        let (qkv, column) = part::<S>(qkv, axes, a);
        let (lines, off): (Vec<_>, _) = (lines(tables, axis).collect(), Dropout::default());
        attention::backward(qkv, lse[a].slice(), dout[a].slice(), &lines, heads, off, dqkv.slice_mut(), column);
    }
}

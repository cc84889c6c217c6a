use super::Axis;
use crate::device::cpu::attention::{self, Heads, Sequence};
use crate::device::cpu::gemm::Factor;
use crate::layout::Tables;
use crate::rng::Dropout;
use crate::tensor::Tensor;

/// Every line of every table along `axis`.
pub fn sequences(tables: &Tables, axis: Axis) -> Vec<Sequence> {
    let line = |d: usize, i: usize| {
        let (base, n) = (tables.cells.starts[d], tables.side[d]);
        let last_key_bias = (tables.repeat[d].max(1) as f64).ln();
        match axis {
            Axis::Subject => Sequence { base: base + i, stride: n, len: n, last_key_bias },
            Axis::Object => Sequence { base: base + i * n, stride: 1, len: n, last_key_bias },
        }
    };
    (0..tables.len()).flat_map(|d| (0..tables.side[d]).map(move |i| line(d, i))).collect()
}

pub fn forward<S: Factor>(qkv: &Tensor, tables: &Tables, heads: usize, axis: Axis, out: &mut Tensor, lse: &mut Tensor) {
    let heads = Heads { count: heads, dim: out.dim() / heads };
    let lines = sequences(tables, axis);
    attention::forward(qkv.slice::<S>(), &lines, heads, Dropout::default(), out.slice_mut(), lse.slice_mut());
}

/// `_out` is for GPUs; here its products with `dout` are summed anew.
#[allow(clippy::too_many_arguments)] // the op's tensors, by name
pub fn backward<S: Factor>(
    qkv: &Tensor,
    _out: &Tensor,
    lse: &Tensor,
    dout: &Tensor,
    tables: &Tables,
    heads: usize,
    axis: Axis,
    dqkv: &mut Tensor,
) {
    let heads = Heads { count: heads, dim: dout.dim() / heads };
    let (qkv, lse, dout) = (qkv.slice::<S>(), lse.slice(), dout.slice());
    attention::backward(qkv, lse, dout, &sequences(tables, axis), heads, Dropout::default(), dqkv.slice_mut());
}

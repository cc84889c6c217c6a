use crate::device::cpu::attention::{self, Heads, Sequence};
use crate::device::cpu::gemm::{Factor, Mat};
use crate::layout::Segments;
use crate::rng::Dropout;
use crate::tensor::Tensor;

/// Every segment.
pub fn sequences(segments: &Segments) -> Vec<Sequence> {
    segments.iter().map(|r| Sequence { base: r.start, stride: 1, len: r.len(), last_key_bias: 0.0 }).collect()
}

pub fn forward<S: Factor>(
    qkv: &Tensor,
    segments: &Segments,
    heads: usize,
    drop: Dropout,
    out: &mut Tensor,
    lse: &mut Tensor,
) {
    let heads = Heads { count: heads, dim: out.dim() / heads };
    let qkv = Mat::rows(qkv.slice::<S>(), qkv.dim());
    attention::forward(qkv, &sequences(segments), heads, drop, out.slice_mut(), lse.slice_mut());
}

/// `_out` is for GPUs; here its products with `dout` are summed anew.
#[allow(clippy::too_many_arguments)] // the op's tensors, by name
pub fn backward<S: Factor>(
    qkv: &Tensor,
    _out: &Tensor,
    lse: &Tensor,
    dout: &Tensor,
    segments: &Segments,
    heads: usize,
    drop: Dropout,
    dqkv: &mut Tensor,
) {
    let heads = Heads { count: heads, dim: dout.dim() / heads };
    let (qkv, lse, dout) = (Mat::rows(qkv.slice::<S>(), qkv.dim()), lse.slice(), dout.slice());
    attention::backward(qkv, lse, dout, &sequences(segments), heads, drop, dqkv.slice_mut(), 0);
}

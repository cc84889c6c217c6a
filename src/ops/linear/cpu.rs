use crate::device::cpu::gemm::{Mat, Start, gemm, gemm_onto};
use crate::device::cpu::vector::add_column_sums;
use crate::dtype::Real;
use crate::tape::Grads;
use crate::tensor::Tensor;

pub fn forward<T: Real>(x: &Tensor, w: &Tensor, b: Option<&Tensor>, residual: Option<&Tensor>, y: &mut Tensor) {
    let (rows, k, out) = (x.rows(), x.dim(), w.rows());
    let start = match (b, residual) {
        (None, None) => Start::Zero,
        _ => Start::Given { bias: b.map(|b| b.slice()), residual: residual.map(|r| r.slice()) },
    };
    let (x, w) = (Mat::rows(x.slice::<T>(), k), Mat::rows(w.slice::<T>(), k));
    gemm_onto(rows, out, k, &x, &w, y.slice_mut(), start);
}

pub fn backward<T: Real>(dy: &Tensor, x: &Tensor, w: &Tensor, b: Option<&Tensor>, dx: &mut Tensor, grads: &mut Grads) {
    let (rows, k, out) = (x.rows(), x.dim(), w.rows());
    let (dy, xs) = (Mat::rows(dy.slice::<T>(), out), Mat::rows(x.slice::<T>(), k));
    let dx = dx.slice_mut::<T>();
    gemm(rows, k, out, &dy, &Mat::rows(w.slice::<T>(), k).t(), dx, true);
    gemm(out, k, rows, &dy.t(), &xs.t(), grads.param::<T>(w), false);
    if let Some(b) = b {
        add_column_sums(dy.data, out, grads.param::<T>(b));
    }
}

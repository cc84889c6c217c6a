use crate::device::cpu::gemm::{Mat, gemm};
use crate::device::cpu::rows::{add_column_sums, add_to, block, chunk};
use crate::device::cpu::simd::vectorize;
use crate::dtype::Real;
use crate::tape::Grads;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// The output starts as bias + residual, and the product is added to it.
pub fn forward<T: Real>(x: &Tensor, w: &Tensor, b: Option<&Tensor>, residual: Option<&Tensor>, y: &mut Tensor) {
    let (rows, k, out) = (x.rows(), x.dim(), w.rows());
    let y = y.slice_mut::<T>();
    match residual {
        Some(r) => y.copy_from_slice(r.slice::<T>()),
        None => y.fill(T::ZERO),
    }
    if let Some(b) = b {
        let b = b.slice::<T>();
        y.par_chunks_mut(chunk(block(out), out)).for_each(|y| {
            vectorize(
                #[inline(always)]
                || y.chunks_mut(out).for_each(|y| add_to(y, b)),
            )
        });
    }
    gemm(rows, out, k, &Mat::rows(x.slice::<T>(), k), &Mat::rows(w.slice::<T>(), k), y);
}

pub fn backward<T: Real>(dy: &Tensor, x: &Tensor, w: &Tensor, b: Option<&Tensor>, dx: &mut Tensor, grads: &mut Grads) {
    let (rows, k, out) = (x.rows(), x.dim(), w.rows());
    let (dy, xs) = (Mat::rows(dy.slice::<T>(), out), Mat::rows(x.slice::<T>(), k));
    let dx = dx.slice_mut::<T>();
    dx.fill(T::ZERO);
    gemm(rows, k, out, &dy, &Mat::rows(w.slice::<T>(), k).t(), dx);
    gemm(out, k, rows, &dy.t(), &xs.t(), grads.param::<T>(w));
    if let Some(b) = b {
        add_column_sums(dy.data, out, grads.param::<T>(b));
    }
}

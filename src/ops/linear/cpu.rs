use crate::device::cpu::gemm::{Mat, gemm};
use crate::device::cpu::vector::{add_column_sums, add_to, block, chunk};
use crate::device::cpu::simd::vectorize;
use crate::dtype::Real;
use crate::tape::Grads;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// The output starts as bias + residual, where there are any, and the product is added to it.
pub fn forward<T: Real>(x: &Tensor, w: &Tensor, b: Option<&Tensor>, residual: Option<&Tensor>, y: &mut Tensor) {
    let (rows, k, out) = (x.rows(), x.dim(), w.rows());
    let y = y.slice_mut::<T>();
    let rows_at_once = chunk(block(out), out);
    y.par_chunks_mut(rows_at_once).enumerate().for_each(|(i, y)| {
        if let Some(r) = residual {
            y.copy_from_slice(&r.slice::<T>()[i * rows_at_once..][..y.len()]);
        }
        let Some(b) = b else { return };
        y.chunks_mut(out).for_each(|y| match residual {
            Some(_) => vectorize(
                #[inline(always)]
                || add_to(y, b.slice::<T>()),
            ),
            None => y.copy_from_slice(b.slice::<T>()),
        });
    });
    let assign = b.is_none() && residual.is_none();
    gemm(rows, out, k, &Mat::rows(x.slice::<T>(), k), &Mat::rows(w.slice::<T>(), k), y, assign);
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

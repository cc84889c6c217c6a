use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{block, chunk};
use crate::dtype::Real;
use crate::layout::Sources;
use crate::tensor::Tensor;
use rayon::prelude::*;

pub fn backward<T: Real>(dy: &Tensor, sources: &Sources, dx: &mut Tensor) {
    weighted::<T>(dy, &sources.transposed(dx.rows()), dx);
}

pub fn weighted<T: Real>(x: &Tensor, sources: &Sources, y: &mut Tensor) {
    let (dim, x) = (x.dim(), x.slice::<T>());
    y.slice_mut::<T>().par_chunks_mut(chunk(block(dim), dim)).enumerate().for_each(|(b, y)| {
        let first = b * block(dim);
        vectorize(
            #[inline(always)]
            || {
                for (i, y) in y.chunks_exact_mut(dim).enumerate() {
                    y.fill(T::ZERO);
                    for j in sources.rows.range(first + i) {
                        let (at, w) = (sources.index[j] as usize * dim, T::of(sources.weight[j]));
                        y.iter_mut().zip(&x[at..at + dim]).for_each(|(y, &x)| *y += w * x);
                    }
                }
            },
        );
    });
}

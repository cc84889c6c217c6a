use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{block, chunk};
use crate::dtype::{Element, Real, narrow};
use crate::layout::Sources;
use crate::tensor::Tensor;
use rayon::prelude::*;

pub fn backward<S: Element>(dy: &Tensor, sources: &Sources, dx: &mut Tensor) {
    weighted::<S>(dy, &sources.transposed(dx.rows()), dx);
}

pub fn weighted<S: Element>(x: &Tensor, sources: &Sources, y: &mut Tensor) {
    let (dim, x) = (x.dim(), x.slice::<S>());
    y.slice_mut::<S>().par_chunks_mut(chunk(block(dim), dim)).enumerate().for_each(|(b, y)| {
        let first = b * block(dim);
        let mut sum = Scratch::new(dim);
        vectorize(
            #[inline(always)]
            || {
                for (i, y) in y.chunks_exact_mut(dim).enumerate() {
                    sum.fill(S::Wide::ZERO);
                    for j in sources.rows.range(first + i) {
                        let (at, w) = (sources.index[j] as usize * dim, S::Wide::of(sources.weight[j]));
                        sum.iter_mut().zip(&x[at..at + dim]).for_each(|(sum, &x)| *sum += w * x.wide());
                    }
                    narrow(&sum, y);
                }
            },
        );
    });
}

use crate::device::cpu::simd::vectorize;
use crate::dtype::Real;
use crate::rng::Dropout;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Elements that a task takes: a multiple of the 64 that `Dropout::apply` does at once.
const BLOCK: usize = 1 << 12;

pub fn masked<T: Real>(x: &Tensor, drop: Dropout, y: &mut Tensor) {
    let pairs = y.slice_mut::<T>().par_chunks_mut(BLOCK).zip(x.slice::<T>().par_chunks(BLOCK));
    pairs.enumerate().for_each(|(b, (y, x))| {
        vectorize(
            #[inline(always)]
            || {
                y.copy_from_slice(x);
                drop.apply((b * BLOCK) as u64, y);
            },
        );
    });
}

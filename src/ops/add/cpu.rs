use crate::device::cpu::simd::vectorize;
use crate::dtype::Real;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Elements a task adds: 64 KiB of f32, far above the cost of a task.
const BLOCK: usize = 1 << 14;

pub fn sum<T: Real>(a: &Tensor, b: &Tensor, y: &mut Tensor) {
    let inputs = a.slice::<T>().par_chunks(BLOCK).zip(b.slice::<T>().par_chunks(BLOCK));
    y.slice_mut::<T>().par_chunks_mut(BLOCK).zip(inputs).for_each(|(y, (a, b))| {
        vectorize(
            #[inline(always)]
            || y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = *a + *b),
        )
    });
}

pub fn accumulate<T: Real>(into: &mut Tensor, other: &Tensor) {
    let pairs = into.slice_mut::<T>().par_chunks_mut(BLOCK).zip(other.slice::<T>().par_chunks(BLOCK));
    pairs.for_each(|(a, b)| {
        vectorize(
            #[inline(always)]
            || a.iter_mut().zip(b).for_each(|(a, b)| *a += *b),
        )
    });
}

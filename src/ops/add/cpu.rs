use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::map2;
use crate::dtype::Element;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Elements a task adds: 64 KiB of f32, far above the cost of a task.
const BLOCK: usize = 1 << 14;

pub fn sum<S: Element>(a: &Tensor, b: &Tensor, y: &mut Tensor) {
    let inputs = a.slice::<S>().par_chunks(BLOCK).zip(b.slice::<S>().par_chunks(BLOCK));
    y.slice_mut::<S>().par_chunks_mut(BLOCK).zip(inputs).for_each(|(y, (a, b))| {
        vectorize(
            #[inline(always)]
            || map2(a, b, y, |a, b| a + b),
        )
    });
}

pub fn accumulate<S: Element>(into: &mut Tensor, other: &Tensor) {
    let pairs = into.slice_mut::<S>().par_chunks_mut(BLOCK).zip(other.slice::<S>().par_chunks(BLOCK));
    pairs.for_each(|(a, b)| {
        vectorize(
            #[inline(always)]
            || a.iter_mut().zip(b).for_each(|(a, b)| *a = S::narrow(a.wide() + b.wide())),
        )
    });
}

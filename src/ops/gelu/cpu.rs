use crate::device::cpu::math::{gelu, gelu_slope};
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{map, map2};
use crate::dtype::Element;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Elements that a task takes.
const BLOCK: usize = 1 << 12;

pub fn forward<S: Element>(x: &Tensor, y: &mut Tensor) {
    let pairs = y.slice_mut::<S>().par_chunks_mut(BLOCK).zip(x.slice::<S>().par_chunks(BLOCK));
    pairs.for_each(|(y, x)| {
        vectorize(
            #[inline(always)]
            || map(x, y, gelu),
        );
    });
}

pub fn backward<S: Element>(dy: &Tensor, x: &Tensor, dx: &mut Tensor) {
    let inputs = dy.slice::<S>().par_chunks(BLOCK).zip(x.slice::<S>().par_chunks(BLOCK));
    dx.slice_mut::<S>().par_chunks_mut(BLOCK).zip(inputs).for_each(|(dx, (dy, x))| {
        vectorize(
            #[inline(always)]
            || map2(dy, x, dx, |dy, x| dy * gelu_slope(x)),
        );
    });
}

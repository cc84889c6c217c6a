use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::dtype::{Element, narrow, widen};
use crate::rng::Dropout;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Elements that a task takes: a multiple of the 64 that `Dropout::apply` does at once.
const BLOCK: usize = 1 << 12;

pub fn masked<S: Element>(x: &Tensor, drop: Dropout, y: &mut Tensor) {
    let pairs = y.slice_mut::<S>().par_chunks_mut(BLOCK).zip(x.slice::<S>().par_chunks(BLOCK));
    pairs.enumerate().for_each(|(b, (y, x))| {
        let mut wide = Scratch::new(x.len());
        vectorize(
            #[inline(always)]
            || {
                widen(x, &mut wide);
                drop.apply((b * BLOCK) as u64, &mut wide);
                narrow(&wide, y);
            },
        );
    });
}

use crate::device::cpu::simd::vectorize;
use crate::dtype::Real;
use crate::tensor::Tensor;
use rayon::prelude::*;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// Elements that a task takes.
const BLOCK: usize = 1 << 12;

pub fn forward<T: Real>(x: &Tensor, y: &mut Tensor) {
    let pairs = y.slice_mut::<T>().par_chunks_mut(BLOCK).zip(x.slice::<T>().par_chunks(BLOCK));
    pairs.for_each(|(y, x)| {
        vectorize(
            #[inline(always)]
            || {
                y.iter_mut().zip(x).for_each(
                    #[inline(always)]
                    |(y, &x)| *y = x * normal(x),
                )
            },
        );
    });
}

/// The standard normal distribution function.
#[inline(always)]
fn normal<T: Real>(x: T) -> T {
    T::of(0.5) * (T::ONE + (x * T::of(FRAC_1_SQRT_2)).erf())
}

pub fn backward<T: Real>(dy: &Tensor, x: &Tensor, dx: &mut Tensor) {
    let inputs = dy.slice::<T>().par_chunks(BLOCK).zip(x.slice::<T>().par_chunks(BLOCK));
    dx.slice_mut::<T>().par_chunks_mut(BLOCK).zip(inputs).for_each(|(dx, (dy, x))| {
        vectorize(
            #[inline(always)]
            || {
                for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
                    let density = T::of(0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2) * (T::of(-0.5) * x * x).exp();
                    *dx = dy * (normal(x) + x * density);
                }
            },
        );
    });
}

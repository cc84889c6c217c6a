use super::{Hyper, SLACK, Span};
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::sum;
use crate::dtype::{Element, Real};
use crate::tensor::Tensor;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Elements that a task takes.
const BLOCK: usize = 1 << 14;

/// The numbers of one span's update, in the working type.
#[derive(Clone, Copy)]
struct Update<T> {
    clip: T,
    beta1: T,
    beta2: T,
    one_less1: T,
    one_less2: T,
    eps: T,
    rate: T,
    decay: T,
}

/// `norm` receives the norm and the clip factor, NaN where no step was taken.
#[allow(clippy::too_many_arguments)]
pub fn update<T: Real>(
    weights: &mut Tensor,
    copy: Option<&mut Tensor>,
    grad: &Tensor,
    moments: (&mut Tensor, &mut Tensor),
    spans: &[Span],
    hyper: Hyper,
    t: u64,
    clip: f64,
    after: Option<&Tensor>,
    norm: &mut Tensor,
) {
    let length = sum_of_squares::<T>(grad).sqrt();
    let taken = length.is_finite() && !after.is_some_and(|after| after.slice::<f64>()[1].is_nan());
    let scale = if taken { (clip / (length + SLACK)).min(1.0) } else { f64::NAN };
    norm.slice_mut::<f64>().copy_from_slice(&[length, scale]);
    if taken {
        step::<T>(weights, copy, grad, moments, spans, hyper, t, scale);
    }
}

#[allow(clippy::too_many_arguments)]
fn step<T: Real>(
    value: &mut Tensor,
    copy: Option<&mut Tensor>,
    grad: &Tensor,
    (m, v): (&mut Tensor, &mut Tensor),
    spans: &[Span],
    hyper: Hyper,
    t: u64,
    clip: f64,
) {
    let (value, m, v) = (value.slice_mut::<T>(), m.slice_mut::<T>(), v.slice_mut::<T>());
    let copy = copy.map(|c| c.slice_mut::<bf16>()).unwrap_or_default();
    let correction = hyper.correction(t);
    for span in spans {
        let at = span.range.clone();
        let update = Update {
            clip: T::of(clip),
            beta1: T::of(hyper.beta1),
            beta2: T::of(hyper.beta2),
            one_less1: T::of(1.0 - hyper.beta1),
            one_less2: T::of(1.0 - hyper.beta2),
            eps: T::of(hyper.eps),
            rate: T::of(span.rate * correction),
            decay: T::of(span.rate * span.decay),
        };
        let moments = m[at.clone()].par_chunks_mut(BLOCK).zip(v[at.clone()].par_chunks_mut(BLOCK));
        let values = value[at.clone()].par_chunks_mut(BLOCK).zip(grad.slice::<T>()[at].par_chunks(BLOCK));
        let copies = match copy.get_mut(span.range.clone()) {
            Some(copy) => copy.chunks_mut(BLOCK).collect(),
            None => (0..values.len()).map(|_| <&mut [bf16]>::default()).collect::<Vec<_>>(),
        };
        values.zip(moments).zip(copies).for_each(|(((value, grad), (m, v)), copy)| update.run(value, copy, grad, m, v));
    }
}

impl<T: Real> Update<T> {
    fn run(self, value: &mut [T], copy: &mut [bf16], grad: &[T], m: &mut [T], v: &mut [T]) {
        vectorize(
            #[inline(always)]
            || {
                for (((x, &g), m), v) in value.iter_mut().zip(grad).zip(m).zip(v) {
                    let g = g * self.clip;
                    *m = self.beta1 * *m + self.one_less1 * g;
                    *v = self.beta2 * *v + self.one_less2 * g * g;
                    let moved = *x - self.rate * *m / (v.sqrt() + self.eps);
                    *x = moved - self.decay * moved;
                }
                copy.iter_mut().zip(&*value).for_each(
                    #[inline(always)]
                    |(copy, x)| *copy = bf16::narrow(x.f64() as f32),
                );
            },
        );
    }
}

fn sum_of_squares<T: Real>(grad: &Tensor) -> f64 {
    let square = |block: &[T]| {
        let mut wide = [0.0; 512];
        vectorize(
            #[inline(always)]
            || {
                let mut total = 0.0;
                for part in block.chunks(512) {
                    wide.iter_mut().zip(part).for_each(
                        #[inline(always)]
                        |(w, x)| *w = x.f64(),
                    );
                    total += sum(
                        &wide[..part.len()],
                        #[inline(always)]
                        |x| x * x,
                    );
                }
                total
            },
        )
    };
    let partials: Vec<f64> = grad.slice::<T>().par_chunks(BLOCK).map(square).collect();
    partials.iter().sum()
}

pub fn first_non_finite<T: Real>(grad: &Tensor, names: &[(&str, Range<usize>)]) -> Option<usize> {
    let grad = grad.slice::<T>();
    names.par_iter().position_first(|(_, range)| !all_finite(&grad[range.clone()]))
}

/// 0 x is 0 for a number and NaN for what is none, and a NaN stays in a sum.
fn all_finite<T: Real>(values: &[T]) -> bool {
    vectorize(
        #[inline(always)]
        || {
            sum(
                values,
                #[inline(always)]
                |x| x * T::ZERO,
            )
        },
    )
    .is_finite()
}

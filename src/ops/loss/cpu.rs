use super::{Distillation, Objective, TeacherLogits, Terms};
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{PARTIAL, chunk, max, parts, sum, sum2};
use crate::dtype::{DType, Element, Real};
use crate::layout::Labels;
use crate::tensor::Tensor;
use half::bf16;
use rayon::prelude::*;

/// Both sums over all cells, divided by `cells`, go to `terms`; the gradient to `dlogits` where there is one.
pub fn all<T: Real>(
    logits: &Tensor,
    labels: &Labels,
    objective: Objective,
    teacher: Option<&TeacherLogits>,
    cells: usize,
    (terms, dlogits): (&mut Tensor, Option<&mut Tensor>),
) {
    match dlogits {
        Some(d) if d.dtype() == DType::BF16 => {
            rows::<T, bf16>(logits, labels, objective, teacher, cells, (terms, Some(d)), |x| {
                bf16::narrow(x.f64() as f32)
            })
        }
        d => rows::<T, T>(logits, labels, objective, teacher, cells, (terms, d), |x| x),
    }
}

/// As [`all`], with a gradient in `D`.
fn rows<T: Real, D: Element>(
    logits: &Tensor,
    labels: &Labels,
    objective: Objective,
    teacher: Option<&TeacherLogits>,
    cells: usize,
    (terms, dlogits): (&mut Tensor, Option<&mut Tensor>),
    round: impl Fn(T) -> D + Sync,
) {
    let classes = logits.dim();
    let size = chunk(PARTIAL, classes);
    let (l, t) = (logits.slice::<T>(), teacher.map(|t| (t.logits.slice::<T>(), t)));
    let blocks = parts::<D>(dlogits, size, l.len().div_ceil(size));
    let mean = 1.0 / cells.max(1) as f64; // documents without a cell cost nothing
    let block = |(b, (dlogits, l)): (usize, (&mut [D], &[T]))| {
        let mut d = vec![T::ZERO; classes];
        let mut sums = Terms::default();
        for (i, l) in l.chunks_exact(classes).enumerate() {
            let row = b * PARTIAL + i;
            let to = dlogits.get_mut(i * classes..(i + 1) * classes);
            if labels.is_left_out(row) {
                to.into_iter().flatten().for_each(|to| *to = round(T::ZERO));
                continue;
            }
            let own = row_loss(l, &positives(labels, row), objective, &mut d);
            let distilled = t.map_or(0.0, |(t, teacher)| distil(l, &t[row * classes..][..classes], teacher, &mut d));
            sums.objective += own;
            sums.distillation += distilled;
            scale(&mut d, T::of(if (own + distilled).is_finite() { mean } else { f64::NAN }));
            to.into_iter().flatten().zip(&d).for_each(|(to, &d)| *to = round(d));
        }
        sums
    };
    let sums: Vec<Terms> = blocks.into_par_iter().zip(l.par_chunks(size)).enumerate().map(block).collect();
    let objective = sums.iter().map(|s| s.objective).sum::<f64>() * mean;
    let distillation = sums.iter().map(|s| s.distillation).sum::<f64>() * mean;
    terms.slice_mut::<f64>().copy_from_slice(&[objective, distillation]);
}

fn positives(labels: &Labels, row: usize) -> Vec<usize> {
    let words = &labels.bits[row * labels.words()..][..labels.words()];
    let mut found = Vec::new();
    for (w, &word) in words.iter().enumerate() {
        let mut bits = word;
        while bits != 0 {
            found.push(64 * w + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }
    found
}

fn scale<T: Real>(d: &mut [T], by: T) {
    vectorize(
        #[inline(always)]
        || d.iter_mut().for_each(|d| *d *= by),
    );
}

/// Writes softmax of `l` to `p` and returns logsumexp, classes of `without` left out (their p is 0).
fn softmax<T: Real>(l: &[T], without: &[usize], p: &mut [T]) -> f64 {
    p.copy_from_slice(l);
    without.iter().for_each(|&r| p[r] = T::NEG_INFINITY);
    vectorize(
        #[inline(always)]
        || {
            let top = max(p);
            p.iter_mut().for_each(
                #[inline(always)]
                |x| *x = (*x - top).exp(),
            );
            let total = sum(
                p,
                #[inline(always)]
                |x| x,
            );
            let inverse = T::ONE / total;
            p.iter_mut().for_each(|x| *x *= inverse);
            top.f64() + total.f64().ln()
        },
    )
}

/// The loss of one cell; its gradient (not yet divided by the cells) goes to `d`.
fn row_loss<T: Real>(l: &[T], positive: &[usize], objective: Objective, d: &mut [T]) -> f64 {
    if let Objective::Atgl { alpha } = objective {
        return atgl(l, positive, alpha, d);
    }
    // All three have this part: -log softmax over N and TH of TH.
    let th = l[0].f64();
    let threshold = softmax(l, positive, d) - th;
    let mut dth = d[0].f64() - 1.0;
    let deltas = positive.iter().map(|&r| (r, l[r].f64() - th));
    let gold = match objective {
        Objective::AdaptiveFocal { gamma, released } => deltas.fold(0.0, |total, (r, delta)| {
            let (loss, slope) = focal(delta, gamma, released);
            d[r] = T::of(slope);
            dth -= slope;
            total + loss
        }),
        Objective::AdaptiveThreshold => {
            let n = positive.len() as f64;
            let (top, total) = log_one_plus(deltas.clone().map(|(_, delta)| delta));
            dth += n * (-top).exp() / total;
            deltas.fold(0.0, |sum, (r, delta)| {
                d[r] = T::of(n * (delta - top).exp() / total - 1.0);
                sum + top + total.ln() - delta
            })
        }
        _ => {
            let (top, total) = log_one_plus(deltas.clone().map(|(_, delta)| -delta));
            for (r, delta) in deltas {
                let share = (-delta - top).exp() / total;
                d[r] = T::of(-share);
                dth += share;
            }
            top + total.ln()
        }
    };
    d[0] = T::of(dth);
    threshold + gold
}

/// `log(1 + sum of e^x) = top + ln total`, as `(top, total)`; top is at least 0, the exponent of the 1.
fn log_one_plus(xs: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let top = xs.clone().fold(0.0, |top: f64, x| if x > top || x.is_nan() { x } else { top });
    (top, xs.fold((-top).exp(), |total, x| total + (x - top).exp()))
}

/// The focal loss of one gold class and its derivative by delta.
fn focal(delta: f64, gamma: f64, released: bool) -> (f64, f64) {
    // log p = -softplus(-delta), without overflow on either side.
    let log_p = delta.min(0.0) - (-delta.abs()).exp().ln_1p();
    let log_q = log_p - delta; // log(1 - p)
    let (p, x, power) = (log_p.exp(), log_q.exp(), (gamma * log_q).exp());
    let one = f64::from(u8::from(released));
    (-(one + power) * log_p, -x * (one + power) + gamma * p * power * log_p)
}

fn atgl<T: Real>(l: &[T], positive: &[usize], alpha: f64, d: &mut [T]) -> f64 {
    let log_sum = softmax(l, &[], d);
    let total = 1.0 + alpha * positive.len() as f64;
    scale(d, T::of(total));
    d[0] -= T::ONE;
    positive.iter().for_each(|&r| d[r] -= T::of(alpha));
    let weighted: f64 = positive.iter().map(|&r| alpha * l[r].f64()).sum();
    total * log_sum - l[0].f64() - weighted
}

/// The distillation term of one cell; adds its gradient, times the teacher's weight, to `d`.
fn distil<T: Real>(l: &[T], t: &[T], teacher: &TeacherLogits, d: &mut [T]) -> f64 {
    match teacher.kind {
        Distillation::Mse => {
            let classes = l.len() as f64;
            let w = T::of(2.0 * teacher.weight / classes);
            vectorize(
                #[inline(always)]
                || {
                    d.iter_mut().zip(l).zip(t).for_each(|((d, &l), &t)| *d += w * (l - t));
                    sum2(
                        l,
                        t,
                        #[inline(always)]
                        |l, t| (l - t) * (l - t),
                    )
                    .f64()
                        / classes
                },
            )
        }
        Distillation::Kl => kl(l, t, teacher.weight, d),
    }
}

fn kl<T: Real>(l: &[T], t: &[T], weight: f64, d: &mut [T]) -> f64 {
    let (mut p, mut q) = (vec![T::ZERO; l.len()], vec![T::ZERO; l.len()]);
    let (log_t, log_l) = (softmax(t, &[], &mut p), softmax(l, &[], &mut q));
    let w = T::of(weight);
    d.iter_mut().zip(&q).zip(&p).for_each(|((d, &q), &p)| *d += w * (q - p));
    let terms = p.iter().zip(t).zip(l).map(|((p, t), l)| p.f64() * ((t.f64() - log_t) - (l.f64() - log_l)));
    terms.sum()
}

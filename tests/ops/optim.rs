use crate::support::*;
use docre::dtype::{DType, Real};
use docre::ops::optim::{Hyper, Span, adamw, first_non_finite, global_norm};

/// Values, m and v after three steps of the formula in the module, written out.
fn plain<T: Real>(x: &[T], grads: &[Vec<T>], spans: &[Span], hyper: Hyper, clip: f64) -> Vec<T> {
    let mut x = x.to_vec();
    for span in spans {
        for i in span.range.clone() {
            let (mut m, mut v) = (T::ZERO, T::ZERO);
            for (step, g) in grads.iter().enumerate() {
                let (t, g) = (step as i32 + 1, g[i] * T::of(clip));
                m = T::of(hyper.beta1) * m + T::of(1.0 - hyper.beta1) * g;
                v = T::of(hyper.beta2) * v + T::of(1.0 - hyper.beta2) * g * g;
                let rate = span.rate * (1.0 - hyper.beta2.powi(t)).sqrt() / (1.0 - hyper.beta1.powi(t));
                x[i] -= T::of(rate) * m / (v.sqrt() + T::of(hyper.eps));
                x[i] = x[i] - T::of(span.rate * span.decay) * x[i];
            }
        }
    }
    x
}

fn steps(threads: usize, dtype: DType, n: usize, spans: &[Span], clip: f64) -> Vec<f64> {
    let device = poisoned(threads);
    let zeros = || device.zeros("test", dtype, &[n]).unwrap();
    let (mut x, mut m, mut v) = (tensor(&device, dtype, &[n], &random(1, n)), zeros(), zeros());
    for t in 1..=3 {
        let g = tensor(&device, dtype, &[n], &random(1 + t, n));
        adamw(&mut x, &g, &mut m, &mut v, spans, Hyper::default(), t, clip).unwrap();
    }
    x.to_f64().unwrap()
}

#[test]
fn adamw_is_the_formula() {
    for n in [1, 7, (1 << 14) - 1, 1 << 14, 50_001] {
        let spans = [
            Span { range: 0..n / 3, rate: 1e-2, decay: 0.1 },
            Span { range: n / 3..n / 3, rate: 9.0, decay: 0.0 },
            Span { range: n / 2..n, rate: 3e-3, decay: 0.0 },
        ];
        let grads: Vec<Vec<f64>> = (2..=4).map(|seed| random(seed, n)).collect();
        let want = plain(&random(1, n), &grads, &spans, Hyper::default(), 0.5);
        assert_close("adamw", &steps(2, DType::F64, n, &spans, 0.5), &want, 1e-12);
        let narrow = steps(1, DType::F32, n, &spans, 0.5);
        // In three steps a value is rounded six times to 2^-24; moves of 1e-2 add less than one more.
        assert_close("adamw f32", &narrow, &want, 7.0 * 0.5f64.powi(24));
        assert_same_bits("adamw threads", &steps(2, DType::F32, n, &spans, 0.5), &narrow);
    }
}

#[test]
fn adamw_refuses_what_does_not_fit() {
    let device = poisoned(1);
    let t = |n: usize| device.zeros("test", DType::F32, &[n]).unwrap();
    let (mut x, mut m, mut v) = (t(4), t(4), t(4));
    let span = |range| [Span { range, rate: 1.0, decay: 0.0 }];
    assert!(adamw(&mut x, &t(4), &mut m, &mut v, &span(2..5), Hyper::default(), 1, 1.0).is_err());
    assert!(adamw(&mut x, &t(3), &mut m, &mut v, &span(0..1), Hyper::default(), 1, 1.0).is_err());
    let held = x.clone();
    assert!(adamw(&mut x, &t(4), &mut m, &mut v, &span(0..4), Hyper::default(), 1, 1.0).is_err());
    drop(held);
    assert!(adamw(&mut x, &t(4), &mut m, &mut v, &span(0..4), Hyper::default(), 1, 1.0).is_ok());
}

#[test]
fn norm_and_finiteness() {
    let device = poisoned(2);
    for n in [0, 1, 511, 512, 513, 40_000] {
        let values = random(3, n);
        let want = values.iter().map(|x| x * x).sum::<f64>().sqrt();
        let wide = tensor(&device, DType::F64, &[n], &values);
        assert_close("norm", &[global_norm(&wide).unwrap()], &[want], 1e-12);
        let narrow = global_norm(&tensor(&device, DType::F32, &[n], &values)).unwrap();
        assert_close("norm f32", &[narrow], &[want], 1e-12);
        assert_same_bits("norm", &[narrow], &[global_norm(&tensor(&poisoned(1), DType::F32, &[n], &values)).unwrap()]);
    }
    let large = tensor(&device, DType::F32, &[4], &[3e38; 4]);
    assert_close("no overflow", &[global_norm(&large).unwrap() / 6e38], &[1.0], 1e-6);
    let names = [("a", 0..2), ("b", 2..2), ("c", 2..40), ("d", 40..90)];
    assert_eq!(first_non_finite(&tensor(&device, DType::F32, &[90], &[3e38; 90]), &names).unwrap(), None);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut values = vec![3e38; 90];
        (values[39], values[80]) = (bad, bad);
        let t = tensor(&device, DType::F32, &[90], &values);
        assert_eq!(first_non_finite(&t, &names).unwrap(), Some("c"));
        assert!(!global_norm(&t).unwrap().is_finite());
    }
}

use crate::gpu::*;
use crate::support::*;
use docre::device::Device;
use docre::dtype::{DType, Real};
use docre::error::Result;
use docre::ops::optim::{Hyper, Norm, Span, first_non_finite, update};
use docre::tensor::Tensor;
use half::bf16;

fn norm_of(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Weights, m and v after some steps of the formula in the module, written out.
fn plain<T: Real>(x: &[T], grads: &[Vec<T>], spans: &[Span], hyper: Hyper, clip: f64) -> [Vec<T>; 3] {
    let [mut x, mut m, mut v] = [x.to_vec(), vec![T::ZERO; x.len()], vec![T::ZERO; x.len()]];
    for (step, g) in grads.iter().enumerate() {
        let norm = norm_of(&g.iter().map(|g| g.f64()).collect::<Vec<_>>());
        let (t, scale) = (step as i32 + 1, T::of((clip / (norm + 1e-6)).min(1.0)));
        for span in spans {
            let rate = span.rate * (1.0 - hyper.beta2.powi(t)).sqrt() / (1.0 - hyper.beta1.powi(t));
            for i in span.range.clone() {
                let g = g[i] * scale;
                m[i] = T::of(hyper.beta1) * m[i] + T::of(1.0 - hyper.beta1) * g;
                v[i] = T::of(hyper.beta2) * v[i] + T::of(1.0 - hyper.beta2) * g * g;
                x[i] -= T::of(rate) * m[i] / (v[i].sqrt() + T::of(hyper.eps));
                x[i] = x[i] - T::of(span.rate * span.decay) * x[i];
            }
        }
    }
    [x, m, v]
}

/// Weights, their bf16 copy on a GPU, and their moments.
struct State {
    weights: Tensor,
    copy: Option<Tensor>,
    m: Tensor,
    v: Tensor,
}

impl State {
    fn new(device: &Device, dtype: DType, values: &[f64]) -> Self {
        let n = values.len();
        let zeros = |dtype| device.zeros("test", dtype, &[n]).unwrap();
        let copy = matches!(device, Device::Cuda(_)).then(|| zeros(DType::BF16));
        State { weights: tensor(device, dtype, &[n], values), copy, m: zeros(dtype), v: zeros(dtype) }
    }
    fn step(&mut self, grad: &[f64], spans: &[Span], t: u64, clip: f64) -> Result<Norm> {
        self.step_after(None, grad, spans, t, clip)
    }
    fn step_after(&mut self, after: Option<&Norm>, grad: &[f64], spans: &[Span], t: u64, clip: f64) -> Result<Norm> {
        let State { weights, copy, m, v } = self;
        let grad = tensor(weights.device(), weights.dtype(), &[grad.len()], grad);
        update(weights, copy.as_mut(), &grad, m, v, spans, Hyper::default(), t, clip, after)
    }
    fn values(&self) -> [Vec<f64>; 3] {
        [&self.weights, &self.m, &self.v].map(|t| t.to_f64().unwrap())
    }
}

/// One that is followed by some elements of nobody, an empty one, and one up to the end.
fn three_spans(n: usize) -> [Span; 3] {
    let first = if n < 24 { 0 } else { n / 3 };
    let (second, third) = (first.next_multiple_of(8), n / 2 / 8 * 8);
    [
        Span { range: 0..first, rate: 1e-2, decay: 0.1 },
        Span { range: second..second, rate: 9.0, decay: 0.0 },
        Span { range: third.max(second)..n, rate: 3e-3, decay: 0.0 },
    ]
}

fn steps(device: &Device, dtype: DType, n: usize, count: u64, clip: f64) -> State {
    let mut state = State::new(device, dtype, &random(1, n));
    for t in 1..=count {
        let grad = random(1 + t, n);
        let norm = state.step(&grad, &three_spans(n), t, clip).unwrap().read().unwrap();
        assert_close("norm", &[norm], &[norm_of(&grad)], if dtype == DType::F64 { 1e-12 } else { 1e-6 });
    }
    state
}

/// Below the norm of every gradient, and above.
const CLIPS: [f64; 2] = [0.25, 1e6];

#[test]
fn adamw_is_the_formula() {
    for n in [1, 7, (1 << 14) - 1, 1 << 14, 50_001] {
        for clip in CLIPS {
            let grads: Vec<Vec<f64>> = (2..=4).map(|seed| random(seed, n)).collect();
            let [want, m, v] = plain(&random(1, n), &grads, &three_spans(n), Hyper::default(), clip);
            let wide = steps(&poisoned(2), DType::F64, n, 3, clip).values();
            for (got, want) in wide.iter().zip([&want, &m, &v]) {
                assert_close("adamw", got, want, 1e-12);
            }
            let [narrow, ..] = steps(&poisoned(1), DType::F32, n, 3, clip).values();
            // In three steps a value is rounded six times to 2^-24; moves of 1e-2 add less than one more.
            assert_close("adamw f32", &narrow, &want, 7.0 * 0.5f64.powi(24));
            let [threads, ..] = steps(&poisoned(2), DType::F32, n, 3, clip).values();
            assert_same_bits("adamw threads", &threads, &narrow);
        }
    }
}

#[test]
fn on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    for n in [1, 7, 1000, 40_000] {
        for clip in CLIPS {
            let grads: Vec<Vec<f64>> = (2..=11).map(|seed| random(seed, n)).collect();
            let exact = plain(&random(1, n), &grads, &three_spans(n), Hyper::default(), clip);
            let narrow: Vec<Vec<f32>> = grads.iter().map(|g| g.iter().map(|&g| g as f32).collect()).collect();
            let start: Vec<f32> = random(1, n).iter().map(|&x| x as f32).collect();
            let naive = plain(&start, &narrow, &three_spans(n), Hyper::default(), clip);
            reorder(0);
            let state = steps(&device, DType::F32, n, 10, clip);
            for (i, what) in ["weights", "m", "v"].into_iter().enumerate() {
                let naive: Vec<f64> = naive[i].iter().map(|&x| f64::from(x)).collect();
                within(what, &state.values()[i], &naive, &exact[i]);
            }
            check_copy(&state, &three_spans(n));
            reorder(1);
            let again = steps(&device, DType::F32, n, 10, clip);
            for (a, b) in again.values().iter().zip(state.values()) {
                assert_same_bits("adamw under another order of warps", a, &b);
            }
        }
    }
}

/// The copy is the weights in bf16 where a span is, and untouched elsewhere.
fn check_copy(state: &State, spans: &[Span]) {
    let [weights, ..] = state.values();
    let mut want = vec![0.0; weights.len()];
    for i in spans.iter().flat_map(|s| s.range.clone()) {
        want[i] = f64::from(bf16::from_f32(weights[i] as f32));
    }
    assert_same_bits("copy", &state.copy.as_ref().unwrap().to_f64().unwrap(), &want);
}

fn a_bad_gradient_changes_nothing(device: &Device, dtype: DType) {
    for (n, at) in [(1, 0), (1000, 999), (40_000, 17_000)] {
        let mut state = steps(device, dtype, n, 1, 1.0);
        let (before, copy) = (state.values(), state.copy.as_ref().map(|c| c.to_f64().unwrap()));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut grad = random(3, n);
            grad[at] = bad;
            let norm = state.step(&grad, &three_spans(n), 2, 1.0).unwrap();
            // A good one after it, and one more after that, change nothing either.
            let next = state.step_after(Some(&norm), &random(4, n), &three_spans(n), 3, 1.0).unwrap();
            state.step_after(Some(&next), &random(5, n), &three_spans(n), 4, 1.0).unwrap();
            let (norm, next) = (norm.read().unwrap(), next.read().unwrap());
            assert!(!norm.is_finite() && next.is_finite(), "{norm}, {next}");
            assert_eq!(state.values(), before);
            assert_eq!(state.copy.as_ref().map(|c| c.to_f64().unwrap()), copy);
        }
        let large = vec![3e38; n];
        let first = state.step(&random(6, n), &three_spans(n), 2, 1.0).unwrap();
        let changed = state.values();
        let norm = state.step_after(Some(&first), &large, &three_spans(n), 3, 1.0).unwrap().read().unwrap();
        assert!(state.values() != changed && changed != before, "a good one after a good one");
        assert_close("no overflow", &[norm / 3e38 / (n as f64).sqrt()], &[1.0], 1e-6);
        assert!(state.values() != before && state.values().iter().flatten().all(|x| x.is_finite()));
    }
}

#[test]
fn a_bad_gradient_changes_nothing_on_the_cpu() {
    a_bad_gradient_changes_nothing(&poisoned(2), DType::F32);
}

#[test]
fn a_bad_gradient_changes_nothing_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    a_bad_gradient_changes_nothing(&device, DType::F32);
    find_the_first(&device);
}

#[test]
fn a_span_that_starts_anywhere_is_refused_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let mut state = State::new(&device, DType::F32, &[0.0; 32]);
    let spans = [Span { range: 4..32, rate: 1.0, decay: 0.0 }];
    let error = state.step(&[1.0; 32], &spans, 1, 1.0).unwrap_err();
    assert!(error.code() == "E-KERNEL" && error.to_string().contains("starts at element 4"), "{error}");
}

/// As many partial sums as 16 million parameters have, and a slack that shows.
#[test]
fn norm_of_many_blocks_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let Device::Cuda(cuda) = &device else { panic!("a GPU") };
    let sums: Vec<f64> = random(5, 1000).iter().map(|x| x * x).collect();
    let partials = tensor(&device, DType::F64, &[1000], &sums);
    let mut got = device.zeros("test", DType::F64, &[2]).unwrap();
    let (norm, clip, slack) = (sums.iter().sum::<f64>().sqrt(), 0.25f64, 20.0f64);
    let launch = cuda.kernel("gradient_norm").input(&partials).maybe(None).output(&mut got);
    launch.value(1000i32).value(clip).value(slack).launch([1, 1, 1], 256, 0).unwrap();
    assert_close("norm and scale", &got.to_f64().unwrap(), &[norm, clip / (norm + slack)], 1e-12);
}

/// Some of a model's 194 million: the counts a parameter do not depend on their number.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let n = 1_000_001;
    let mut state = State::new(&device, DType::F32, &vec![0.0; n]);
    let (grad, spans) = (random(2, n), [Span { range: 0..n, rate: 1e-3, decay: 0.0 }]);
    let counted = counted(|| state.step(&grad, &spans, 1, 1.0).map(drop).unwrap());
    // The clip factor is 8 bytes for a thread's four elements.
    gate(&counted, "adamw", 30 * n, 30 * n + 8 * n / 4);
    for norm in counted.iter().filter(|c| c.kernel == "gradient_norm_partials") {
        // It stores 8 bytes of a sector for 65,536 that it reads: no gate for these.
        assert!(norm.load_efficiency() >= 0.95 && norm.distinct_bytes() <= 1.01 * 4.0 * n as f64, "{norm:?}");
    }
}

#[test]
fn adamw_refuses_what_does_not_fit() {
    let device = poisoned(1);
    let mut state = State::new(&device, DType::F32, &[0.0; 4]);
    let span = |range| [Span { range, rate: 1.0, decay: 0.0 }];
    assert!(state.step(&[0.0; 4], &span(2..5), 1, 1.0).is_err());
    assert!(state.step(&[0.0; 3], &span(0..1), 1, 1.0).is_err());
    let held = state.weights.clone();
    assert!(state.step(&[0.0; 4], &span(0..4), 1, 1.0).is_err());
    drop(held);
    let mut no_copy = tensor(&device, DType::F32, &[4], &[0.0; 4]);
    let State { weights, m, v, .. } = &mut state;
    let grad = tensor(&device, DType::F32, &[4], &[0.0; 4]);
    let attempt = update(weights, Some(&mut no_copy), &grad, m, v, &span(0..4), Hyper::default(), 1, 1.0, None);
    assert!(attempt.is_err(), "a copy that is not bf16");
    assert!(state.step(&[0.0; 4], &span(0..4), 1, 1.0).is_ok());
}

#[test]
fn the_norm_is_exact_and_has_one_order() {
    for n in [0, 1, 511, 512, 513, 40_000] {
        let values = random(3, n);
        let norm = |threads: usize, dtype: DType| {
            let mut state = State::new(&poisoned(threads), dtype, &vec![0.0; n]);
            state.step(&values, &[], 1, 1.0).unwrap().read().unwrap()
        };
        assert_close("norm", &[norm(2, DType::F64)], &[norm_of(&values)], 1e-12);
        assert_close("norm f32", &[norm(2, DType::F32)], &[norm_of(&values)], 1e-12);
        assert_same_bits("norm", &[norm(2, DType::F32)], &[norm(1, DType::F32)]);
    }
}

fn find_the_first(device: &Device) {
    let names = [("a", 0..2), ("b", 2..2), ("c", 2..40), ("d", 40..90)];
    let find = |values: &[f64]| first_non_finite(&tensor(device, DType::F32, &[90], values), &names).unwrap();
    assert_eq!(find(&[3e38; 90]), None);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut values = vec![3e38; 90];
        (values[39], values[80]) = (bad, bad);
        assert_eq!(find(&values), Some("c"));
    }
}

#[test]
fn the_first_bad_parameter_is_named() {
    find_the_first(&poisoned(2));
}

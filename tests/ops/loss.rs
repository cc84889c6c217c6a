use crate::gpu::*;
use crate::support::*;
use docre::device::Device;
use docre::dtype::DType;
use docre::error::Result;
use docre::layout::Labels;
use docre::ops::loss::{Distillation, Objective, TeacherLogits, loss, predict};
use docre::tape::Tape;
use docre::tensor::Tensor;

const OBJECTIVES: [Objective; 6] = [
    Objective::AdaptiveFocal { gamma: 1.0, released: true },
    Objective::AdaptiveFocal { gamma: 1.0, released: false },
    Objective::AdaptiveFocal { gamma: 2.5, released: true },
    Objective::AdaptiveThreshold,
    Objective::BalancedSoftmax,
    Objective::Atgl { alpha: 2.0 },
];

/// Cells with 0, 1, 2, 3 and all relations; every seventh, of each of these kinds, is left out.
fn labels(cells: usize, classes: usize) -> Labels {
    let mut labels = Labels::new(cells, classes);
    for cell in 0..cells {
        (1..classes).filter(|_| cell % 5 == 4).for_each(|r| labels.set(cell, r));
        (0..cell % 5 % 4)
            .filter(|_| classes > 1)
            .for_each(|i| labels.set(cell, 1 + (cell * 7 + i * 41) % (classes - 1)));
    }
    (3..cells).step_by(7).for_each(|cell| labels.leave_out(cell));
    labels
}

fn logsumexp<T: Plain>(l: &[T], of: &dyn Fn(usize) -> bool) -> T {
    let some: Vec<T> = (0..l.len()).filter(|&r| of(r)).map(|r| l[r]).collect();
    let top = some.iter().fold(T::NEG_INFINITY, |a, &b| a.max(b));
    top + some.iter().fold(T::ZERO, |a, &x| a + (x - top).std_exp()).std_ln()
}

/// The formulas of spec §5, class by class.
fn cell<T: Plain>(l: &[T], gold: &dyn Fn(usize) -> bool, objective: Objective) -> T {
    let threshold = logsumexp(l, &|r| !gold(r)) - l[0];
    let gold_sum = |f: &dyn Fn(T) -> T| (1..l.len()).filter(|&r| gold(r)).fold(T::ZERO, |a, r| a + f(l[r]));
    match objective {
        Objective::AdaptiveFocal { gamma, released } => {
            threshold
                + gold_sum(&|x| {
                    let p = T::ONE / (T::ONE + (l[0] - x).std_exp());
                    let power = (T::of(gamma) * (T::ONE - p).std_ln()).std_exp();
                    -(T::of(f64::from(u8::from(released))) + power) * p.std_ln()
                })
        }
        Objective::AdaptiveThreshold => threshold + gold_sum(&|x| logsumexp(l, &|r| r == 0 || gold(r)) - x),
        Objective::BalancedSoftmax => threshold + (T::ONE + gold_sum(&|x| (l[0] - x).std_exp())).std_ln(),
        Objective::Atgl { alpha } => {
            let all = logsumexp(l, &|_| true);
            all - l[0] + gold_sum(&|x| T::of(alpha) * (all - x))
        }
    }
}

fn distilled<T: Plain>(l: &[T], t: &[T], kind: Distillation) -> T {
    let (log_l, log_t) = (logsumexp(l, &|_| true), logsumexp(t, &|_| true));
    let term = |r: usize| match kind {
        Distillation::Mse => (l[r] - t[r]) * (l[r] - t[r]) / T::of(l.len() as f64),
        Distillation::Kl => (t[r] - log_t).std_exp() * (t[r] - log_t - l[r] + log_l),
    };
    (0..l.len()).fold(T::ZERO, |a, r| a + term(r))
}

struct Case {
    cells: usize,
    classes: usize,
    objective: Objective,
    teacher: Option<(Vec<f64>, f64, Distillation)>,
}

impl Case {
    fn plain<T: Plain>(&self, v: &[Vec<T>]) -> Vec<T> {
        let labels = labels(self.cells, self.classes);
        let rows = v[0].chunks(self.classes).enumerate().filter(|(i, _)| i % 7 != 3);
        let total = rows.fold(T::ZERO, |sum, (i, l)| {
            let extra = self.teacher.as_ref().map_or(T::ZERO, |(t, weight, kind)| {
                let t: Vec<T> = t[i * self.classes..][..self.classes].iter().map(|&x| T::of(x)).collect();
                T::of(*weight) * distilled(l, &t, *kind)
            });
            sum + cell(l, &|r| labels.get(i, r), self.objective) + extra
        });
        vec![total / T::of(self.denominator() as f64)]
    }
    /// Not the number of rows: a part of a split batch.
    fn denominator(&self) -> usize {
        self.cells + 3
    }
    fn logits(&self) -> Input {
        let mut x = activation("logits", &[self.cells, self.classes]);
        x.values.iter_mut().for_each(|x| *x *= 2.0);
        wide(x)
    }
    fn run(&self, tape: &mut Tape, logits: &Tensor) -> Result<Tensor> {
        let labels = labels(self.cells, self.classes);
        let teacher = self.teacher.as_ref().map(|(values, weight, kind)| TeacherLogits {
            logits: tensor(logits.device(), logits.dtype(), logits.shape(), values),
            weight: *weight,
            kind: *kind,
        });
        let got = loss(tape, logits, &labels, self.objective, teacher.as_ref(), self.denominator())?.read()?;
        let total = got.objective + teacher.map_or(0.0, |t| t.weight) * got.distillation;
        Tensor::from_vec(logits.device(), "test", &[1], vec![total])
    }
    fn check(&self) {
        check(&[self.logits()], &|tape, t| self.run(tape, &t[0]), &|v| self.plain::<f64>(v), &|v| self.plain::<f32>(v));
    }
    fn check_on_the_gpu(&self, logits: Input) {
        let op = |tape: &mut Tape, t: &[Tensor]| self.run(tape, &t[0]);
        let inputs = [logits];
        on_gpu(&inputs, &op);
        let Some((device, _turn)) = gpu() else { return };
        let exact = run(&poisoned(1), DType::F64, &inputs, &op, 0.0);
        let got = run(&device, DType::BF16, &inputs, &op, 0.0);
        for (i, (got, exact)) in got.grads[0].iter().zip(&exact.grads[0]).enumerate() {
            // Each by itself: one rounding to bf16; some roundings of sums of up to ten times 1, in f32.
            let bound = exact.abs() * 0.5f64.powi(8) + 1e-6 / self.denominator() as f64;
            assert!((got - exact).abs() <= bound, "{:?} dlogits[{i}]: {got}, not {exact}", self.objective);
        }
    }
}

#[test]
fn five_checks() {
    for objective in OBJECTIVES {
        for (cells, classes) in [(0, 5), (1, 1), (1, 2), (7, 2), (63, 5), (64, 64), (65, 65), (42, 97)] {
            Case { cells, classes, objective, teacher: None }.check();
        }
    }
}

#[test]
fn five_checks_with_a_teacher() {
    for kind in [Distillation::Mse, Distillation::Kl] {
        for (cells, classes) in [(1, 2), (7, 33), (66, 97)] {
            let teacher = Some((random(5, cells * classes), 0.75, kind));
            Case { cells, classes, objective: OBJECTIVES[0], teacher }.check();
        }
    }
}

#[test]
fn an_all_zero_cell_costs_ln_r_and_extreme_logits_stay_finite() {
    let device = poisoned(2);
    for objective in OBJECTIVES {
        let zero = tensor(&device, DType::F32, &[1, 97], &[0.0; 97]);
        let got = loss(&mut Tape::inference(), &zero, &Labels::new(1, 97), objective, None, 1).unwrap();
        let got = got.read().unwrap();
        assert!((got.objective - 97f64.ln()).abs() <= 1e-6, "{objective:?}: {got:?}");
        for sign in [1.0, -1.0] {
            let far = Input { values: vec![0.0, 3e4 * sign, -3e4 * sign], ..activation("logits", &[1, 3]) };
            let mut labels = Labels::new(1, 3);
            labels.set(0, 1);
            let got = run(
                &device,
                DType::F32,
                &[far],
                &|tape, t| {
                    let got = loss(tape, &t[0], &labels, objective, None, 1)?.read()?;
                    Tensor::from_vec(t[0].device(), "test", &[1], vec![got.objective])
                },
                0.0,
            );
            assert!(got.value[0].is_finite() && got.grads[0].iter().all(|g| g.is_finite()), "{objective:?}: {got:?}");
        }
    }
}

#[test]
fn on_the_gpu() {
    for objective in OBJECTIVES {
        for (cells, classes) in [0, 1, 7, 65].into_iter().flat_map(|cells| [5, 19, 97, 130].map(|r| (cells, r))) {
            let case = Case { cells, classes, objective, teacher: None };
            case.check_on_the_gpu(case.logits());
        }
        let case = Case { cells: 7, classes: 19, objective, teacher: None };
        let mut far = case.logits();
        far.values.iter_mut().for_each(|x| *x = if *x > 1.5 { 200.0 } else { (-200f64).max(*x * 100.0) });
        case.check_on_the_gpu(far);
    }
    for kind in [Distillation::Mse, Distillation::Kl] {
        for (cells, classes) in [(0, 19), (1, 1), (7, 5), (65, 97), (9, 1024)] {
            let teacher = Some((random(5, cells * classes), 0.75, kind));
            let case = Case { cells, classes, objective: OBJECTIVES[0], teacher };
            case.check_on_the_gpu(case.logits());
        }
    }
    // More partial sums than one block adds up at a time.
    let case = Case { cells: 4200, classes: 5, objective: OBJECTIVES[0], teacher: None };
    case.check_on_the_gpu(case.logits());
    let case = Case { cells: 1, classes: 30_000, objective: OBJECTIVES[0], teacher: None };
    refused_on_gpu(&[case.logits()], &|tape, t| case.run(tape, &t[0]), "30000 classes");
}

/// Four mean documents.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let (cells, classes) = (4 * 406, 97);
    for teachers in [0, 1] {
        let teacher = (teachers == 1).then(|| (random(5, cells * classes), 0.75, Distillation::Mse));
        let case = Case { cells, classes, objective: OBJECTIVES[0], teacher };
        let logits = tensor(&device, DType::F32, &[cells, classes], &case.logits().values);
        let counted = counted(|| drop(case.run(&mut Tape::training(1, 1), &logits).unwrap()));
        let a_cell = classes * (4 + 4 * teachers + 2) + 16;
        let sums = 16 * cells.div_ceil(16);
        gate(&counted, "loss_cells", cells * a_cell + sums, cells * a_cell + sums);
    }
}

/// The gradient of a cell whose loss is not finite is NaN, that of the others as without it.
fn a_bad_cell_has_a_bad_gradient(device: &Device, dtype: DType) {
    for objective in OBJECTIVES {
        let grads = |bad: f64| {
            let case = Case { cells: 40, classes: 19, objective, teacher: None };
            let mut x = case.logits();
            x.values[21 * 19 + 3] += bad;
            run(device, dtype, &[x], &|tape, t| case.run(tape, &t[0]), 0.0).grads.remove(0)
        };
        let good = grads(0.0);
        for bad in [f64::NAN, f64::INFINITY] {
            for (i, (got, good)) in grads(bad).iter().zip(&good).enumerate() {
                assert!(if i / 19 == 21 { got.is_nan() } else { got == good }, "{objective:?} {i}: {got} {good}");
            }
        }
    }
}

#[test]
fn a_bad_cell_has_a_bad_gradient_on_the_cpu() {
    a_bad_cell_has_a_bad_gradient(&poisoned(2), DType::F32);
}

#[test]
fn a_bad_cell_has_a_bad_gradient_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    a_bad_cell_has_a_bad_gradient(&device, DType::BF16);
}

/// No loss and a gradient of 0, whatever the cells' logits; nothing else changes.
fn left_out_cells_count_for_nothing(device: &Device, dtype: DType) {
    let (cells, classes) = (40, 19);
    for (objective, kind) in OBJECTIVES.into_iter().zip([Distillation::Mse, Distillation::Kl].into_iter().cycle()) {
        let outcome = |logit: f64| {
            let case = Case { cells, classes, objective, teacher: Some((random(5, cells * classes), 0.75, kind)) };
            let mut x = case.logits();
            (0..x.values.len()).filter(|i| i / classes % 7 == 3).for_each(|i| x.values[i] = logit);
            run(device, dtype, &[x], &|tape, t| case.run(tape, &t[0]), 0.0)
        };
        let plain = outcome(1.0);
        let mut of_left_out = plain.grads[0].chunks(classes).skip(3).step_by(7).flatten();
        assert!(of_left_out.all(|&g| g == 0.0), "{objective:?}");
        for logit in [f64::NAN, f64::INFINITY, -3e4] {
            let got = outcome(logit);
            assert!(got.value == plain.value && got.grads == plain.grads, "{objective:?} {logit}: {got:?}");
        }
    }
}

#[test]
fn left_out_cells_count_for_nothing_on_the_cpu() {
    left_out_cells_count_for_nothing(&poisoned(2), DType::F32);
}

#[test]
fn left_out_cells_count_for_nothing_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    left_out_cells_count_for_nothing(&device, DType::BF16);
}

#[test]
fn prediction() {
    let device = poisoned(1);
    let logits = tensor(
        &device,
        DType::F32,
        &[4, 5],
        &[
            0.0, 1.0, 3.0, 2.0, 4.0, // all above TH
            2.0, 2.0, 1.0, 0.0, 2.5, // a tie with TH is not above it
            0.0, 0.0, 0.0, 0.0, 0.0, // NA
            0.0, 1.0, 1.0, 1.0, 1.0, // ties: lower classes first
        ],
    );
    let classes = |k: usize| -> Vec<Vec<u32>> {
        predict(&logits, k).unwrap().iter().map(|row| row.iter().map(|&(class, _)| class).collect()).collect()
    };
    assert_eq!(classes(2), [vec![4, 2], vec![4], vec![], vec![1, 2]]);
    assert_eq!(classes(usize::MAX), [vec![4, 2, 3, 1], vec![4], vec![], vec![1, 2, 3, 4]]);
    assert_eq!(predict(&logits, 1).unwrap()[1], [(4, 0.5)]);
}

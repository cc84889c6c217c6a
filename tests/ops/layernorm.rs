use crate::support::*;
use docre::dtype::DType;
use docre::ops::layernorm::layernorm;
use docre::rng::Dropout;

const EPS: f64 = 1e-5;

fn plain<T: Plain>(v: &[Vec<T>], dim: usize, branch: bool, drop: Dropout) -> Vec<T> {
    let (w, b) = (&v[v.len() - 2], &v[v.len() - 1]);
    let n = T::of(dim as f64);
    let mut y = Vec::new();
    for (i, x) in v[0].chunks(dim).enumerate() {
        let term = |j: usize| if branch { v[1][i * dim + j] * T::of(factor(drop, i * dim + j)) } else { T::ZERO };
        let s: Vec<T> = (0..dim).map(|j| x[j] + term(j)).collect();
        let mean = s.iter().fold(T::ZERO, |a, &x| a + x) / n;
        let var = s.iter().fold(T::ZERO, |a, &x| a + (x - mean) * (x - mean)) / n;
        let r = T::ONE / (var + T::of(EPS)).sqrt();
        y.extend((0..dim).map(|j| (s[j] - mean) * r * w[j] + b[j]));
    }
    y
}

fn factor(drop: Dropout, element: usize) -> f64 {
    if drop.is_off() { 1.0 } else { mask(drop, element) }
}

fn inputs(rows: usize, dim: usize, branch: bool) -> Vec<Input> {
    let mut inputs = vec![activation("x", &[rows, dim])];
    inputs.extend(branch.then(|| activation("branch", &[rows, dim])));
    inputs.extend([parameter("weight", &[dim]), parameter("bias", &[dim])]);
    inputs
}

fn case(rows: usize, dim: usize, branch: bool, p: f64) {
    let (drop, inputs, k) = (dropout_of(p), inputs(rows, dim, branch), 1 + usize::from(branch));
    check(
        &inputs,
        &|tape, t| layernorm(tape, &t[0], branch.then(|| &t[1]), &t[k], &t[k + 1], EPS, drop),
        &|v| plain::<f64>(v, dim, branch, drop),
        &|v| plain::<f32>(v, dim, branch, drop),
    );
}

#[test]
fn five_checks() {
    for (rows, dim) in [(0, 8), (1, 7), (7, 31), (63, 32), (64, 33), (65, 96), (22, 768)] {
        case(rows, dim, false, 0.0);
        case(rows, dim, true, 0.0);
        case(rows, dim, true, 0.1);
    }
}

#[test]
fn a_row_has_the_same_bits_alone() {
    let inputs = [activation("x", &[300, 96]), parameter("weight", &[96]), parameter("bias", &[96])];
    let op: Op = &|tape, t| layernorm(tape, &t[0], None, &t[1], &t[2], EPS, dropout_of(0.0));
    check_rows_alone(&inputs, &[0], op, &[0, 1, 169, 170, 299]);
}

/// A large mean: one-pass statistics would lose all digits here.
#[test]
fn statistics_survive_a_large_mean() {
    let mut inputs = [activation("x", &[3, 64]), parameter("weight", &[64]), parameter("bias", &[64])];
    inputs[0].values.iter_mut().for_each(|x| *x = f64::from((*x + 4096.0) as f32));
    let drop = dropout_of(0.0);
    let op: Op = &|tape, t| layernorm(tape, &t[0], None, &t[1], &t[2], EPS, drop);
    let got = value(&poisoned(2), docre::dtype::DType::F32, &inputs, op);
    let exact: Vec<Vec<f64>> = inputs.iter().map(|i| i.values.clone()).collect();
    // The mean itself is rounded to 2^-24 of 4096.
    assert_close("layernorm", &got, &plain::<f64>(&exact, 64, false, drop), 2e-3);
}

fn on_the_gpu_case(rows: usize, dim: usize, branch: bool, p: f64) {
    let (drop, k) = (dropout_of(p), 1 + usize::from(branch));
    // An eps that shows.
    let op: Op = &|tape, t| layernorm(tape, &t[0], branch.then(|| &t[1]), &t[k], &t[k + 1], 0.1, drop);
    on_gpu(&inputs(rows, dim, branch), op);
}

/// Dims of one to four packs a lane, whole and not; more rows than the blocks of backward take at once.
#[test]
fn on_the_gpu() {
    let mut rows = [1, 63, 7, 64, 65].into_iter().cycle();
    for dim in [8, 32, 96, 256, 264, 384, 512, 768, 1024] {
        for (branch, p) in [(false, 0.0), (true, 0.0), (true, 0.1)] {
            on_the_gpu_case(rows.next().unwrap(), dim, branch, p);
        }
    }
    on_the_gpu_case(0, 32, true, 0.1);
    on_the_gpu_case(2400, 8, true, 0.1);
}

/// The mean is far above the spread: most values are 1000, some a step of bf16 beside it.
#[test]
fn a_large_mean_on_the_gpu() {
    let mut inputs = inputs(7, 96, false);
    inputs[0].values.iter_mut().for_each(|x| *x += 1000.0);
    on_gpu(&inputs, &|tape, t| layernorm(tape, &t[0], None, &t[1], &t[2], EPS, dropout_of(0.0)));
}

#[test]
fn dims_that_no_kernel_takes_are_refused_on_the_gpu() {
    for dim in [12, 1032] {
        let op: Op = &|tape, t| layernorm(tape, &t[0], None, &t[1], &t[2], EPS, dropout_of(0.0));
        refused_on_gpu(&inputs(2, dim, false), op, &format!("layernorm on the GPU: dim {dim}"));
    }
}

/// A mean document in BERT-base.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let (rows, dim) = (290, 768);
    let op: Op = &|tape, t| layernorm(tape, &t[0], Some(&t[1]), &t[2], &t[3], EPS, dropout_of(0.1));
    let counted = counted(|| drop(run(&device, DType::BF16, &inputs(rows, dim, true), op, 0.0)));
    let row = 2 * dim;
    // x, branch; y, s and the statistics. Weight and bias again for each row, 3 KB that stay in L1.
    let own = rows * (4 * row + 8);
    gate(&counted, "layernorm_forward_768", own + 2 * row, own + rows * 2 * row);
    // dy, s and the statistics, which all lanes read; dx, dbranch and the partial sums of 16 rows.
    let (parts, warps) = (rows.div_ceil(16), 8 * rows.div_ceil(16));
    let sums = parts * 2 * 4 * dim;
    gate(&counted, "layernorm_backward_768", own + row + sums, own + rows * 8 * 31 + warps * row + sums);
    let gradients = 2 * 2 * 4 * dim;
    gate(&counted, "layernorm_parameters", sums + gradients, sums + gradients);
}

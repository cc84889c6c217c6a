use crate::support::*;
use docre::dtype::DType;
use docre::ops::gelu::gelu;

fn plain<T: Plain>(v: &[Vec<T>]) -> Vec<T> {
    let half = T::of(0.5);
    v[0].iter().map(|&x| half * x * (T::ONE + (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).std_erf())).collect()
}

#[test]
fn five_checks() {
    for shape in [[1, 1], [7, 3], [1, 4095], [2, 2048], [1, 4097], [0, 8]] {
        let mut x = activation("x", &shape);
        x.values.iter_mut().for_each(|x| *x *= 3.0);
        x.values.iter_mut().for_each(|x| *x = f64::from(*x as f32));
        check(&[x], &|tape, t| gelu(tape, &t[0]), &|v| plain::<f64>(v), &|v| plain::<f32>(v));
    }
}

/// Counts around a pack, a block of packs, and a row of the encoder's feed-forward.
#[test]
fn on_the_gpu() {
    for shape in [[0, 8], [1, 1], [7, 1], [1, 8], [3, 3], [1, 2047], [1, 2048], [1, 2049], [7, 3072]] {
        let mut x = activation("x", &shape);
        x.values.iter_mut().for_each(|x| *x = f64::from((*x * 3.0) as f32));
        on_gpu(&[x], &|tape, t| gelu(tape, &t[0]));
    }
}

/// The feed-forward of a mean document in BERT-base.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let x = activation("x", &[290, 3072]);
    let n = x.values.len();
    let counted = counted(|| drop(run(&device, DType::BF16, &[x], &|tape, t| gelu(tape, &t[0]), 0.0)));
    gate(&counted, "gelu_forward", 4 * n, 4 * n);
    gate(&counted, "gelu_backward", 6 * n, 6 * n);
}

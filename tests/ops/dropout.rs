use crate::support::*;
use docre::dtype::DType;
use docre::ops::dropout::dropout;
use docre::rng::Dropout;
use docre::tape::Tape;

fn plain<T: Plain>(v: &[Vec<T>], drop: Dropout) -> Vec<T> {
    v[0].iter().enumerate().map(|(i, &x)| x * T::of(mask(drop, i))).collect()
}

#[test]
fn five_checks() {
    for (p, n) in [(0.1, 1), (0.1, 7), (0.5, 63), (0.1, 4095), (0.1, 4096), (0.1, 4161), (0.1, 0)] {
        let drop = dropout_of(p);
        let inputs = [activation("x", &[n])];
        check(&inputs, &|tape, t| dropout(tape, &t[0], drop), &|v| plain::<f64>(v, drop), &|v| plain::<f32>(v, drop));
    }
}

#[test]
fn off_is_the_same_tensor() {
    let x = tensor(&poisoned(1), docre::dtype::DType::F32, &[4], &random(1, 4));
    let mut tape = Tape::training(1, 1);
    let drop = tape.dropout(0.0);
    assert_eq!(dropout(&mut tape, &x, drop).unwrap().id(), x.id());
}

/// Counts around a group of Philox, a pack, a block of packs; everything dropped.
#[test]
fn on_the_gpu() {
    for (p, n) in [(0.1, 0), (0.5, 1), (0.1, 7), (0.1, 8), (0.5, 63), (0.1, 2047), (0.1, 2048), (0.9, 5001), (1.0, 64)]
    {
        on_gpu(&[activation("x", &[n])], &|tape, t| dropout(tape, &t[0], dropout_of(p)));
    }
}

/// A mean document in BERT-base, forward and backward.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let x = activation("x", &[290, 768]);
    let n = x.values.len();
    let op: Op = &|tape, t| dropout(tape, &t[0], dropout_of(0.1));
    let counted = counted(|| drop(run(&device, DType::BF16, &[x], op, 0.0)));
    gate(&counted, "dropout_masked", 4 * n, 4 * n);
}

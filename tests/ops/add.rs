use crate::support::*;
use docre::dtype::DType;
use docre::ops::add;
use docre::ops::gelu::gelu;
use docre::ops::linear::linear;

#[test]
fn accumulate_and_sum() {
    for n in [0, 1, 7, (1 << 14) - 1, 1 << 14, (1 << 14) + 1] {
        let device = poisoned(2);
        let (a, b) = (random(1, n), random(2, n));
        let want: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        let (ta, tb) = (tensor(&device, DType::F64, &[n], &a), tensor(&device, DType::F64, &[n], &b));
        assert_same_bits("sum", &add::sum(&ta, &tb).unwrap().to_f64().unwrap(), &want);
        let mut into = ta;
        add::accumulate(&mut into, &tb).unwrap();
        assert_same_bits("accumulate", &into.to_f64().unwrap(), &want);
    }
}

/// The op's reason to be: a value with three uses, one of them under another shape.
#[test]
fn uses_of_one_value_add_up() {
    let inputs = [activation("x", &[4, 6]), parameter("w", &[6, 6])];
    let op: Op = &|tape, t| {
        let a = gelu(tape, &t[0])?;
        let b = linear(tape, &a, &t[1], None, Some(&a))?;
        let c = gelu(tape, &a.reshape(&[24])?)?;
        linear(tape, &b, &t[1], None, Some(&c.reshape(&[4, 6])?))
    };
    let device = poisoned(2);
    let got = run(&device, DType::F64, &inputs, op, 1.0);
    check_gradients(&device, &inputs, op, &got.grads);
}

#[test]
fn on_the_gpu() {
    for n in [0, 1, 7, 8, 9, 2047, 2048, 2049] {
        let inputs = [activation("a", &[n]), activation("b", &[n])];
        on_gpu(&inputs, &|tape, t| add::add(tape, &t[0], &t[1]));
        on_gpu(&inputs.map(wide), &|tape, t| add::add(tape, &t[0], &t[1]));
    }
}

#[test]
fn accumulate_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    for (n, dtype) in [1, 9, 2049].into_iter().flat_map(|n| [(n, DType::BF16), (n, DType::F32)]) {
        let [mut into, other] = [1, 2].map(|seed| tensor(&device, dtype, &[n], &random(seed, n)));
        let sum = add::sum(&into, &other).unwrap().to_f64().unwrap();
        add::accumulate(&mut into, &other).unwrap();
        assert_same_bits("accumulate", &into.to_f64().unwrap(), &sum);
    }
}

/// A mean document in BERT-base: a sum in fresh memory, and one in place.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let n = 290 * 768;
    for (dtype, name, size) in [(DType::BF16, "add_bf16", 2), (DType::F32, "add_f32", 4)] {
        let [mut a, b] = [1, 2].map(|seed| tensor(&device, dtype, &[290, 768], &random(seed, n)));
        let counted = counted(|| {
            add::sum(&a, &b).unwrap();
            add::accumulate(&mut a, &b).unwrap();
        });
        gate(&counted, name, 3 * size * n, 3 * size * n);
    }
}

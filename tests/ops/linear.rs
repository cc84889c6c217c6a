use crate::support::*;
use docre::ops::linear::linear;

/// x, w, then b and r where they are.
fn plain<T: Plain>(v: &[Vec<T>], (k, out): (usize, usize), b: Option<usize>, r: Option<usize>) -> Vec<T> {
    let rows = v[0].len() / k;
    let mut y = vec![T::ZERO; rows * out];
    for (i, y) in y.iter_mut().enumerate() {
        let (row, col) = (i / out, i % out);
        *y = (0..k).fold(T::ZERO, |s, j| s + v[0][row * k + j] * v[1][col * k + j]);
        *y += b.map_or(T::ZERO, |b| v[b][col]);
        *y += r.map_or(T::ZERO, |r| v[r][i]);
    }
    y
}

fn case(rows: usize, k: usize, out: usize, bias: bool, residual: bool) {
    let mut inputs = vec![activation("x", &[rows, k]), parameter("w", &[out, k])];
    let b = bias.then_some(2);
    let r = residual.then_some(2 + usize::from(bias));
    inputs.extend(bias.then(|| parameter("b", &[out])));
    inputs.extend(residual.then(|| activation("r", &[rows, out])));
    check(
        &inputs,
        &|tape, t| linear(tape, &t[0], &t[1], b.map(|b| &t[b]), r.map(|r| &t[r])),
        &|v| plain::<f64>(v, (k, out), b, r),
        &|v| plain::<f32>(v, (k, out), b, r),
    );
}

#[test]
fn five_checks() {
    for (bias, residual) in [(false, false), (true, false), (true, true), (false, true)] {
        case(7, 5, 3, bias, residual);
    }
    // Register tiles are 12 or 6 rows and 32 or 16 columns, the chunk of k is 512.
    for (rows, k, out) in [(1, 1, 1), (11, 31, 31), (12, 32, 32), (13, 33, 33), (97, 96, 7), (3, 513, 17), (2, 768, 96)]
    {
        case(rows, k, out, true, true);
    }
}

#[test]
fn a_row_has_the_same_bits_alone() {
    let inputs = [activation("x", &[300, 768]), parameter("w", &[97, 768]), parameter("b", &[97])];
    check_rows_alone(
        &inputs,
        &[0],
        &|tape, t| linear(tape, &t[0], &t[1], Some(&t[2]), None),
        &[0, 11, 12, 95, 96, 299],
    );
}

#[test]
fn no_rows() {
    case(0, 8, 4, true, true);
}

#[test]
fn shapes_are_checked() {
    let device = poisoned(1);
    let t = |shape: &[usize]| tensor(&device, docre::dtype::DType::F32, shape, &random(1, shape.iter().product()));
    let mut tape = docre::tape::Tape::inference();
    let error = linear(&mut tape, &t(&[2, 3]), &t(&[5, 4]), None, None).unwrap_err();
    assert!(error.to_string().contains("linear"), "{error}");
    assert!(linear(&mut tape, &t(&[2, 4]), &t(&[5, 4]), Some(&t(&[4])), None).is_err());
}

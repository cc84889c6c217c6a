use crate::support::*;
use docre::ops::bilinear::bilinear;

#[derive(Clone, Copy)]
struct Size {
    cells: usize,
    e: usize,
    block: usize,
    out: usize,
}

fn plain<T: Plain>(v: &[Vec<T>], s: Size) -> Vec<T> {
    let Size { e, block: k, .. } = s;
    let mut y = Vec::new();
    for (cell, r) in (0..s.cells).flat_map(|cell| (0..s.out).map(move |r| (cell, r))) {
        let mut sum = v.get(3).map_or(T::ZERO, |b| b[r]);
        for x in 0..e * k {
            let (g, i, j) = (x / (k * k), x / k % k, x % k);
            sum += v[0][cell * e + g * k + i] * v[1][cell * e + g * k + j] * v[2][r * e * k + x];
        }
        y.push(sum);
    }
    y
}

/// Weights of about 1/sqrt(E k), so that the output is of order one.
fn inputs(s: Size, bias: bool) -> Vec<Input> {
    let mut w = parameter("w", &[s.out, s.e * s.block]);
    let scale = 0.5f64.powi(((s.e * s.block) as f64).log2() as i32 / 2); // a power of two: exact
    w.values.iter_mut().for_each(|w| *w *= scale);
    let mut inputs = vec![activation("zs", &[s.cells, s.e]), activation("zo", &[s.cells, s.e]), w];
    inputs.extend(bias.then(|| parameter("b", &[s.out])));
    inputs
}

fn case(cells: usize, e: usize, block: usize, out: usize, bias: bool) {
    let size = Size { cells, e, block, out };
    check(
        &inputs(size, bias),
        &|tape, t| bilinear(tape, &t[0], &t[1], &t[2], t.get(3), block),
        &|v| plain::<f64>(v, size),
        &|v| plain::<f32>(v, size),
    );
}

#[test]
fn five_checks() {
    case(0, 8, 8, 4, true);
    case(1, 1, 1, 1, false);
    case(7, 15, 5, 3, true);
    // Register tiles are 12 or 6 rows and 32 or 16 columns; a task of the backward pass takes 48 cells.
    for (cells, out) in [(11, 31), (12, 32), (13, 33)] {
        case(cells, 64, 32, out, false);
    }
    for cells in [47, 48, 49] {
        case(cells, 16, 8, 7, true);
    }
}

#[test]
fn five_checks_of_wide_ones() {
    case(5, 96, 32, 5, false);
    case(3, 128, 64, 97, true);
    case(1, 768, 64, 3, false);
    case(2, 64, 64, 768, false); // two chunks of the output in the backward pass
    case(513, 8, 8, 2, true); // two chunks of cells
}

#[test]
fn a_cell_has_the_same_bits_alone() {
    let inputs = inputs(Size { cells: 300, e: 64, block: 32, out: 97 }, true);
    let op: Op = &|tape, t| bilinear(tape, &t[0], &t[1], &t[2], t.get(3), 32);
    check_rows_alone(&inputs, &[0, 1], op, &[0, 11, 12, 95, 96, 299]);
    // With its gradients: cells 100..160 are one document's.
    let (cells, e, out) = (100..160, 64, 97);
    let of = |width: usize| cells.start * width..cells.end * width;
    check_alone(&inputs, op, op, cells.start * out, &[of(e), of(e), 0..inputs[2].values.len(), 0..out]);
}

#[test]
fn shapes_are_checked() {
    let t = |shape: &[usize]| tensor(&poisoned(1), docre::dtype::DType::F32, shape, &random(1, shape.iter().product()));
    let run = |zs: &[usize], zo: &[usize], w: &[usize], block| {
        bilinear(&mut docre::tape::Tape::inference(), &t(zs), &t(zo), &t(w), None, block)
    };
    assert!(run(&[2, 8], &[2, 8], &[3, 32], 4).is_ok());
    assert!(run(&[2, 8], &[1, 8], &[3, 32], 4).is_err());
    assert!(run(&[2, 8], &[2, 8], &[3, 31], 4).is_err());
    assert!(run(&[2, 8], &[2, 8], &[3, 24], 3).is_err());
    assert!(run(&[2, 8], &[2, 8], &[3, 0], 0).is_err());
}

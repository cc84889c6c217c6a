use crate::support::*;
use docre::dtype::DType;
use docre::ops::embedding::embedding;
use docre::tape::Tape;

fn plain<T: Plain>(v: &[Vec<T>], ids: &[u32], positions: &[u32], dim: usize) -> Vec<T> {
    let row = |i: usize, j: usize| v[0][ids[i] as usize * dim + j] + v[1][positions[i] as usize * dim + j] + v[2][j];
    (0..ids.len() * dim).map(|at| row(at / dim, at % dim)).collect()
}

fn case(rows: usize, dim: usize) {
    let (words, places) = (11, 300);
    let ids: Vec<u32> = (0..rows as u32).map(|i| i * i % words).collect();
    let positions: Vec<u32> = (0..rows as u32).map(|i| i % places).collect();
    let inputs = [
        parameter("word", &[words as usize, dim]),
        parameter("position", &[places as usize, dim]),
        parameter("type", &[2, dim]),
    ];
    check(
        &inputs,
        &|tape, t| embedding(tape, &ids, &positions, &t[0], &t[1], &t[2]),
        &|v| plain::<f64>(v, &ids, &positions, dim),
        &|v| plain::<f32>(v, &ids, &positions, dim),
    );
}

#[test]
fn five_checks() {
    for (rows, dim) in [(0, 4), (1, 4), (7, 5), (63, 8), (64, 8), (65, 8), (300, 96), (22, 768)] {
        case(rows, dim);
    }
}

#[test]
fn numbers_out_of_range_are_errors() {
    let device = poisoned(1);
    let t = |rows: usize| tensor(&device, DType::F32, &[rows, 2], &random(1, 2 * rows));
    let mut tape = Tape::inference();
    assert!(embedding(&mut tape, &[3], &[0], &t(3), &t(4), &t(2)).is_err());
    assert!(embedding(&mut tape, &[2], &[4], &t(3), &t(4), &t(2)).is_err());
    assert!(embedding(&mut tape, &[2], &[], &t(3), &t(4), &t(2)).is_err());
}

/// Word 0 has a fifth of the uses, so that a bucket is longer than a block has warps; positions are used once or often.
#[test]
fn on_the_gpu() {
    for (rows, dim, places) in
        [(0, 8, 3), (1, 32, 1), (7, 96, 2), (63, 384, 63), (64, 768, 30), (65, 1024, 65), (300, 40, 33)]
    {
        let words = 41;
        let ids: Vec<u32> = (0..rows as u32).map(|i| if i % 5 == 0 { 0 } else { i * i % words }).collect();
        let positions: Vec<u32> = (0..rows as u32).map(|i| i % places).collect();
        let inputs = [
            parameter("word", &[words as usize, dim]),
            parameter("position", &[places as usize, dim]),
            parameter("type", &[2, dim]),
        ];
        on_gpu(&inputs, &|tape, t| embedding(tape, &ids, &positions, &t[0], &t[1], &t[2]));
    }
}

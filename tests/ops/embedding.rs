use crate::support::*;
use docre::dtype::DType;
use docre::ops::embedding::embedding;
use docre::tape::Tape;
use std::collections::BTreeSet;

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

/// Word 0 has a fifth of the uses, so that a bucket is longer than a block has warps; positions are used once or
/// often, and every other one never.
#[test]
fn on_the_gpu() {
    for (rows, dim, places) in
        [(0, 8, 3), (1, 32, 1), (7, 96, 2), (63, 384, 63), (64, 768, 30), (65, 1024, 65), (300, 40, 33)]
    {
        let words = 41;
        let ids: Vec<u32> = (0..rows as u32).map(|i| if i % 5 == 0 { 0 } else { i * i % words }).collect();
        let positions: Vec<u32> = (0..rows as u32).map(|i| i % places * 2 + 1).collect();
        let inputs = [
            parameter("word", &[words as usize, dim]),
            parameter("position", &[2 * places as usize, dim]),
            parameter("type", &[2, dim]),
        ];
        on_gpu(&inputs, &|tape, t| embedding(tape, &ids, &positions, &t[0], &t[1], &t[2]));
    }
}

/// A mean document in BERT-base, in which two words have a quarter of the uses; of the words' table a part.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let (rows, dim, words) = (290, 768, 1000);
    let id = |i: u32| {
        if i.is_multiple_of(6) {
            7
        } else if i.is_multiple_of(11) {
            9
        } else {
            (i * i * 7 + i) % words
        }
    };
    let (ids, positions): (Vec<u32>, Vec<u32>) = (0..rows as u32).map(|i| (id(i), i)).unzip();
    let tables = [("word", words as usize), ("position", 512), ("type", 2)];
    let inputs = tables.map(|(name, n)| parameter(name, &[n, dim]));
    let op: Op = &|tape, t| embedding(tape, &ids, &positions, &t[0], &t[1], &t[2]);
    let counted = counted(|| drop(run(&device, DType::BF16, &inputs, op, 0.0)));

    let used = ids.iter().collect::<BTreeSet<_>>().len();
    let (row, gradient) = (2 * dim, 2 * 4 * dim); // read and written
    // A thread reads its two numbers for 8 columns.
    gate(&counted, "embedding_forward", row * (used + rows + 1 + rows) + 8 * rows, row * 4 * rows + 8 * rows * dim / 8);
    // A thread reads the number of its row of dy for 8 columns, and where its bucket begins and ends and whose it is.
    let lists = |buckets: usize| 4 * (rows + 2 * buckets + 1);
    let order = 4 * rows * dim / 8;
    let of_words = row * rows + gradient * used;
    gate(&counted, "embedding_backward_words", of_words + lists(used), of_words + order + 12 * used * dim);
    // Eight positions a block: a warp reads where its own begins and ends, a thread the number of each.
    let sums = rows.div_ceil(8) * 4 * dim;
    let of_positions = row * rows + gradient * rows + sums;
    let read = order + rows * (8 * dim / 8 + 4 * dim);
    gate(&counted, "embedding_backward_positions", of_positions + lists(rows), of_positions + read);
    gate(&counted, "embedding_backward_types", sums + gradient, sums + gradient);
}

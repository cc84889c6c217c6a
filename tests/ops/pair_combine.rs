use crate::gpu::*;
use crate::support::*;
use docre::dtype::DType;
use docre::layout::Grid;
use docre::ops::pair_combine::{Role, pair_combine};
use docre::tape::Tape;
use docre::tensor::Tensor;
use std::sync::Arc;

fn plain<T: Plain>(v: &[Vec<T>], entities: &[usize], pad: usize, dim: usize, role: Role) -> Vec<T> {
    let (mut first_entity, mut first_pair, mut z) = (0, 0, Vec::new());
    for &n in entities {
        let side = n + usize::from(pad > n);
        for (s, o) in (0..side * side).map(|cell| (cell / side, cell % side)) {
            let e = if role == Role::Subject { s } else { o };
            let (a, b) = (s.min(o), s.max(o));
            // Pairs before row a: n + (n - 1) + ... + (n - a + 1).
            let pair = first_pair + (0..a.min(n)).map(|i| n - i).sum::<usize>() + b - a;
            z.extend((0..dim).map(|k| {
                let inside = b < n;
                let sum = if inside { v[0][(first_entity + e) * dim + k] + v[1][pair * dim + k] } else { T::ZERO };
                (sum + v[2][k]).std_tanh()
            }));
        }
        first_entity += n;
        first_pair += n * (n + 1) / 2;
    }
    z
}

fn inputs(grid: &Grid, dim: usize) -> [Input; 3] {
    [
        activation("u", &[grid.entities.rows(), dim]),
        activation("c", &[grid.pairs.rows(), dim]),
        parameter("bias", &[dim]),
    ]
}

fn case(entities: &[usize], pad: usize, dim: usize) {
    let grid = Arc::new(Grid::new(entities, pad));
    for role in [Role::Subject, Role::Object] {
        check(
            &inputs(&grid, dim),
            &|tape, t| pair_combine(tape, &t[0], &t[1], &t[2], &grid, role),
            &|v| plain::<f64>(v, entities, pad, dim, role),
            &|v| plain::<f32>(v, entities, pad, dim, role),
        );
    }
}

#[test]
fn five_checks() {
    case(&[], 0, 4);
    case(&[1], 0, 1);
    case(&[0, 3, 0], 0, 7);
    case(&[2, 1, 7], 42, 5);
    case(&[0, 5], 5, 96);
    case(&[42], 42, 3);
    case(&[3], 0, 768);
}

#[test]
fn on_the_gpu() {
    let documents: [(&[usize], usize, usize); 9] = [
        (&[], 0, 32),
        (&[0, 1, 2], 0, 32),
        (&[2, 0, 1, 7], 42, 64),
        (&[0], 5, 384),
        (&[5, 3], 5, 384),
        (&[42], 42, 64),
        (&[42, 1], 0, 32),
        (&[42, 0, 2], 0, 384),
        (&[3, 1], 0, 1024),
    ];
    for (entities, pad, dim) in documents {
        let grid = Arc::new(Grid::new(entities, pad));
        for role in [Role::Subject, Role::Object] {
            on_gpu(&inputs(&grid, dim), &|tape, t| pair_combine(tape, &t[0], &t[1], &t[2], &grid, role));
        }
    }
    let grid = Arc::new(Grid::new(&[2], 0));
    let op = |tape: &mut Tape, t: &[Tensor]| pair_combine(tape, &t[0], &t[1], &t[2], &grid, Role::Object);
    refused_on_gpu(&inputs(&grid, 12), &op, "dim 12: a multiple of 8");
}

/// Four documents of about the mean size, E as released.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let (grid, e) = (Arc::new(Grid::new(&[19, 20, 22, 17], 0)), 1024);
    let (entities, pairs, cells) = (grid.entities.rows(), grid.pairs.rows(), grid.tables.cells.rows());
    // A line is 32 bytes for each thread that works on it, 128 for 256 columns.
    let (row, lines) = (2 * e, entities * 32 * 128 * e / 256);
    for role in [Role::Subject, Role::Object] {
        let op = |tape: &mut Tape, t: &[Tensor]| pair_combine(tape, &t[0], &t[1], &t[2], &grid, role);
        let counted = counted(|| drop(run(&device, DType::BF16, &inputs(&grid, e), &op, 0.0)));
        let made = row * (cells + pairs + entities + 1);
        gate(&counted, "pair_combine_forward", made, row * (2 * cells + 4 * 2 * entities) + lines);
        // dz and z: each cell, and those behind the diagonal again; dbias by f32 sums a line.
        let (read, written) = (2 * row * (cells + pairs - entities), row * (pairs + entities) + 2 * row * entities);
        gate(&counted, "pair_combine_backward", 2 * row * cells + written, read + written + lines);
        gate(&counted, "pair_combine_bias_gradient", 2 * row * (entities + 2), 2 * row * (entities + 2));
    }
}

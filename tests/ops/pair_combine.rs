use crate::gpu::*;
use crate::support::*;
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
    let documents: [(&[usize], usize, usize); 7] = [
        (&[], 0, 32),
        (&[0, 1, 2], 0, 32),
        (&[2, 0, 1, 7], 42, 64),
        (&[0], 5, 384),
        (&[5, 3], 5, 384),
        (&[42], 42, 64),
        (&[42, 1], 0, 32),
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

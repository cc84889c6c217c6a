use super::Role;
use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{add_column_sums, add_to, map, split_mut};
use crate::dtype::{Element, Real, narrow};
use crate::layout::Grid;
use crate::tape::Grads;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// `(d, i)` for every index `i` of every table (`padded`) or every entity of every document.
fn lines(grid: &Grid, padded: bool) -> Vec<(usize, usize)> {
    let count = |d: usize| if padded { grid.tables.side[d] } else { grid.entities.length(d) };
    (0..grid.tables.len()).flat_map(|d| (0..count(d)).map(move |i| (d, i))).collect()
}

pub fn forward<S: Element>(u: &Tensor, c: &Tensor, bias: &Tensor, grid: &Grid, role: Role, z: &mut Tensor) {
    let dim = u.dim();
    if dim == 0 {
        return;
    }
    let (u, c, bias) = (u.slice::<S>(), c.slice::<S>(), bias.slice::<S>());
    let lines = lines(grid, true);
    let pieces = split_mut(z.slice_mut::<S>(), lines.iter().map(|&(d, _)| grid.tables.side[d] * dim));
    lines.par_iter().zip(pieces).for_each(|(&(d, s), z)| {
        for (o, z) in z.chunks_exact_mut(dim).enumerate() {
            let e = if role == Role::Subject { s } else { o };
            match grid.pair(d, s, o) {
                Some(pair) => cell(&u[(grid.entities.starts[d] + e) * dim..], &c[pair * dim..], bias, z),
                None => pad_cell(bias, z),
            }
        }
    });
}

fn cell<S: Element>(u: &[S], c: &[S], bias: &[S], z: &mut [S]) {
    vectorize(
        #[inline(always)]
        || {
            for (((z, u), c), b) in z.iter_mut().zip(u).zip(c).zip(bias) {
                *z = S::narrow((u.wide() + c.wide() + b.wide()).tanh());
            }
        },
    );
}

fn pad_cell<S: Element>(bias: &[S], z: &mut [S]) {
    vectorize(
        #[inline(always)]
        || map(bias, z, |b| b.tanh()),
    );
}

pub fn backward<S: Element>(
    dz: &Tensor,
    z: &Tensor,
    bias: &Tensor,
    grid: &Grid,
    role: Role,
    (du, dc): (&mut Tensor, &mut Tensor),
    grads: &mut Grads,
) {
    let dim = z.dim();
    if dim == 0 {
        return;
    }
    let slope = Slope { dz: dz.slice::<S>(), z: z.slice::<S>(), dim };
    let lines = lines(grid, false);
    let rows_of_u = du.slice_mut::<S>().par_chunks_mut(dim);
    let rows_of_c = split_mut(dc.slice_mut::<S>(), lines.iter().map(|&(d, a)| (grid.entities.length(d) - a) * dim));
    lines.par_iter().zip(rows_of_u).zip(rows_of_c).for_each(|((&(d, a), du), dc)| {
        let (first, side) = (grid.tables.cells.starts[d], grid.tables.side[d]);
        let cell = |s: usize, o: usize| first + if role == Role::Subject { s * side + o } else { o * side + s };
        let (mut of_entity, mut of_pair) = (Scratch::zeros(dim), Scratch::new(dim));
        (0..a).for_each(|b| slope.add(cell(a, b), &mut of_entity));
        for (b, dc) in (a..).zip(dc.chunks_exact_mut(dim)) {
            of_pair.fill(S::Wide::ZERO);
            slope.add(cell(a, b), &mut of_pair);
            add_row(&mut of_entity, &of_pair);
            if b > a {
                slope.add(cell(b, a), &mut of_pair);
            }
            round_row(&of_pair, dc);
        }
        round_row(&of_entity, du);
    });
    let dbias = grads.param::<S::Wide>(bias);
    add_column_sums::<S>(du.slice(), dim, dbias);
    pad_sums(&slope, grid).iter().for_each(|sum| add_row(dbias, sum));
}

/// Sums over the pad cells of each document that has some: its last line and its last column.
fn pad_sums<S: Element>(slope: &Slope<S>, grid: &Grid) -> Vec<Vec<S::Wide>> {
    let padded: Vec<usize> = (0..grid.tables.len()).filter(|&d| grid.tables.repeat[d] > 0).collect();
    let sum = |&d: &usize| {
        let (first, side) = (grid.tables.cells.starts[d], grid.tables.side[d]);
        let mut sum = vec![S::Wide::ZERO; slope.dim];
        (0..side).for_each(|o| slope.add(first + (side - 1) * side + o, &mut sum));
        (0..side - 1).for_each(|s| slope.add(first + s * side + side - 1, &mut sum));
        sum
    };
    padded.par_iter().map(sum).collect()
}

fn add_row<T: Real>(into: &mut [T], row: &[T]) {
    vectorize(
        #[inline(always)]
        || add_to(into, row),
    );
}

fn round_row<S: Element>(row: &[S::Wide], into: &mut [S]) {
    vectorize(
        #[inline(always)]
        || narrow(row, into),
    );
}

/// The gradient before the tanh, `dz (1 - z^2)`, cell by cell.
struct Slope<'a, S> {
    dz: &'a [S],
    z: &'a [S],
    dim: usize,
}

impl<S: Element> Slope<'_, S> {
    fn add(&self, cell: usize, into: &mut [S::Wide]) {
        let at = cell * self.dim..(cell + 1) * self.dim;
        let (dz, z) = (&self.dz[at.clone()], &self.z[at]);
        vectorize(
            #[inline(always)]
            || {
                for ((into, dz), z) in into.iter_mut().zip(dz).zip(z) {
                    *into += dz.wide() * (S::Wide::ONE - z.wide() * z.wide());
                }
            },
        );
    }
}

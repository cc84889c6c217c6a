use super::Role;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{add_column_sums, add_to};
use crate::dtype::Real;
use crate::layout::Grid;
use crate::tape::Grads;
use crate::tensor::Tensor;
use rayon::prelude::*;

/// Cuts `data` into consecutive pieces of the given lengths.
fn cut<T>(mut data: &mut [T], lengths: impl Iterator<Item = usize>) -> Vec<&mut [T]> {
    lengths
        .map(|n| {
            let (piece, rest) = std::mem::take(&mut data).split_at_mut(n);
            data = rest;
            piece
        })
        .collect()
}

/// `(d, i)` for every index `i` of every table (`padded`) or every entity of every document.
fn lines(grid: &Grid, padded: bool) -> Vec<(usize, usize)> {
    let count = |d: usize| if padded { grid.tables.side[d] } else { grid.entities.length(d) };
    (0..grid.tables.len()).flat_map(|d| (0..count(d)).map(move |i| (d, i))).collect()
}

pub fn forward<T: Real>(u: &Tensor, c: &Tensor, bias: &Tensor, grid: &Grid, role: Role, z: &mut Tensor) {
    let dim = u.dim();
    if dim == 0 {
        return;
    }
    let (u, c, bias) = (u.slice::<T>(), c.slice::<T>(), bias.slice::<T>());
    let lines = lines(grid, true);
    let pieces = cut(z.slice_mut::<T>(), lines.iter().map(|&(d, _)| grid.tables.side[d] * dim));
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

fn cell<T: Real>(u: &[T], c: &[T], bias: &[T], z: &mut [T]) {
    vectorize(
        #[inline(always)]
        || {
            for (((z, &u), &c), &b) in z.iter_mut().zip(u).zip(c).zip(bias) {
                *z = (u + c + b).tanh();
            }
        },
    );
}

fn pad_cell<T: Real>(bias: &[T], z: &mut [T]) {
    vectorize(
        #[inline(always)]
        || {
            z.iter_mut().zip(bias).for_each(
                #[inline(always)]
                |(z, &b)| *z = b.tanh(),
            )
        },
    );
}

pub fn backward<T: Real>(
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
    let slope = Slope { dz: dz.slice::<T>(), z: z.slice::<T>(), dim };
    let lines = lines(grid, false);
    let rows_of_u = du.slice_mut::<T>().par_chunks_mut(dim);
    let rows_of_c = cut(dc.slice_mut::<T>(), lines.iter().map(|&(d, a)| (grid.entities.length(d) - a) * dim));
    lines.par_iter().zip(rows_of_u).zip(rows_of_c).for_each(|((&(d, a), du), dc)| {
        let (first, side) = (grid.tables.cells.starts[d], grid.tables.side[d]);
        let cell = |s: usize, o: usize| first + if role == Role::Subject { s * side + o } else { o * side + s };
        du.fill(T::ZERO);
        (0..a).for_each(|b| slope.add(cell(a, b), du));
        for (b, dc) in (a..).zip(dc.chunks_exact_mut(dim)) {
            slope.assign(cell(a, b), dc);
            add_row(du, dc);
            if b > a {
                slope.add(cell(b, a), dc);
            }
        }
    });
    let dbias = grads.param::<T>(bias);
    add_column_sums(du.slice::<T>(), dim, dbias);
    pad_sums(&slope, grid).iter().for_each(|sum| add_row(dbias, sum));
}

/// Sums over the pad cells of each document that has some: its last line and its last column.
fn pad_sums<T: Real>(slope: &Slope<T>, grid: &Grid) -> Vec<Vec<T>> {
    let padded: Vec<usize> = (0..grid.tables.len()).filter(|&d| grid.tables.repeat[d] > 0).collect();
    let sum = |&d: &usize| {
        let (first, side) = (grid.tables.cells.starts[d], grid.tables.side[d]);
        let mut sum = vec![T::ZERO; slope.dim];
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

/// The gradient before the tanh, `dz (1 - z^2)`, cell by cell.
struct Slope<'a, T> {
    dz: &'a [T],
    z: &'a [T],
    dim: usize,
}

impl<T: Real> Slope<'_, T> {
    fn add(&self, cell: usize, into: &mut [T]) {
        self.each(
            cell,
            into,
            #[inline(always)]
            |into, g| *into += g,
        );
    }
    fn assign(&self, cell: usize, into: &mut [T]) {
        self.each(
            cell,
            into,
            #[inline(always)]
            |into, g| *into = g,
        );
    }
    #[inline(always)]
    fn each(&self, cell: usize, into: &mut [T], f: impl Fn(&mut T, T)) {
        let at = cell * self.dim..(cell + 1) * self.dim;
        let (dz, z) = (&self.dz[at.clone()], &self.z[at]);
        vectorize(
            #[inline(always)]
            || {
                for ((into, &dz), &z) in into.iter_mut().zip(dz).zip(z) {
                    f(into, dz * (T::ONE - z * z));
                }
            },
        );
    }
}

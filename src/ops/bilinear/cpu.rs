use crate::device::cpu::gemm::{
    AsLeft, Block, CHUNK, Factor, Left, Mat, Packed, Panels, Product, Right, block_rows, int8, join, multiply,
};
use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{add_column_sums, add_to, axpy, columns_mut, dot};
use crate::dtype::{Element, narrow, widen};
use crate::tape::Grads;
use crate::tensor::Tensor;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// The outer products `[cells, E k]`, generated.
#[derive(Clone, Copy)]
struct Outer<'a, S> {
    zs: &'a [S],
    zo: &'a [S],
    e: usize,
    block: usize,
}

impl<'a, S: Element> Outer<'a, S> {
    fn new(zs: &'a Tensor, zo: &'a Tensor, block: usize) -> Self {
        Outer { zs: zs.slice(), zo: zo.slice(), e: zs.dim(), block }
    }
    /// The products of `cell` for the outer indices from `from` on.
    #[inline(always)]
    fn products(&self, cell: usize, from: usize, out: &mut [S]) {
        self.runs(cell, from, out, |x, zo, out| S::scale_row(x, zo, out));
    }
    /// `scale(x, zo, out)` for each run of one i: x is z_s[i], zo a part of the group of z_o.
    #[inline(always)]
    fn runs<T>(&self, cell: usize, from: usize, out: &mut [T], scale: impl Fn(S::Wide, &[S], &mut [T])) {
        let k = self.block;
        let [zs, zo] = self.cell(cell);
        let mut at = 0;
        while at < out.len() {
            let (i, j) = ((from + at) / k, (from + at) % k);
            let n = (k - j).min(out.len() - at);
            scale(zs[i].wide(), &zo[i / k * k + j..][..n], &mut out[at..at + n]);
            at += n;
        }
    }
    #[inline(always)]
    fn cell(&self, cell: usize) -> [&[S]; 2] {
        [self.zs, self.zo].map(|z| &z[cell * self.e..][..self.e])
    }
}

/// Rows are cells, columns the outer index.
impl<S: Factor> AsLeft<S> for Outer<'_, S> {
    fn left(&self, row: usize, rows: usize, columns: Range<usize>) -> Left<'_, S> {
        Left::generate(rows, columns.len(), |i, line| {
            vectorize(
                #[inline(always)]
                || self.products(row + i, columns.start, line),
            )
        })
    }
}

/// The outer products of each cell in eight bits, by the largest that its z_s and z_o could have.
struct Rounded<'a> {
    outer: Outer<'a, bf16>,
    /// Of each cell: s, and 1 / s.
    scales: Vec<f32>,
    inverses: Vec<f32>,
}

impl<'a> Rounded<'a> {
    fn new(outer: Outer<'a, bf16>, cells: usize) -> Self {
        let of_cell = |cell: usize| {
            let [zs, zo] = outer.cell(cell);
            vectorize(
                #[inline(always)]
                || int8::scales(int8::largest(zs) * int8::largest(zo)),
            )
        };
        let (scales, inverses) = (0..cells).into_par_iter().with_min_len(64).map(of_cell).unzip();
        Rounded { outer, scales, inverses }
    }
}

impl AsLeft<u8> for Rounded<'_> {
    fn left(&self, row: usize, rows: usize, columns: Range<usize>) -> Left<'_, u8> {
        Left::generate(rows, columns.len(), |i, line| {
            let inverse = self.inverses[row + i];
            vectorize(
                #[inline(always)]
                || {
                    self.outer.runs(
                        row + i,
                        columns.start,
                        line,
                        #[inline(always)]
                        |x, zo, out| int8::quantize(zo, x * inverse, out),
                    )
                },
            )
        })
    }
}

/// Rows are the outer index, columns cells.
struct Transposed<'a, S>(Outer<'a, S>);

impl<S: Factor> Panels<S> for Transposed<'_, S> {
    fn pack(&self, row: usize, rows: usize, columns: Range<usize>, width: usize, out: &mut [S::Unit]) {
        let (mut first, mut second) = (Scratch::<S>::new(rows), Scratch::<S>::zeros(rows));
        vectorize(
            #[inline(always)]
            || {
                for (line, cell) in out.chunks_exact_mut(width).zip(columns.clone().step_by(S::K)) {
                    self.0.products(cell, row, &mut first);
                    match S::K == 2 && cell + 1 < columns.end {
                        true => self.0.products(cell + 1, row, &mut second),
                        false => second.fill(S::default()),
                    }
                    join(&first, &second, line);
                }
            },
        );
    }
}

/// y is wide where there is a bias.
pub fn forward<S: Factor>(zs: &Tensor, zo: &Tensor, w: &Tensor, b: Option<&Tensor>, block: usize, y: &mut Tensor) {
    match y.dtype() == S::DTYPE {
        true => forward_into::<S, S>(zs, zo, w, b, block, y, narrow),
        false => forward_into::<S, S::Wide>(zs, zo, w, b, block, y, |sums, y| y.copy_from_slice(sums)),
    }
}

fn forward_into<S: Factor, Y: Element>(
    zs: &Tensor,
    zo: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    block: usize,
    y: &mut Tensor,
    round: impl Fn(&[S::Wide], &mut [Y]) + Sync,
) {
    let (rows, columns, k, bias) = (zs.rows(), w.rows(), w.dim(), b.map(|b| b.slice::<S>()));
    let blocks = y.slice_mut::<Y>().par_chunks_mut((block_rows(rows) * columns).max(1));
    let finish = |block: &Block, sums: &mut [S::Wide], y: &mut &mut [Y]| {
        for (sums, y) in block.rows_mut(sums, y, columns) {
            if let Some(bias) = bias {
                add_to(sums, &bias[block.columns.clone()]);
            }
            round(sums, y);
        }
    };
    if let Some(weight) = w.int8() {
        let left = Rounded::new(Outer::new(zs, zo, block), rows);
        return weight.run((&left, rows, &left.scales), blocks, |block, sums, y| {
            finish(block, bytemuck::cast_slice_mut(sums), y)
        });
    }
    let (left, packed) = (Outer::<S>::new(zs, zo, block), w.panels::<S>());
    let matrix = Mat::rows(if packed.is_some() { &[] } else { w.slice::<S>() }, k);
    let product = Product::new((rows, columns, k), &left, packed.map_or(Right::Matrix(&matrix), Right::Packed));
    product.run(blocks, finish);
}

/// Columns of dW that a task sums: with all of dy they stay in the second-level cache.
const SLAB: usize = 128;

pub fn backward_weight<S: Factor>(
    dy: &Tensor,
    zs: &Tensor,
    zo: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    block: usize,
    grads: &mut Grads,
) {
    let (cells, out, dim) = (dy.rows(), dy.dim(), w.dim());
    let (dy, outer) = (Mat::rows(dy.slice::<S>(), out), Transposed(Outer::<S>::new(zs, zo, block)));
    let part = |from: usize| from..(from + CHUNK).min(cells);
    let firsts: Vec<usize> = (0..cells).step_by(CHUNK).collect();
    let lefts: Vec<Left<S>> = firsts.par_iter().map(|&from| Left::packed(&dy.t(), 0, out, part(from))).collect();
    let slabs = columns_mut(grads.param::<S::Wide>(w), dim, SLAB);
    slabs.into_par_iter().enumerate().for_each(|(s, mut rows)| {
        let width = SLAB.min(dim - s * SLAB);
        let mut sums = Scratch::zeros(out * width);
        for (left, &from) in lefts.iter().zip(&firsts) {
            let right = Packed::right(&outer, s * SLAB, width, part(from));
            multiply(left, &right, &mut sums, width, from == 0);
        }
        vectorize(
            #[inline(always)]
            || {
                for (row, sums) in rows.iter_mut().zip(sums.chunks_exact(width)) {
                    add_to::<S::Wide>(row, sums);
                }
            },
        );
    });
    if let Some(b) = b {
        add_column_sums(dy.data, out, grads.param(b));
    }
}

/// Cells whose rows of S are in flight on one thread.
const CELLS: usize = 48;
/// Columns of S at a time, about: a whole number of values of i.
const COLUMNS: usize = 256;

pub fn backward_inputs<S: Factor>(
    dy: &Tensor,
    zs: &Tensor,
    zo: &Tensor,
    w: &Tensor,
    block: usize,
    dzs: &mut Tensor,
    dzo: &mut Tensor,
) {
    let e = zs.dim();
    let inputs = Inputs { dy: Mat::rows(dy.slice(), dy.dim()), w: Mat::rows(w.slice(), w.dim()).t(), zs, zo, block };
    let groups = columns_mut(dzs.slice_mut::<S>(), e, block).into_par_iter();
    let groups = groups.zip(columns_mut(dzo.slice_mut::<S>(), e, block)).enumerate();
    groups.for_each(|(g, (mut dzs, mut dzo))| inputs.group(g, &mut dzs, &mut dzo));
}

struct Inputs<'a, S> {
    dy: Mat<'a, S>,
    /// `[E k, out]`.
    w: Mat<'a, S>,
    zs: &'a Tensor,
    zo: &'a Tensor,
    block: usize,
}

impl<S: Factor> Inputs<'_, S> {
    /// The columns of group `g` of dz_s and dz_o, by cell.
    fn group(&self, g: usize, dzs: &mut [&mut [S]], dzo: &mut [&mut [S]]) {
        let k = self.block;
        let mut sums = Scratch::zeros(dzo.len() * k);
        let step = (COLUMNS / k).clamp(1, k);
        for first in (0..k).step_by(step) {
            let subjects = first..(first + step).min(k);
            let rights = self.rights((g * k + first) * k, subjects.len() * k);
            let blocks = dzs.chunks_mut(CELLS).zip(sums.chunks_mut(CELLS * k)).enumerate();
            blocks.for_each(|(b, (dzs, sums))| self.cells(b * CELLS, g * k, subjects.clone(), &rights, dzs, sums));
        }
        dzo.iter_mut().zip(sums.chunks_exact(k)).for_each(|(dzo, sums)| narrow(sums, dzo));
    }

    /// Parts of the sum over dy's columns.
    fn rights(&self, row: usize, rows: usize) -> Vec<(Range<usize>, Packed<S>)> {
        let out = self.dy.row_stride;
        let part = |from: usize| from..(from + CHUNK).min(out);
        (0..out).step_by(CHUNK).map(|from| (part(from), Packed::right(&self.w, row, rows, part(from)))).collect()
    }

    /// S of the cells from `first` on and of `subjects`, and what becomes of it.
    fn cells(
        &self,
        first: usize,
        group: usize,
        subjects: Range<usize>,
        rights: &[(Range<usize>, Packed<S>)],
        dzs: &mut [&mut [S]],
        dzo: &mut [S::Wide],
    ) {
        let (k, e, columns) = (self.block, self.zs.dim(), subjects.len() * self.block);
        let mut s = Scratch::zeros(dzs.len() * columns);
        for (part, right) in rights {
            let left = Left::new(&self.dy, first, dzs.len(), part.clone());
            multiply(&left, right, &mut s, columns, part.start == 0);
        }
        let mut objects = Scratch::new(k);
        let rows = dzs.iter_mut().zip(dzo.chunks_exact_mut(k)).zip(s.chunks_exact(columns));
        for (r, ((dzs, dzo), s)) in rows.enumerate() {
            let at = (first + r) * e + group;
            let zs = &self.zs.slice::<S>()[at..at + k];
            vectorize(
                #[inline(always)]
                || {
                    widen(&self.zo.slice::<S>()[at..at + k], &mut objects);
                    for (i, s) in subjects.clone().zip(s.chunks_exact(k)) {
                        dzs[i] = S::narrow(dot::<S::Wide>(s, &objects));
                        axpy::<S::Wide>(zs[i].wide(), s, dzo);
                    }
                },
            );
        }
    }
}

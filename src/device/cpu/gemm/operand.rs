//! What products read: matrices in memory or generated, as rows or packed into panels.

use super::tile::{self, Factor, Operand, Rows};
use crate::device::cpu::scratch::{Line, Scratch, lines};
use crate::device::cpu::simd;
use rayon::prelude::*;
use std::ops::Range;
#[cfg(target_arch = "x86_64")]
use {
    super::{dot, panel},
    crate::device::cpu::simd::Level,
    crate::dtype::DType,
};

/// A matrix that can write rows of itself, transposed, into a packed panel.
pub trait Panels<S: Operand>: Sync {
    /// With `j` counting units: `out[j * width + i]` becomes the values of row `row + i` from column
    /// `columns.start + j * S::K` on; beyond the last column they are zero. What is at `rows <= i < width` stays or
    /// becomes zero.
    fn pack(&self, row: usize, rows: usize, columns: Range<usize>, width: usize, out: &mut [S::Unit]);
    /// `pack` takes the rows of any number of panels, which `out` then holds one after another.
    #[inline(always)]
    fn packs_many(&self) -> bool {
        false
    }
}

/// A matrix that can be the left operand.
pub trait AsLeft<S: Operand>: Sync {
    /// Rows `row..row + rows` of `columns`.
    fn left(&self, row: usize, rows: usize, columns: Range<usize>) -> Left<'_, S>;
}

/// A matrix in memory: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Mat<'a, T> {
    pub data: &'a [T],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Rows of `data`, each `width` long.
    pub fn rows(data: &'a [T], width: usize) -> Self {
        Mat { data, row_stride: width, col_stride: 1 }
    }
    /// The transpose.
    pub fn t(self) -> Self {
        Mat { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }
    /// Starts at element `(row, col)`.
    pub fn from(self, row: usize, col: usize) -> Self {
        let at = (row * self.row_stride + col * self.col_stride).min(self.data.len());
        Mat { data: &self.data[at..], ..self }
    }
}

impl<S: Factor> Panels<S> for Mat<'_, S> {
    #[inline(always)]
    fn pack(&self, row: usize, rows: usize, columns: Range<usize>, width: usize, out: &mut [S::Unit]) {
        if self.row_stride == 1 {
            self.copy(row, rows, columns, width, out);
        } else if !self.transpose_in_registers(row, rows, &columns, width, out) {
            self.transpose(row, rows, columns, width, out);
        }
    }
    /// Of contiguous columns, so that each is read once, from end to end.
    #[inline(always)]
    fn packs_many(&self) -> bool {
        self.row_stride == 1
    }
}

impl<S: Factor> Mat<'_, S> {
    /// The rows `row..row + rows` of column k, of a matrix whose columns are contiguous.
    #[inline(always)]
    fn column(&self, k: usize, row: usize, rows: usize) -> &[S] {
        &self.data[k * self.col_stride + row..][..rows]
    }
    /// Panels of a matrix whose columns are contiguous.
    #[inline(always)]
    fn copy(&self, row: usize, rows: usize, columns: Range<usize>, width: usize, out: &mut [S::Unit]) {
        // Lines of a known length are a few vector moves, not a call.
        match width {
            12 => self.copy_lines::<12>(row, rows, columns, out),
            16 => self.copy_lines::<16>(row, rows, columns, out),
            32 => self.copy_lines::<32>(row, rows, columns, out),
            8 => self.copy_lines::<8>(row, rows, columns, out),
            6 => self.copy_lines::<6>(row, rows, columns, out),
            _ => self.copy_lines::<4>(row, rows, columns, out),
        }
    }
    #[inline(always)]
    fn copy_lines<const W: usize>(&self, row: usize, rows: usize, columns: Range<usize>, out: &mut [S::Unit]) {
        #[cfg(target_arch = "x86_64")]
        if S::DTYPE == DType::BF16 && simd::level() <= Level::Avx512 {
            let data = bytemuck::cast_slice(&self.data[(columns.start * self.col_stride + row).min(self.data.len())..]);
            let out = bytemuck::cast_slice_mut(out);
            return panel::pair_columns::<W>(data, self.col_stride, rows, columns.len(), out);
        }
        let (lines, units, zeros) = (out.as_chunks_mut::<W>().0, columns.len().div_ceil(S::K), [S::default(); W]);
        for (u, k) in columns.clone().step_by(S::K).enumerate() {
            let more = S::K == 2 && k + 1 < columns.end;
            let (firsts, first) = self.column(k, row, rows).as_chunks::<W>();
            let (seconds, second) = if more { self.column(k + 1, row, rows) } else { &[] }.as_chunks::<W>();
            let mut lines = lines[u..].iter_mut().step_by(units);
            for (p, (first, line)) in firsts.iter().zip(&mut lines).enumerate() {
                join(first, seconds.get(p).unwrap_or(&zeros), line);
            }
            if let (false, Some(line)) = (first.is_empty(), lines.next()) {
                join(first, if more { second } else { &zeros }, line);
            }
        }
    }
    /// False: the machine or the matrix is none for it, and nothing was done.
    #[inline(always)]
    fn transpose_in_registers(
        &self,
        row: usize,
        rows: usize,
        columns: &Range<usize>,
        width: usize,
        out: &mut [S::Unit],
    ) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self.col_stride == 1 && width == dot::COLUMNS && size_of::<S::Unit>() == 4 && simd::level() <= Level::Avx512
        {
            let data = bytemuck::cast_slice(&self.data[row * self.row_stride + columns.start..]);
            let lines = bytemuck::cast_slice_mut::<_, u32>(out).as_chunks_mut().0;
            panel::transpose(data, self.row_stride * size_of::<S>(), rows, columns.len() * size_of::<S>(), lines);
            return true;
        }
        let _ = (row, rows, columns, width, out);
        false
    }
    /// In pieces of which both sides stay in the first-level cache.
    #[inline(always)]
    fn transpose(&self, row: usize, rows: usize, columns: Range<usize>, width: usize, out: &mut [S::Unit]) {
        const PIECE: usize = 32;
        for (p, piece) in out.chunks_mut(PIECE * width).enumerate() {
            let k = columns.start + p * PIECE * S::K;
            for i in 0..rows {
                let at = (row + i) * self.row_stride + k * self.col_stride;
                let line = self.data[at..].iter().step_by(self.col_stride).copied().take(columns.end - k);
                let units = piece[i..].iter_mut().step_by(width);
                match S::K {
                    1 => units.zip(line).for_each(|(o, x)| *o = S::unit(x, S::default())),
                    _ if self.col_stride == 1 => {
                        let (pairs, last) = self.data[at..at + columns.end - k].as_chunks::<2>();
                        units.zip(pairs).for_each(|(o, &[a, b])| *o = S::unit(a, b));
                        if let (&[last], Some(o)) = (last, piece.get_mut(i + pairs.len() * width)) {
                            *o = S::unit(last, S::default());
                        }
                    }
                    _ => {
                        let mut line = line;
                        units.for_each(|o| {
                            let first = line.next().unwrap_or_default();
                            *o = S::unit(first, line.next().unwrap_or_default());
                        });
                    }
                }
            }
        }
    }
}

/// A line of a panel, or as much of it as there is of two columns.
#[inline(always)]
pub fn join<S: Factor>(first: &[S], second: &[S], line: &mut [S::Unit]) {
    for (unit, (&first, &second)) in line.iter_mut().zip(first.iter().zip(second)) {
        *unit = S::unit(first, second);
    }
}

impl<S: Factor> AsLeft<S> for Mat<'_, S> {
    fn left(&self, row: usize, rows: usize, columns: Range<usize>) -> Left<'_, S> {
        if self.col_stride != 1 || rows == 0 || columns.is_empty() {
            return Left::packed(self, row, rows, columns);
        }
        Left::of_rows(self.data, self.row_stride, row, rows, columns)
    }
}

/// Rows at a multiple of 2048 bytes would fight for the same lines of the first-level cache.
fn collides<S>(stride: usize) -> bool {
    (stride * size_of::<S>()).is_multiple_of(2048)
}

/// A left operand: rows in place, rows of its own, or panels.
pub enum Left<'a, S: Operand> {
    Rows { data: &'a [S], stride: usize, rows: usize, k: usize },
    Own { data: Scratch<S>, stride: usize, rows: usize, k: usize },
    Packed(Packed<S>),
}

impl<'a, S: Operand> Left<'a, S> {
    /// Rows `row..row + rows` of `columns` of `x`.
    pub fn new(x: &'a impl AsLeft<S>, row: usize, rows: usize, columns: Range<usize>) -> Self {
        x.left(row, rows, columns)
    }
    /// Rows `row..row + rows` of `columns`, neither of them empty, of a matrix in memory; read in place where they do not
    /// fight for cache lines.
    pub(super) fn of_rows(data: &'a [S], stride: usize, row: usize, rows: usize, columns: Range<usize>) -> Self {
        let k = columns.len();
        let data = &data[row * stride + columns.start..(row + rows - 1) * stride + columns.end];
        if k.is_multiple_of(S::K) && !collides::<S>(stride) {
            return Left::Rows { data, stride, rows, k };
        }
        Left::generate(rows, k, |i, line| line.copy_from_slice(&data[i * stride..][..k]))
    }
    /// Rows that `fill(i, line)` writes, `k` long.
    pub fn generate(rows: usize, k: usize, mut fill: impl FnMut(usize, &mut [S])) -> Self {
        let mut stride = k.next_multiple_of(S::K);
        if collides::<S>(stride) {
            stride += 32;
        }
        let mut data = Scratch::new(rows * stride);
        for (i, line) in data.chunks_exact_mut(stride.max(1)).enumerate() {
            fill(i, &mut line[..k]);
            line[k..].fill(S::default()); // the other half of the last unit
        }
        Left::Own { data, stride, rows, k }
    }
    /// As panels.
    pub fn packed(x: &impl Panels<S>, row: usize, rows: usize, columns: Range<usize>) -> Self {
        Left::Packed(Packed::new(x, row, rows, columns, tile::size::<S>().mr))
    }
    pub(super) fn units(&self) -> usize {
        match self {
            Left::Rows { k, .. } | Left::Own { k, .. } => k.div_ceil(S::K),
            Left::Packed(packed) => packed.units,
        }
    }
    /// As tiles of at most `mr` rows.
    #[inline(always)]
    pub(super) fn tiles(&self, mr: usize) -> impl Iterator<Item = Rows<'_, S>> {
        let (data, rows, row, step, tile): (&[S], _, _, _, _) = match self {
            Left::Rows { data, stride, rows, .. } => (data, *rows, *stride, S::K, mr * stride),
            Left::Own { data, stride, rows, .. } => (data, *rows, *stride, S::K, mr * stride),
            // A unit's values lie next to each other, and a tile's rows do.
            Left::Packed(p) => {
                (bytemuck::cast_slice(p.units()), p.rows, S::K, S::K * p.width, p.units * p.width * S::K)
            }
        };
        (0..rows.div_ceil(mr)).map(move |i| Rows { data: &data[i * tile..], rows: mr.min(rows - i * mr), row, step })
    }
}

/// Panels of an operand: `ceil(rows / width)` panels of `[units][width]`, zero beyond `rows`.
pub struct Packed<S: Operand> {
    data: Memory<S::Unit>,
    pub(super) rows: usize,
    /// Of k.
    pub(super) units: usize,
    pub(super) width: usize,
}

/// Of a thread for a while, or for good.
enum Memory<U: bytemuck::Pod> {
    Scratch(Scratch<U>),
    Own(Vec<Line>),
}

impl<S: Operand> Packed<S> {
    fn new(x: &impl Panels<S>, row: usize, rows: usize, columns: Range<usize>, width: usize) -> Self {
        let mut made = Self::scratch(rows, columns.len(), width);
        pack(x, row, rows, columns, width, made.units_mut());
        made
    }
    /// Panels with arbitrary contents.
    fn scratch(rows: usize, k: usize, width: usize) -> Self {
        let units = k.div_ceil(S::K);
        Packed { data: Memory::Scratch(Scratch::new(in_panels(rows, width, units))), rows, units, width }
    }
    /// Rows `row..row + rows` of `x` as a right operand: they are columns of the product.
    pub fn right(x: &impl Panels<S>, row: usize, rows: usize, columns: Range<usize>) -> Self {
        Self::new(x, row, rows, columns, tile::size::<S>().nr)
    }
    /// As [`Packed::right`], all cores packing.
    pub fn right_parallel(x: &impl Panels<S>, row: usize, rows: usize, columns: Range<usize>) -> Self {
        Self::in_parallel(Self::scratch(rows, columns.len(), tile::size::<S>().nr), x, row, columns)
    }
    /// As [`Packed::right_parallel`] of the whole matrix, to be kept.
    pub fn right_kept(x: &impl Panels<S>, rows: usize, k: usize) -> Self {
        let (width, units) = (tile::size::<S>().nr, k.div_ceil(S::K));
        let data = Memory::Own(bytemuck::zeroed_vec(lines::<S::Unit>(in_panels(rows, width, units))));
        Self::in_parallel(Packed { data, rows, units, width }, x, 0, 0..k)
    }
    fn in_parallel(mut self, x: &impl Panels<S>, row: usize, columns: Range<usize>) -> Self {
        let (rows, width) = (self.rows, self.width);
        // Panels that a task packs: their rows lie together.
        let panels = (rows.div_ceil(width) / (4 * rayon::current_num_threads())).clamp(1, 8);
        let size = panels * width;
        let parts = size * self.units;
        self.units_mut().par_chunks_mut(parts.max(1)).enumerate().for_each(|(p, part)| {
            pack(x, row + p * size, size.min(rows - p * size), columns.clone(), width, part);
        });
        self
    }
    /// With the zeros beyond the last row as rows: products with them are stored faster than left out.
    pub fn whole(self) -> Self {
        Packed { rows: self.rows.next_multiple_of(self.width), ..self }
    }
    fn units_mut(&mut self) -> &mut [S::Unit] {
        let len = self.len();
        match &mut self.data {
            Memory::Scratch(units) => units,
            Memory::Own(lines) => &mut bytemuck::cast_slice_mut(lines)[..len],
        }
    }
    #[inline(always)]
    pub(super) fn units(&self) -> &[S::Unit] {
        match &self.data {
            Memory::Scratch(units) => units,
            Memory::Own(lines) => &bytemuck::cast_slice(lines)[..self.len()],
        }
    }
    /// Units of all panels.
    #[inline(always)]
    fn len(&self) -> usize {
        in_panels(self.rows, self.width, self.units)
    }
    /// Bytes of the panels.
    pub fn bytes(&self) -> usize {
        size_of_val(self.units())
    }
}

impl<S: Operand> std::fmt::Debug for Packed<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed {{ rows: {}, units: {} }}", self.rows, self.units)
    }
}

/// Units that panels of so many rows hold.
#[inline(always)]
fn in_panels(rows: usize, width: usize, units: usize) -> usize {
    rows.div_ceil(width) * width * units
}

/// Panels of `rows` rows, one after another, with zeros beyond the last row.
fn pack<S: Operand>(
    x: &impl Panels<S>,
    row: usize,
    rows: usize,
    columns: Range<usize>,
    width: usize,
    panels: &mut [S::Unit],
) {
    if panels.is_empty() {
        return;
    }
    let units = columns.len().div_ceil(S::K);
    if !rows.is_multiple_of(width) {
        let last = panels.len() - units * width;
        panels[last..].fill(bytemuck::Zeroable::zeroed());
    }
    let step = if x.packs_many() { rows.next_multiple_of(width) } else { width };
    simd::vectorize(
        #[inline(always)]
        || {
            for (from, panels) in (0..rows).step_by(step).zip(panels.chunks_exact_mut(step * units)) {
                x.pack(row + from, step.min(rows - from), columns.clone(), width, panels);
            }
        },
    );
}

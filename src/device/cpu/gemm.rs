//! Matrix product: the one seam through which every dense product on the CPU goes.
//!
//! `C[m, n] = A[m, k] B[n, k]^T`, or `+=`, both operands described by how to pack them ([`Operand`]), so that
//! transposes, columns of a wider matrix and generated operands (the grouped bilinear's outer
//! product) cost nothing extra. Panels are packed to `[k][width]`; a register tile of
//! `mr x nr` accumulators walks down k (Goto and van de Geijn 2008; BLIS).
//!
//! Deterministic: an element is the sum over k in order, in chunks of [`CHUNK`], whatever m, the
//! blocking or the number of threads, so a row's bits do not depend on the rows that share the call.

use super::scratch::Scratch;
use super::simd::{self, Kernel, Level};
use crate::dtype::Real;
use rayon::prelude::*;

/// Elements of k packed at a time. Part of the definition of the result's bits.
pub const CHUNK: usize = 512;

/// A matrix that can write rows of itself, transposed, into a packed panel.
pub trait Operand<T>: Sync {
    /// Writes `out[j * width + i] = self[row + i][k + j]` for `i < rows`, `j < out.len() / width`.
    /// Leaves `rows <= i < width` alone.
    fn pack(&self, row: usize, rows: usize, k: usize, width: usize, out: &mut [T]);
    /// The matrix itself and its row stride, where a left operand can be read without packing: rows are
    /// contiguous in memory.
    fn rows(&self) -> Option<(&[T], usize)> {
        None
    }
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

impl<T: Real> Operand<T> for Mat<'_, T> {
    #[inline(always)]
    fn pack(&self, row: usize, rows: usize, k: usize, width: usize, out: &mut [T]) {
        match (self.row_stride, self.col_stride, rows == width) {
            (1, _, true) => match width {
                // Lines of a known length are a few vector moves, not a call.
                12 => self.copy_lines::<12>(row, k, out),
                16 => self.copy_lines::<16>(row, k, out),
                32 => self.copy_lines::<32>(row, k, out),
                _ => self.copy_any_lines(row, rows, k, width, out),
            },
            (1, _, false) => self.copy_any_lines(row, rows, k, width, out),
            _ => self.transpose(row, rows, k, width, out),
        }
    }
    fn rows(&self) -> Option<(&[T], usize)> {
        // Rows at a multiple of 2048 bytes would fight for the same lines of the first-level cache.
        let conflict = (self.row_stride * T::DTYPE.size()).is_multiple_of(2048);
        (self.col_stride == 1 && !conflict).then_some((self.data, self.row_stride))
    }
}

impl<T: Real> Mat<'_, T> {
    /// Of a matrix whose columns are contiguous.
    #[inline(always)]
    fn copy_lines<const W: usize>(&self, row: usize, k: usize, out: &mut [T]) {
        for (j, line) in out.as_chunks_mut::<W>().0.iter_mut().enumerate() {
            if let Some(from) = self.data[(k + j) * self.col_stride + row..].first_chunk::<W>() {
                *line = *from;
            }
        }
    }
    #[inline(always)]
    fn copy_any_lines(&self, row: usize, rows: usize, k: usize, width: usize, out: &mut [T]) {
        for (j, line) in out.chunks_exact_mut(width).enumerate() {
            let at = (k + j) * self.col_stride + row;
            line[..rows].copy_from_slice(&self.data[at..at + rows]);
        }
    }
    /// In pieces of which both sides stay in the first-level cache.
    #[inline(always)]
    fn transpose(&self, row: usize, rows: usize, k: usize, width: usize, out: &mut [T]) {
        const PIECE: usize = 32;
        for (p, piece) in out.chunks_mut(PIECE * width).enumerate() {
            for i in 0..rows {
                let at = (row + i) * self.row_stride + (k + p * PIECE) * self.col_stride;
                let line = self.data[at..].iter().step_by(self.col_stride);
                piece[i..].iter_mut().step_by(width).zip(line).for_each(|(o, x)| *o = *x);
            }
        }
    }
}

/// Register tile of this machine: rows and columns of accumulators.
#[derive(Clone, Copy, Debug)]
pub struct Tile {
    pub mr: usize,
    pub nr: usize,
}

/// 24 (AVX-512) or 12 (AVX2) accumulators leave registers for one row of B and a broadcast of A.
pub fn tile<T: Real>() -> Tile {
    let lanes = |bytes: usize| bytes / T::DTYPE.size();
    match simd::level() {
        Level::Avx512 => Tile { mr: 12, nr: 2 * lanes(64) },
        Level::Avx2 => Tile { mr: 6, nr: 2 * lanes(32) },
        Level::Portable => Tile { mr: 4, nr: 2 * lanes(16) },
    }
}

/// Panels of an operand: `ceil(rows / width)` panels of `[k][width]`, zero beyond `rows`.
pub struct Packed<T> {
    data: Scratch<T>,
    rows: usize,
    k: usize,
    width: usize,
}

impl<T: Real> Packed<T> {
    /// Packs rows `row..row + rows` and columns `k0..k0 + k` in panels of `width` rows.
    fn new(x: &impl Operand<T>, row: usize, rows: usize, k0: usize, k: usize, width: usize) -> Self {
        let mut data = Scratch::new(rows.div_ceil(width) * width * k);
        for (p, panel) in data.chunks_exact_mut((width * k).max(1)).enumerate() {
            pack_panel(x, row + p * width, width.min(rows - p * width), k0, width, panel);
        }
        Packed { data, rows, k, width }
    }
    /// As a right operand: `rows` are columns of the product.
    pub fn right(x: &impl Operand<T>, row: usize, rows: usize, k0: usize, k: usize) -> Self {
        Self::new(x, row, rows, k0, k, tile::<T>().nr)
    }
    /// As [`Packed::right`], all cores packing.
    pub fn right_parallel(x: &impl Operand<T>, row: usize, rows: usize, k0: usize, k: usize) -> Self {
        let width = tile::<T>().nr;
        let mut data = Scratch::new(rows.div_ceil(width) * width * k);
        data.par_chunks_exact_mut((width * k).max(1)).enumerate().for_each(|(p, panel)| {
            pack_panel(x, row + p * width, width.min(rows - p * width), k0, width, panel);
        });
        Packed { data, rows, k, width }
    }
}

/// A left operand: rows in place, or packed.
pub enum Left<'a, T> {
    Rows { data: &'a [T], stride: usize, rows: usize, k: usize },
    Packed(Packed<T>),
}

impl<'a, T: Real> Left<'a, T> {
    /// Rows `row..row + rows` and columns `k0..k0 + k` of `x`.
    pub fn new(x: &'a impl Operand<T>, row: usize, rows: usize, k0: usize, k: usize) -> Self {
        match x.rows() {
            Some((data, stride)) if rows > 0 && k > 0 => {
                let data = &data[row * stride + k0..(row + rows - 1) * stride + k0 + k];
                Left::Rows { data, stride, rows, k }
            }
            _ => Left::Packed(Packed::new(x, row, rows, k0, k, tile::<T>().mr)),
        }
    }
    fn k(&self) -> usize {
        match self {
            Left::Rows { k, .. } => *k,
            Left::Packed(packed) => packed.k,
        }
    }
}

fn pack_panel<T: Real>(x: &impl Operand<T>, row: usize, rows: usize, k: usize, width: usize, panel: &mut [T]) {
    if rows < width {
        panel.fill(T::ZERO);
    }
    simd::vectorize(
        #[inline(always)]
        || x.pack(row, rows, k, width, panel),
    );
}

/// What C holds before the product is added to it.
#[derive(Clone, Copy)]
pub enum Start<'a, T> {
    /// Nothing of use: C is overwritten.
    Zero,
    /// What is there.
    Present,
    /// One value a column, the same for all rows; a matrix as wide as C; or both.
    Given { bias: Option<&'a [T]>, residual: Option<&'a [T]> },
}

impl<'a, T> Start<'a, T> {
    /// As seen from element `(row, col)` of C, whose rows are `stride` apart.
    fn from(self, row: usize, col: usize, stride: usize) -> Self {
        match self {
            Start::Given { bias, residual } => {
                Start::Given { bias: bias.map(|b| &b[col..]), residual: residual.map(|r| &r[row * stride + col..]) }
            }
            other => other,
        }
    }
}

/// `C = A B^T` (assign) or `C += A B^T` over one chunk of k, on the calling thread.
/// `c` has rows of `stride` elements; only the rows of A times the rows of B of it are touched.
pub fn multiply<T: Real>(a: &Left<'_, T>, b: &Packed<T>, c: &mut [T], stride: usize, assign: bool) {
    multiply_onto(a, b, c, stride, if assign { Start::Zero } else { Start::Present });
}

fn multiply_onto<T: Real>(a: &Left<'_, T>, b: &Packed<T>, c: &mut [T], stride: usize, start: Start<'_, T>) {
    assert!(a.k() == b.k);
    simd::run(Product { a, b, c, stride, start });
}

struct Product<'a, T> {
    a: &'a Left<'a, T>,
    b: &'a Packed<T>,
    c: &'a mut [T],
    stride: usize,
    start: Start<'a, T>,
}

impl<T: Real> Kernel for Product<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        match (tile::<T>().mr, self.b.width) {
            (12, 32) => self.tiles::<12, 32, FMA>(),
            (12, 16) => self.tiles::<12, 16, FMA>(),
            (6, 16) => self.tiles::<6, 16, FMA>(),
            (6, 8) => self.tiles::<6, 8, FMA>(),
            (4, 8) => self.tiles::<4, 8, FMA>(),
            _ => self.tiles::<4, 4, FMA>(),
        }
    }
}

impl<T: Real> Product<'_, T> {
    /// Each panel of B stays in the nearer caches while all rows of A pass.
    #[inline(always)]
    fn tiles<const MR: usize, const NR: usize, const FMA: bool>(self) {
        let (b, k) = (self.b, self.b.k);
        for (jb, bp) in b.data.chunks_exact((NR * k).max(1)).enumerate() {
            let cols = NR.min(b.rows - jb * NR);
            let mut put = |ia: usize, rows: usize, acc: &[[T; NR]; MR]| {
                let c = &mut self.c[ia * MR * self.stride + jb * NR..];
                begin(self.start.from(ia * MR, jb * NR, self.stride), c, self.stride, rows, cols);
                store::<T, MR, NR>(acc, c, self.stride, rows, cols, matches!(self.start, Start::Zero));
            };
            match self.a {
                Left::Packed(a) => {
                    for (ia, ap) in a.data.chunks_exact((MR * k).max(1)).enumerate() {
                        let acc = accumulate::<T, MR, NR, FMA>(ap, bp);
                        put(ia, MR.min(a.rows - ia * MR), &acc);
                    }
                }
                Left::Rows { data, stride, rows, .. } => {
                    for (ia, first) in (0..*rows).step_by(MR).enumerate() {
                        let rows = MR.min(rows - first);
                        let acc = accumulate_rows::<T, MR, NR, FMA>(&data[first * stride..], *stride, rows, bp);
                        put(ia, rows, &acc);
                    }
                }
            }
        }
    }
}

/// The inner loop: `acc[i][j] = sum over k of a[k][i] b[k][j]`, accumulators in registers.
#[inline(always)]
fn accumulate<T: Real, const MR: usize, const NR: usize, const FMA: bool>(a: &[T], b: &[T]) -> [[T; NR]; MR] {
    let mut acc = [[T::ZERO; NR]; MR];
    for (a, b) in a.as_chunks::<MR>().0.iter().zip(b.as_chunks::<NR>().0) {
        for i in 0..MR {
            for j in 0..NR {
                acc[i][j] = if FMA { a[i].fma(b[j], acc[i][j]) } else { a[i] * b[j] + acc[i][j] };
            }
        }
    }
    acc
}

/// The same from rows of A in place. Of fewer than `MR` rows the last one stands in for the missing ones.
#[inline(always)]
fn accumulate_rows<T: Real, const MR: usize, const NR: usize, const FMA: bool>(
    a: &[T],
    stride: usize,
    rows: usize,
    b: &[T],
) -> [[T; NR]; MR] {
    let mut acc = [[T::ZERO; NR]; MR];
    let b = b.as_chunks::<NR>().0;
    assert!(rows > 0 && a.len() >= (rows - 1) * stride + b.len());
    let at: [usize; MR] = std::array::from_fn(|i| i.min(rows - 1) * stride);
    for (k, b) in b.iter().enumerate() {
        for i in 0..MR {
            // SAFETY: at[i] <= (rows - 1) * stride and k < b.len(): in bounds by the assertion above.
            let x = unsafe { *a.get_unchecked(at[i] + k) };
            for j in 0..NR {
                acc[i][j] = if FMA { x.fma(b[j], acc[i][j]) } else { x * b[j] + acc[i][j] };
            }
        }
    }
    acc
}

/// Writes the given start values to the tile that is about to be added to, while it is in the nearest cache.
#[inline(always)]
fn begin<T: Real>(start: Start<'_, T>, c: &mut [T], stride: usize, rows: usize, cols: usize) {
    let Start::Given { bias, residual } = start else { return };
    for i in 0..rows {
        let out = &mut c[i * stride..i * stride + cols];
        match (bias, residual) {
            (Some(b), None) => out.copy_from_slice(&b[..cols]),
            (None, Some(r)) => out.copy_from_slice(&r[i * stride..i * stride + cols]),
            (Some(b), Some(r)) => {
                let pairs = r[i * stride..i * stride + cols].iter().zip(b);
                out.iter_mut().zip(pairs).for_each(|(o, (r, b))| *o = *r + *b);
            }
            (None, None) => out.fill(T::ZERO),
        }
    }
}

#[inline(always)]
fn store<T: Real, const MR: usize, const NR: usize>(
    acc: &[[T; NR]; MR],
    c: &mut [T],
    stride: usize,
    rows: usize,
    cols: usize,
    assign: bool,
) {
    for (i, line) in acc.iter().enumerate().take(rows) {
        let out = &mut c[i * stride..i * stride + cols];
        match (assign, <&mut [T; NR]>::try_from(&mut *out)) {
            (true, Ok(out)) => *out = *line,
            (true, Err(_)) => out.copy_from_slice(&line[..cols]),
            (false, Ok(out)) => (0..NR).for_each(|j| out[j] += line[j]),
            (false, Err(_)) => out.iter_mut().zip(line).for_each(|(o, x)| *o += *x),
        }
    }
}

/// Rows of C that one task computes: enough tasks for the threads, whole register tiles,
/// and at most 96 rows so that packed A stays in the second-level cache.
fn block_rows(m: usize, mr: usize) -> usize {
    let tasks = 3 * rayon::current_num_threads();
    m.div_ceil(tasks).next_multiple_of(mr).min(96)
}

/// Columns of C whose packed B is alive at a time: at most `SLAB x CHUNK` elements, whatever n is.
const SLAB: usize = 1024;

/// `C[m, n] = A[m, k] B[n, k]^T` (assign) or `C += A B^T`; see [`gemm_onto`].
pub fn gemm<T: Real>(
    m: usize,
    n: usize,
    k: usize,
    a: &impl Operand<T>,
    b: &impl Operand<T>,
    c: &mut [T],
    assign: bool,
) {
    gemm_onto(m, n, k, a, b, c, if assign { Start::Zero } else { Start::Present });
}

/// `C[m, n] = start + A[m, k] B[n, k]^T`, on all threads of the current pool; C is row-major, `n` wide.
pub fn gemm_onto<T: Real>(
    m: usize,
    n: usize,
    k: usize,
    a: &impl Operand<T>,
    b: &impl Operand<T>,
    c: &mut [T],
    start: Start<'_, T>,
) {
    debug_assert!(c.len() == m * n);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        match start {
            Start::Zero => c.fill(T::ZERO),
            start => begin(start, c, n, m, n),
        }
    }
    let block = block_rows(m, tile::<T>().mr);
    for n0 in (0..n).step_by(SLAB) {
        for k0 in (0..k).step_by(CHUNK) {
            let ks = CHUNK.min(k - k0);
            let right = Packed::right_parallel(b, n0, SLAB.min(n - n0), k0, ks);
            c.par_chunks_mut(block * n).enumerate().for_each(|(i, c)| {
                let left = Left::new(a, i * block, c.len() / n, k0, ks);
                let start = if k0 == 0 { start.from(i * block, n0, n) } else { Start::Present };
                multiply_onto(&left, &right, &mut c[n0..], n, start);
            });
        }
    }
}

use super::{Norm, Residual};
use crate::device::cpu::gemm::int8::Tokens;
use crate::device::cpu::gemm::{Block, Factor, Mat, Product, Right, block_rows, gemm};
use crate::device::cpu::rows;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{add_column_sums, add_to, parts};
use crate::dtype::{Element, Real, narrow};
use crate::rng::Dropout;
use crate::tape::Grads;
use crate::tensor::Tensor;
use half::bf16;
use rayon::prelude::*;

/// `x W^T`.
struct Forward<'a, S: Factor> {
    x: &'a Tensor,
    w: &'a Tensor,
    bias: Option<&'a [S]>,
}

impl<'a, S: Factor> Forward<'a, S> {
    fn new(x: &'a Tensor, w: &'a Tensor, b: Option<&'a Tensor>) -> Self {
        Forward { x, w, bias: b.map(|b| b.slice()) }
    }
    /// As [`Product::run`].
    fn run<O: Send>(
        &self,
        outs: impl IndexedParallelIterator<Item = O>,
        finish: impl Fn(&Block, &mut [S::Wide], &mut O) + Sync,
    ) {
        let (rows, out, k) = (self.x.rows(), self.w.rows(), self.w.dim());
        if let Some(weight) = self.w.int8() {
            let x = Tokens::new(self.x.slice::<bf16>(), k);
            return weight.run((&x, rows, &x.scales), outs, |block, sums, out| {
                finish(block, bytemuck::cast_slice_mut(sums), out)
            });
        }
        let packed = self.w.panels::<S>();
        let (x, w) =
            (Mat::rows(self.x.slice::<S>(), k), Mat::rows(if packed.is_some() { &[] } else { self.w.slice::<S>() }, k));
        let product = Product::new((rows, out, k), &x, packed.map_or(Right::Matrix(&w), Right::Packed));
        product.run(outs, finish);
    }
    /// The bias from column `first` on of rows of `len`, or nothing.
    #[inline(always)]
    fn bias(&self, first: usize, len: usize) -> &'a [S] {
        part(self.bias, first, len)
    }
}

/// `len` elements from `first` on of what may not be there.
#[inline(always)]
fn part<S>(of: Option<&[S]>, first: usize, len: usize) -> &[S] {
    of.map_or(&[], |all| &all[first..first + len])
}

/// y is of x's type or, for logits, wide.
pub fn forward<S: Factor>(x: &Tensor, w: &Tensor, b: Option<&Tensor>, residual: Option<&Tensor>, y: &mut Tensor) {
    match y.dtype() == S::DTYPE {
        true => forward_into::<S, S>(x, w, b, residual, y, rows::add),
        false => forward_into::<S, S::Wide>(
            x,
            w,
            b,
            residual,
            y,
            #[inline(always)]
            |sums, adds, y| {
                rows::add_all(sums, adds);
                y.copy_from_slice(sums);
            },
        ),
    }
}

fn forward_into<S: Factor, Y: Element>(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    residual: Option<&Tensor>,
    y: &mut Tensor,
    finish: impl Fn(&mut [S::Wide], [&[S]; 2], &mut [Y]) + Sync,
) {
    let (out, residual) = (w.rows(), residual.map(|r| r.slice::<S>()));
    let forward = Forward::<S>::new(x, w, b);
    let blocks = y.slice_mut::<Y>().par_chunks_mut((block_rows(x.rows()) * out).max(1));
    forward.run(blocks, |block, sums, y| {
        let (first, len) = (block.columns.start, block.columns.len());
        for (row, (sums, y)) in block.rows.clone().zip(block.rows_mut(sums, y, out)) {
            vectorize(
                #[inline(always)]
                || finish(sums, [forward.bias(first, len), part(residual, row * out + first, len)], y),
            );
        }
    });
}

/// `y = gelu(z)`, `z = x W^T + b`; z is rounded where it is kept, and not before gelu.
pub fn forward_gelu<S: Factor>(x: &Tensor, w: &Tensor, b: &Tensor, z: Option<&mut Tensor>, y: &mut Tensor) {
    let out = w.rows();
    let forward = Forward::<S>::new(x, w, Some(b));
    let size = (block_rows(x.rows()) * out).max(1);
    let kept = parts::<S>(z, size, y.len().div_ceil(size));
    let blocks = y.slice_mut::<S>().par_chunks_mut(size).zip(kept);
    forward.run(blocks, |block, sums, (y, z)| {
        let (first, len) = (block.columns.start, block.columns.len());
        for (i, (sums, y)) in block.rows_mut(sums, y, out).enumerate() {
            let at = i * out + first;
            let z = z.get_mut(at..at + len).unwrap_or_default();
            vectorize(
                #[inline(always)]
                || rows::gelu(sums, [forward.bias(first, len)], z, y),
            );
        }
    });
}

/// What [`forward_norm`] makes.
pub struct Normed<'a> {
    pub y: &'a mut Tensor,
    /// What rounding took from y.
    pub rest: Option<&'a mut Tensor>,
    /// What is normalised.
    pub sum: Option<&'a mut Tensor>,
    pub stats: &'a mut Tensor,
}

/// All of a row's columns are summed by one task at a time: W has at most [`SLAB`](crate::device::cpu::gemm::SLAB) rows.
pub fn forward_norm<S: Factor>(
    x: &Tensor,
    (w, b): (&Tensor, &Tensor),
    (residual, drop): (Option<&Residual>, Dropout),
    norm: &Norm<'_>,
    into: Normed<'_>,
) {
    let (out, height) = (w.rows(), block_rows(x.rows()));
    let size = (height * out).max(1);
    let norm =
        rows::Norm { weight: norm.weight.slice::<S>(), bias: norm.bias.slice::<S>(), eps: S::Wide::of(norm.eps) };
    let forward = Forward::<S>::new(x, w, Some(b));
    let count = into.y.len().div_ceil(size);
    let kept = parts::<S>(into.sum, size, count).into_par_iter().zip(parts::<S>(into.rest, size, count));
    let stats = into.stats.slice_mut::<S::Wide>().par_chunks_mut(2 * height);
    let blocks = into.y.slice_mut::<S>().par_chunks_mut(size).zip(stats).zip(kept);
    let stream =
        residual.map_or([None; 2], |stream| [Some(&stream.x), stream.rest.as_ref()].map(|t| Some(t?.slice::<S>())));
    forward.run(blocks, |block, sums, ((y, stats), (kept, rest))| {
        let lines = sums.chunks_exact_mut(out).zip(y.chunks_exact_mut(out)).zip(stats.as_chunks_mut().0);
        for (i, ((row, y), stats)) in lines.enumerate() {
            let (here, at) = (i * out..(i + 1) * out, (block.rows.start + i) * out);
            let sum = kept.get_mut(here.clone()).unwrap_or_default();
            let rest = rest.get_mut(here).unwrap_or_default();
            let [first, second] = stream.map(|of| part(of, at, out));
            vectorize(
                #[inline(always)]
                || {
                    let mut bias = forward.bias(0, out);
                    if !drop.is_off() {
                        add_to(row, std::mem::take(&mut bias));
                        drop.apply(at as u64, row);
                    }
                    *stats = rows::norm(row, [bias, first, second], norm, rows::Normed { sum, y, rest });
                },
            );
        }
    });
}

pub fn backward<S: Factor>(
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    dx: &mut Tensor,
    grads: &mut Grads,
) {
    let (rows, k, out) = (x.rows(), x.dim(), w.rows());
    let (dy, xs, ws) = (Mat::rows(dy.slice::<S>(), out), Mat::rows(x.slice::<S>(), k), Mat::rows(w.slice::<S>(), k));
    let ws = ws.t();
    let blocks = dx.slice_mut::<S>().par_chunks_mut((block_rows(rows) * k).max(1));
    let of_input = || {
        Product::new((rows, k, out), &dy, Right::Matrix(&ws)).run(blocks, |block, sums, dx| {
            for (sums, dx) in block.rows_mut(sums, dx, k) {
                vectorize(
                    #[inline(always)]
                    || narrow(sums, dx),
                );
            }
        })
    };
    let of_weight = || {
        gemm::<S>((out, k, rows), &dy.t(), &xs.t(), grads.param(w), false);
        if let Some(b) = b {
            add_column_sums(dy.data, out, grads.param(b));
        }
    };
    // Side by side: a thread that has nothing left of one helps with the other.
    rayon::join(of_input, of_weight);
}

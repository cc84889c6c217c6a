use super::{Norm, Stream};
use crate::device::cpu::gemm::int8::Tokens;
use crate::device::cpu::gemm::{Block, Factor, Mat, Product, Right, block_rows, gemm};
use crate::device::cpu::math::gelu;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{add_column_sums, add_to, parts};
use crate::dtype::{Element, Real, narrow};
use crate::ops::layernorm::cpu::normalise;
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
    /// The bias of `columns`, added to a row of sums.
    #[inline(always)]
    fn add_bias(&self, first: usize, sums: &mut [S::Wide]) {
        if let Some(bias) = self.bias {
            sums.iter_mut().zip(&bias[first..]).for_each(|(sum, b)| *sum += b.wide());
        }
    }
}

/// y is of x's type or, for logits, wide.
pub fn forward<S: Factor>(x: &Tensor, w: &Tensor, b: Option<&Tensor>, residual: Option<&Tensor>, y: &mut Tensor) {
    match y.dtype() == S::DTYPE {
        true => forward_into::<S, S>(x, w, b, residual, y, narrow),
        false => forward_into::<S, S::Wide>(x, w, b, residual, y, |sums, y| y.copy_from_slice(sums)),
    }
}

fn forward_into<S: Factor, Y: Element>(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    residual: Option<&Tensor>,
    y: &mut Tensor,
    round: impl Fn(&[S::Wide], &mut [Y]) + Sync,
) {
    let (out, residual) = (w.rows(), residual.map(|r| r.slice::<S>()));
    let forward = Forward::<S>::new(x, w, b);
    let blocks = y.slice_mut::<Y>().par_chunks_mut((block_rows(x.rows()) * out).max(1));
    forward.run(blocks, |block, sums, y| {
        let first = block.columns.start;
        for (row, (sums, y)) in block.rows.clone().zip(block.rows_mut(sums, y, out)) {
            vectorize(
                #[inline(always)]
                || {
                    forward.add_bias(first, sums);
                    if let Some(r) = residual {
                        sums.iter_mut().zip(&r[row * out + first..]).for_each(|(sum, r)| *sum += r.wide());
                    }
                    round(sums, y);
                },
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
        let columns = block.columns.clone();
        for (i, (sums, y)) in block.rows_mut(sums, y, out).enumerate() {
            let z = z.get_mut(i * out..(i + 1) * out);
            vectorize(
                #[inline(always)]
                || {
                    forward.add_bias(columns.start, sums);
                    if let Some(z) = z {
                        narrow(sums, &mut z[columns.clone()]);
                    }
                    sums.iter_mut().for_each(
                        #[inline(always)]
                        |sum| *sum = gelu(*sum),
                    );
                    narrow(sums, y);
                },
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
    (residual, drop): (Option<&Stream>, Dropout),
    norm: &Norm<'_>,
    into: Normed<'_>,
) {
    let (out, rows) = (w.rows(), block_rows(x.rows()));
    let (size, params) =
        ((rows * out).max(1), (norm.weight.slice::<S>(), norm.bias.slice::<S>(), S::Wide::of(norm.eps)));
    let forward = Forward::<S>::new(x, w, Some(b));
    let count = into.y.len().div_ceil(size);
    let kept = parts::<S>(into.sum, size, count).into_par_iter().zip(parts::<S>(into.rest, size, count));
    let stats = into.stats.slice_mut::<S::Wide>().par_chunks_mut(2 * rows);
    let blocks = into.y.slice_mut::<S>().par_chunks_mut(size).zip(stats).zip(kept);
    forward.run(blocks, |block, sums, ((y, stats), (kept, rest))| {
        let lines = sums.chunks_exact_mut(out).zip(y.chunks_exact_mut(out)).zip(stats.chunks_exact_mut(2));
        for (i, ((row, y), stats)) in lines.enumerate() {
            let (here, at) = (i * out..(i + 1) * out, (block.rows.start + i) * out);
            vectorize(
                #[inline(always)]
                || {
                    forward.add_bias(0, row);
                    drop.apply(at as u64, row);
                    for part in residual.iter().flat_map(|stream| stream.parts()) {
                        add_to(row, &part.slice::<S>()[at..at + out]);
                    }
                    if let Some(kept) = kept.get_mut(here.clone()) {
                        narrow(row, kept);
                    }
                    normalise(row, params, stats);
                    narrow(row, y);
                    if let Some(rest) = rest.get_mut(here) {
                        row.iter_mut().zip(&*y).for_each(|(x, y)| *x -= y.wide());
                        narrow(row, rest);
                    }
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

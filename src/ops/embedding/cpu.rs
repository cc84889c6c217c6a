use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::vectorize;
use crate::device::cpu::vector::{add_column_sums, add_to, block, chunk};
use crate::dtype::{Element, narrow, widen};
use crate::tape::Grads;
use crate::tensor::Tensor;
use rayon::prelude::*;

pub fn forward<S: Element>(
    ids: &[u32],
    positions: &[u32],
    word: &Tensor,
    position: &Tensor,
    token_type: &Tensor,
    y: &mut Tensor,
) {
    let dim = word.dim();
    let (word, position, kind) = (word.slice::<S>(), position.slice::<S>(), &token_type.slice::<S>()[..dim]);
    y.slice_mut::<S>().par_chunks_mut(chunk(block(dim), dim)).enumerate().for_each(|(b, y)| {
        let first = b * block(dim);
        let mut sum = Scratch::new(dim);
        vectorize(
            #[inline(always)]
            || {
                for (i, y) in y.chunks_exact_mut(dim).enumerate() {
                    let (w, p) = (ids[first + i] as usize * dim, positions[first + i] as usize * dim);
                    widen(&word[w..w + dim], &mut sum);
                    add_to(&mut sum, &position[p..p + dim]);
                    add_to(&mut sum, kind);
                    narrow(&sum, y);
                }
            },
        );
    });
}

pub fn backward<S: Element>(dy: &Tensor, ids: &[u32], positions: &[u32], tables: [&Tensor; 3], grads: &mut Grads) {
    let (dim, data) = (dy.dim(), dy.slice::<S>());
    add_rows(data, dim, ids, grads.param(tables[0]));
    add_rows(data, dim, positions, grads.param(tables[1]));
    add_column_sums(data, dim, &mut grads.param(tables[2])[..dim]);
}

/// `table[numbers[i]] += data[i]`, i ascending for each row of the table.
fn add_rows<S: Element>(data: &[S], dim: usize, numbers: &[u32], table: &mut [S::Wide]) {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by_key(|&i| numbers[i]);
    let (mut tasks, mut rest, mut passed) = (Vec::new(), table, 0);
    for uses in order.chunk_by(|&i, &j| numbers[i] == numbers[j]) {
        let at = numbers[uses[0]] as usize;
        let (row, after) = rest.split_at_mut((at - passed) * dim).1.split_at_mut(dim);
        (rest, passed) = (after, at + 1);
        tasks.push((row, uses));
    }
    tasks.into_par_iter().with_min_len(8).for_each(|(row, uses)| {
        vectorize(
            #[inline(always)]
            || uses.iter().for_each(|i| add_to(row, &data[i * dim..][..dim])),
        );
    });
}

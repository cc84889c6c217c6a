//! From logits to relations.

use crate::dtype::{DType, Real};
use crate::tensor::Tensor;

/// For each cell its relations and their margins `l_r - l_TH`, largest first: r with `l_r > l_TH`, at
/// most `top_k` of them. Of equal logits the lower class comes first. None: NA.
///
/// (Whether TH itself takes one of the k places does not matter: nothing below it is predicted.)
pub fn predict(logits: &Tensor, top_k: usize) -> Vec<Vec<(u32, f64)>> {
    match logits.dtype() {
        DType::F32 => rows::<f32>(logits, top_k),
        DType::F64 => rows::<f64>(logits, top_k),
    }
}

fn rows<T: Real>(logits: &Tensor, top_k: usize) -> Vec<Vec<(u32, f64)>> {
    logits.slice::<T>().chunks_exact(logits.dim().max(1)).map(|row| relations(row, top_k)).collect()
}

fn relations<T: Real>(row: &[T], top_k: usize) -> Vec<(u32, f64)> {
    let above = (0u32..).zip(row).filter(|(_, l)| **l > row[0]);
    let mut found: Vec<_> = above.map(|(class, l)| (class, l.f64() - row[0].f64())).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    found.truncate(top_k);
    found
}

//! From logits to relations.

use crate::dtype::{DType, Real};
use crate::error::Result;
use crate::tensor::Tensor;

/// For each cell its relations and their margins `l_r - l_TH`, largest first: r with `l_r > l_TH`, at
/// most `top_k` of them. Of equal logits the lower class comes first. None: NA.
///
/// (Whether TH itself takes one of the k places does not matter: nothing below it is predicted.)
pub fn predict(logits: &Tensor, top_k: usize) -> Result<Vec<Vec<(u32, f64)>>> {
    predict_above(logits, top_k, 0.0)
}

/// As [`predict`], with `l_r - l_TH > margin`; a margin below 0 asks for more relations.
pub fn predict_above(logits: &Tensor, top_k: usize, margin: f64) -> Result<Vec<Vec<(u32, f64)>>> {
    let logits = logits.to_cpu()?;
    Ok(match logits.dtype() {
        DType::F64 => rows::<f64>(&logits, top_k, margin),
        _ => rows::<f32>(&logits, top_k, margin),
    })
}

fn rows<T: Real>(logits: &Tensor, top_k: usize, margin: f64) -> Vec<Vec<(u32, f64)>> {
    logits.slice::<T>().chunks_exact(logits.dim().max(1)).map(|row| relations_above(row, top_k, margin)).collect()
}

/// As [`predict_above`], of one cell's logits.
pub fn relations_above<T: Real>(row: &[T], top_k: usize, margin: f64) -> Vec<(u32, f64)> {
    let margins = (0u32..).zip(row).skip(1).map(|(class, l)| (class, l.f64() - row[0].f64()));
    let mut found: Vec<_> = margins.filter(|(_, m)| *m > margin).collect();
    let surest = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if (1..found.len()).contains(&top_k) {
        found.select_nth_unstable_by(top_k - 1, surest);
    }
    found.truncate(top_k);
    found.sort_unstable_by(surest);
    found
}

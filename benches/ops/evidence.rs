use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::layout::{Cell, EvidencePairs};
use docre::ops::context_pool::Pooling;
use docre::ops::evidence::{Gold, evidence_loss};
use std::sync::Arc;

/// The dozen pairs of a document that have a relation. Throughput in multiply-adds of q.
pub fn bench(c: &mut Criterion) {
    let (device, heads, documents) = (device(), 12, Arc::new(document()));
    let cells: Vec<Cell> = (0..12).map(|i| Cell { document: 0, subject: i, object: (3 * i + 1) % 20 }).collect();
    let pairs = Arc::new(EvidencePairs::new(&documents, cells).expect("pairs of the document"));
    let shares: Vec<f64> = (0..pairs.rows.rows()).map(|i| if i % 8 < 2 { 0.5 } else { 0.0 }).collect();
    let gold = Gold { shares: &shares, weight: 0.1, pairs: 12 };
    let a = tensor(&device, &[ENTITIES * heads * TOKENS]);
    let pooling = Pooling { heads, mean: false, epsilon: 1e-10 };
    let products = Throughput::Elements((12 * heads * TOKENS) as u64);
    measure(c, "evidence", &device, 0, products, |tape| evidence_loss(tape, &a, &pairs, pooling, gold));
}

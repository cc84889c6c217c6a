use crate::support::*;
use criterion::{Criterion, Throughput};
use docre::ops::attention_rows::attention_rows;
use docre::rng::Dropout;
use std::sync::Arc;

/// Throughput in multiply-adds of the forward pass: 1.5 mentions an entity.
pub fn bench(c: &mut Criterion) {
    let (device, heads) = (device(), 12);
    let documents = Arc::new(document());
    let (qkv, lse) = (tensor(&device, &[TOKENS, 3 * DIM]), tensor(&device, &[TOKENS, heads]));
    let products = Throughput::Elements((documents.mention.len() * TOKENS * DIM) as u64);
    measure(c, "attention_rows", &device, 0, products, |tape| {
        attention_rows(tape, &qkv, &lse, &documents, heads, Dropout::default())
    });
}

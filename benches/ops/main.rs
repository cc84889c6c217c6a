//! Throughput of each op, forward alone and forward with backward: `cargo bench --bench ops -- layernorm`.

mod add;
mod attention;
mod attention_rows;
mod axial;
mod bilinear;
mod context_pool;
mod dropout;
mod embedding;
mod entity_pool;
mod evidence;
mod gather;
mod gelu;
mod layernorm;
mod linear;
mod loss;
mod optim;
mod pair_combine;
mod support;

use criterion::{Criterion, criterion_group, criterion_main};

fn all(c: &mut Criterion) {
    add::bench(c);
    attention::bench(c);
    attention_rows::bench(c);
    axial::bench(c);
    bilinear::bench(c);
    context_pool::bench(c);
    dropout::bench(c);
    embedding::bench(c);
    entity_pool::bench(c);
    evidence::bench(c);
    gather::bench(c);
    gelu::bench(c);
    layernorm::bench(c);
    linear::bench(c);
    loss::bench(c);
    optim::bench(c);
    pair_combine::bench(c);
}

criterion_group!(benches, all);
criterion_main!(benches);

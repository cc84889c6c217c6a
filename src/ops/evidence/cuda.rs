//! Launches of kernels/evidence.cu.

use super::{FLOOR, Gold, Pooling};
use crate::device::cuda::Cuda;
use crate::error::Result;
use crate::layout::EvidencePairs;
use crate::tensor::Tensor;
use std::sync::Arc;

const THREADS: usize = 256;
/// Of the gradient, whose blocks have one row of A each.
const ROW_THREADS: usize = 128;

fn words(numbers: impl IntoIterator<Item = usize>) -> Vec<i32> {
    numbers.into_iter().map(|n| n as i32).collect()
}

/// Where each entity's rows of A start, divided by the heads.
fn areas(pairs: &EvidencePairs) -> Vec<usize> {
    let (mut areas, mut next) = (Vec::new(), 0);
    for (entities, tokens) in pairs.documents.entities.iter().zip(pairs.documents.tokens.iter()) {
        areas.extend(entities.clone().map(|e| next + (e - entities.start) * tokens.len()));
        next += entities.len() * tokens.len();
    }
    areas
}

/// `Pair` of the kernels, one a pair.
fn pair_places(pairs: &EvidencePairs) -> Vec<i32> {
    let (areas, documents) = (areas(pairs), &pairs.documents);
    words((0..pairs.cells.len()).flat_map(|pair| {
        let [s, o] = pairs.entities(pair).map(|e| areas[e]);
        let d = pairs.cells[pair].document as usize;
        let sentences = documents.sentences.range(d);
        [s, o, documents.tokens.length(d), sentences.start, sentences.len(), pairs.rows.starts[pair], 0, 0]
    }))
}

/// First and last position of every sentence.
fn sentences(pairs: &EvidencePairs) -> Vec<i32> {
    words(pairs.documents.sentence.iter().flat_map(|s| [s.start, s.end]))
}

/// Of every token its sentence; of one in none, their count.
fn sentence_of_tokens(pairs: &EvidencePairs) -> Vec<i32> {
    let documents = &pairs.documents;
    let mut all = Vec::with_capacity(documents.tokens.rows());
    for (d, tokens) in documents.tokens.iter().enumerate() {
        all.resize(tokens.end, documents.sentences.length(d));
        for (i, sentence) in documents.sentences_of(d).iter().enumerate() {
            all[tokens.start + sentence.start..tokens.start + sentence.end].fill(i);
        }
    }
    words(all)
}

/// `Entity` of the kernels, one an entity; then `Use`, where the slopes of a pair begin and the other entity's area.
fn entity_places(pairs: &EvidencePairs) -> (Vec<i32>, Vec<i32>) {
    let (areas, uses, documents) = (areas(pairs), pairs.by_entity(), &pairs.documents);
    let (mut places, mut next) = (Vec::new(), 0);
    for (entities, tokens) in documents.entities.iter().zip(documents.tokens.iter()) {
        for e in entities {
            places.extend([areas[e], tokens.start, tokens.len(), next, next + uses[e].len(), 0, 0, 0]);
            next += uses[e].len();
        }
    }
    let uses = uses.iter().flatten().flat_map(|&(pair, other)| [pairs.rows.starts[pair] + pair, areas[other]]);
    (words(places), words(uses))
}

pub fn forward(
    cuda: &Cuda,
    a: &Tensor,
    pairs: &Arc<EvidencePairs>,
    pooling: Pooling,
    p: &mut Tensor,
    inverse: &mut Tensor,
) -> Result<()> {
    let places = cuda.layout(pairs, "evidence.pairs", pair_places)?;
    let sentences = cuda.layout(pairs, "evidence.sentences", sentences)?;
    let kernel = cuda.kernel("evidence_forward").input(a).words(&places).words(&sentences).output(p).output(inverse);
    let kernel = kernel.value(pooling.heads as i32).value(pooling.scale() as f32).value(pooling.epsilon as f32);
    kernel.launch([pairs.cells.len(), 1, 1], THREADS, 0)
}

pub fn loss(
    cuda: &Cuda,
    p: &Tensor,
    inverse: &Tensor,
    pairs: &Arc<EvidencePairs>,
    pooling: Pooling,
    gold: Gold,
    (term, slopes): (&mut Tensor, &mut Tensor),
) -> Result<()> {
    let mean = 1.0 / gold.pairs.max(1) as f64;
    let shares = cuda.upload(&gold.shares.iter().map(|&v| v as f32).collect::<Vec<_>>())?;
    let starts = cuda.layout(pairs, "evidence.rows", |pairs| words(pairs.rows.starts.iter().copied()))?;
    let kernel = cuda.kernel("evidence_loss").input(p).input(inverse).words(&shares).words(&starts);
    let kernel = kernel.output(term).output(slopes).value(pairs.cells.len() as i32).value(FLOOR as f32);
    let kernel = kernel.value((gold.weight * mean * pooling.scale()) as f32).value(mean);
    kernel.launch([1, 1, 1], THREADS, 0)
}

pub fn backward(
    cuda: &Cuda,
    a: &Tensor,
    slopes: &Tensor,
    pairs: &Arc<EvidencePairs>,
    pooling: Pooling,
    da: &mut Tensor,
) -> Result<()> {
    let (places, uses) = entity_places(pairs);
    let entities = pairs.documents.entities.rows();
    let (places, uses) = (cuda.upload(&places)?, cuda.upload(&uses)?);
    let tokens = cuda.layout(pairs, "evidence.tokens", sentence_of_tokens)?;
    let kernel = cuda.kernel("evidence_backward").input(a).input(slopes).words(&places).words(&uses).words(&tokens);
    kernel.output(da).value(pooling.heads as i32).launch([entities, pooling.heads, 1], ROW_THREADS, 0)
}

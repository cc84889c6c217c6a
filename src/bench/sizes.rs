//! The operands of the benchmarks: mean documents, and values that are neither zero nor random.

use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::{Cell, Documents, Encoded, EvidencePairs, Grid, Labels, Segments, Sources, Window};
use crate::model::config::ModelConfig;
use crate::model::names::{ParamSpec, parameter_table, random_encoder, ranges};
use crate::model::params::initialize;
use crate::model::{Model, Params};
use crate::tensor::Tensor;
use crate::train::Example;
use serde_json::json;
use std::sync::Arc;

pub const TOKENS: usize = 290;
pub const ENTITIES: usize = 20;
pub const SENTENCES: usize = 8;
pub const DIM: usize = 768;
pub const HEADS: usize = 12;
pub const INNER: usize = 3072;
pub const EXTRACTOR: usize = 1024;
pub const BLOCK: usize = 64;
pub const AXIAL_HEADS: usize = 8;
pub const CLASSES: usize = 97;
const VOCABULARY: usize = 28_996;

/// Of the type that the device keeps activations in; between -2 and 2.
pub fn activation(device: &Device, shape: &[usize]) -> Result<Tensor> {
    let values = values(shape.iter().product());
    match device.activation_dtype(DType::F32) {
        DType::BF16 => Tensor::from_rounded(device, "bench", shape, &values),
        _ => Tensor::from_vec(device, "bench", shape, values),
    }
}

/// In f32 on every device.
pub fn wide(device: &Device, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(device, "bench", shape, values(shape.iter().product()))
}

fn values(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) as f32 / 1_073_741_824.0 - 2.0).collect()
}

/// Parameters one after another, as views of one flat array.
pub fn parameters(device: &Device, shapes: &[&[usize]]) -> Result<(usize, Vec<Tensor>)> {
    let sizes = shapes.iter().map(|shape| shape.iter().product::<usize>());
    // Each at a multiple of 8 elements, as in a model.
    let places = Segments::from_lengths(sizes.map(|n| n.next_multiple_of(8)));
    let flat = activation(device, &[places.rows()])?;
    let views = shapes.iter().zip(&places.starts).map(|(shape, &at)| flat.view(at, shape)).collect::<Result<_>>()?;
    Ok((places.rows(), views))
}

/// `count` documents of one window each; entities have one, two, one, two … mentions.
pub fn documents(count: usize) -> Documents {
    let of_document = || (0..ENTITIES).map(|e| 1 + e % 2);
    let mentions = Segments::from_lengths((0..count).flat_map(|_| of_document()));
    let window = |d: usize| Window { rows: d * TOKENS..(d + 1) * TOKENS, keep: 0..TOKENS, first: d * TOKENS };
    // 36 tokens each, the special ones in none.
    let sentence = |s: usize| 1 + s * (TOKENS - 2) / SENTENCES..1 + (s + 1) * (TOKENS - 2) / SENTENCES;
    Documents {
        tokens: Segments::from_lengths(vec![TOKENS; count]),
        windows: Segments::from_lengths(vec![1; count]),
        window: (0..count).map(window).collect(),
        entities: Segments::from_lengths(vec![ENTITIES; count]),
        mention: (0..mentions.rows()).map(|m| m * 7 % TOKENS).collect(),
        mentions,
        sentences: Segments::from_lengths(vec![SENTENCES; count]),
        sentence: (0..count * SENTENCES).map(|s| sentence(s % SENTENCES)).collect(),
    }
}

pub fn grid(count: usize) -> Grid {
    Grid::new(&vec![ENTITIES; count], 0)
}

/// The pairs of a document with a relation, a dozen each, and their gold evidence: the first two sentences.
pub fn evidence(documents: &Arc<Documents>) -> Result<(Arc<EvidencePairs>, Vec<f64>)> {
    let cell = |document: usize, i: usize| {
        let [document, subject, object] = [document, i, (3 * i + 1) % ENTITIES].map(|x| x as u32);
        Cell { document, subject, object }
    };
    let cells = (0..documents.len()).flat_map(|d| (0..12).map(move |i| cell(d, i))).collect();
    let pairs = EvidencePairs::new(documents, cells)?;
    let gold = (0..pairs.rows.rows()).map(|i| if i % SENTENCES < 2 { 0.5 } else { 0.0 }).collect();
    Ok((Arc::new(pairs), gold))
}

/// The rows of the mentions of each entity.
pub fn mentions(documents: &Documents) -> Sources {
    let mut sources = Sources::default();
    for d in 0..documents.len() {
        for e in documents.entities.range(d) {
            let of_entity = documents.mentions_of(e);
            sources.rows.push(of_entity.len());
            sources.index.extend(of_entity.iter().map(|m| (documents.tokens.starts[d] + m) as u32));
            sources.weight.extend(of_entity.iter().map(|_| 1.0));
        }
    }
    sources
}

/// One relation every dozen cells.
pub fn labels(cells: usize) -> Labels {
    labels_of(cells, CLASSES)
}

pub fn labels_of(cells: usize, classes: usize) -> Labels {
    let mut labels = Labels::new(cells, classes);
    (0..cells).step_by(12).for_each(|cell| labels.set(cell, 1 + cell % (classes - 1).max(1)));
    labels
}

/// BERT-base with the head of the released program and random weights.
pub fn model(device: &Device, dropout: f64) -> Result<Model> {
    let (config, table, flat) = weights(dropout)?;
    Ok(Model { config, params: Params::new(device, table, flat)? })
}

/// As [`model`], to extract with.
pub fn ready(device: &Device) -> Result<Model> {
    let (config, table, flat) = weights(0.0)?;
    Ok(Model { config, params: Params::to_infer(device, table, &flat)? })
}

fn weights(dropout: f64) -> Result<(ModelConfig, Vec<ParamSpec>, Vec<f32>)> {
    let config = json!({
        "model_type": "bert", "hidden_size": DIM, "num_hidden_layers": 12, "num_attention_heads": HEADS,
        "intermediate_size": INNER, "vocab_size": VOCABULARY, "max_position_embeddings": 512, "type_vocab_size": 2,
        "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout,
        "docre": {"extractor_size": EXTRACTOR, "block_size": BLOCK, "classes": CLASSES, "axial_layers": 6,
                  "axial_heads": AXIAL_HEADS},
    });
    let config = ModelConfig::parse(&config.to_string())?;
    let mut table = parameter_table(&config);
    random_encoder(&mut table);
    let total = ranges(&table).last().map_or(0, |last| last.end);
    let mut flat = vec![0f32; total];
    initialize(&table, &(0..table.len()).collect::<Vec<_>>(), 1, &mut flat);
    Ok((config, table, flat))
}

/// Documents for a whole model, with labels.
pub fn examples(count: usize) -> Vec<Example> {
    let documents = documents(1);
    let mentions: Vec<Vec<u32>> =
        documents.entities.range(0).map(|e| documents.mentions_of(e).iter().map(|&m| m as u32).collect()).collect();
    let ids = |d: usize| (0..TOKENS).map(|i| (1000 + (i * 97 + d * 31) % (VOCABULARY - 1000)) as u32).collect();
    let labels = labels(ENTITIES * ENTITIES);
    let example = |d| Example {
        encoded: Encoded { ids: ids(d), mentions: mentions.clone(), ..Encoded::default() },
        labels: labels.clone(),
        unknown_gold: 0,
        teacher: Vec::new(),
    };
    (0..count).map(example).collect()
}

//! Tiny models with random weights, and documents for them.

use docre::device::Device;
use docre::dtype::Real;
use docre::layout::{Encoded, Labels};
use docre::model::config::ModelConfig;
use docre::model::names::{parameter_table, random_encoder};
use docre::model::params::initialize;
use docre::model::{Model, Params};
use docre::rng::Stream;
use serde_json::{Value, json};

pub const VOCABULARY: usize = 40;
/// The encoder's window.
pub const WINDOW: usize = 32;
pub const CLASSES: usize = 5;

/// A plain encoder: 2 layers, 2 heads, 16 wide.
pub fn encoder_json() -> Value {
    encoder_of(16, 24)
}

fn encoder_of(width: usize, inner: usize) -> Value {
    json!({
        "model_type": "bert", "hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": inner, "vocab_size": VOCABULARY, "max_position_embeddings": WINDOW, "type_vocab_size": 2,
    })
}

/// With a head of 2 axial layers; `head` overrides its fields.
pub fn config(head: Value) -> ModelConfig {
    with_head(encoder_json(), 16, head)
}

/// Both as wide as the registers of AVX-512, whose own code takes rows of this width.
pub fn wide_config(head: Value) -> ModelConfig {
    with_head(encoder_of(32, 64), 32, head)
}

fn with_head(mut all: Value, extractor: usize, head: Value) -> ModelConfig {
    all["docre"] =
        json!({"extractor_size": extractor, "block_size": 8, "classes": CLASSES, "axial_layers": 2, "axial_heads": 2});
    let fields = head.as_object().unwrap().clone();
    all["docre"].as_object_mut().unwrap().extend(fields);
    ModelConfig::parse(&all.to_string()).unwrap()
}

pub fn without_dropout(mut config: ModelConfig) -> ModelConfig {
    (config.encoder.hidden_dropout_prob, config.encoder.attention_probs_dropout_prob) = (0.0, 0.0);
    config
}

/// As a new model starts, the encoder too.
pub fn fresh<T: Real>(config: &ModelConfig, threads: usize) -> Model {
    let mut table = parameter_table(config);
    random_encoder(&mut table);
    let mut flat = vec![T::ZERO; table.iter().map(|p| p.elements()).sum()];
    initialize(&table, &(0..table.len()).collect::<Vec<_>>(), 5, &mut flat);
    let params = Params::new(&Device::cpu(threads).unwrap(), table, flat).unwrap();
    Model { config: config.clone(), params }
}

/// With weights up to 0.5 everywhere, so that every parameter matters.
pub fn lively<T: Real>(config: &ModelConfig, threads: usize) -> Model {
    let table = parameter_table(config);
    let mut stream = Stream::new(9, 1);
    let mut flat: Vec<T> = Vec::new();
    for param in &table {
        let center = if param.name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        flat.extend((0..param.elements()).map(|_| T::of(center + stream.uniform() - 0.5)));
    }
    let params = Params::new(&Device::cpu(threads).unwrap(), table, flat).unwrap();
    Model { config: config.clone(), params }
}

/// The same weights on `device`, to be trained or, with `ready`, only to compute with.
pub fn moved(model: &Model, device: &Device, ready: bool) -> Model {
    let (specs, flat) = (model.params.specs().to_vec(), model.params.flat().slice::<f32>());
    let params = match ready {
        true => Params::to_infer(device, specs, flat),
        false => Params::new(device, specs, flat.to_vec()),
    };
    Model { config: model.config.clone(), params: params.unwrap() }
}

/// `[CLS]`, `length - 2` random pieces, `[SEP]`; mentions as they are given, sentences of five pieces.
pub fn document(seed: u64, length: usize, mentions: &[&[u32]]) -> Encoded {
    let mut stream = Stream::new(seed, 2);
    let mut ids = vec![1];
    ids.extend((2..length).map(|_| (4 + stream.below(VOCABULARY - 4)) as u32));
    ids.push(2);
    let sentences = (1..length as u32 - 1).step_by(5).map(|s| s..(s + 5).min(length as u32 - 1)).collect();
    let mentions = mentions.iter().map(|m| m.to_vec()).collect();
    Encoded { ids, mentions, sentences, ..Encoded::default() }
}

/// Some relations off the diagonal, a few cells with two.
pub fn labels(seed: u64, entities: usize, classes: usize) -> Labels {
    let mut stream = Stream::new(seed, 3);
    let mut labels = Labels::new(entities * entities, classes);
    for cell in (0..entities * entities).filter(|c| c / entities != c % entities) {
        (0..stream.below(3)).for_each(|_| labels.set(cell, 1 + stream.below(classes - 1)));
    }
    labels
}

/// Evidence for every relation of `labels`: one of the document's sentences, if it has some.
pub fn with_evidence(mut labels: Labels, document: &Encoded) -> Labels {
    let some = (0..labels.cells()).flat_map(|cell| (1..labels.classes).map(move |class| (cell, class)));
    let sentence = |cell: usize, class: usize| (3 * cell + class) as u32 % document.sentences.len().max(1) as u32;
    let found = some.filter(|&(cell, class)| labels.get(cell, class) && !document.sentences.is_empty());
    labels.evidence = found.map(|(cell, class)| (cell as u32, sentence(cell, class))).collect();
    labels
}

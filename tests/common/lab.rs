//! Encoders and documents on disk, small enough to train on in a test.

use super::tiny;
use docre::checkpoint::{Stored, save};
use docre::model::config::ModelConfig;
use docre::model::names::parameter_table;
use docre::rng::Stream;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const WORDS: [&str; 12] =
    ["ada", "love", "was", "born", "in", "london", "and", "wrote", "the", "first", "program", "."];

fn tokenizer() -> String {
    let special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "*"];
    let vocabulary: serde_json::Map<String, Value> =
        special.iter().chain(&WORDS).enumerate().map(|(i, piece)| (piece.to_string(), json!(i))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary},
    })
    .to_string()
}

/// A Hugging Face directory with a random encoder.
pub fn write_encoder(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let config = ModelConfig::parse(&tiny::encoder_json().to_string()).unwrap();
    let model = tiny::fresh::<f32>(&config, 1);
    let mut out = std::fs::File::create(dir.join("model.safetensors")).unwrap();
    save(&mut out, &parameter_table(&config), model.params.flat().slice::<f32>(), Stored::F32, &BTreeMap::new())
        .unwrap();
    std::fs::write(dir.join("config.json"), tiny::encoder_json().to_string()).unwrap();
    std::fs::write(dir.join("tokenizer.json"), tokenizer()).unwrap();
}

/// DocRED documents of two sentences, four entities and some labels.
pub fn documents(seed: u64, count: usize) -> String {
    let mut stream = Stream::new(seed, 8);
    let mut word = || WORDS[stream.below(WORDS.len())];
    let mut sentence = |n: usize| (0..n).map(|_| word()).collect::<Vec<_>>();
    let sentences: Vec<[Vec<&str>; 2]> = (0..count).map(|i| [sentence(6 + i % 5), sentence(5)]).collect();
    let mention =
        |sentence: usize, at: usize| json!({"name": "x", "sent_id": sentence, "pos": [at, at + 1], "type": "PER"});
    let document = |(i, sents): (usize, &[Vec<&str>; 2])| {
        let label = |h: usize, t: usize| json!({"h": h, "t": t, "r": format!("P{}", 1 + (i + h) % 3), "evidence": [0]});
        json!({
            "title": format!("document {i}"), "sents": sents,
            "vertexSet": [[mention(0, 0), mention(1, 1)], [mention(0, 2)], [mention(0, 4)], [mention(1, 3)]],
            "labels": [label(i % 4, (i + 1) % 4), label((i + 2) % 4, i % 4)],
        })
    };
    Value::from(sentences.iter().enumerate().map(document).collect::<Vec<_>>()).to_string()
}

/// An encoder, ten training and three development documents in `dir`.
pub fn write_lab(dir: &Path) {
    write_encoder(&dir.join("encoder"));
    std::fs::write(dir.join("train.json"), documents(1, 10)).unwrap();
    std::fs::write(dir.join("dev.json"), documents(2, 3)).unwrap();
}

//! Small model directories with random weights.

use docre::checkpoint::directory::save_directory;
use docre::checkpoint::{Stored, save_model};
use docre::data::Relations;
use docre::device::Device;
use docre::model::config::ModelConfig;
use docre::model::names::{ParamSpec, parameter_table, random_encoder};
use docre::model::params::initialize;
use docre::model::{Model, Params};
use serde_json::{Value, json};
use std::path::Path;

pub const PIECES: [&str; 16] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "*", "ada", "london", "was", "born", "in", ".", "the", "isar", "munich", "she",
    "##s",
];
pub const RELATIONS: [(&str, &str); 4] =
    [("P17", "country"), ("P19", "place of birth"), ("P22", "father"), ("P27", "country of citizenship")];

/// Windows of 40 pieces, a few thousand parameters.
pub fn tiny() -> Value {
    json!({
        "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "vocab_size": PIECES.len(), "max_position_embeddings": 40,
        "docre": {"extractor_size": 16, "block_size": 4, "axial_layers": 1, "axial_heads": 2},
    })
}

/// The sizes of the demo checkpoint, but for the vocabulary.
pub fn demo_size() -> Value {
    json!({
        "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
        "intermediate_size": 1536, "vocab_size": PIECES.len(), "max_position_embeddings": 512,
        "docre": {"extractor_size": 256, "block_size": 32, "axial_layers": 3, "axial_heads": 8},
    })
}

/// Writes a directory as training does. Without `docre` in `config`: a plain encoder.
pub fn write_model(dir: &Path, mut config: Value) {
    let codes = std::iter::once("Na").chain(RELATIONS.map(|(code, _)| code));
    if config.get("docre").is_some() {
        config["id2label"] = codes.clone().enumerate().map(|(i, code)| (i.to_string(), json!(code))).collect();
    }
    let config = ModelConfig::parse(&config.to_string()).unwrap();
    let mut table = parameter_table(&config);
    random_encoder(&mut table);
    let mut flat = vec![0f32; table.iter().map(ParamSpec::elements).sum()];
    initialize(&table, &(0..table.len()).collect::<Vec<_>>(), 7, &mut flat);
    let params = Params::new(&Device::cpu(1).unwrap(), table, flat).unwrap();
    let model = Model { config, params };
    save_directory(dir, |staging| {
        save_model(staging, &model, Stored::F32)?;
        staging.write("tokenizer.json", tokenizer().as_bytes())?;
        staging.write("relations.json", relations().as_bytes())
    })
    .unwrap();
}

pub fn relations() -> String {
    let named = RELATIONS.iter().enumerate().map(|(i, (r, name))| json!({"id": i + 1, "r": r, "name": name}));
    let all: Vec<Value> = std::iter::once(json!({"id": 0, "r": "Na"})).chain(named).collect();
    let text = json!(all).to_string();
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&path, &text).unwrap();
    Relations::load(path.path()).unwrap().to_json().unwrap()
}

pub fn tokenizer() -> String {
    let vocabulary: Value = PIECES.iter().enumerate().map(|(i, piece)| (piece.to_string(), json!(i))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocabulary},
    })
    .to_string()
}

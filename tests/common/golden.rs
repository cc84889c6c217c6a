//! The golden files: numbers that the reference programs computed (tests/golden, or DOCRE_GOLDEN_DIR).

use docre::checkpoint::TensorFile;
use docre::model::config::ModelConfig;
use serde_json::{Value, json};
use std::path::PathBuf;

pub fn golden_path(name: &str) -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let dir = std::env::var_os("DOCRE_GOLDEN_DIR").map_or_else(|| PathBuf::from(default), PathBuf::from);
    dir.join(format!("{name}.safetensors"))
}

pub fn golden(name: &str) -> TensorFile {
    TensorFile::open(golden_path(name)).unwrap()
}

/// What the metadata of `NAME.weights` says beyond the model: loss and special tokens.
pub struct GoldenExtras {
    pub gamma: f64,
    pub cls: u32,
    pub sep: u32,
}

/// The configuration of `NAME.weights` (bert, roberta, gpu, atlop).
pub fn golden_config(name: &str) -> (ModelConfig, GoldenExtras) {
    let source = if name == "atlop" { "bert" } else { name }; // atlop's file has no metadata
    let file = golden(&format!("{source}.weights"));
    let given: Value = serde_json::from_str(&file.metadata()["config"]).unwrap();
    let architecture = if name == "atlop" { "atlop" } else { "kd-docre" };
    let mut config = json!({
        "model_type": given["kind"],
        "pad_token_id": given["pad"],
        "type_vocab_size": if given["kind"] == "bert" { 2 } else { 1 },
        "docre": {"architecture": architecture},
    });
    for key in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "layer_norm_eps",
        "max_position_embeddings",
    ] {
        config[key] = given[key].clone();
    }
    for key in
        ["extractor_size", "block_size", "classes", "axial_layers", "axial_heads", "axial_layer_norm_eps", "top_k"]
    {
        config["docre"][key] = given[key].clone();
    }
    config["hidden_dropout_prob"] = json!(0.0); // dropout was off
    config["attention_probs_dropout_prob"] = json!(0.0);
    let extras = GoldenExtras {
        gamma: given["gamma"].as_f64().unwrap(),
        cls: given["cls"].as_u64().unwrap() as u32,
        sep: given["sep"].as_u64().unwrap() as u32,
    };
    (ModelConfig::parse(&config.to_string()).unwrap(), extras)
}

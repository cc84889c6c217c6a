//! config.json: what is read, what is refused and how it is said, what is written back.

mod common;

use common::golden::golden_config;
use docre::model::config::{Architecture, AxialOrder, EncoderKind, HeadConfig, ModelConfig, PadCells};
use serde_json::{Value, json};

/// BERT-base, with a head.
fn base() -> Value {
    json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": 768,
        "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 28996,
        "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "initializer_range": 0.02, "id2label": {"0": "Na", "1": "P17", "2": "P131"},
        "label2id": {"Na": 0, "P17": 1, "P131": 2}, "docre": {},
    })
}

fn parse(config: &Value) -> docre::Result<ModelConfig> {
    ModelConfig::parse(&config.to_string())
}

/// The message for `base` with `place` set to `value`.
fn refusal(place: &str, value: Value) -> String {
    let mut config = base();
    *config.pointer_mut(place).unwrap_or_else(|| panic!("no {place}")) = value;
    let error = parse(&config).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("E-CONFIG", 4));
    error.to_string()
}

/// As `refusal`, for a key that `base` has not.
fn refusal_of(key: &str, value: Value) -> String {
    let mut config = base();
    config[key] = value;
    parse(&config).unwrap_err().to_string()
}

#[test]
fn the_released_values_are_the_defaults() {
    let config = parse(&base()).unwrap();
    assert_eq!(config.labels, ["Na", "P17", "P131"]);
    let head = config.head.unwrap();
    assert_eq!(head, HeadConfig::released(Architecture::KdDocre, 3));
    assert_eq!((head.extractor_size, head.block_size, head.axial_layers, head.axial_heads), (1024, 64, 6, 8));
    assert_eq!((head.axial, head.pad_entities, head.pad_cells), (AxialOrder::Released, 0, PadCells::Zero));
    assert_eq!((head.top_k, head.context_eps, head.axial_layer_norm_eps), (4, 1e-10, 1e-5));
    let mut atlop = base();
    atlop["docre"]["architecture"] = json!("atlop");
    assert_eq!(parse(&atlop).unwrap().head.unwrap().context_eps, 1e-5);
}

#[test]
fn positions_and_windows_of_the_families() {
    let encoder = parse(&base()).unwrap().encoder;
    assert_eq!((encoder.position_offset(), encoder.window(), encoder.end_tokens()), (0, 512, 1));
    for (word, kind) in [("roberta", EncoderKind::Roberta), ("xlm-roberta", EncoderKind::XlmRoberta)] {
        let mut config = base();
        config["model_type"] = json!(word);
        config["pad_token_id"] = json!(1);
        config["max_position_embeddings"] = json!(514);
        let encoder = parse(&config).unwrap().encoder;
        assert_eq!(encoder.kind, kind);
        assert_eq!((encoder.position_offset(), encoder.window(), encoder.end_tokens()), (2, 512, 2));
        config["max_position_embeddings"] = json!(130);
        assert_eq!(parse(&config).unwrap().encoder.window(), 128);
    }
}

#[test]
fn files_older_than_model_type_are_recognised() {
    let mut config = base();
    config.as_object_mut().unwrap().remove("model_type");
    assert_eq!(parse(&config).unwrap().encoder.kind, EncoderKind::Bert);
    config["architectures"] = json!(["XLMRobertaForMaskedLM"]);
    assert_eq!(parse(&config).unwrap().encoder.kind, EncoderKind::XlmRoberta);
    config.as_object_mut().unwrap().remove("architectures"); // SciBERT's file has neither
    assert_eq!(parse(&config).unwrap().encoder.kind, EncoderKind::Bert);
    config["type_vocab_size"] = json!(1);
    assert!(parse(&config).unwrap_err().to_string().contains("add \"model_type\""));
}

#[test]
fn what_computes_something_else_is_refused() {
    assert!(refusal("/model_type", json!("distilbert")).contains("'distilbert' is not supported"));
    assert!(refusal("/hidden_act", json!("gelu_new")).contains("only gelu (its erf form)"));
    assert!(refusal_of("position_embedding_type", json!("relative_key")).contains("only absolute"));
    assert!(refusal_of("is_decoder", json!(true)).contains("an encoder is needed"));
}

#[test]
fn sizes_are_bounded_and_fit_together() {
    let message = refusal("/num_attention_heads", json!(0));
    assert!(message.contains("num_attention_heads must be a whole number from 1 to 1024, is 0"), "{message}");
    assert!(message.contains("at $.num_attention_heads"), "{message}");
    assert!(refusal("/num_attention_heads", json!(7)).contains("must divide hidden_size 768"));
    for wrong in [json!(-1), json!(1.5), json!("768"), json!(1e18), json!(u64::MAX), json!([]), json!({})] {
        assert!(refusal("/hidden_size", wrong.clone()).contains("hidden_size"), "{wrong}");
    }
    assert!(refusal("/hidden_size", Value::Null).contains("hidden_size is missing"));
    assert!(refusal("/layer_norm_eps", json!(0)).contains("layer_norm_eps"));
    assert!(refusal("/pad_token_id", json!(28996)).contains("below vocab_size"));
    assert!(refusal_of("hidden_dropout_prob", json!(1.0)).contains("from 0 to below 1"));
    assert!(refusal("/docre", json!({"block_size": 100})).contains("must divide extractor_size 1024"));
    assert!(refusal("/docre", json!({"axial_heads": 5})).contains("must divide hidden_size 768"));
    assert!(refusal("/docre", json!({"classes": 4})).contains("classes is 4, id2label names 3"));
    let mut huge = base();
    huge["hidden_size"] = json!(16384);
    huge["num_attention_heads"] = json!(16);
    huge["vocab_size"] = json!(1 << 22);
    assert!(parse(&huge).unwrap_err().what().contains("more than 68719476736 parameters"));
}

#[test]
fn a_roberta_without_room_for_positions_is_refused() {
    let mut config = base();
    config["model_type"] = json!("roberta");
    config["pad_token_id"] = json!(511);
    assert!(parse(&config).unwrap_err().what().contains("max_position_embeddings must be at least"));
}

#[test]
fn unknown_settings_are_errors_with_a_guess() {
    let message = refusal("/docre", json!({"axial_layer": 6}));
    assert!(message.contains("axial_layer is not a known setting"), "{message}");
    assert!(message.contains("did you mean axial_layers?") && message.contains("at $.docre.axial_layer"), "{message}");
    assert!(refusal("/docre", json!({"zzzzzzzz": 6})).contains("known are architecture, "));
    assert!(refusal("/docre", json!({"axial": "parallel"})).contains("one of released, sequential"));
}

#[test]
fn relations_are_complete_distinct_and_invertible() {
    assert!(refusal("/id2label", json!({"0": "Na", "2": "P17", "3": "P1"})).contains("no name for class 1"));
    assert!(refusal("/id2label", json!({"0": "Na", "1": "P17", "2": "P17"})).contains("'P17' twice"));
    assert!(refusal("/label2id", json!({"Na": 0, "P17": 2, "P131": 1})).contains("not the inverse"));
    let mut none = base();
    none.as_object_mut().unwrap().remove("id2label");
    assert!(parse(&none).unwrap_err().what().contains("id2label names no relations"));
}

#[test]
fn a_plain_encoder_has_no_head_whatever_its_labels() {
    let mut config = base();
    config.as_object_mut().unwrap().remove("docre");
    config["id2label"] = json!({"0": "LABEL_0", "1": "LABEL_0"});
    let config = parse(&config).unwrap();
    assert!(config.head.is_none() && config.labels.is_empty());
}

#[test]
fn what_is_written_reads_back_and_keeps_unknown_fields() {
    let mut given = base();
    given["docre"] = json!({"architecture": "kd-docre", "axial": "sequential", "pad_entities": 42, "pad_cells": "bias",
        "context_eps": 1e-30, "top_k": 3});
    let config = parse(&given).unwrap();
    let written: Value = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(written["initializer_range"], json!(0.02));
    assert_eq!(written["architectures"], json!(["BertModel"]));
    assert_eq!(written["id2label"], given["id2label"]);
    assert_eq!(written["docre"]["pad_cells"], "bias");
    let again = parse(&written).unwrap();
    assert_eq!((again.encoder, again.head, again.labels), (config.encoder, config.head, config.labels));
    for name in ["bert", "roberta", "gpu", "atlop"] {
        let (golden, _) = golden_config(name);
        let again = ModelConfig::parse(&golden.to_json()).unwrap();
        assert_eq!((again.encoder, again.head), (golden.encoder, golden.head), "{name}");
    }
}

#[test]
fn a_head_is_put_on_an_encoder() {
    let mut plain = base();
    plain.as_object_mut().unwrap().remove("docre");
    let labels: Vec<String> = ["Na", "P1"].map(String::from).to_vec();
    let head = HeadConfig::released(Architecture::Atlop, 2);
    let config = parse(&plain).unwrap().with_head(head.clone(), labels.clone()).unwrap();
    assert_eq!((config.head.clone(), config.labels.clone()), (Some(head), labels));
    assert!(config.to_json().contains("initializer_range"));
    let uneven = HeadConfig { block_size: 100, ..HeadConfig::released(Architecture::Atlop, 2) };
    assert!(config.with_head(uneven, vec![]).is_err());
}

#[test]
fn text_that_is_no_object_is_refused() {
    for text in ["", "[]", "null", "{", "{\"a\":1}x", &"[".repeat(100_000)] {
        let error = ModelConfig::parse(text).unwrap_err();
        assert!(error.what().starts_with("not a JSON object"), "{error}");
    }
}

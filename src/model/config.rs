//! `config.json`: the encoder's fields as Hugging Face writes them, the head's under `docre`, and
//! the relations in `id2label`.
//!
//! Every number that later becomes a size, a divisor or a loop bound is checked here, once.

use super::fields::Fields;
use super::names;
use crate::text::one_line;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// No config.json of use is larger; id2label of 65,536 relations stays below.
const MAX_CONFIG: u64 = 16 << 20;
/// More parameters than any encoder of these families has (XLM-R XXL: 1.07e10), and far from overflow.
const MAX_PARAMETERS: usize = 1 << 36;
const MAX_CLASSES: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderKind {
    Bert,
    Roberta,
    XlmRoberta,
}

const KINDS: [(&str, EncoderKind); 3] =
    [("bert", EncoderKind::Bert), ("roberta", EncoderKind::Roberta), ("xlm-roberta", EncoderKind::XlmRoberta)];

impl EncoderKind {
    /// The `model_type` of config.json.
    pub fn name(self) -> &'static str {
        KINDS[self as usize].0
    }
}

/// A BERT-like encoder: post-LayerNorm, erf-GELU, learned absolute positions.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    pub kind: EncoderKind,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub pad_token_id: usize,
    pub layer_norm_eps: f64,
    pub hidden_dropout_prob: f64,
    pub attention_probs_dropout_prob: f64,
}

impl EncoderConfig {
    fn parse(fields: Fields) -> Result<Self> {
        let kind = kind_of(fields)?;
        refuse_unsupported(fields)?;
        let pad_default = if kind == EncoderKind::Bert { 0 } else { 1 };
        let config = EncoderConfig {
            kind,
            hidden_size: fields.required_size("hidden_size", 1..=1 << 14)?,
            num_hidden_layers: fields.required_size("num_hidden_layers", 1..=256)?,
            num_attention_heads: fields.required_size("num_attention_heads", 1..=1024)?,
            intermediate_size: fields.required_size("intermediate_size", 1..=1 << 17)?,
            vocab_size: fields.required_size("vocab_size", 4..=1 << 22)?,
            max_position_embeddings: fields.required_size("max_position_embeddings", 8..=1 << 20)?,
            type_vocab_size: fields.size("type_vocab_size", 1..=1024)?.unwrap_or(2),
            pad_token_id: fields.size("pad_token_id", 0..=1 << 22)?.unwrap_or(pad_default),
            // Hugging Face's defaults, which old files rely on
            layer_norm_eps: fields.number("layer_norm_eps", 1e-20, 0.1)?.unwrap_or(1e-12),
            hidden_dropout_prob: fields.number("hidden_dropout_prob", 0.0, 1.0)?.unwrap_or(0.1),
            attention_probs_dropout_prob: fields.number("attention_probs_dropout_prob", 0.0, 1.0)?.unwrap_or(0.1),
        };
        config.check(fields)?;
        Ok(config)
    }

    fn check(&self, fields: Fields) -> Result<()> {
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(fields.bad("num_attention_heads", format!("must divide hidden_size {}", self.hidden_size)));
        }
        if self.pad_token_id >= self.vocab_size {
            return Err(fields.bad("pad_token_id", format!("must be below vocab_size {}", self.vocab_size)));
        }
        let least = self.position_offset() + self.end_tokens() + 2; // a start, an end and a piece
        if self.max_position_embeddings < least {
            return Err(fields.bad("max_position_embeddings", format!("must be at least {least}")));
        }
        Ok(())
    }

    /// The position of the first token: RoBERTa counts from pad_token_id + 1.
    pub fn position_offset(&self) -> usize {
        match self.kind {
            EncoderKind::Bert => 0,
            EncoderKind::Roberta | EncoderKind::XlmRoberta => self.pad_token_id + 1,
        }
    }
    /// The longest sequence the encoder takes at once, special tokens included; 512 at most, as released.
    pub fn window(&self) -> usize {
        (self.max_position_embeddings - self.position_offset()).min(512)
    }
    /// Tokens that the second window of a long document gives up at its end (spec §2).
    pub fn end_tokens(&self) -> usize {
        match self.kind {
            EncoderKind::Bert => 1,
            EncoderKind::Roberta | EncoderKind::XlmRoberta => 2,
        }
    }

    fn write(&self, map: &mut Map<String, Value>) {
        let fields = [
            ("model_type", json!(self.kind.name())),
            ("hidden_size", json!(self.hidden_size)),
            ("num_hidden_layers", json!(self.num_hidden_layers)),
            ("num_attention_heads", json!(self.num_attention_heads)),
            ("intermediate_size", json!(self.intermediate_size)),
            ("vocab_size", json!(self.vocab_size)),
            ("max_position_embeddings", json!(self.max_position_embeddings)),
            ("type_vocab_size", json!(self.type_vocab_size)),
            ("pad_token_id", json!(self.pad_token_id)),
            ("layer_norm_eps", json!(self.layer_norm_eps)),
            ("hidden_dropout_prob", json!(self.hidden_dropout_prob)),
            ("attention_probs_dropout_prob", json!(self.attention_probs_dropout_prob)),
        ];
        map.extend(fields.map(|(key, value)| (key.to_string(), value)));
        map.entry("hidden_act").or_insert(json!("gelu"));
    }
}

/// `model_type`, or for files older than that field (SciBERT) what `architectures` says, or BERT
/// when the sizes are BERT's.
fn kind_of(fields: Fields) -> Result<EncoderKind> {
    if let Some(word) = fields.text("model_type")? {
        let known = KINDS.iter().find(|(name, _)| *name == word);
        return known.map(|(_, kind)| *kind).ok_or_else(|| {
            fields
                .bad("model_type", format!("'{}' is not supported", one_line(word)))
                .fix("use an encoder of the bert, roberta or xlm-roberta family")
        });
    }
    let class = fields.get("architectures").and_then(|list| list.get(0)?.as_str()).unwrap_or("");
    let named =
        [("XLMRoberta", EncoderKind::XlmRoberta), ("Roberta", EncoderKind::Roberta), ("Bert", EncoderKind::Bert)];
    if let Some((_, kind)) = named.iter().find(|(start, _)| class.starts_with(start)) {
        return Ok(*kind);
    }
    let is = |key: &str, value: u64| fields.get(key).and_then(Value::as_u64) == Some(value);
    if class.is_empty() && is("max_position_embeddings", 512) && is("type_vocab_size", 2) {
        return Ok(EncoderKind::Bert);
    }
    Err(fields.bad("model_type", "is missing").fix("add \"model_type\": \"bert\", \"roberta\" or \"xlm-roberta\""))
}

/// Variants with the same tensors that compute something else must not load.
fn refuse_unsupported(fields: Fields) -> Result<()> {
    let activation = fields.text("hidden_act")?.unwrap_or("gelu");
    if !matches!(activation, "gelu" | "gelu_python") {
        let what = format!("'{}' is not supported, only gelu (its erf form)", one_line(activation));
        return Err(fields.bad("hidden_act", what));
    }
    let positions = fields.text("position_embedding_type")?.unwrap_or("absolute");
    if positions != "absolute" {
        let what = format!("'{}' is not supported, only absolute", one_line(positions));
        return Err(fields.bad("position_embedding_type", what));
    }
    for key in ["is_decoder", "add_cross_attention"] {
        if fields.flag(key)? {
            return Err(fields.bad(key, "must be false: an encoder is needed"));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    KdDocre,
    Atlop,
}

/// How the two axes of an axial layer are combined (spec §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxialOrder {
    /// Both read the same input, results summed: the released program.
    Released,
    /// One after the other, each with its residual: the paper.
    Sequential,
}

/// What a padded cell holds before the axial layers (spec §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PadCells {
    /// As the released program trains.
    Zero,
    /// As the released program evaluates.
    Bias,
}

const ARCHITECTURES: [(&str, Architecture); 2] = [("kd-docre", Architecture::KdDocre), ("atlop", Architecture::Atlop)];
const AXIAL_ORDERS: [(&str, AxialOrder); 2] =
    [("released", AxialOrder::Released), ("sequential", AxialOrder::Sequential)];
const PAD_CELLS: [(&str, PadCells); 2] = [("zero", PadCells::Zero), ("bias", PadCells::Bias)];

/// The part of the model that reads pairs of entities.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadConfig {
    pub architecture: Architecture,
    pub extractor_size: usize,
    pub block_size: usize,
    /// 0: none, each cell is classified by itself.
    pub axial_layers: usize,
    pub axial_heads: usize,
    pub axial: AxialOrder,
    /// Side of the padded table; 0: each document's own, exactly.
    pub pad_entities: usize,
    pub pad_cells: PadCells,
    /// Relations, the threshold class 0 included.
    pub classes: usize,
    pub axial_layer_norm_eps: f64,
    pub top_k: usize,
    pub context_eps: f64,
}

const HEAD_KEYS: [&str; 12] = [
    "architecture",
    "extractor_size",
    "block_size",
    "axial_layers",
    "axial_heads",
    "axial",
    "pad_entities",
    "pad_cells",
    "classes",
    "axial_layer_norm_eps",
    "top_k",
    "context_eps",
];

impl HeadConfig {
    /// The released head, with `classes` relations.
    pub fn released(architecture: Architecture, classes: usize) -> Self {
        HeadConfig {
            architecture,
            extractor_size: 1024,
            block_size: 64,
            axial_layers: 6,
            axial_heads: 8,
            axial: AxialOrder::Released,
            pad_entities: 0,
            pad_cells: PadCells::Zero,
            classes,
            axial_layer_norm_eps: 1e-5,
            top_k: 4,
            context_eps: if architecture == Architecture::Atlop { 1e-5 } else { 1e-10 },
        }
    }

    /// `labels` is the number of names in id2label, 0 if there are none.
    fn parse(fields: Fields, labels: usize, hidden_size: usize) -> Result<Self> {
        fields.only(&HEAD_KEYS)?;
        let architecture = fields.choice("architecture", &ARCHITECTURES)?.unwrap_or(Architecture::KdDocre);
        let usual = HeadConfig::released(architecture, labels);
        let config = HeadConfig {
            architecture,
            extractor_size: fields.size("extractor_size", 1..=1 << 16)?.unwrap_or(usual.extractor_size),
            block_size: fields.size("block_size", 1..=1024)?.unwrap_or(usual.block_size),
            axial_layers: fields.size("axial_layers", 0..=64)?.unwrap_or(usual.axial_layers),
            axial_heads: fields.size("axial_heads", 1..=1024)?.unwrap_or(usual.axial_heads),
            axial: fields.choice("axial", &AXIAL_ORDERS)?.unwrap_or(usual.axial),
            pad_entities: fields.size("pad_entities", 0..=1 << 16)?.unwrap_or(usual.pad_entities),
            pad_cells: fields.choice("pad_cells", &PAD_CELLS)?.unwrap_or(usual.pad_cells),
            classes: fields.size("classes", 2..=MAX_CLASSES)?.unwrap_or(labels),
            axial_layer_norm_eps: fields
                .number("axial_layer_norm_eps", 1e-20, 0.1)?
                .unwrap_or(usual.axial_layer_norm_eps),
            top_k: fields.size("top_k", 1..=MAX_CLASSES)?.unwrap_or(usual.top_k),
            context_eps: fields.number("context_eps", 1e-38, 0.1)?.unwrap_or(usual.context_eps),
        };
        config.check(fields, labels, hidden_size)?;
        Ok(config)
    }

    fn check(&self, fields: Fields, labels: usize, hidden_size: usize) -> Result<()> {
        if !self.extractor_size.is_multiple_of(self.block_size) {
            return Err(fields.bad("block_size", format!("must divide extractor_size {}", self.extractor_size)));
        }
        if self.architecture == Architecture::KdDocre && !hidden_size.is_multiple_of(self.axial_heads) {
            return Err(fields.bad("axial_heads", format!("must divide hidden_size {hidden_size}")));
        }
        if self.classes < 2 {
            return Err(fields.bad("classes", "is missing, and id2label names no relations"));
        }
        if labels != 0 && labels != self.classes {
            return Err(fields.bad("classes", format!("is {}, id2label names {labels}", self.classes)));
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        fn word<T: PartialEq>(choices: &[(&'static str, T)], value: T) -> Option<&'static str> {
            choices.iter().find(|(_, choice)| *choice == value).map(|(name, _)| *name)
        }
        json!({
            "architecture": word(&ARCHITECTURES, self.architecture),
            "extractor_size": self.extractor_size,
            "block_size": self.block_size,
            "axial_layers": self.axial_layers,
            "axial_heads": self.axial_heads,
            "axial": word(&AXIAL_ORDERS, self.axial),
            "pad_entities": self.pad_entities,
            "pad_cells": word(&PAD_CELLS, self.pad_cells),
            "classes": self.classes,
            "axial_layer_norm_eps": self.axial_layer_norm_eps,
            "top_k": self.top_k,
            "context_eps": self.context_eps,
        })
    }
}

/// A model directory's `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub encoder: EncoderConfig,
    /// None: a plain encoder.
    pub head: Option<HeadConfig>,
    /// Relation names by class; empty for a plain encoder and where only a number of classes is known.
    pub labels: Vec<String>,
    /// The file as it was read: fields that we do not know are written back.
    kept: Map<String, Value>,
}

impl ModelConfig {
    /// The head. Error: E-WEIGHTS for a plain encoder.
    pub fn head(&self) -> Result<&HeadConfig> {
        self.head.as_ref().ok_or_else(|| {
            Error::model("E-WEIGHTS", "this is a plain encoder: it has no head for relations")
                .fix("train a head with `docre train`")
        })
    }

    /// The same encoder under another head.
    pub fn with_head(&self, head: HeadConfig, labels: Vec<String>) -> Result<Self> {
        let config = ModelConfig { head: Some(head), labels, ..self.clone() };
        ModelConfig::parse(&config.to_json())
    }

    /// Reads `path`, or `config.json` in the directory `path`.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
        let text = read_text(&file)?;
        Self::parse(&text).map_err(|e| e.context(file.display()))
    }

    pub fn parse(text: &str) -> Result<Self> {
        let invalid =
            |e: serde_json::Error| Error::model("E-CONFIG", format!("not a JSON object: {}", one_line(&e.to_string())));
        let kept: Map<String, Value> = serde_json::from_str(text).map_err(invalid)?;
        let fields = Fields { map: &kept, place: "$" };
        let encoder = EncoderConfig::parse(fields)?;
        let (head, labels) = match fields.object("docre")? {
            None => (None, Vec::new()), // id2label of a plain encoder: LABEL_0, LABEL_1
            Some(map) => {
                let labels = parse_labels(fields)?;
                let head = Fields { map, place: "$.docre" };
                (Some(HeadConfig::parse(head, labels.len(), encoder.hidden_size)?), labels)
            }
        };
        let config = ModelConfig { encoder, head, labels, kept };
        match names::parameter_count(&config) {
            Some(count) if count <= MAX_PARAMETERS => Ok(config),
            _ => Err(Error::model("E-CONFIG", format!("more than {MAX_PARAMETERS} parameters"))),
        }
    }

    /// The text of config.json: what was read, with our fields set. Hugging Face readers take it.
    pub fn to_json(&self) -> String {
        let mut map = self.kept.clone();
        self.encoder.write(&mut map);
        if let Some(head) = &self.head {
            for stale in ["num_labels", "id2label", "label2id"] {
                map.shift_remove(stale);
            }
            if !self.labels.is_empty() {
                let ids = self.labels.iter().enumerate();
                let id2label: Map<String, Value> = ids.clone().map(|(i, name)| (i.to_string(), json!(name))).collect();
                let label2id: Map<String, Value> = ids.map(|(i, name)| (name.clone(), json!(i))).collect();
                map.insert("id2label".into(), Value::Object(id2label));
                map.insert("label2id".into(), Value::Object(label2id));
            }
            map.insert("docre".into(), head.to_json());
        }
        format!("{:#}\n", Value::Object(map))
    }
}

fn read_text(file: &Path) -> Result<String> {
    let about = std::fs::metadata(file).map_err(|e| {
        Error::io(file, e).fix("name a model directory: config.json, tokenizer.json, model.safetensors")
    })?;
    if !about.is_file() || about.len() > MAX_CONFIG {
        return Err(Error::io(file, format!("not a regular file of at most {MAX_CONFIG} bytes")));
    }
    let bytes = std::fs::read(file).map_err(|e| Error::io(file, e))?;
    String::from_utf8(bytes).map_err(|_| Error::model("E-CONFIG", "not UTF-8").context(file.display()))
}

/// `id2label`: names of the classes 0.. without a gap, each once; `label2id`, if there, its inverse.
fn parse_labels(fields: Fields) -> Result<Vec<String>> {
    let Some(map) = fields.object("id2label")? else { return Ok(Vec::new()) };
    if map.len() > MAX_CLASSES {
        return Err(fields.bad("id2label", format!("has more than {MAX_CLASSES} relations")));
    }
    let mut labels = Vec::with_capacity(map.len());
    let mut seen = BTreeSet::new();
    for id in 0..map.len() {
        let name = map.get(&id.to_string()).and_then(Value::as_str);
        let name = name.ok_or_else(|| fields.bad("id2label", format!("has no name for class {id}")))?;
        if name.is_empty() || !seen.insert(name) {
            return Err(fields.bad("id2label", format!("has the name '{}' twice, or empty", one_line(name))));
        }
        labels.push(name.to_string());
    }
    if let Some(inverse) = fields.object("label2id")? {
        let agrees = |(id, name): (usize, &String)| inverse.get(name).and_then(Value::as_u64) == Some(id as u64);
        if inverse.len() != labels.len() || !labels.iter().enumerate().all(agrees) {
            return Err(fields.bad("label2id", "is not the inverse of id2label"));
        }
    }
    Ok(labels)
}

//! `config.json`: the encoder's fields as Hugging Face writes them, the head's under `docre`, and
//! the relations in `id2label`.
//!
//! Every number that later becomes a size, a divisor or a loop bound is checked here, once.

mod encoder;
mod head;

pub use encoder::{EncoderConfig, EncoderKind};
pub use head::{Architecture, AxialOrder, HeadConfig, PadCells};

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

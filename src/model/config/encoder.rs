//! The encoder's fields of `config.json`, as Hugging Face writes them.

use crate::Result;
use crate::model::fields::Fields;
use crate::text::one_line;
use serde_json::{Map, Value, json};

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
    pub(super) fn parse(fields: Fields) -> Result<Self> {
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

    pub(super) fn write(&self, map: &mut Map<String, Value>) {
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

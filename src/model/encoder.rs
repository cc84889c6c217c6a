//! BERT, RoBERTa, XLM-R: embeddings and post-LayerNorm transformer layers over packed windows.

use super::Params;
use super::batch::Batch;
use super::config::EncoderConfig;
use crate::error::Result;
use crate::layout::Segments;
use crate::ops::linear::{Norm, Residual, linear, linear_gelu, linear_norm};
use crate::ops::{attention::attention, dropout::dropout, embedding::embedding, layernorm::layernorm};
use crate::rng::Dropout;
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::sync::Arc;

/// What the head needs of the encoder.
pub struct Encoding {
    /// Last hidden state `[window rows, d]`.
    pub hidden: Tensor,
    /// Of the last layer: q, k, v `[window rows, 3 d]`, log-sum-exp `[window rows, heads]`, and the dropout
    /// of its attention probabilities.
    pub qkv: Tensor,
    pub lse: Tensor,
    pub drop: Dropout,
}

/// A weight and its bias.
#[derive(Clone)]
pub(super) struct Affine {
    pub weight: Tensor,
    pub bias: Tensor,
}

impl Affine {
    pub fn new(params: &Params, name: &str) -> Result<Self> {
        Ok(Affine { weight: params.get(&format!("{name}.weight"))?, bias: params.get(&format!("{name}.bias"))? })
    }
    pub fn apply(&self, tape: &mut Tape, x: &Tensor) -> Result<Tensor> {
        linear(tape, x, &self.weight, Some(&self.bias), None)
    }
    /// As a layer norm's parameters.
    pub fn norm(&self, eps: f64) -> Norm<'_> {
        Norm { weight: &self.weight, bias: &self.bias, eps }
    }
    /// [`linear_norm`].
    pub fn apply_norm(
        &self,
        tape: &mut Tape,
        x: &Tensor,
        residual: Option<(&Residual, Dropout)>,
        norm: Norm,
    ) -> Result<Residual> {
        linear_norm(tape, x, (&self.weight, &self.bias), residual, norm)
    }
}

#[derive(Clone)]
struct Layer {
    qkv: Affine,
    attention_out: Affine,
    attention_norm: Affine,
    up: Affine,
    down: Affine,
    output_norm: Affine,
    heads: usize,
    eps: f64,
    segments: Arc<Segments>,
    /// Of the attention probabilities and of the two sub-layers' outputs.
    drops: [Dropout; 3],
}

impl Layer {
    fn new(
        tape: &mut Tape,
        params: &Params,
        config: &EncoderConfig,
        segments: &Arc<Segments>,
        l: usize,
    ) -> Result<Self> {
        let affine = |name: &str| Affine::new(params, &format!("layer.{l}.{name}"));
        let hidden = config.hidden_dropout_prob;
        Ok(Layer {
            qkv: affine("qkv")?,
            attention_out: affine("attention_out")?,
            attention_norm: affine("attention_norm")?,
            up: affine("up")?,
            down: affine("down")?,
            output_norm: affine("output_norm")?,
            heads: config.num_attention_heads,
            eps: config.layer_norm_eps,
            segments: segments.clone(),
            drops: [config.attention_probs_dropout_prob, hidden, hidden].map(|p| tape.dropout(p)),
        })
    }
    /// Output; qkv and log-sum-exp.
    fn forward(&self, tape: &mut Tape, x: &Residual) -> Result<(Residual, [Tensor; 2])> {
        let qkv = self.qkv.apply(tape, &x.x)?;
        let attended = attention(tape, &qkv, &self.segments, self.heads, self.drops[0])?;
        let norm = self.attention_norm.norm(self.eps);
        let x = self.attention_out.apply_norm(tape, &attended.out, Some((x, self.drops[1])), norm)?;
        let inner = linear_gelu(tape, &x.x, &self.up.weight, &self.up.bias)?;
        let norm = self.output_norm.norm(self.eps);
        let y = self.down.apply_norm(tape, &inner, Some((&x, self.drops[2])), norm)?;
        Ok((y, [qkv, attended.lse]))
    }
}

/// Runs the encoder; with `recompute` each layer keeps only its input for the backward pass.
pub fn encode(
    tape: &mut Tape,
    params: &Params,
    config: &EncoderConfig,
    batch: &Batch,
    recompute: bool,
) -> Result<Encoding> {
    let table = |name: &str| params.get(&format!("embeddings.{name}"));
    let (word, position, kind) = (table("word")?, table("position")?, table("token_type")?);
    let x = embedding(tape, &batch.ids, &batch.positions, &word, &position, &kind)?;
    let norm = Affine::new(params, "embeddings.norm")?;
    let x = layernorm(tape, &x, None, &norm.weight, &norm.bias, config.layer_norm_eps, Dropout::default())?;
    let drop = tape.dropout(config.hidden_dropout_prob);
    let mut x = Residual::from(dropout(tape, &x, drop)?);
    let layers = config.num_hidden_layers;
    for l in 0..layers {
        let layer = Layer::new(tape, params, config, &batch.windows, l)?;
        let (last, drop) = (l + 1 == layers, layer.drops[0]);
        let run = move |tape: &mut Tape, x: &[Tensor]| {
            let (y, attended) = layer.forward(tape, &Residual::of(x))?;
            Ok(if last { [vec![y.x], attended.to_vec()].concat() } else { y.tensors() })
        };
        let made = if recompute { tape.checkpoint(&x.tensors(), run)? } else { run(tape, &x.tensors())? };
        match (last, &made[..]) {
            (true, [hidden, qkv, lse]) => {
                return Ok(Encoding { hidden: hidden.clone(), qkv: qkv.clone(), lse: lse.clone(), drop });
            }
            _ => x = Residual::of(&made),
        }
    }
    Err(crate::Error::model("E-CONFIG", "an encoder needs at least one layer"))
}

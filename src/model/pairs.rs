//! The head: from the encoder's output to the logits of every ordered pair of entities (spec §3, §4).

use super::Params;
use super::batch::Batch;
use super::config::{Architecture, EncoderConfig, HeadConfig};
use super::encoder::{Affine, Encoding};
use super::names::axial_steps;
use crate::error::Result;
use crate::layout::Grid;
use crate::ops::add::add;
use crate::ops::attention_rows::attention_rows;
use crate::ops::axial::{Axes, axial};
use crate::ops::bilinear::bilinear;
use crate::ops::context_pool::{Pooling, context_pool};
use crate::ops::entity_pool::entity_pool;
use crate::ops::gather::gather;
use crate::ops::linear::{linear, linear_wide};
use crate::ops::pair_combine::{Role, pair_combine};
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::sync::Arc;

/// Sees intermediate tensors by name: hidden, attention, entity, context, projection, axial.
pub type Observer<'a> = &'a mut dyn FnMut(&'static str, &Tensor);

/// Logits `[batch.rows(), classes]`; with `recompute` each axial layer keeps only its input for the backward pass.
#[allow(clippy::too_many_arguments)] // the model's parts, by name
pub fn logits(
    tape: &mut Tape,
    params: &Params,
    encoder: &EncoderConfig,
    head: &HeadConfig,
    batch: &Batch,
    encoding: &Encoding,
    recompute: bool,
    observe: Observer,
) -> Result<Tensor> {
    let [zs, zo] = extract(tape, params, encoder, head, batch, encoding, observe)?;
    let w = params.get("bilinear.weight")?;
    let cells = match head.architecture {
        Architecture::Atlop => {
            let b = params.get("bilinear.bias")?;
            bilinear(tape, &zs, &zo, &w, Some(&b), head.block_size)?
        }
        Architecture::KdDocre => {
            let mut g = bilinear(tape, &zs, &zo, &w, None, head.block_size)?;
            drop((zs, zo));
            if let Some(keep) = &batch.clear_pads {
                g = gather(tape, &g, keep)?;
            }
            observe("projection", &g);
            let mut x = g.clone();
            for l in 0..head.axial_layers {
                let layer = AxialLayer::new(params, head, &batch.grid, l)?;
                x = match recompute {
                    true => tape.checkpoint(&[x], move |tape, x| Ok(vec![layer.forward(tape, &x[0])?]))?.remove(0),
                    false => layer.forward(tape, &x)?,
                };
            }
            observe("axial", &x);
            let feature = if head.axial_layers == 0 { g } else { add(tape, &x, &g)? };
            let classifier = Affine::new(params, "classifier")?;
            linear_wide(tape, &feature, &classifier.weight, Some(&classifier.bias))?
        }
    };
    gather(tape, &cells, &batch.select)
}

/// How the attention of two entities becomes one weight a token.
pub fn pooling(encoder: &EncoderConfig, head: &HeadConfig) -> Pooling {
    let mean = head.architecture == Architecture::Atlop;
    Pooling { heads: encoder.num_attention_heads, mean, epsilon: head.context_eps }
}

/// z_s and z_o of every cell: `tanh(W [h; c] + b)`, W h once an entity, W c once an unordered pair.
fn extract(
    tape: &mut Tape,
    params: &Params,
    encoder: &EncoderConfig,
    head: &HeadConfig,
    batch: &Batch,
    encoding: &Encoding,
    observe: Observer,
) -> Result<[Tensor; 2]> {
    let heads = encoder.num_attention_heads;
    let hidden = match &batch.merge {
        Some(windows) => gather(tape, &encoding.hidden, windows)?,
        None => encoding.hidden.clone(),
    };
    observe("hidden", &hidden);
    let a = attention_rows(tape, &encoding.qkv, &encoding.lse, &batch.documents, heads, encoding.drop)?;
    observe("attention", &a);
    let h = entity_pool(tape, &hidden, &batch.mentions)?;
    observe("entity", &h);
    let c = context_pool(tape, &a, &hidden, &batch.documents, &batch.grid, pooling(encoder, head))?;
    observe("context", &c);
    let mut side = |name: &str, role: Role| -> Result<Tensor> {
        let u = linear(tape, &h, &params.get(&format!("{name}.entity.weight"))?, None, None)?;
        let v = linear(tape, &c, &params.get(&format!("{name}.context.weight"))?, None, None)?;
        pair_combine(tape, &u, &v, &params.get(&format!("{name}.bias"))?, &batch.grid, role)
    };
    Ok([side("head", Role::Subject)?, side("tail", Role::Object)?])
}

/// `x <- LayerNorm(W_f (x + attention(x)) + b_f)` (spec §4).
struct AxialLayer {
    steps: Vec<Step>,
    ffn: Affine,
    norm: Affine,
    heads: usize,
    eps: f64,
    grid: Arc<Grid>,
}

/// Attention along some axes of the same x.
struct Step {
    axes: Axes,
    qkv: Tensor,
    out: Vec<Affine>,
}

impl AxialLayer {
    fn new(params: &Params, head: &HeadConfig, grid: &Arc<Grid>, l: usize) -> Result<Self> {
        let affine = |name: &str| Affine::new(params, &format!("axial.{l}.{name}"));
        let step = |&(name, axes): &(&str, Axes)| {
            let qkv = params.get(&format!("axial.{l}.{name}.weight"))?;
            let out = axes.each().iter().map(|&axis| affine(&format!("{}.out", axis as usize)));
            Ok(Step { axes, qkv, out: out.collect::<Result<_>>()? })
        };
        Ok(AxialLayer {
            steps: axial_steps(head.axial).iter().map(step).collect::<Result<_>>()?,
            ffn: affine("ffn")?,
            norm: affine("norm")?,
            heads: head.axial_heads,
            eps: head.axial_layer_norm_eps,
            grid: grid.clone(),
        })
    }
    fn forward(&self, tape: &mut Tape, x: &Tensor) -> Result<Tensor> {
        let mut sum = x.clone();
        for step in &self.steps {
            let qkv = linear(tape, &sum, &step.qkv, None, None)?;
            for (attended, out) in axial(tape, &qkv, &self.grid.tables, self.heads, step.axes)?.iter().zip(&step.out) {
                sum = linear(tape, attended, &out.weight, Some(&out.bias), Some(&sum))?;
            }
        }
        let norm = self.norm.norm(self.eps);
        Ok(self.ffn.apply_norm(tape, &sum, None, norm)?.x)
    }
}

//! The parameters of a model: our names and shapes, in the order of one flat array, and where each
//! comes from in a checkpoint (spec §8).
//!
//! Ours differ from the checkpoint's where one product over a joined or split matrix saves work:
//! query, key and value are one matrix, in the axial layers those of both axes; an extractor `W [h; c]` is `W1 h + W2 c`.

use super::config::{Architecture, AxialOrder, EncoderConfig, HeadConfig, ModelConfig};
use crate::ops::axial::{Axes, Axis};
use std::ops::Range;

/// Groups with learning rates of their own. Each is one range of the flat array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Encoder,
    Axial,
    Head,
}

/// Which part of what a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The checkpoint's tensor is the parameter.
    All,
    /// The checkpoint's tensor is these rows of the parameter.
    Rows(Range<usize>),
    /// The parameter is these columns of the checkpoint's tensor.
    Columns(Range<usize>),
}

/// A tensor of the checkpoint that a parameter is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Without the encoder's prefix.
    pub name: String,
    /// The whole tensor's shape.
    pub shape: Vec<usize>,
    pub part: Part,
}

/// How a parameter starts that no checkpoint gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Uniform in -bound..bound.
    Uniform {
        bound: f64,
    },
    Ones,
    Zeros,
    /// It must be loaded.
    Required,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    pub name: String,
    pub shape: Vec<usize>,
    pub group: Group,
    pub sources: Vec<Source>,
    pub init: Init,
}

impl ParamSpec {
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The matrices that `--precision int8` takes in eight bits: most of the head's arithmetic. They move logits less than
/// bf16 in the encoder does, whose own maps in eight bits cost F1 (0.3 with the demo's first checkpoint).
pub fn in_int8(name: &str) -> bool {
    name == "bilinear.weight" || name.starts_with("axial.")
}

/// All parameters: the encoder's, the axial layers', the rest of the head's. Only the last one of a
/// head (a bias of R values) has a length that may be odd, so that every offset suits wide loads.
pub fn parameter_table(config: &ModelConfig) -> Vec<ParamSpec> {
    let mut table = Table(Vec::new());
    encoder(&mut table, &config.encoder);
    if let Some(head) = &config.head {
        match head.architecture {
            Architecture::KdDocre => kd_docre(&mut table, head, config.encoder.hidden_size),
            Architecture::Atlop => atlop(&mut table, head, config.encoder.hidden_size),
        }
    }
    table.0
}

/// Where each parameter of the table lies in the flat array.
pub fn ranges(table: &[ParamSpec]) -> Vec<Range<usize>> {
    let mut at = 0;
    let place = |param: &ParamSpec| {
        let start = at;
        at += param.elements();
        start..at
    };
    table.iter().map(place).collect()
}

/// The length of the flat array; None if it overflows.
pub fn parameter_count(config: &ModelConfig) -> Option<usize> {
    let size = |p: &ParamSpec| p.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
    parameter_table(config).iter().try_fold(0usize, |n, p| n.checked_add(size(p)?))
}

/// Lets the encoder start from nothing too: matrices uniform with the deviation 0.02 of BERT's own
/// start, biases 0, LayerNorm 1/0. For tests and small models; everything else needs a checkpoint.
pub fn random_encoder(table: &mut [ParamSpec]) {
    for param in table.iter_mut().filter(|p| p.group == Group::Encoder) {
        param.init = match (param.name.ends_with("norm.weight"), param.name.ends_with("bias")) {
            (true, _) => Init::Ones,
            (_, true) => Init::Zeros,
            _ => Init::Uniform { bound: 0.02 * 3f64.sqrt() },
        };
    }
}

struct Table(Vec<ParamSpec>);

impl Table {
    fn push(&mut self, group: Group, name: impl Into<String>, shape: &[usize], init: Init, sources: Vec<Source>) {
        self.0.push(ParamSpec { name: name.into(), shape: shape.to_vec(), group, sources, init });
    }
    /// A parameter that is a tensor of the checkpoint as it stands.
    fn same(&mut self, group: Group, name: impl Into<String>, from: impl Into<String>, shape: &[usize], init: Init) {
        self.push(group, name, shape, init, vec![source(from, shape, Part::All)]);
    }
    /// `.weight` and `.bias` of a dense layer.
    fn linear(&mut self, group: Group, name: &str, from: &str, shape: [usize; 2], init: Init) {
        self.same(group, format!("{name}.weight"), format!("{from}.weight"), &shape, init);
        self.same(group, format!("{name}.bias"), format!("{from}.bias"), &shape[..1], init);
    }
    fn norm(&mut self, group: Group, name: &str, from: &str, size: usize, init: [Init; 2]) {
        self.same(group, format!("{name}.weight"), format!("{from}.weight"), &[size], init[0]);
        self.same(group, format!("{name}.bias"), format!("{from}.bias"), &[size], init[1]);
    }
}

fn source(name: impl Into<String>, shape: &[usize], part: Part) -> Source {
    Source { name: name.into(), shape: shape.to_vec(), part }
}

/// A new dense layer starts within 1/sqrt(inputs), weight and bias alike (spec §6).
fn fan_in(inputs: usize) -> Init {
    Init::Uniform { bound: 1.0 / (inputs as f64).sqrt() }
}

fn encoder(table: &mut Table, c: &EncoderConfig) {
    let (d, must) = (c.hidden_size, Init::Required);
    let embeddings =
        [("word", c.vocab_size), ("position", c.max_position_embeddings), ("token_type", c.type_vocab_size)];
    for (name, rows) in embeddings {
        let from = format!("embeddings.{name}_embeddings.weight");
        table.same(Group::Encoder, format!("embeddings.{name}"), from, &[rows, d], must);
    }
    table.norm(Group::Encoder, "embeddings.norm", "embeddings.LayerNorm", d, [must; 2]);
    for l in 0..c.num_hidden_layers {
        encoder_layer(table, l, d, c.intermediate_size);
    }
}

fn encoder_layer(table: &mut Table, l: usize, d: usize, intermediate: usize) {
    let (ours, theirs) = (format!("layer.{l}"), format!("encoder.layer.{l}"));
    let (encoder, must) = (Group::Encoder, Init::Required);
    for (what, shape) in [("weight", &[d, d][..]), ("bias", &[d][..])] {
        let joined = ["query", "key", "value"].iter().enumerate().map(|(i, which)| {
            let name = format!("{theirs}.attention.self.{which}.{what}");
            source(name, shape, Part::Rows(i * d..(i + 1) * d))
        });
        let mut whole = shape.to_vec();
        whole[0] = 3 * d;
        table.push(encoder, format!("{ours}.qkv.{what}"), &whole, must, joined.collect());
    }
    let linear = |table: &mut Table, name: &str, from: &str, shape: [usize; 2]| {
        table.linear(encoder, &format!("{ours}.{name}"), &format!("{theirs}.{from}"), shape, must);
    };
    let norm = |table: &mut Table, name: &str, from: &str| {
        table.norm(encoder, &format!("{ours}.{name}"), &format!("{theirs}.{from}"), d, [must; 2]);
    };
    linear(table, "attention_out", "attention.output.dense", [d, d]);
    norm(table, "attention_norm", "attention.output.LayerNorm");
    linear(table, "up", "intermediate.dense", [intermediate, d]);
    linear(table, "down", "output.dense", [d, intermediate]);
    norm(table, "output_norm", "output.LayerNorm");
}

fn kd_docre(table: &mut Table, head: &HeadConfig, d: usize) {
    for l in 0..head.axial_layers {
        axial_layer(table, head.axial, l, d);
    }
    extractors(table, head, d);
    let inputs = head.extractor_size * head.block_size;
    table.same(Group::Head, "bilinear.weight", "projection.weight", &[d, inputs], fan_in(inputs));
    table.linear(Group::Head, "classifier", "classifier", [head.classes, d], fan_in(d));
}

fn atlop(table: &mut Table, head: &HeadConfig, d: usize) {
    extractors(table, head, d);
    let inputs = head.extractor_size * head.block_size;
    table.linear(Group::Head, "bilinear", "bilinear", [head.classes, inputs], fan_in(inputs));
}

/// `W [h; c] + b`, W: E x 2d, as `entity` (the columns of h), `context` (those of c) and the bias.
fn extractors(table: &mut Table, head: &HeadConfig, d: usize) {
    let (e, init) = (head.extractor_size, fan_in(2 * d));
    for side in ["head", "tail"] {
        let from = format!("{side}_extractor");
        for (name, columns) in [("entity", 0..d), ("context", d..2 * d)] {
            let half = source(format!("{from}.weight"), &[e, 2 * d], Part::Columns(columns));
            table.push(Group::Head, format!("{side}.{name}.weight"), &[e, d], init, vec![half]);
        }
        table.same(Group::Head, format!("{side}.bias"), format!("{from}.bias"), &[e], init);
    }
}

/// What an axial layer attends along one after the other: the parameter of q, k and v, and the axes that share it.
pub fn axial_steps(order: AxialOrder) -> &'static [(&'static str, Axes)] {
    match order {
        AxialOrder::Released => &[("qkv", Axes::Both)],
        AxialOrder::Sequential => &[("0.qkv", Axes::Subject), ("1.qkv", Axes::Object)],
    }
}

fn axial_layer(table: &mut Table, order: AxialOrder, l: usize, d: usize) {
    let (ours, theirs, init) = (format!("axial.{l}"), "axial_transformer", fan_in(d));
    let attention = |axis: usize| format!("{theirs}.axial_attns.{l}.axial_attentions.{axis}.fn");
    let of_axis = |(place, axis): (usize, &Axis)| {
        let (from, first) = (attention(*axis as usize), place * 3 * d);
        let (q, kv) = (Part::Rows(first..first + d), Part::Rows(first + d..first + 3 * d));
        [source(format!("{from}.to_q.weight"), &[d, d], q), source(format!("{from}.to_kv.weight"), &[2 * d, d], kv)]
    };
    for (name, axes) in axial_steps(order) {
        let joined = axes.each().iter().enumerate().flat_map(of_axis).collect();
        table.push(Group::Axial, format!("{ours}.{name}.weight"), &[3 * axes.each().len() * d, d], init, joined);
    }
    for axis in 0..2 {
        let (out, from) = (format!("{ours}.{axis}.out"), format!("{}.to_out", attention(axis)));
        table.linear(Group::Axial, &out, &from, [d, d], init);
    }
    table.linear(Group::Axial, &format!("{ours}.ffn"), &format!("{theirs}.ffns.{l}"), [d, d], init);
    let norm = [Init::Ones, Init::Zeros];
    table.norm(Group::Axial, &format!("{ours}.norm"), &format!("{theirs}.lns.{l}"), d, norm);
}

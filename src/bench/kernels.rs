//! Each op at its sizes in a BERT-base model, forward and with its backward pass.

use super::sizes::*;
use super::{Effort, Row, Work, time};
use crate::device::Device;
use crate::device::cpu::gemm::ceiling;
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::{Segments, Sources};
use crate::ops::add::add;
use crate::ops::attention::attention;
use crate::ops::attention_rows::attention_rows;
use crate::ops::axial::{Axes, axial};
use crate::ops::bilinear::bilinear;
use crate::ops::context_pool::{Pooling, context_pool};
use crate::ops::dropout::dropout;
use crate::ops::embedding::embedding;
use crate::ops::entity_pool::entity_pool;
use crate::ops::evidence::{Gold, evidence_loss};
use crate::ops::gather::gather;
use crate::ops::gelu::gelu;
use crate::ops::layernorm::layernorm;
use crate::ops::linear::{Norm, Residual, linear, linear_gelu, linear_norm, linear_wide};
use crate::ops::loss::{Objective, loss};
use crate::ops::optim::{Hyper, Span, update};
use crate::ops::pair_combine::{Role, pair_combine};
use crate::rng::Dropout;
use crate::tape::{Grads, Tape};
use crate::tensor::Tensor;
use half::bf16;
use std::sync::Arc;

/// What becomes of a case: `(name, work, run)`.
pub type Visit<'a> = &'a mut dyn FnMut(&str, Work, &mut dyn FnMut() -> Result<()>) -> Result<()>;

/// Times every case whose name contains `filter`.
pub fn run(device: &Device, documents: usize, effort: Effort, filter: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    each(device, documents, filter, &mut |name, work, run| {
        rows.push(Row::new(name, &time(device, effort, run)?, work, 0.0));
        Ok(())
    })?;
    Ok(rows)
}

struct Cases<'a> {
    device: &'a Device,
    filter: &'a str,
    visit: Visit<'a>,
}

/// Bytes of the elements of some tensors.
fn bytes(tensors: &[&Tensor]) -> f64 {
    tensors.iter().map(|t| (t.len() * t.dtype().size()) as f64).sum()
}

impl Cases<'_> {
    /// `flops` of the forward pass, of which the backward pass does twice as many; `inputs` are activations and
    /// parameters, which the forward pass reads once and the backward pass reads and gives a gradient of the same
    /// size. `params`: elements of the flat array of parameters.
    fn op(
        &mut self,
        name: &str,
        flops: f64,
        inputs: &[&Tensor],
        params: usize,
        op: impl Fn(&mut Tape) -> Result<Tensor>,
    ) -> Result<()> {
        self.op_of_several(name, flops, inputs, params, |tape| Ok(vec![op(tape)?]))
    }

    /// As `op`, with several outputs.
    fn op_of_several(
        &mut self,
        name: &str,
        flops: f64,
        inputs: &[&Tensor],
        params: usize,
        op: impl Fn(&mut Tape) -> Result<Vec<Tensor>>,
    ) -> Result<()> {
        if !name.contains(self.filter) {
            return Ok(());
        }
        let ys = op(&mut Tape::inference())?;
        let outputs: f64 = ys.iter().map(|y| bytes(&[y])).sum();
        let forward = Work { flops, bytes: bytes(inputs) + outputs };
        let backward = Work { flops: 2.0 * flops, bytes: 2.0 * bytes(inputs) + outputs };
        (self.visit)(&format!("{name} forward"), forward, &mut || op(&mut Tape::inference()).map(drop))?;
        let mut grads = Grads::new(self.device, DType::F32, params)?;
        let gradient = |y: &Tensor| match (y.shape().len(), self.device.gradient_dtype(DType::F32)) {
            (2, DType::BF16) => activation(self.device, y.shape()),
            _ => wide(self.device, y.shape()),
        };
        let dys = ys.iter().map(gradient).collect::<Result<Vec<_>>>()?;
        (self.visit)(&format!("{name} forward+backward"), forward + backward, &mut || {
            let mut tape = Tape::training(1, 1);
            for (y, dy) in op(&mut tape)?.iter().zip(&dys) {
                grads.put(y, dy.clone())?;
            }
            tape.backward(&mut grads)?;
            grads.forget_activations();
            Ok(())
        })
    }

    fn linears(&mut self, rows: usize, pairs: usize) -> Result<()> {
        for (what, rows, inputs, out, form) in [
            ("qkv", rows, DIM, 3 * DIM, "linear"),
            ("attention out", rows, DIM, DIM, "linear"),
            ("up", rows, DIM, INNER, "linear_gelu"),
            ("down", rows, INNER, DIM, "linear"),
            ("down", rows, INNER, DIM, "linear_norm"),
            ("extractor", pairs, DIM, EXTRACTOR, "linear"),
            ("axial qkv", pairs, DIM, 6 * DIM, "linear"),
            ("classifier", pairs, DIM, CLASSES, "linear_wide"),
        ] {
            let x = activation(self.device, &[rows, inputs])?;
            let (params, p) = parameters(self.device, &[&[out, inputs], &[out], &[out], &[out]])?;
            let (w, b) = (&p[0], &p[1]);
            let residual = Residual::from(activation(self.device, &[rows, out])?);
            let name = format!("{form} {what} {rows}x{inputs}x{out}");
            let flops = 2.0 * (rows * inputs * out) as f64;
            self.op(&name, flops, &[&x, w, b], params, |tape| match form {
                "linear_gelu" => linear_gelu(tape, &x, w, b),
                "linear_wide" => linear_wide(tape, &x, w, Some(b)),
                "linear_norm" => {
                    let norm = Norm { weight: &p[2], bias: &p[3], eps: 1e-12 };
                    Ok(linear_norm(tape, &x, (w, b), Some((&residual, Dropout::default())), norm)?.x)
                }
                _ => linear(tape, &x, w, Some(b), None),
            })?;
        }
        Ok(())
    }

    fn rowwise(&mut self, count: usize) -> Result<()> {
        let rows = count * TOKENS;
        let (x, branch) = (activation(self.device, &[rows, DIM])?, activation(self.device, &[rows, DIM])?);
        let (params, p) = parameters(self.device, &[&[DIM], &[DIM]])?;
        let drop = Dropout { p: 0.1, seed: 1, op: 1, step: 1 };
        self.op(&format!("layernorm {rows}x{DIM}"), 0.0, &[&x, &branch], params, |tape| {
            layernorm(tape, &x, Some(&branch), &p[0], &p[1], 1e-12, drop)
        })?;
        let z = activation(self.device, &[rows, INNER])?;
        self.op(&format!("gelu {rows}x{INNER}"), 0.0, &[&z], 0, |tape| gelu(tape, &z))?;
        self.op(&format!("dropout {rows}x{DIM}"), 0.0, &[&x], 0, |tape| dropout(tape, &x, drop))?;
        self.op(&format!("add {rows}x{DIM}"), 0.0, &[&x, &branch], 0, |tape| add(tape, &x, &branch))?;
        let every = (0..rows as u32).collect();
        let all =
            Arc::new(Sources { rows: Segments::from_lengths(vec![1; rows]), index: every, weight: vec![1.0; rows] });
        self.op(&format!("gather {rows}x{DIM}"), 0.0, &[&x], 0, |tape| gather(tape, &x, &all))?;
        let (params, p) = parameters(self.device, &[&[28_996, DIM], &[512, DIM], &[2, DIM]])?;
        let ids: Vec<u32> = (0..rows as u32).map(|i| if i % 10 == 0 { 1008 } else { i * 97 % 28_996 }).collect();
        let positions: Vec<u32> = (0..rows as u32).map(|i| i % TOKENS as u32).collect();
        // Of the tables only the rows that occur are read.
        self.op(&format!("embedding {rows}x{DIM}"), 0.0, &[&x], params, |tape| {
            embedding(tape, &ids, &positions, &p[0], &p[1], &p[2])
        })
    }

    fn attentions(&mut self, count: usize) -> Result<()> {
        let (rows, cells) = (count * TOKENS, count * ENTITIES * ENTITIES);
        let documents = Arc::new(documents(count));
        let qkv = activation(self.device, &[rows, 3 * DIM])?;
        let segments = Arc::new(Segments::from_lengths(vec![TOKENS; count]));
        let drop = Dropout { p: 0.1, seed: 1, op: 1, step: 1 };
        let flops = 4.0 * (count * TOKENS * TOKENS * DIM) as f64;
        self.op(&format!("attention {count}x{TOKENS}"), flops, &[&qkv], 0, |tape| {
            attention(tape, &qkv, &segments, HEADS, drop).map(|attended| attended.out)
        })?;
        let lse = attention(&mut Tape::inference(), &qkv, &segments, HEADS, Dropout::default())?.lse;
        let flops = 2.0 * (documents.mention.len() * TOKENS * DIM) as f64;
        self.op(&format!("attention_rows {count}x{TOKENS}"), flops, &[&qkv, &lse], 0, |tape| {
            attention_rows(tape, &qkv, &lse, &documents, HEADS, Dropout::default())
        })?;
        let qkv = activation(self.device, &[cells, 6 * DIM])?;
        let tables = grid(count).tables;
        let flops = 8.0 * (count * ENTITIES.pow(3) * DIM) as f64;
        self.op_of_several(&format!("axial {count}x{ENTITIES}x{ENTITIES}"), flops, &[&qkv], 0, |tape| {
            axial(tape, &qkv, &tables, AXIAL_HEADS, Axes::Both)
        })
    }

    fn pairs(&mut self, count: usize) -> Result<()> {
        let (documents, grid) = (Arc::new(documents(count)), Arc::new(grid(count)));
        let (rows, cells, entities) = (count * TOKENS, count * ENTITIES * ENTITIES, count * ENTITIES);
        let h = activation(self.device, &[rows, DIM])?;
        let lists = Arc::new(mentions(&documents));
        self.op(&format!("entity_pool {entities}x{DIM}"), 0.0, &[&h], 0, |tape| entity_pool(tape, &h, &lists))?;
        let a = wide(self.device, &[entities * HEADS * TOKENS])?;
        let pooling = Pooling { heads: HEADS, mean: false, epsilon: 1e-10 };
        let flops = 2.0 * (grid.pairs.rows() * TOKENS * (DIM + HEADS)) as f64;
        self.op(&format!("context_pool {count}x{ENTITIES}x{TOKENS}"), flops, &[&a, &h], 0, |tape| {
            context_pool(tape, &a, &h, &documents, &grid, pooling)
        })?;
        let (asked, shares) = evidence(&documents)?;
        let gold = Gold { shares: &shares, weight: 0.1, pairs: asked.cells.len() };
        self.op(&format!("evidence {}x{TOKENS}", asked.cells.len()), 0.0, &[&a], 0, |tape| {
            evidence_loss(tape, &a, &asked, pooling, gold)
        })?;
        let u = activation(self.device, &[entities, EXTRACTOR])?;
        let c = activation(self.device, &[grid.pairs.rows(), EXTRACTOR])?;
        let (params, p) = parameters(self.device, &[&[EXTRACTOR]])?;
        self.op(&format!("pair_combine {cells}x{EXTRACTOR}"), 0.0, &[&u, &c], params, |tape| {
            pair_combine(tape, &u, &c, &p[0], &grid, Role::Subject)
        })?;
        let (zs, zo) = (activation(self.device, &[cells, EXTRACTOR])?, activation(self.device, &[cells, EXTRACTOR])?);
        let (params, p) = parameters(self.device, &[&[DIM, EXTRACTOR * BLOCK]])?;
        let flops = 2.0 * (cells * DIM * EXTRACTOR * BLOCK) as f64;
        self.op(&format!("bilinear {cells}x{EXTRACTOR}x{DIM}"), flops, &[&zs, &zo, &p[0]], params, |tape| {
            bilinear(tape, &zs, &zo, &p[0], None, BLOCK)
        })
    }

    fn loss_and_optimizer(&mut self, count: usize) -> Result<()> {
        let cells = count * ENTITIES * ENTITIES;
        let (logits, labels) = (wide(self.device, &[cells, CLASSES])?, labels(cells));
        let focal = Objective::AdaptiveFocal { gamma: 1.0, released: true };
        let work = Work { flops: 0.0, bytes: 1.5 * bytes(&[&logits]) };
        let name = format!("loss {cells}x{CLASSES}");
        if name.contains(self.filter) {
            (self.visit)(&name, work, &mut || {
                loss(&mut Tape::training(1, 1), &logits, &labels, focal, None, cells).map(drop)
            })?;
        }
        let n = 8 << 20;
        let name = format!("optim adamw {n}");
        if !name.contains(self.filter) {
            return Ok(());
        }
        let (mut x, grad, mut m, mut v) = (
            wide(self.device, &[n])?,
            wide(self.device, &[n])?,
            self.device.zeros("bench", DType::F32, &[n])?,
            self.device.zeros("bench", DType::F32, &[n])?,
        );
        let rounds = self.device.activation_dtype(DType::F32) == DType::BF16;
        let mut copy = if rounds { Some(activation(self.device, &[n])?) } else { None };
        let spans = [Span { range: 0..n, rate: 1e-5, decay: 0.0 }];
        // The norm reads the gradient once more.
        let work = Work { flops: 0.0, bytes: 32.0 * n as f64 + copy.as_ref().map_or(0.0, |c| bytes(&[c])) };
        (self.visit)(&name, work, &mut || {
            update(&mut x, copy.as_mut(), &grad, &mut m, &mut v, &spans, Hyper::default(), 10, 1.0, None).map(drop)
        })
    }
}

/// Hands every case whose name contains `filter` to `visit`: one after another, so that only one holds memory.
pub fn each(device: &Device, documents: usize, filter: &str, visit: Visit) -> Result<()> {
    let mut cases = Cases { device, filter, visit };
    cases.linears(documents * TOKENS, documents * ENTITIES * ENTITIES)?;
    cases.rowwise(documents)?;
    cases.attentions(documents)?;
    cases.pairs(documents)?;
    cases.loss_and_optimizer(documents)
}

/// What the device does at most: register tiles from the first-level cache on a CPU, a large matrix product on a GPU;
/// and a sum of large arrays.
pub fn peak(device: &Device) -> Result<super::report::Peak> {
    let effort = Effort { warm_up: 2, repeats: 7 };
    let fastest = |seconds: Vec<f64>| seconds.into_iter().fold(f64::INFINITY, f64::min);
    let flops = match device {
        Device::Cpu(cpu) if cpu.precision == DType::BF16 => cpu.run(ceiling::<bf16>),
        Device::Cpu(cpu) => cpu.run(ceiling::<f32>),
        Device::Cuda(_) => {
            let (x, w) = (activation(device, &[8192, 8192])?, activation(device, &[8192, 8192])?);
            let product = time(device, effort, &mut || linear(&mut Tape::inference(), &x, &w, None, None).map(drop))?;
            2.0 * 8192f64.powi(3) / fastest(product)
        }
    };
    let (mut a, b) = (wide(device, &[64 << 20])?, wide(device, &[64 << 20])?);
    let sum = time(device, effort, &mut || crate::ops::add::accumulate(&mut a, &b))?;
    let gb_per_s = 12.0 * a.len() as f64 / fastest(sum) / 1e9;
    Ok(super::report::Peak { tflops: flops / 1e12, gb_per_s })
}

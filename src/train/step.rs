//! One update: forward, loss, backward, clip, AdamW.

use super::config::{Config, Schedule};
use super::evidence::{count, evidence_of};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::{Encoded, Labels};
use crate::model::names::Group;
use crate::model::{Batch, Model};
use crate::ops::loss::{Distillation, Loss, Objective, TeacherLogits, Terms, loss};
use crate::ops::optim::{self, Hyper, Norm, Span, first_non_finite};
use crate::rng::Stream;
use crate::tape::{Grads, Tape};
use crate::tensor::Tensor;
use half::f16;
use std::ops::Range;

/// A document with its labels, one row of bits for each of its n x n cells.
pub struct Example {
    pub encoded: Encoded,
    pub labels: Labels,
    /// Gold relations that the inventory does not have: missed by any prediction.
    pub unknown_gold: usize,
    /// Logits of a teacher, `[n x n, R]`; empty without one.
    pub teacher: Vec<f16>,
}

impl Example {
    /// Cells that the loss counts: all but those left out and, where the model has no diagonal, those on it.
    fn cells(&self, off_diagonal: bool) -> usize {
        let n = self.encoded.mentions.len();
        let counts = |cell: &usize| !(self.labels.is_left_out(*cell) || off_diagonal && cell.is_multiple_of(n + 1));
        (0..n * n).filter(counts).count()
    }

    /// Leaves out of the loss all but about `part` of the cells that have no relation.
    pub fn keep_negatives(&mut self, part: f64, stream: &mut Stream) {
        for cell in 0..self.labels.cells() {
            if self.labels.relations(cell) == 0 && stream.uniform() >= part {
                self.labels.leave_out(cell);
            }
        }
    }

    /// Gold relations, those that the inventory does not have included; an undirected one once.
    pub fn gold(&self) -> usize {
        let n = self.encoded.mentions.len();
        let once = |cell: &usize| !self.encoded.pairs.undirected || cell / n <= cell % n;
        let known: usize = (0..n * n).filter(once).map(|cell| self.labels.relations(cell)).sum();
        known + self.unknown_gold
    }
}

/// The optimizer's state beside the weights.
pub struct Optimizer {
    pub m: Tensor,
    pub v: Tensor,
    /// Updates done.
    pub updates: u64,
}

/// What an update saw.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of the relations, and of the teacher times its weight.
    pub loss: f64,
    /// The distillation loss, without its weight; none where it is off.
    pub distillation: Option<f64>,
    /// The evidence loss, without its weight; none where it is off.
    pub evidence: Option<f64>,
    pub norm: f64,
    /// The first parameter whose gradient is not finite (or "loss"): the weights stayed as they were.
    pub bad: Option<String>,
}

/// An update that is under way: what it saw is still where it was computed.
pub struct Pending {
    losses: Vec<Loss>,
    evidence: Vec<Tensor>,
    norm: Norm,
    /// Updates done before it.
    done: u64,
}

/// A model being trained.
pub struct Trainer {
    pub model: Model,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    pub objective: Objective,
    /// Kind and weight of the distillation term.
    pub distillation: Option<(Distillation, f64)>,
    /// How much the evidence loss counts; 0: it is off.
    pub evidence: f64,
    /// Updates of the whole run.
    pub total: u64,
    grads: Grads,
}

impl Optimizer {
    fn new(model: &Model) -> Result<Self> {
        let (device, dtype, n) = (model.params.device(), model.params.dtype(), model.params.len());
        let m = device.zeros("optimizer", dtype, &[n])?;
        let v = device.zeros("optimizer", dtype, &[n])?;
        Ok(Optimizer { m, v, updates: 0 })
    }
}

impl Trainer {
    pub fn new(model: Model, config: &Config, total: u64) -> Result<Self> {
        let grads = Grads::new(model.params.device(), model.params.dtype(), model.params.len())?;
        let optimizer = Optimizer::new(&model)?;
        let (schedule, objective) = (config.schedule.clone(), config.objective.objective());
        let distillation =
            config.distillation.as_ref().map(|d| (d.kind(), d.weight)).filter(|(_, weight)| *weight > 0.0);
        let evidence = config.objective.evidence;
        Ok(Trainer { model, optimizer, schedule, objective, distillation, evidence, total, grads })
    }

    /// One update from `examples`, `schedule.batch` of them at a time. The parts are weighted by their
    /// cells (their pairs with evidence), so that the result is that of all together.
    pub fn update(&mut self, examples: &[&Example]) -> Result<Report> {
        let pending = self.start(examples, None)?;
        self.read(&pending)
    }

    /// As [`Trainer::update`], without waiting for a GPU: what it saw is read later. It changes nothing if `after`,
    /// the update before it, turns out to have changed nothing.
    pub fn start(&mut self, examples: &[&Example], after: Option<&Pending>) -> Result<Pending> {
        self.grads.clear()?;
        let off_diagonal = self.model.head()?.architecture == crate::model::config::Architecture::Atlop;
        let total = examples.iter().map(|e| e.cells(off_diagonal)).sum();
        let pairs = examples.iter().map(|e| count(&e.labels)).sum();
        let (mut losses, mut evidence) = (Vec::new(), Vec::new());
        for (i, part) in examples.chunks(self.schedule.batch).enumerate() {
            let pass = self.optimizer.updates * self.schedule.accumulate as u64 + i as u64;
            let (loss, of_evidence) = self.backward(part, pass as u32, total, pairs)?;
            losses.push(loss);
            evidence.extend(of_evidence);
        }
        let norm = self.apply(after.map(|pending| &pending.norm))?;
        self.optimizer.updates += 1;
        Ok(Pending { losses, evidence, norm, done: self.optimizer.updates - 1 })
    }

    /// Waits for what an update saw. A bad one has not been done, nor have those started after it; which parameter it
    /// was is known of the last one started: the gradient is still there.
    pub fn read(&mut self, pending: &Pending) -> Result<Report> {
        let norm = pending.norm.read()?;
        let mut sum = Terms::default();
        for part in &pending.losses {
            let Terms { objective, distillation } = part.read()?;
            sum.objective += objective;
            sum.distillation += distillation;
        }
        let parts = pending.evidence.iter().map(|part| Ok(part.to_f64()?[0]));
        let evidence = (self.evidence > 0.0).then(|| parts.sum::<Result<f64>>()).transpose()?;
        let loss = sum.objective + self.distillation.map_or(0.0, |(_, weight)| weight * sum.distillation);
        let distillation = self.distillation.map(|_| sum.distillation);
        let bad = match norm.is_finite() {
            true => None, // and so is the loss: one that is not has a gradient that is not
            false => {
                self.optimizer.updates = pending.done;
                Some(self.first_bad()?.unwrap_or("loss").to_string())
            }
        };
        Ok(Report { loss, distillation, evidence, norm, bad })
    }

    /// Adds the gradient of `examples` and returns their part of the loss and of the evidence loss: means over `cells`
    /// and `pairs`.
    fn backward(
        &mut self,
        examples: &[&Example],
        pass: u32,
        cells: usize,
        pairs: usize,
    ) -> Result<(Loss, Option<Tensor>)> {
        let documents: Vec<&Encoded> = examples.iter().map(|e| &e.encoded).collect();
        let batch = self.model.batch(&documents)?;
        let labels = labels_of(&batch, examples, self.model.head()?.classes);
        let mut tape = Tape::training(self.schedule.seed, pass);
        let supervised = self.evidence > 0.0;
        let (logits, a) = self.model.forward_with_attention(&mut tape, &batch, self.schedule.recompute, supervised)?;
        let teacher = self
            .distillation
            .map(|(kind, weight)| Ok(TeacherLogits { logits: teacher_of(&batch, examples, &logits)?, weight, kind }));
        let value = loss(&mut tape, &logits, &labels, self.objective, teacher.transpose()?.as_ref(), cells)?;
        drop(logits);
        let evidence = |a| evidence_of(&mut tape, &self.model, &batch, a, examples, self.evidence, pairs);
        let of_evidence = a.as_ref().map(evidence).transpose()?;
        tape.backward(&mut self.grads)?;
        Ok((value, of_evidence))
    }

    fn apply(&mut self, after: Option<&Norm>) -> Result<Norm> {
        let done = self.optimizer.updates;
        let (spans, clip) = (self.spans(self.rates(done)), self.schedule.clip);
        let hyper = Hyper { eps: self.schedule.adam_epsilon, ..Hyper::default() };
        let Optimizer { m, v, .. } = &mut self.optimizer;
        let (weights, copy) = self.model.params.flat_mut();
        optim::update(weights, copy, self.grads.flat(), m, v, &spans, hyper, done + 1, clip, after)
    }

    fn first_bad(&self) -> Result<Option<&str>> {
        let names: Vec<(&str, Range<usize>)> = self
            .model
            .params
            .specs()
            .iter()
            .zip(self.model.params.ranges())
            .map(|(s, r)| (s.name.as_str(), r.clone()))
            .collect();
        first_non_finite(self.grads.flat(), &names)
    }

    /// Part of the peak rates for update `done` (from 0): linear up, linear down to 0 (spec §6).
    fn factor(&self, done: u64) -> f64 {
        let warm = (self.schedule.warmup * self.total as f64).floor();
        let done = done as f64;
        if done < warm {
            done / warm
        } else {
            ((self.total as f64 - done) / (self.total as f64 - warm).max(1.0)).max(0.0)
        }
    }

    /// Rates of encoder, axial layers and the rest of the head for update `done`.
    pub fn rates(&self, done: u64) -> [f64; 3] {
        let s = &self.schedule;
        [s.encoder_rate, s.axial_rate, s.head_rate].map(|rate| rate * self.factor(done))
    }

    fn spans(&self, rates: [f64; 3]) -> Vec<Span> {
        let groups = [Group::Encoder, Group::Axial, Group::Head].map(|g| self.model.params.group(g));
        let span = |(range, rate)| Span { range, rate, decay: self.schedule.weight_decay };
        groups.into_iter().zip(rates).map(span).filter(|s| !s.range.is_empty()).collect()
    }
}

/// The teacher's logits of a batch, laid out as the model's own.
fn teacher_of(batch: &Batch, examples: &[&Example], logits: &Tensor) -> Result<Tensor> {
    let classes = logits.dim();
    let mut rows = Vec::with_capacity(logits.len());
    for cell in &batch.cells {
        let example = examples[cell.document as usize];
        let from = cell.subject as usize * example.encoded.mentions.len() + cell.object as usize;
        let row = example.teacher.get(from * classes..(from + 1) * classes);
        let row = row.ok_or_else(|| Error::shape("distillation", "teacher", "logits of every cell", "none"))?;
        rows.extend(row.iter().map(|value| value.to_f32()));
    }
    let (device, shape) = (logits.device(), logits.shape());
    match logits.dtype() {
        DType::BF16 => Tensor::from_rounded(device, "teacher", shape, &rows),
        DType::F32 => Tensor::from_vec(device, "teacher", shape, rows),
        DType::F64 => Tensor::from_vec(device, "teacher", shape, rows.iter().map(|&x| f64::from(x)).collect()),
    }
}

/// The rows of labels in the order of the batch's logits.
fn labels_of(batch: &Batch, examples: &[&Example], classes: usize) -> Labels {
    let mut labels = Labels::new(batch.rows(), classes);
    let words = labels.words();
    for (row, cell) in batch.cells.iter().enumerate() {
        let example = examples[cell.document as usize];
        let from = cell.subject as usize * example.encoded.mentions.len() + cell.object as usize;
        labels.bits[row * words..(row + 1) * words]
            .copy_from_slice(&example.labels.bits[from * words..(from + 1) * words]);
    }
    labels
}

//! The whole model: the encoder alone, extraction, training.

use super::workload::Workload;
use super::{Effort, Row, Work, time};
use crate::device::Device;
use crate::error::Result;
use crate::extract::{Budget, Rule, batches, predict};
use crate::layout::Encoded;
use crate::model::config::{Architecture, ModelConfig};
use crate::model::{Batch, encoder};
use crate::tape::Tape;
use crate::train::{Config, Example, Trainer};

/// One pass over a workload.
pub struct Pass<'a> {
    pub name: String,
    pub work: Work,
    /// Documents, or word pieces for the encoder.
    pub items: f64,
    pub run: Box<dyn FnMut() -> Result<()> + 'a>,
}

impl Pass<'_> {
    pub fn time(mut self, device: &Device, effort: Effort) -> Result<Row> {
        let seconds = time(device, effort, &mut *self.run)?;
        Ok(Row::new(&self.name, &seconds, self.work, self.items))
    }
}

/// Floating-point operations of the products of the forward pass: encoder, axial layers, the rest. Counted as the work
/// is done here: tables as they are, the context's part of an extractor once an unordered pair.
fn flops(config: &ModelConfig, documents: &[Encoded]) -> [f64; 3] {
    let d = config.encoder.hidden_size as f64;
    let inner = config.encoder.intermediate_size as f64;
    let mut sums = [0.0; 3];
    for document in documents {
        let (tokens, n) = (document.ids.len() as f64, document.mentions.len() as f64);
        let (cells, pairs) = (n * n, n * (n + 1.0) / 2.0);
        let layer = 2.0 * tokens * d * (4.0 * d + 2.0 * inner) + 4.0 * tokens * tokens * d;
        sums[0] += config.encoder.num_hidden_layers as f64 * layer;
        let Some(head) = &config.head else { continue };
        let e = head.extractor_size as f64;
        let out = if head.architecture == Architecture::Atlop { head.classes as f64 } else { d };
        let context = 2.0 * pairs * tokens * d;
        let extractors = 2.0 * 2.0 * (pairs + n) * d * e;
        let bilinear = 2.0 * cells * e * head.block_size as f64 * out;
        let axial = 2.0 * (2.0 * cells * d * 4.0 * d + 4.0 * cells * n * d) + 2.0 * cells * d * d;
        sums[2] += context + extractors + bilinear;
        if head.architecture == Architecture::KdDocre {
            sums[1] += head.axial_layers as f64 * axial;
            sums[2] += 2.0 * cells * d * head.classes as f64;
        }
    }
    sums
}

/// The encoder's forward pass; items are word pieces.
pub fn encode<'a>(device: &'a Device, load: &Workload) -> Result<Pass<'a>> {
    let (model, documents) = (load.ready(device)?, load.encoded());
    let runs = batches(&documents, Budget::of_part(device));
    let batches: Vec<Batch> =
        runs.into_iter().map(|run| model.batch(&documents[run].iter().collect::<Vec<_>>())).collect::<Result<_>>()?;
    let (name, items) = (format!("encoder {}", load.name()), load.tokens() as f64);
    let work = Work { flops: flops(&model.config, &documents)[0], bytes: 0.0 };
    let run = move || {
        let one = |batch: &Batch| {
            encoder::encode(&mut Tape::inference(), &model.params, &model.config.encoder, batch, false).map(drop)
        };
        device.side_by_side(batches.len(), |i| one(&batches[i]), Ok)
    };
    Ok(Pass { name, work, items, run: Box::new(run) })
}

/// From word pieces to triples; items are documents.
pub fn extract<'a>(device: &'a Device, load: &Workload) -> Result<Pass<'a>> {
    let (model, documents) = (load.ready(device)?, load.encoded());
    let rule = Rule { threshold: 0.0, max_labels: 4, evidence: None };
    let (name, items) = (format!("extract {}", load.name()), documents.len() as f64);
    let work = Work { flops: flops(&model.config, &documents).iter().sum(), bytes: 0.0 };
    let run = move || predict(&model, &documents, rule).map(drop);
    Ok(Pass { name, work, items, run: Box::new(run) })
}

/// Updates of `batch` documents each; items are documents.
pub fn train<'a>(device: &'a Device, load: &'a Workload, batch: usize, recompute: bool) -> Result<Pass<'a>> {
    let overrides = [format!("schedule.batch={batch}"), format!("schedule.recompute={recompute}")];
    let config = Config::parse("[data]\ntrain = [\"x\"]\n[model]\nstart = \"x\"\n", &overrides)?;
    let mut trainer = Trainer::new(load.model(device, 0.1)?, &config, 100_000)?;
    let counted = flops(&trainer.model.config, &load.encoded());
    let again = if recompute { counted[0] + counted[1] } else { 0.0 };
    let work = Work { flops: 3.0 * counted.iter().sum::<f64>() + again, bytes: 0.0 };
    let name = format!("train {}, {batch} an update{}", load.name(), if recompute { ", recomputing" } else { "" });
    let run = move || {
        let parts = load.examples().chunks(batch);
        parts.into_iter().try_for_each(|part| trainer.update(&part.iter().collect::<Vec<&Example>>()).map(drop))
    };
    Ok(Pass { name, work, items: load.examples().len() as f64, run: Box::new(run) })
}

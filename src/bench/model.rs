//! The whole model: the encoder alone, extraction, a training step; BERT-base with random weights.

use super::sizes::*;
use super::{Effort, Row, Work, time};
use crate::device::Device;
use crate::error::Result;
use crate::extract::{Rule, predict};
use crate::layout::Encoded;
use crate::model::encoder;
use crate::tape::Tape;
use crate::train::{Config, Example, Trainer};

/// Floating-point operations of the products of one mean document's forward pass, by part.
fn flops(documents: usize) -> [f64; 2] {
    let (tokens, cells) = ((documents * TOKENS) as f64, (documents * ENTITIES * ENTITIES) as f64);
    let (d, e) = (DIM as f64, EXTRACTOR as f64);
    let pairs = (documents * ENTITIES * (ENTITIES + 1) / 2) as f64;
    let layer = 2.0 * tokens * d * (4.0 * d + 2.0 * INNER as f64) + 4.0 * tokens * TOKENS as f64 * d;
    let axial = 2.0 * (2.0 * cells * d * 4.0 * d + 4.0 * cells * ENTITIES as f64 * d / 2.0) + 2.0 * cells * d * d;
    let extractors = 2.0 * 2.0 * (pairs + (documents * ENTITIES) as f64) * d * e;
    let head = extractors + 2.0 * cells * e * BLOCK as f64 * d + 6.0 * axial + 2.0 * cells * d * CLASSES as f64;
    [12.0 * layer, head]
}

/// The encoder's forward pass; items are tokens.
pub fn encode(device: &Device, documents: usize, effort: Effort) -> Result<Vec<Row>> {
    let model = model(device, 0.0)?;
    let examples = examples(documents);
    let all: Vec<&Encoded> = examples.iter().map(|e| &e.encoded).collect();
    let batch = model.batch(&all)?;
    let seconds = time(device, effort, &mut || {
        encoder::encode(&mut Tape::inference(), &model.params, &model.config.encoder, &batch, false).map(drop)
    })?;
    let work = Work { flops: flops(documents)[0], bytes: 0.0 };
    Ok(vec![Row::new(&format!("encoder {documents}x{TOKENS}"), &seconds, work, (documents * TOKENS) as f64)])
}

/// From word pieces to triples; items are documents.
pub fn extract(device: &Device, documents: usize, effort: Effort) -> Result<Vec<Row>> {
    let model = model(device, 0.0)?;
    let examples = examples(documents);
    let all: Vec<&Encoded> = examples.iter().map(|e| &e.encoded).collect();
    let rule = Rule { threshold: 0.0, max_labels: 4 };
    let seconds = time(device, effort, &mut || predict(&model, &all, rule).map(drop))?;
    let work = Work { flops: flops(documents).iter().sum(), bytes: 0.0 };
    Ok(vec![Row::new(&format!("extract {documents} documents"), &seconds, work, documents as f64)])
}

/// Whole updates; items are documents. Prints who held what at the peak to stderr.
pub fn train(device: &Device, documents: usize, effort: Effort, recompute: bool) -> Result<Vec<Row>> {
    let overrides = [format!("schedule.batch={documents}"), format!("schedule.recompute={recompute}")];
    let config = Config::parse("[data]\ntrain = [\"x\"]\n[model]\nstart = \"x\"\n", &overrides)?;
    let mut trainer = Trainer::new(model(device, 0.1)?, &config, 1000)?;
    let examples = examples(documents);
    let all: Vec<&Example> = examples.iter().collect();
    let seconds = time(device, effort, &mut || trainer.update(&all).map(drop))?;
    let again = if recompute { flops(documents)[0] } else { 0.0 };
    let work = Work { flops: 3.0 * flops(documents).iter().sum::<f64>() + again, bytes: 0.0 };
    let name = format!("train {documents} documents{}", if recompute { ", recomputing" } else { "" });
    eprintln!("{name}: {}", device.ledger());
    Ok(vec![Row::new(&name, &seconds, work, documents as f64)])
}

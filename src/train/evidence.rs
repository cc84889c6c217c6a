//! Evidence supervision (spec §11): the gold evidence of a batch, and its loss.

use super::Example;
use crate::error::{Error, Result};
use crate::layout::{Cell, EvidencePairs, Labels};
use crate::model::{Batch, Model};
use crate::ops::evidence::{Gold, evidence_loss};
use crate::tape::Tape;
use crate::tensor::Tensor;
use std::sync::Arc;

/// The evidence loss of `examples`, the documents of `batch`, for the entity attention `a`: a mean over `pairs`.
pub fn evidence_of(
    tape: &mut Tape,
    model: &Model,
    batch: &Batch,
    a: &Tensor,
    examples: &[&Example],
    weight: f64,
    pairs: usize,
) -> Result<Tensor> {
    let labels: Vec<&Labels> = examples.iter().map(|e| &e.labels).collect();
    let GoldEvidence { pairs: of_batch, shares } = gold_evidence(batch, &labels)?;
    evidence_loss(tape, a, &of_batch, model.pooling()?, Gold { shares: &shares, weight, pairs })
}

/// The pairs that have gold evidence, and the share of each sentence in the evidence of their relations.
pub struct GoldEvidence {
    pub pairs: Arc<EvidencePairs>,
    /// As `pairs.rows`; a row adds up to 1.
    pub shares: Vec<f64>,
}

/// Of `labels[d]`, those of document `d` of the batch.
///
/// Errors: E-SHAPE for evidence in a sentence that the encoded document does not have.
pub fn gold_evidence(batch: &Batch, labels: &[&Labels]) -> Result<GoldEvidence> {
    let (mut cells, mut named) = (Vec::new(), Vec::new());
    for (d, labels) in labels.iter().enumerate() {
        let side = batch.documents.entities.length(d) as u32;
        for of_cell in by_cell(labels) {
            let (subject, object) = (of_cell[0].0 / side, of_cell[0].0 % side);
            cells.push(Cell { document: d as u32, subject, object });
            named.push(of_cell);
        }
    }
    let pairs = EvidencePairs::new(&batch.documents, cells)?;
    let mut shares = vec![0.0; pairs.rows.rows()];
    for (row, of_cell) in pairs.rows.iter().zip(named) {
        if let Some((_, sentence)) = of_cell.iter().find(|(_, sentence)| *sentence as usize >= row.len()) {
            return Err(Error::shape("evidence", "a sentence", format!("below {}", row.len()), sentence));
        }
        of_cell.iter().for_each(|(_, s)| shares[row.start + *s as usize] += 1.0 / of_cell.len() as f64);
    }
    Ok(GoldEvidence { pairs: Arc::new(pairs), shares })
}

/// Pairs with gold evidence.
pub fn count(labels: &Labels) -> usize {
    by_cell(labels).count()
}

fn by_cell(labels: &Labels) -> impl Iterator<Item = &[(u32, u32)]> {
    labels.evidence.chunk_by(|a, b| a.0 == b.0)
}

//! Where a student's teacher logits come from, and what the teacher says of documents without labels.

use super::config::{DistillationSection, SelfLabels};
use super::logits::Logits;
use crate::checkpoint::open_to_infer;
use crate::data::{Corpus, Relations};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::extract::{digest_of, side_by_side};
use crate::layout::{Encoded, Labels, Pairs};
use crate::model::Model;
use crate::ops::loss::relations_above;
use crate::tape::Tape;
use half::f16;
use std::path::Path;

/// A trained model that gives logits, and the hash of its weights.
pub struct Teacher {
    pub model: Model,
    pub digest: String,
}

impl Teacher {
    /// Opens a model directory. Error: E-RELATIONS where it has other relations than the student.
    pub fn open(dir: &Path, relations: &Relations, device: &Device) -> Result<Self> {
        let own = Relations::of_model(dir)?;
        if own != *relations {
            let what =
                format!("{}: the teacher's relations are not the student's, or stand in another order", dir.display());
            return Err(Error::model("E-RELATIONS", what).fix("data.relations = the teacher's relations.json"));
        }
        let (model, digest) = open_to_infer(dir, device, digest_of)?;
        model.head().map_err(|e| e.context(dir.display()))?;
        Ok(Teacher { model, digest })
    }

    /// Logits of each document in half precision, `[n x n, R]`; where the model has none for a cell (ATLOP: the
    /// diagonal), zeros.
    pub fn logits(&self, documents: &[&Encoded]) -> Result<Vec<Vec<f16>>> {
        side_by_side(&self.model, documents, |part| self.together(part))
    }

    fn together(&self, documents: &[&Encoded]) -> Result<Vec<Vec<f16>>> {
        let classes = self.model.head()?.classes;
        let batch = self.model.batch(documents)?;
        let logits = self.model.forward(&mut Tape::inference(), &batch, false)?.to_cpu()?;
        let entities = |d: usize| documents[d].mentions.len();
        let mut own: Vec<Vec<f16>> =
            (0..documents.len()).map(|d| vec![f16::ZERO; entities(d).pow(2) * classes]).collect();
        for (cell, row) in batch.cells.iter().zip(logits.slice::<f32>().chunks_exact(classes)) {
            let d = cell.document as usize;
            let at = cell.subject as usize * entities(d) + cell.object as usize;
            let to = own[d][at * classes..][..classes].iter_mut();
            to.zip(row).for_each(|(to, &value)| *to = f16::from_f32(value));
        }
        match own.iter().flatten().all(|value| value.is_finite()) {
            true => Ok(own),
            false => Err(Error::non_finite("teacher logits that are not finite in half precision")
                .fix("use an earlier checkpoint of the teacher")),
        }
    }
}

enum Source {
    Stored(Logits),
    Live(Box<Teacher>),
}

/// The teacher of a run.
pub struct Teaching {
    source: Source,
    labels: SelfLabels,
    margin: f64,
}

impl Teaching {
    /// Of a configuration's `[distillation]`, for all documents of `corpus`.
    pub fn open(
        section: &DistillationSection,
        corpus: &Corpus,
        relations: &Relations,
        device: &Device,
    ) -> Result<Self> {
        let source = match (&section.logits, &section.teacher) {
            (Some(dir), None) => Source::Stored(Logits::find(dir, corpus, relations)?),
            (None, Some(dir)) => Source::Live(Box::new(Teacher::open(dir, relations, device)?)),
            _ => return Err(Error::usage("[distillation] needs logits or teacher, one of them")),
        };
        Ok(Teaching { source, labels: section.self_labels, margin: section.margin })
    }

    /// Logits of the documents number `which`.
    pub fn logits(&self, which: &[usize], documents: &[&Encoded]) -> Result<Vec<Vec<f16>>> {
        match &self.source {
            Source::Stored(logits) => which.iter().map(|&i| logits.document(i)).collect(),
            Source::Live(teacher) => teacher.logits(documents),
        }
    }

    /// Whether the teacher's own predictions are to stand for a document's labels.
    pub fn labels(&self, has_labels: bool) -> bool {
        match self.labels {
            SelfLabels::Absent => !has_labels,
            SelfLabels::Always => true,
            SelfLabels::Never => false,
        }
    }

    /// The teacher's predictions as labels instead of `given`, whose left-out cells stay so: at most `top_k` of a cell,
    /// none on the diagonal. Where relations are undirected, those of either direction hold for both.
    pub fn predicted(&self, logits: &[f16], pairs: &Pairs, entities: usize, given: &Labels, top_k: usize) -> Labels {
        let mut labels = Labels::new(entities * entities, given.classes);
        for (cell, row) in logits.chunks_exact(given.classes).enumerate() {
            if given.is_left_out(cell) {
                labels.leave_out(cell);
            }
            if given.is_left_out(cell) || cell / entities == cell % entities {
                continue;
            }
            let row: Vec<f32> = row.iter().map(|value| value.to_f32()).collect();
            let back = cell % entities * entities + cell / entities;
            for (class, _) in relations_above(&row, top_k, self.margin) {
                labels.set(cell, class as usize);
                if pairs.undirected && !given.is_left_out(back) {
                    labels.set(back, class as usize);
                }
            }
        }
        labels
    }
}

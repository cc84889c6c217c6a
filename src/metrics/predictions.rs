//! Predictions from a file: `docre.v1` lines, or the official list.

use super::Evaluator;
use crate::data::frames::{Frames, Shape, stream};
use crate::data::place::json_error;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::Path;

/// A relation predicted for an entity pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prediction {
    pub relation: String,
    pub details: Details,
}

/// What may be said beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// Logit of the relation minus that of the threshold; finite.
    pub margin: Option<f32>,
    /// Between 0 and 1; without it, sigmoid(margin).
    pub score: Option<f32>,
    /// Indices of sentences.
    pub evidence: Option<BTreeSet<u32>>,
}

impl From<&str> for Prediction {
    fn from(relation: &str) -> Self {
        Prediction { relation: relation.to_string(), details: Details::default() }
    }
}

impl Details {
    /// How sure the prediction is, between 0 and 1; None where nothing was said.
    pub fn sureness(&self) -> Option<f64> {
        let sigmoid = |margin: f32| 1.0 / (1.0 + (-f64::from(margin)).exp());
        self.score.map(f64::from).or(self.margin.map(sigmoid))
    }
}

#[derive(Deserialize)]
struct SubmissionRow {
    title: String,
    h_idx: i64,
    t_idx: i64,
    r: String,
    evidence: Option<BTreeSet<u32>>,
}

#[derive(Deserialize)]
struct PredictionLine {
    id: String,
    #[serde(default)]
    relations: Vec<PredictionRelation>,
}

#[derive(Deserialize)]
struct PredictionRelation {
    h: String,
    t: String,
    r: String,
    margin: Option<f32>,
    score: Option<f32>,
    evidence: Option<BTreeSet<u32>>,
}

impl Evaluator {
    /// Adds the predictions of a file: our JSONL (`{`) or the official list (`[`).
    ///
    /// Refused documents in JSONL have no relations. Errors: E-IO; E-JSON with the place.
    pub fn read_predictions(&mut self, path: &Path) -> Result<()> {
        let mut frames = Frames::open(stream(path)?, None)?;
        let shape = frames.shape();
        while let Some((position, frame)) = frames.next_frame() {
            let read = frame.and_then(|json| match shape {
                Shape::Array => self.read_row(json, &format!("$[{}]", position.index)),
                _ => self.read_line(json).map_err(|e| e.context(format!("line {}", position.line))),
            });
            read.map_err(|e| e.context(path.display()))?;
        }
        Ok(())
    }

    fn read_row(&mut self, json: &[u8], root: &str) -> Result<()> {
        let row: SubmissionRow = serde_json::from_slice(json).map_err(|e| json_error(&e, json, root))?;
        let details = Details { evidence: row.evidence, ..Details::default() };
        self.add(&row.title, row.h_idx, row.t_idx, Prediction { relation: row.r, details }).map_err(|e| e.at(root))
    }

    fn read_line(&mut self, json: &[u8]) -> Result<()> {
        let line: PredictionLine = serde_json::from_slice(json).map_err(|e| json_error(&e, json, "$"))?;
        for (i, said) in line.relations.into_iter().enumerate() {
            let PredictionRelation { h, t, r, margin, score, evidence } = said;
            let place = |name: &str| format!("$.relations[{i}].{name}");
            if margin.is_some_and(|margin| !margin.is_finite()) {
                return Err(Error::data("E-JSON", "a margin too large for 32 bits").at(place("margin")));
            }
            if score.is_some_and(|score| !(0.0..=1.0).contains(&score)) {
                return Err(Error::data("E-JSON", "a score that is not between 0 and 1").at(place("score")));
            }
            let details = Details { margin, score, evidence };
            self.add_by_id(&line.id, &h, &t, Prediction { relation: r, details });
        }
        Ok(())
    }
}

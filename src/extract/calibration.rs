//! `calibration.json` of a model: shifted thresholds and the scores of margins, found on labelled documents.

use crate::checkpoint::tensors::read_bounded;
use crate::data::Relations;
use crate::data::place::json_error;
use crate::error::{Error, Kind, Result};
use crate::text::clip;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Its name in a model directory.
pub const CALIBRATION: &str = "calibration.json";
const SCHEMA: &str = "docre.calibration.v1";
const MAX_BYTES: u64 = 1 << 20;

/// What `docre threshold` writes and a model directory may hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    schema: String,
    /// The weights it was found with, for people: rounded to bf16 they keep it.
    pub model: String,
    /// A relation needs a margin above this.
    pub shift: f64,
    /// Relations with another shift, by code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub relations: BTreeMap<String, f64>,
    /// None: sigmoid(margin).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Sigmoid>,
}

/// score = sigmoid(a margin + b).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sigmoid {
    /// Above 0: a larger margin is surer.
    pub a: f64,
    pub b: f64,
}

impl Default for Sigmoid {
    /// As the model was trained.
    fn default() -> Self {
        Sigmoid { a: 1.0, b: 0.0 }
    }
}

impl Sigmoid {
    pub fn score(&self, margin: f64) -> f64 {
        1.0 / (1.0 + (-(self.a * margin + self.b)).exp())
    }
}

impl Calibration {
    pub fn new(model: &str, shift: f64, relations: BTreeMap<String, f64>, score: Option<Sigmoid>) -> Self {
        Calibration { schema: SCHEMA.into(), model: model.into(), shift, relations, score }
    }

    /// Reads and checks a file for a model with these relations.
    ///
    /// Errors: E-JSON and E-CALIBRATION, of the model; E-IO.
    pub fn load(path: &Path, relations: &Relations) -> Result<Self> {
        let bytes = read_bounded(path, MAX_BYTES)?;
        let parsed = serde_json::from_slice::<Self>(&bytes).map_err(|e| json_error(&e, &bytes, "$"));
        let checked = parsed.and_then(|calibration| calibration.check(relations).map(|()| calibration));
        let blame = |e: Error| e.of_kind(Kind::Model).context(path.display());
        checked.map_err(|e| blame(e).fix("`docre threshold` makes it anew, --no-calibration goes without"))
    }

    /// Finite numbers, rising scores, relations of the model.
    fn check(&self, relations: &Relations) -> Result<()> {
        let bad = |what: String| Err(Error::model("E-CALIBRATION", what));
        if self.schema != SCHEMA {
            return bad(format!("schema {:?}, not {SCHEMA:?}", clip(&self.schema, 40)));
        }
        if let Some(code) = self.relations.keys().find(|code| relations.id(code).is_none_or(|class| class == 0)) {
            return bad(format!("the model has no relation {:?}", clip(code, 40)));
        }
        let Sigmoid { a, b } = self.score.unwrap_or_default();
        if !self.relations.values().chain([&self.shift, &a, &b]).all(|number| number.is_finite()) || a <= 0.0 {
            return bad(format!("numbers must be finite, and a above 0 (it is {a})"));
        }
        Ok(())
    }

    /// The text of the file. Errors: E-CALIBRATION for what [`Calibration::load`] would refuse.
    pub fn to_json(&self, relations: &Relations) -> Result<String> {
        self.check(relations)?;
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::model("E-CALIBRATION", e.to_string()))?;
        Ok(text + "\n")
    }

    /// The shift of a relation.
    pub fn shift(&self, code: &str) -> f64 {
        self.relations.get(code).copied().unwrap_or(self.shift)
    }

    /// The least shift of any relation.
    pub fn lowest(&self) -> f64 {
        self.relations.values().copied().fold(self.shift, f64::min)
    }
}

//! How precision, recall and confidence depend on the scores of a model.

use serde::Serialize;

/// Figures that need the score of every candidate, not only of what was predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curves {
    /// Ascending in `shift`; one of them at exactly 0, the adaptive threshold.
    pub points: Vec<Point>,
    pub reliability: Vec<Bin>,
    /// The mean gap between score and precision over the predictions, a fraction.
    pub calibration_error: f64,
}

/// Scores in percent where relations need a margin above `shift`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    pub shift: f64,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

/// Predictions with a score in `low..high`; all fractions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bin {
    pub low: f64,
    pub high: f64,
    pub count: usize,
    pub mean_score: f64,
    pub precision: f64,
}

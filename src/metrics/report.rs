//! The figures of an evaluation, in percent, as JSON and as text.

use super::curves::Curves;
use crate::data::place::clip;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Correct, predicted and gold counts, with precision, recall and F1 in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Score {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    pub correct: usize,
    pub predicted: usize,
    pub gold: usize,
}

impl Score {
    /// 0 wherever a denominator is.
    pub fn new(correct: usize, predicted: usize, gold: usize) -> Self {
        let (precision, recall) = (ratio(correct as f64, predicted as f64), ratio(correct as f64, gold as f64));
        let f1 = harmonic(precision, recall);
        Score { precision: 100.0 * precision, recall: 100.0 * recall, f1: 100.0 * f1, correct, predicted, gold }
    }
}

pub(super) fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

pub(super) fn harmonic(a: f64, b: f64) -> f64 {
    ratio(2.0 * a * b, a + b)
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RelationScore {
    pub r: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(flatten)]
    pub score: Score,
}

/// All scores in percent, counts of distinct triples.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub all: Score,
    /// Bounds of F1 between which 95 % of bootstrap samples of the documents lie.
    pub f1_interval: [f64; 2],
    /// None without facts of a training set.
    pub ign_f1: Option<f64>,
    pub ign_precision: Option<f64>,
    /// Correct triples that are facts of the training set.
    pub in_train: Option<usize>,
    pub intra: Score,
    pub inter: Score,
    pub frequent: Score,
    pub long_tail: Score,
    /// Gold facts between entities that two other facts join; precision over all predictions.
    pub infer: Score,
    /// The same, precision over the predictions between such entities.
    pub infer_pairs: Score,
    /// Mean F1 over the relations that gold has.
    pub macro_f1: f64,
    pub documents: usize,
    /// Sorted by the number of gold triples, falling.
    pub relations: Vec<RelationScore>,
    /// Gold relations that the model does not have, and their triples: all missed.
    pub unknown_relations: BTreeMap<String, usize>,
    /// Predictions for documents that gold does not have: all wrong.
    pub unknown_titles: usize,
    /// Predictions between entities that the gold document does not have: all wrong.
    pub unknown_entities: usize,
    /// Predictions given more than once; they count once.
    pub duplicates: usize,
    /// Gold documents with a title that stood before.
    pub repeated_titles: usize,
    /// None without the scores of a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curves: Option<Curves>,
}

impl Report {
    /// The score of all facts and of parts of them, by name.
    pub fn subsets(&self) -> [(&'static str, Score); 7] {
        [
            ("all", self.all),
            ("intra", self.intra),
            ("inter", self.inter),
            ("frequent", self.frequent),
            ("long tail", self.long_tail),
            ("infer", self.infer),
            ("infer pairs", self.infer_pairs),
        ]
    }

    /// What a reader of the scores must know.
    pub fn warnings(&self) -> Vec<String> {
        let missing = self.unknown_relations.iter();
        let missing =
            missing.map(|(name, count)| format!("the model has no relation {name:?}: {count} gold triples missed"));
        let counts = [
            (self.unknown_titles, "predictions for documents that gold does not have (counted as wrong)"),
            (self.unknown_entities, "predictions of entities that the document does not have (counted as wrong)"),
            (self.duplicates, "predictions given more than once (counted once)"),
            (self.repeated_titles, "gold documents with a title that stood before (joined)"),
        ];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        missing.chain(counts).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<12} {:>7} {:>7} {:>7} {:>9} {:>9} {:>9}", "", "P", "R", "F1", "correct", "predicted", "gold")?;
        for (name, score) in self.subsets() {
            write_row(f, name, &score, "")?;
        }
        if let (Some(f1), Some(precision), Some(known)) = (self.ign_f1, self.ign_precision, self.in_train) {
            writeln!(
                f,
                "Ign F1 {f1:.2} (precision {precision:.2}; {known} correct triples are facts of the training set)"
            )?;
        }
        let [low, high] = self.f1_interval;
        writeln!(f, "F1 between {low:.2} and {high:.2} in 95 % of bootstrap samples of the documents")?;
        writeln!(f, "macro F1 {:.2} over {} documents", self.macro_f1, self.documents)?;
        for relation in &self.relations {
            let name = clip(relation.name.as_deref().unwrap_or_default(), 40);
            write_row(f, &clip(&relation.r, 12), &relation.score, &name)?;
        }
        self.warnings().iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, name: &str, s: &Score, note: &str) -> fmt::Result {
    let Score { precision, recall, f1, correct, predicted, gold } = s;
    let row =
        format!("{name:<12} {precision:>7.2} {recall:>7.2} {f1:>7.2} {correct:>9} {predicted:>9} {gold:>9}  {note}");
    writeln!(f, "{}", row.trim_end())
}

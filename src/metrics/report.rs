//! The figures of an evaluation, in percent, as JSON and as text.

use super::curves::Curves;
use crate::text::{clip, one_line};
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

/// Of the documents, or entity pairs, whose number is in a range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BucketScore {
    pub from: usize,
    /// Inclusive; None: no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<usize>,
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
    /// Over sentence sets: `correct` counts the gold sentences among those of correct triples, `predicted` the sentences of
    /// all triples, `gold` those of all facts, as the official program does. A sentence given for a fact whose gold
    /// evidence is empty is therefore wrong. None if no prediction has evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Score>,
    /// The same without the sentences given for facts that have no gold evidence (57 % of Re-DocRED): nobody said which
    /// sentences would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_annotated: Option<Score>,
    /// Documents by their number of entities.
    pub by_entities: Vec<BucketScore>,
    /// Entity pairs by the number of mentions of both.
    pub by_mentions: Vec<BucketScore>,
    /// Mean F1 over the relations that gold has.
    pub macro_f1: f64,
    pub frequent_macro_f1: f64,
    pub long_tail_macro_f1: f64,
    /// None unless every prediction has its margin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curves: Option<Curves>,
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
    /// Gold documents that stood there before: their relations are joined.
    pub repeated_documents: usize,
}

impl Report {
    /// The score of all facts and of parts of them, by name.
    pub fn subsets(&self) -> Vec<(&'static str, Score)> {
        let rows = [
            ("all", Some(self.all)),
            ("intra", Some(self.intra)),
            ("inter", Some(self.inter)),
            ("frequent", Some(self.frequent)),
            ("long tail", Some(self.long_tail)),
            ("infer", Some(self.infer)),
            ("infer pairs", Some(self.infer_pairs)),
            ("evidence", self.evidence),
            ("  of annotated", self.evidence_annotated),
        ];
        rows.into_iter().filter_map(|(name, score)| Some((name, score?))).collect()
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
            (self.repeated_documents, "gold documents that stood before (joined)"),
        ];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        missing.chain(counts).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<14} {:>7} {:>7} {:>7} {:>9} {:>9} {:>9}", "", "P", "R", "F1", "correct", "predicted", "gold")?;
        for (name, score) in self.subsets() {
            write_row(f, name, &score, "")?;
        }
        write_buckets(f, "entities", &self.by_entities)?;
        write_buckets(f, "mentions", &self.by_mentions)?;
        if let (Some(f1), Some(precision), Some(known)) = (self.ign_f1, self.ign_precision, self.in_train) {
            writeln!(
                f,
                "Ign F1 {f1:.2} (precision {precision:.2}; {known} correct triples are facts of the training set)"
            )?;
        }
        let [low, high] = self.f1_interval;
        writeln!(f, "F1 between {low:.2} and {high:.2} in 95 % of bootstrap samples of the documents")?;
        let [all, frequent, long_tail] = [self.macro_f1, self.frequent_macro_f1, self.long_tail_macro_f1];
        let documents = self.documents;
        writeln!(f, "macro F1 {all:.2} (frequent {frequent:.2}, long tail {long_tail:.2}) over {documents} documents")?;
        if let Some(curves) = &self.curves {
            write_curves(f, curves)?;
        }
        for relation in &self.relations {
            let name = clip(&one_line(relation.name.as_deref().unwrap_or_default()), 40);
            write_row(f, &clip(&one_line(&relation.r), 12), &relation.score, &name)?;
        }
        self.warnings().iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

fn write_buckets(f: &mut fmt::Formatter<'_>, of: &str, buckets: &[BucketScore]) -> fmt::Result {
    for BucketScore { from, to, score } in buckets.iter().filter(|b| b.score.gold + b.score.predicted > 0) {
        let range = match to {
            Some(to) if to == from => format!("{of} {from}"),
            Some(to) => format!("{of} {from}-{to}"),
            None => format!("{of} {from}+"),
        };
        write_row(f, &range, score, "")?;
    }
    Ok(())
}

fn write_curves(f: &mut fmt::Formatter<'_>, curves: &Curves) -> fmt::Result {
    if let (Some(best), Some(first), Some(last)) = (curves.best(), curves.points.first(), curves.points.last()) {
        let (f1, shift, from, to) = (best.f1, best.shift, first.shift, last.shift);
        writeln!(
            f,
            "best F1 {f1:.2} on this very set, threshold shifted by {shift} (of {from} to {to}; 0: the model's own)"
        )?;
    }
    writeln!(f, "calibration error of the scores {:.2} %", 100.0 * curves.calibration_error)
}

fn write_row(f: &mut fmt::Formatter<'_>, name: &str, s: &Score, note: &str) -> fmt::Result {
    let Score { precision, recall, f1, correct, predicted, gold } = s;
    let row =
        format!("{name:<14} {precision:>7.2} {recall:>7.2} {f1:>7.2} {correct:>9} {predicted:>9} {gold:>9}  {note}");
    writeln!(f, "{}", row.trim_end())
}

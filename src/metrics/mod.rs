//! The official evaluation of DocRED and Re-DocRED (spec §7), and baselines without a model.

pub mod baseline;
pub mod curves;
mod facts;
pub mod gold;
mod html;
mod names;
mod predictions;
mod report;
mod sampling;
mod tally;
pub mod tuning;

pub use curves::Curves;
pub use facts::Facts;
pub use gold::Gold;
pub use html::html;
pub use predictions::{Details, Prediction};
pub use report::{BucketScore, RelationScore, Report, Score};
pub use sampling::Comparison;

use crate::data::output::Triple;
use crate::data::{Document, Relations};
use crate::error::Result;
use gold::Fact;
use names::Names;
use report::harmonic;
use sampling::Units;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tally::Tally;

/// The frequent relations of the DocRED literature; all others are the long tail.
pub const FREQUENT: [&str; 10] = ["P17", "P131", "P27", "P150", "P175", "P577", "P463", "P527", "P495", "P361"];

/// Compares predictions with gold documents.
#[derive(Clone, Debug, Default)]
pub struct Evaluator {
    gold: Gold,
    /// Per gold document; relations are numbers of `relations`.
    predicted: Vec<BTreeMap<Fact, Details>>,
    relations: Names,
    /// Predictions that fit no gold document or entity: counted, never correct.
    stray_titles: HashMap<[String; 4], Details>,
    stray_entities: HashMap<[String; 4], Details>,
    duplicates: usize,
    /// What the model would predict at a lower threshold: document, triple, margin above its own threshold.
    candidates: Vec<(u32, Fact, f32)>,
}

/// What a model would predict at a low enough threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Number of the gold document.
    pub document: u32,
    /// For [`Evaluator::relation`].
    pub relation: u32,
    /// Above the model's own threshold.
    pub margin: f32,
    pub correct: bool,
}

impl Evaluator {
    pub fn new(gold: Gold) -> Self {
        Evaluator { gold, ..Evaluator::default() }
    }

    /// As [`Gold::add`].
    pub fn add_gold(&mut self, document: &Document) -> Result<usize> {
        self.gold.add(document)
    }

    pub fn gold(&self) -> &Gold {
        &self.gold
    }

    /// Adds one prediction; entities by index, as the official submission has them. Of equal triples the first counts.
    ///
    /// Error: E-TITLE where several gold documents have the title.
    pub fn add(&mut self, title: &str, head: i64, tail: i64, prediction: impl Into<Prediction>) -> Result<()> {
        let said = [title, &head.to_string(), &tail.to_string()];
        match self.gold.by_title(title)? {
            Some(d) => {
                let count = self.gold.documents[d].entities.len();
                let entity = |i: i64| u32::try_from(i).ok().filter(|&i| (i as usize) < count);
                self.add_located(d, entity(head), entity(tail), said, prediction.into());
            }
            None => self.add_stray_title(said, prediction.into()),
        }
        Ok(())
    }

    /// Adds one prediction by the ids of document and entities, as `docre.v1` has them.
    pub fn add_by_id(&mut self, id: &str, head: &str, tail: &str, prediction: impl Into<Prediction>) {
        match self.gold.by_id(id).or_else(|| self.gold.by_title(id).ok().flatten()) {
            Some(d) => {
                let document = &self.gold.documents[d];
                let pair = [document.entity(head), document.entity(tail)];
                self.add_located(d, pair[0], pair[1], [id, head, tail], prediction.into());
            }
            None => self.add_stray_title([id, head, tail], prediction.into()),
        }
    }

    /// Adds the predictions of a model for gold document `number`.
    pub fn add_triples(&mut self, number: usize, triples: &[Triple], relations: &Relations) {
        for t in triples {
            let evidence = t.evidence.as_ref().map(|sentences| sentences.iter().copied().collect());
            let details = Details { margin: Some(t.margin), score: Some(t.score), evidence };
            let relation = relations.code(t.relation).to_string();
            self.add_fact(number, (t.head as u32, t.tail as u32), Prediction { relation, details });
        }
    }

    /// Adds what the model would predict for gold document `number` at a lower threshold, for curves and tuning: triples with
    /// their margins above its own. They are no predictions.
    pub fn add_candidates<'a>(
        &mut self,
        number: usize,
        triples: impl Iterator<Item = (&'a Triple, f32)>,
        relations: &Relations,
    ) {
        for (t, margin) in triples {
            let fact = (t.head as u32, t.tail as u32, self.relations.add(relations.code(t.relation)));
            self.candidates.push((number as u32, fact, margin));
        }
    }

    /// The candidates, each triple once.
    pub fn candidates(&self) -> Vec<Candidate> {
        let mut found = self.candidates.clone();
        found.sort_by_key(|&(d, fact, _)| (d, fact));
        found.dedup_by_key(|(d, fact, _)| (*d, *fact)); // documents that stand twice
        let candidate = |(document, fact, margin): (u32, Fact, f32)| {
            let correct = self.evidence_of(document as usize, fact).is_some();
            Candidate { document, relation: fact.2, margin, correct }
        };
        found.into_iter().map(candidate).collect()
    }

    /// The code of a candidate's relation.
    pub fn relation(&self, number: u32) -> &str {
        self.relations.text(number)
    }

    fn add_stray_title(&mut self, said: [&str; 3], prediction: Prediction) {
        let new = insert(&mut self.stray_titles, stray(said, &prediction), prediction.details);
        self.duplicates += usize::from(!new);
    }

    fn add_located(&mut self, d: usize, head: Option<u32>, tail: Option<u32>, said: [&str; 3], prediction: Prediction) {
        match (head, tail) {
            (Some(head), Some(tail)) => self.add_fact(d, (head, tail), prediction),
            _ => {
                let new = insert(&mut self.stray_entities, stray(said, &prediction), prediction.details);
                self.duplicates += usize::from(!new);
            }
        }
    }

    fn add_fact(&mut self, d: usize, (head, tail): (u32, u32), prediction: Prediction) {
        let (head, tail) = self.gold.documents[d].pairs.canonical(head, tail);
        let fact = (head, tail, self.relations.add(&prediction.relation));
        self.predicted.resize(self.gold.documents.len(), BTreeMap::new());
        self.duplicates += usize::from(self.predicted[d].contains_key(&fact));
        self.predicted[d].entry(fact).or_insert(prediction.details);
    }

    /// The evidence of the gold fact that a prediction hits; None if it hits none.
    fn evidence_of(&self, d: usize, (h, t, r): Fact) -> Option<&BTreeSet<u32>> {
        let relation = self.gold.relations.get(self.relations.text(r))?;
        self.gold.documents[d].facts.get(&(h, t, relation))
    }

    fn located(&self) -> impl Iterator<Item = (usize, Fact, &Details)> {
        let all = self.predicted.iter().enumerate();
        all.flat_map(|(d, predicted)| predicted.iter().map(move |(fact, details)| (d, *fact, details)))
    }

    /// All figures. `facts`: of the training set, for Ign F1. `model`: its relations, to name those that
    /// gold has and the model does not.
    pub fn report(&self, facts: Option<&Facts>, model: Option<&Relations>) -> Report {
        let mut tally = Tally::default();
        (0..self.gold.documents.len()).for_each(|d| tally.document(self, d, facts));
        self.stray_titles.keys().chain(self.stray_entities.keys()).for_each(|said| tally.stray(&said[3]));
        // The official program passes over the evidence of unknown titles.
        self.stray_entities.values().for_each(|details| tally.evidence(details, None));
        let mut report = tally.finish(model);
        if facts.is_some() {
            let unseen = (report.all.correct - tally.in_train) as f64;
            // The official program adds 1e-5 here, and takes the ordinary recall.
            let precision = unseen / ((report.all.predicted - tally.in_train) as f64 + 1e-5);
            report.ign_precision = Some(100.0 * precision);
            report.ign_f1 = Some(100.0 * harmonic(precision, report.all.recall / 100.0));
            report.in_train = Some(tally.in_train);
        }
        report.f1_interval = sampling::bootstrap(&self.units());
        report.curves = self.curves();
        report.documents = self.gold.documents.len();
        report.unknown_titles = self.stray_titles.len();
        report.unknown_entities = self.stray_entities.len();
        report.duplicates = self.duplicates;
        report.repeated_documents = self.gold.repeated;
        report
    }

    /// How the F1 of these predictions differs from that of others for the same gold documents, and whether by chance.
    pub fn compare(&self, against: &Evaluator) -> Comparison {
        sampling::compare(&self.units(), &against.units())
    }

    fn units(&self) -> Units {
        let mut documents: Vec<_> = self.gold.documents.iter().map(|d| [0, 0, d.facts.len()]).collect();
        for (d, fact, _) in self.located() {
            documents[d][0] += usize::from(self.evidence_of(d, fact).is_some());
            documents[d][1] += 1;
        }
        Units { documents, strays: self.stray_titles.len() + self.stray_entities.len() }
    }

    /// None unless every prediction has its margin.
    fn curves(&self) -> Option<Curves> {
        let located = self.located().map(|(d, fact, details)| (details, self.evidence_of(d, fact).is_some()));
        let strays = self.stray_titles.values().chain(self.stray_entities.values());
        let mut predicted: Vec<(f32, bool)> = Vec::new();
        let mut scores = Vec::new();
        for (details, correct) in located.chain(strays.map(|details| (details, false))) {
            predicted.push((details.margin?, correct));
            scores.push((details.sureness()?, correct));
        }
        let candidates: Vec<_> = self.candidates().iter().map(|c| (c.margin, c.correct)).collect();
        let candidates = if candidates.is_empty() { predicted } else { candidates };
        Curves::new(candidates, &scores, self.gold.facts())
    }
}

fn stray([document, head, tail]: [&str; 3], prediction: &Prediction) -> [String; 4] {
    [document, head, tail, &prediction.relation].map(str::to_string)
}

/// Whether the key is new; else what stood there stays.
fn insert(strays: &mut HashMap<[String; 4], Details>, key: [String; 4], details: Details) -> bool {
    let before = strays.len();
    strays.entry(key).or_insert(details);
    strays.len() > before
}

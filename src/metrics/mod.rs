//! The official evaluation of DocRED and Re-DocRED (spec §7), and baselines without a model.

pub mod baseline;
pub mod curves;
mod facts;
pub mod gold;
mod html;
mod names;
mod report;

pub use facts::Facts;
pub use gold::Gold;
pub use html::html;
pub use report::{RelationScore, Report, Score};

use crate::data::frames::{Frames, Shape};
use crate::data::output::Triple;
use crate::data::place::json_error;
use crate::data::{Document, Relations};
use crate::error::{Error, Result};
use gold::{Fact, GoldDocument};
use names::Names;
use report::{harmonic, ratio};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

/// The frequent relations of the DocRED literature; all others are the long tail.
pub const FREQUENT: [&str; 10] = ["P17", "P131", "P27", "P150", "P175", "P577", "P463", "P527", "P495", "P361"];

/// Compares predictions with gold documents. Gold stays while predictions come and go (each epoch).
#[derive(Clone, Debug, Default)]
pub struct Evaluator {
    gold: Gold,
    /// Per gold document; relations are numbers of `relations`.
    predicted: Vec<BTreeSet<Fact>>,
    relations: Names,
    /// Predictions that fit no gold document or entity: counted, never correct.
    stray_titles: HashSet<[String; 4]>,
    stray_entities: HashSet<[String; 4]>,
    duplicates: usize,
}

#[derive(Deserialize)]
struct SubmissionRow {
    title: String,
    h_idx: i64,
    t_idx: i64,
    r: String,
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
}

impl Evaluator {
    pub fn add_gold(&mut self, document: &Document) {
        self.gold.add(document);
    }

    pub fn gold(&self) -> &Gold {
        &self.gold
    }

    pub fn clear_predictions(&mut self) {
        self.predicted.clear();
        self.stray_titles.clear();
        self.stray_entities.clear();
        self.duplicates = 0;
    }

    /// Adds one prediction; entities by index, as the official submission has them.
    pub fn add(&mut self, title: &str, head: i64, tail: i64, relation: &str) {
        let Some(d) = self.gold.by_title(title) else {
            return self.add_stray_title(title, &head.to_string(), &tail.to_string(), relation);
        };
        let count = self.gold.documents[d].entities.len();
        let entity = |i: i64| u32::try_from(i).ok().filter(|&i| (i as usize) < count);
        self.add_located(d, entity(head), entity(tail), [title, &head.to_string(), &tail.to_string(), relation]);
    }

    /// Adds the predictions of a model for one gold document.
    pub fn add_triples(&mut self, document: &Document, triples: &[Triple], relations: &Relations) {
        for t in triples {
            self.add(&document.title, t.head as i64, t.tail as i64, relations.code(t.relation));
        }
    }

    /// Adds one prediction by the ids of document and entities, as `docre.v1` has them.
    pub fn add_by_id(&mut self, id: &str, head: &str, tail: &str, relation: &str) {
        let Some(d) = self.gold.by_id(id).or_else(|| self.gold.by_title(id)) else {
            return self.add_stray_title(id, head, tail, relation);
        };
        let document = &self.gold.documents[d];
        self.add_located(d, document.entity(head), document.entity(tail), [id, head, tail, relation]);
    }

    fn add_stray_title(&mut self, title: &str, head: &str, tail: &str, relation: &str) {
        let new = self.stray_titles.insert([title, head, tail, relation].map(str::to_string));
        self.duplicates += usize::from(!new);
    }

    fn add_located(&mut self, d: usize, head: Option<u32>, tail: Option<u32>, said: [&str; 4]) {
        let new = match (head, tail) {
            (Some(head), Some(tail)) => {
                let (head, tail) = self.gold.documents[d].pairs.canonical(head, tail);
                let relation = self.relations.add(said[3]);
                self.predicted.resize(self.gold.documents.len(), BTreeSet::new());
                self.predicted[d].insert((head, tail, relation))
            }
            _ => self.stray_entities.insert(said.map(str::to_string)),
        };
        self.duplicates += usize::from(!new);
    }

    /// Adds the predictions of a file: our JSONL (`{`) or the official list (`[`).
    ///
    /// Refused documents in JSONL have no relations. Errors: E-IO; E-JSON with the place.
    pub fn read_predictions(&mut self, path: &Path) -> Result<()> {
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
        let mut frames = Frames::open(file, None)?;
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
        self.add(&row.title, row.h_idx, row.t_idx, &row.r);
        Ok(())
    }

    fn read_line(&mut self, json: &[u8]) -> Result<()> {
        let line: PredictionLine = serde_json::from_slice(json).map_err(|e| json_error(&e, json, "$"))?;
        for relation in &line.relations {
            self.add_by_id(&line.id, &relation.h, &relation.t, &relation.r);
        }
        Ok(())
    }

    /// All figures. `facts`: of the training set, for Ign F1. `model`: its relations, to name those that
    /// gold has and the model does not.
    pub fn report(&self, facts: Option<&Facts>, model: Option<&Relations>) -> Report {
        let mut tally = Tally::default();
        let none = BTreeSet::new();
        for (d, document) in self.gold.documents.iter().enumerate() {
            tally.document(self, document, self.predicted.get(d).unwrap_or(&none), facts);
        }
        tally.strays(self.stray_titles.iter().chain(&self.stray_entities));
        let mut report = tally.finish(model);
        if facts.is_some() {
            let unseen = (report.all.correct - tally.in_train) as f64;
            // The official program adds 1e-5 here, and takes the ordinary recall.
            let precision = unseen / ((report.all.predicted - tally.in_train) as f64 + 1e-5);
            report.ign_precision = Some(100.0 * precision);
            report.ign_f1 = Some(100.0 * harmonic(precision, report.all.recall / 100.0));
            report.in_train = Some(tally.in_train);
        }
        report.documents = self.gold.documents.len();
        report.unknown_titles = self.stray_titles.len();
        report.unknown_entities = self.stray_entities.len();
        report.duplicates = self.duplicates;
        report.repeated_titles = self.gold.repeated_titles;
        report
    }
}

/// correct, predicted, gold.
type Counts = [usize; 3];

#[derive(Default)]
struct Tally {
    all: Counts,
    intra: Counts,
    inter: Counts,
    relations: BTreeMap<String, Counts>,
    in_train: usize,
    /// Pairs that gold joins in two steps.
    infer: Counts,
    /// Per gold document, for the bootstrap.
    documents: Vec<Counts>,
}

impl Tally {
    fn document(&mut self, eval: &Evaluator, gold: &GoldDocument, predicted: &BTreeSet<Fact>, facts: Option<&Facts>) {
        let before = self.all;
        let two_steps = gold.two_step_pairs();
        for &(h, t, r) in gold.facts.keys() {
            self.infer[2] += usize::from(two_steps.contains(&(h, t)));
            self.count(2, Some(gold.is_intra(h, t)), eval.gold.relations.text(r));
        }
        for &(h, t, r) in predicted {
            let relation = eval.relations.text(r);
            let intra = Some(gold.is_intra(h, t));
            self.count(1, intra, relation);
            self.infer[1] += usize::from(two_steps.contains(&(h, t)));
            let correct = eval.gold.relations.get(relation).is_some_and(|r| gold.facts.contains_key(&(h, t, r)));
            if !correct {
                continue;
            }
            self.count(0, intra, relation);
            self.infer[0] += usize::from(two_steps.contains(&(h, t)));
            let names = |e: u32| gold.entities[e as usize].names.as_slice();
            let known = facts.is_some_and(|facts| facts.contains_any(names(h), names(t), relation));
            self.in_train += usize::from(known);
        }
        self.documents.push([0, 1, 2].map(|what| self.all[what] - before[what]));
    }

    fn strays<'a>(&mut self, predictions: impl Iterator<Item = &'a [String; 4]>) {
        predictions.for_each(|[_, _, _, relation]| self.count(1, None, relation));
    }

    fn count(&mut self, what: usize, intra: Option<bool>, relation: &str) {
        self.all[what] += 1;
        match intra {
            Some(true) => self.intra[what] += 1,
            Some(false) => self.inter[what] += 1,
            None => {}
        }
        self.relations.entry(relation.to_string()).or_default()[what] += 1;
    }

    fn finish(&self, model: Option<&Relations>) -> Report {
        let score = |[correct, predicted, gold]: Counts| Score::new(correct, predicted, gold);
        let subset = |frequent: bool| {
            let chosen = self.relations.iter().filter(|(r, _)| FREQUENT.contains(&r.as_str()) == frequent);
            score(chosen.fold([0; 3], |sum, (_, n)| [sum[0] + n[0], sum[1] + n[1], sum[2] + n[2]]))
        };
        let name = |r: &str| model.and_then(|m| m.name(m.id(r)?)).map(str::to_string);
        let one = |(r, &n): (&String, &Counts)| RelationScore { r: r.clone(), name: name(r), score: score(n) };
        let mut relations: Vec<RelationScore> = self.relations.iter().map(one).collect();
        relations.sort_by_key(|r| std::cmp::Reverse(r.score.gold));
        let unknown = |r: &&RelationScore| r.score.gold > 0 && model.is_some_and(|m| m.id(&r.r).is_none());
        let in_gold = || relations.iter().filter(|r| r.score.gold > 0);
        Report {
            all: score(self.all),
            intra: score(self.intra),
            inter: score(self.inter),
            frequent: subset(true),
            long_tail: subset(false),
            infer: Score::new(self.infer[0], self.all[1], self.infer[2]),
            infer_pairs: score(self.infer),
            f1_interval: bootstrap(&self.documents, self.all),
            macro_f1: ratio(in_gold().map(|r| r.score.f1).sum(), in_gold().count() as f64),
            unknown_relations: in_gold().filter(unknown).map(|r| (r.r.clone(), r.score.gold)).collect(),
            relations,
            ..Report::default()
        }
    }
}

/// Samples of the bootstrap: enough for the bounds of a 95 % interval to stand within about 0.1.
const SAMPLES: usize = 1000;

/// F1 of `SAMPLES` draws of as many documents, with replacement: the 2.5 % and 97.5 % quantiles.
/// Predictions without a gold document stay in every sample. The same numbers in every run.
fn bootstrap(documents: &[Counts], all: Counts) -> [f64; 2] {
    let strays = all[1] - documents.iter().map(|n| n[1]).sum::<usize>();
    let mut state = 0u64;
    let mut draw = |below: usize| {
        // splitmix64, by Sebastiano Vigna (public domain).
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((u128::from(z ^ (z >> 31)) * below as u128) >> 64) as usize
    };
    let mut sample = || {
        let mut sum = [0, strays, 0];
        for _ in 0..documents.len() {
            let document = documents[draw(documents.len())];
            (0..3).for_each(|what| sum[what] += document[what]);
        }
        Score::new(sum[0], sum[1], sum[2]).f1
    };
    let mut scores: Vec<f64> = (0..SAMPLES).map(|_| sample()).collect();
    scores.sort_by(f64::total_cmp);
    [scores[SAMPLES / 40], scores[SAMPLES - 1 - SAMPLES / 40]]
}

//! Counting: every gold fact and every prediction once, in each subset that it belongs to.

use super::gold::GoldDocument;
use super::predictions::Details;
use super::report::{BucketScore, RelationScore, Report, Score, ratio};
use super::sampling::Counts;
use super::{Evaluator, FREQUENT, Facts};
use crate::data::Relations;
use std::collections::{BTreeMap, BTreeSet};

/// Buckets of documents by their number of entities: where each begins.
const ENTITIES: [usize; 5] = [0, 11, 16, 21, 26];
/// Buckets of entity pairs by the mentions of both: where each begins.
const MENTIONS: [usize; 5] = [0, 3, 4, 5, 7];

#[derive(Default)]
pub(super) struct Tally {
    all: Counts,
    intra: Counts,
    inter: Counts,
    /// Pairs that gold joins in two steps.
    infer: Counts,
    entities: [Counts; ENTITIES.len()],
    mentions: [Counts; MENTIONS.len()],
    relations: BTreeMap<String, Counts>,
    pub in_train: usize,
    /// Of sentences.
    evidence: Counts,
    /// Of sentences, without those predicted for gold facts that have no evidence.
    evidence_annotated: Counts,
    /// Whether any prediction names evidence.
    has_evidence: bool,
}

/// What decides which subsets a pair of entities belongs to.
struct Pair {
    intra: bool,
    joined: bool,
    entities: usize,
    mentions: usize,
}

impl Tally {
    pub fn document(&mut self, eval: &Evaluator, d: usize, facts: Option<&Facts>) {
        let gold = &eval.gold.documents[d];
        let two_steps = gold.two_step_pairs();
        let pair = |h, t| Pair::new(gold, &two_steps, h, t);
        for (&(h, t, r), evidence) in &gold.facts {
            self.count(2, Some(pair(h, t)), eval.gold.relations.text(r));
            self.evidence[2] += evidence.len();
            self.evidence_annotated[2] += evidence.len();
        }
        for (&fact, details) in eval.predicted.get(d).into_iter().flatten() {
            let (h, t, r) = fact;
            let relation = eval.relations.text(r);
            self.count(1, Some(pair(h, t)), relation);
            let gold_evidence = eval.evidence_of(d, fact);
            self.evidence(details, gold_evidence);
            if gold_evidence.is_some() {
                self.count(0, Some(pair(h, t)), relation);
                let names = |e: u32| gold.entities[e as usize].names.as_slice();
                let known = facts.is_some_and(|facts| facts.contains_any(names(h), names(t), relation));
                self.in_train += usize::from(known);
            }
        }
    }

    /// A prediction that fits no gold document or entity.
    pub fn stray(&mut self, relation: &str) {
        self.count(1, None, relation);
    }

    fn count(&mut self, what: usize, pair: Option<Pair>, relation: &str) {
        self.all[what] += 1;
        self.relations.entry(relation.to_string()).or_default()[what] += 1;
        let Some(pair) = pair else { return };
        let side = if pair.intra { &mut self.intra } else { &mut self.inter };
        side[what] += 1;
        self.infer[what] += usize::from(pair.joined);
        self.entities[bucket(&ENTITIES, pair.entities)][what] += 1;
        self.mentions[bucket(&MENTIONS, pair.mentions)][what] += 1;
    }

    /// `gold`: the evidence of the fact, None if the prediction is wrong.
    pub fn evidence(&mut self, details: &Details, gold: Option<&BTreeSet<u32>>) {
        let Some(said) = &details.evidence else { return };
        self.has_evidence = true;
        let hits = gold.map_or(0, |gold| gold.intersection(said).count());
        let annotated = gold.is_none_or(|gold| !gold.is_empty());
        self.evidence[1] += said.len();
        self.evidence[0] += hits;
        self.evidence_annotated[1] += if annotated { said.len() } else { 0 };
        self.evidence_annotated[0] += hits;
    }

    /// Everything but what needs the documents one by one.
    pub fn finish(&self, model: Option<&Relations>) -> Report {
        let name = |r: &str| model.and_then(|m| m.name(m.id(r)?)).map(str::to_string);
        let one = |(r, &n): (&String, &Counts)| RelationScore { r: r.clone(), name: name(r), score: score(n) };
        let mut relations: Vec<RelationScore> = self.relations.iter().map(one).collect();
        relations.sort_by_key(|r| std::cmp::Reverse(r.score.gold));
        let unknown = |r: &&RelationScore| r.score.gold > 0 && model.is_some_and(|m| m.id(&r.r).is_none());
        let frequent = |r: &RelationScore| FREQUENT.contains(&r.r.as_str());
        Report {
            all: score(self.all),
            intra: score(self.intra),
            inter: score(self.inter),
            frequent: micro(&relations, frequent),
            long_tail: micro(&relations, |r| !frequent(r)),
            infer: Score::new(self.infer[0], self.all[1], self.infer[2]),
            infer_pairs: score(self.infer),
            macro_f1: macro_f1(&relations, |_| true),
            frequent_macro_f1: macro_f1(&relations, frequent),
            long_tail_macro_f1: macro_f1(&relations, |r| !frequent(r)),
            evidence: self.has_evidence.then(|| score(self.evidence)),
            evidence_annotated: self.has_evidence.then(|| score(self.evidence_annotated)),
            by_entities: buckets(&ENTITIES, &self.entities),
            by_mentions: buckets(&MENTIONS, &self.mentions),
            unknown_relations: relations.iter().filter(unknown).map(|r| (r.r.clone(), r.score.gold)).collect(),
            relations,
            ..Report::default()
        }
    }
}

impl Pair {
    fn new(gold: &GoldDocument, two_steps: &BTreeSet<(u32, u32)>, h: u32, t: u32) -> Self {
        let mentions = |e: u32| gold.entities.get(e as usize).map_or(0, |entity| entity.mentions);
        Pair {
            intra: gold.is_intra(h, t),
            joined: two_steps.contains(&(h, t)),
            entities: gold.entities.len(),
            mentions: mentions(h) + mentions(t),
        }
    }
}

fn score([correct, predicted, gold]: Counts) -> Score {
    Score::new(correct, predicted, gold)
}

/// Over all triples of the chosen relations.
fn micro(relations: &[RelationScore], chosen: impl Fn(&RelationScore) -> bool) -> Score {
    let scores = || relations.iter().filter(|r| chosen(r)).map(|r| r.score);
    let sum = |part: fn(Score) -> usize| scores().map(part).sum();
    Score::new(sum(|s| s.correct), sum(|s| s.predicted), sum(|s| s.gold))
}

/// Mean F1 of the chosen relations that gold has; 0 if it has none.
fn macro_f1(relations: &[RelationScore], chosen: impl Fn(&RelationScore) -> bool) -> f64 {
    let scores = || relations.iter().filter(|r| r.score.gold > 0 && chosen(r)).map(|r| r.score.f1);
    ratio(scores().sum(), scores().count() as f64)
}

fn bucket(starts: &[usize], value: usize) -> usize {
    starts.partition_point(|&start| start <= value) - 1 // the first starts at 0
}

fn buckets(starts: &[usize], counts: &[Counts]) -> Vec<BucketScore> {
    let to = |i: usize| starts.get(i + 1).map(|next| next - 1);
    let one = |(i, &n): (usize, &Counts)| BucketScore { from: starts[i], to: to(i), score: score(n) };
    counts.iter().enumerate().map(one).collect()
}

//! The threshold with the best F1 on labelled documents, a calibration of scores, and what to expect of both on others.

use super::curves::{LOWEST, calibration_error, reliability};
use super::report::Score;
use super::{Candidate, Evaluator};
use crate::error::{Error, Result};
use crate::extract::Sigmoid;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// Parts of the documents, each judged by what the others suggest.
const FOLDS: usize = 5;

/// Which thresholds to shift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shifts {
    /// None: the model's own stays.
    Own,
    /// All by the same.
    #[default]
    One,
    /// Also each relation with at least so many gold facts by its own.
    PerRelation(usize),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    pub shifts: Shifts,
    pub calibrate: bool,
}

/// The shifts found and how good they are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tuning {
    pub documents: usize,
    /// A relation counts if its margin is above this.
    pub shift: f64,
    /// Where it is another one.
    pub relations: BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<Sigmoid>,
    /// At the model's own threshold.
    pub before: Outcome,
    /// On the documents that the shifts were chosen on: too good to expect.
    pub after: Outcome,
    /// Each part of the documents with the shifts that the other parts suggest: what to expect of new documents. None
    /// for fewer than two documents.
    pub expected: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub score: Score,
    /// A fraction, as [`super::Curves::calibration_error`].
    pub calibration_error: f64,
}

/// Chooses shifts, and scores, for the candidates of `eval`.
///
/// F1 is that of all relations together, also where each has its own shift. Errors: E-CALIBRATION where correct
/// predictions do not have the larger margins.
pub fn tune(eval: &Evaluator, choice: Choice) -> Result<Tuning> {
    let candidates = eval.candidates();
    let gold: Vec<usize> = eval.gold().documents.iter().map(|document| document.facts.len()).collect();
    let all = gold.iter().sum();
    let groups = Groups::new(eval, &candidates, choice.shifts);
    let own = Fitted { shifts: vec![0.0; groups.count()], score: None };
    let fitted = fit(&candidates, all, &groups, choice)?;
    let outcome = |fitted: &Fitted| Judged::of(&candidates, &groups, fitted).outcome(all);
    let shift = fitted.shifts[0];
    let own_shifts = groups.relations.iter().zip(&fitted.shifts[1..]).map(|(r, s)| (eval.relation(*r).to_string(), *s));
    Ok(Tuning {
        documents: gold.len(),
        shift,
        relations: own_shifts.filter(|(_, s)| *s != shift).collect(),
        before: outcome(&own),
        after: outcome(&fitted),
        expected: cross_validate(&candidates, &gold, &groups, choice)?,
        score: fitted.score,
    })
}

/// Relations that share a shift: group 0, and one relation in each of the others.
struct Groups {
    relations: Vec<u32>,
    of: HashMap<u32, usize>,
}

impl Groups {
    fn new(eval: &Evaluator, candidates: &[Candidate], shifts: Shifts) -> Self {
        let mut facts: HashMap<&str, usize> = HashMap::new();
        for &(_, _, r) in eval.gold().documents.iter().flat_map(|document| document.facts.keys()) {
            *facts.entry(eval.gold().relations.text(r)).or_default() += 1;
        }
        let known = |r: &u32| facts.get(eval.relation(*r)).copied();
        let enough = |r: &u32| matches!(shifts, Shifts::PerRelation(least) if known(r).is_some_and(|n| n >= least));
        let mut relations: Vec<u32> = candidates.iter().map(|c| c.relation).filter(enough).collect();
        relations.sort_unstable();
        relations.dedup();
        let of = relations.iter().zip(1..).map(|(r, group)| (*r, group)).collect();
        Groups { relations, of }
    }
    fn count(&self) -> usize {
        self.relations.len() + 1
    }
    fn of(&self, relation: u32) -> usize {
        self.of.get(&relation).copied().unwrap_or(0)
    }
}

struct Fitted {
    /// One a group.
    shifts: Vec<f64>,
    score: Option<Sigmoid>,
}

fn fit(candidates: &[Candidate], gold: usize, groups: &Groups, choice: Choice) -> Result<Fitted> {
    let own = || vec![0.0; groups.count()];
    let shifts = if choice.shifts == Shifts::Own { own() } else { best_shifts(candidates, gold, groups) };
    let mut fitted = Fitted { shifts, score: None };
    if choice.calibrate {
        let chosen = candidates.iter().filter(|c| fitted.takes(c, groups));
        let points: Vec<_> = chosen.map(|c| (f64::from(c.margin), c.correct)).collect();
        let what = || format!("of {} relations the correct ones do not have the larger margins", points.len());
        let refused = || Error::data("E-CALIBRATION", what()).fix("more gold documents, or go without --calibrate");
        fitted.score = Some(platt(&points).ok_or_else(refused)?);
    }
    Ok(fitted)
}

impl Fitted {
    fn takes(&self, candidate: &Candidate, groups: &Groups) -> bool {
        f64::from(candidate.margin) > self.shifts[groups.of(candidate.relation)]
    }
}

/// The documents in turns are left out, and judged by a fit to the others.
fn cross_validate(
    candidates: &[Candidate],
    gold: &[usize],
    groups: &Groups,
    choice: Choice,
) -> Result<Option<Outcome>> {
    let folds = FOLDS.min(gold.len());
    if folds < 2 {
        return Ok(None);
    }
    let mut judged = Judged::default();
    for fold in 0..folds {
        let (out, rest): (Vec<Candidate>, Vec<Candidate>) =
            candidates.iter().partition(|c| c.document as usize % folds == fold);
        let facts = gold.iter().enumerate().filter(|(d, _)| d % folds != fold).map(|(_, n)| n).sum();
        judged.add(&out, groups, &fit(&rest, facts, groups, choice)?);
    }
    Ok(Some(judged.outcome(gold.iter().sum())))
}

/// What counts at some shifts: its scores, and whether it is correct.
#[derive(Default)]
struct Judged(Vec<(f64, bool)>);

impl Judged {
    fn of(candidates: &[Candidate], groups: &Groups, fitted: &Fitted) -> Self {
        let mut judged = Judged::default();
        judged.add(candidates, groups, fitted);
        judged
    }
    fn add(&mut self, candidates: &[Candidate], groups: &Groups, fitted: &Fitted) {
        let sigmoid = fitted.score.unwrap_or_default();
        let chosen = candidates.iter().filter(|c| fitted.takes(c, groups));
        self.0.extend(chosen.map(|c| (sigmoid.score(f64::from(c.margin)), c.correct)));
    }
    fn outcome(&self, gold: usize) -> Outcome {
        let correct = self.0.iter().filter(|(_, correct)| *correct).count();
        let score = Score::new(correct, self.0.len(), gold);
        Outcome { score, calibration_error: calibration_error(&reliability(&self.0)) }
    }
}

/// The `predicted` largest margins of a group, `correct` of them correct: those above `shift`.
#[derive(Clone, Copy)]
struct Cut {
    shift: f64,
    correct: usize,
    predicted: usize,
}

/// The shifts, one a group, with the highest F1 = 2C / (P + G) of all groups together.
///
/// Dinkelbach (Management Science 1967): where `value` is the F1 so far, each group by itself maximises 2C - value P.
/// The F1 that follows is larger until `value` is the largest there is.
fn best_shifts(candidates: &[Candidate], gold: usize, groups: &Groups) -> Vec<f64> {
    let mut columns: Vec<Vec<(f32, bool)>> = vec![Vec::new(); groups.count()];
    candidates.iter().for_each(|c| columns[groups.of(c.relation)].push((c.margin, c.correct)));
    columns.iter_mut().for_each(|column| column.sort_by(|a, b| b.0.total_cmp(&a.0)));
    let f1 = |cuts: &[Cut]| {
        let sum = |part: fn(&Cut) -> usize| cuts.iter().map(part).sum();
        Score::new(sum(|c| c.correct), sum(|c| c.predicted), gold).f1 / 100.0
    };
    let mut cuts: Vec<Cut> = columns.iter().map(|column| own_cut(column)).collect();
    loop {
        let value = f1(&cuts);
        let next: Vec<Cut> = columns.iter().map(|column| best_cut(column, value)).collect();
        if f1(&next) <= value + 1e-12 {
            return cuts.iter().map(|cut| cut.shift).collect();
        }
        cuts = next;
    }
}

/// At the model's own threshold.
fn own_cut(column: &[(f32, bool)]) -> Cut {
    let above = column.iter().filter(|(margin, _)| *margin > 0.0);
    Cut { shift: 0.0, correct: above.clone().filter(|(_, correct)| *correct).count(), predicted: above.count() }
}

/// The cut with the largest 2C - value P; the model's own where no other is better.
fn best_cut(column: &[(f32, bool)], value: f64) -> Cut {
    let worth = |cut: &Cut| 2.0 * cut.correct as f64 - value * cut.predicted as f64;
    let mut best = own_cut(column);
    let mut correct = 0;
    for predicted in 0..=column.len() {
        let last = predicted.checked_sub(1).map(|i| column[i]);
        correct += usize::from(last.is_some_and(|(_, correct)| correct));
        let below = column.get(predicted).map_or(LOWEST, |(margin, _)| f64::from(*margin));
        // Half-way between two margins; none is above the largest.
        let shift = last.map_or(below, |(margin, _)| f64::from(margin).midpoint(below));
        let cut = Cut { shift, correct, predicted };
        let splits_equals = last.is_some_and(|(margin, _)| f64::from(margin) <= below);
        if !splits_equals && worth(&cut) > worth(&best) + 1e-9 {
            best = cut;
        }
    }
    best
}

/// score = sigmoid(a margin + b), fitted to what was correct (Platt 1999), by Newton's method with halved steps (Lin, Lin
/// and Weng, Machine Learning 2007). None unless a is above 0.
fn platt(points: &[(f64, bool)]) -> Option<Sigmoid> {
    let hits = points.iter().filter(|(_, correct)| *correct).count() as f64;
    let misses = points.len() as f64 - hits;
    // Platt's targets: never quite 0 or 1.
    let target = |correct: bool| if correct { (hits + 1.0) / (hits + 2.0) } else { 1.0 / (misses + 2.0) };
    let loss = |s: &Sigmoid| -> f64 {
        let one = |&(m, correct): &(f64, bool)| {
            let z = s.a * m + s.b;
            z.max(0.0) + (-z.abs()).exp().ln_1p() - target(correct) * z
        };
        points.iter().map(one).sum()
    };
    let mut now = Sigmoid { a: 0.0, b: ((hits + 1.0) / (misses + 1.0)).ln() };
    for _ in 0..100 {
        let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 1e-12, 0.0, 1e-12);
        for &(m, correct) in points {
            let p = now.score(m);
            let (d, w) = (p - target(correct), p * (1.0 - p));
            ga += d * m;
            gb += d;
            haa += w * m * m;
            hab += w * m;
            hbb += w;
        }
        if ga.abs().max(gb.abs()) < 1e-9 * points.len() as f64 {
            break;
        }
        let det = haa * hbb - hab * hab;
        let (da, db) = ((hbb * ga - hab * gb) / det, (haa * gb - hab * ga) / det);
        let at = |step: f64| Sigmoid { a: now.a - step * da, b: now.b - step * db };
        let steps = std::iter::successors(Some(1.0), |step| Some(step / 2.0)).take(40);
        let Some(next) = steps.map(at).find(|s| loss(s) < loss(&now)) else { break };
        now = next;
    }
    (now.a > 0.0 && now.a.is_finite() && now.b.is_finite()).then_some(now)
}

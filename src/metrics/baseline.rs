//! Predictions without a model: for every ordered pair of entities the most frequent relation that the
//! training set has between their types.

use super::gold::Gold;
use super::report::Score;
use std::collections::{BTreeMap, HashMap};

/// The relation for a pair of types, and the share of such pairs that have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub relation: String,
    pub share: f64,
}

/// (head type, tail type) to its rule.
#[derive(Clone, Debug, Default)]
pub struct TypePairs {
    pub rules: HashMap<(String, String), Rule>,
}

/// What the baseline reaches on a development set.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Baseline {
    /// Every pair whose types ever had a relation gets one.
    pub always: Score,
    /// Only pairs of types whose share is at least `share`, chosen on the training set.
    pub cut: Score,
    pub share: f64,
}

impl TypePairs {
    /// Counts relations and pairs of the training set; equally frequent relations go by their code.
    pub fn learn(train: &Gold) -> Self {
        let mut relations: BTreeMap<(String, String), BTreeMap<&str, usize>> = BTreeMap::new();
        let mut pairs: HashMap<(&str, &str), usize> = HashMap::new();
        for document in &train.documents {
            each_pair(document, |_, _, types| *pairs.entry(types).or_default() += 1);
            for &(h, t, r) in document.facts.keys().filter(|(h, t, _)| h != t) {
                let types = (document.entities[h as usize].kind.clone(), document.entities[t as usize].kind.clone());
                *relations.entry(types).or_default().entry(train.relations.text(r)).or_default() += 1;
            }
        }
        let rule = |types: &(String, String), counts: BTreeMap<&str, usize>| {
            let best = counts.into_iter().reduce(|best, next| if next.1 > best.1 { next } else { best })?;
            let all = pairs.get(&(types.0.as_str(), types.1.as_str())).copied().unwrap_or(1);
            Some(Rule { relation: best.0.to_string(), share: best.1 as f64 / all as f64 })
        };
        let rules = relations.into_iter().filter_map(|(types, counts)| Some((types.clone(), rule(&types, counts)?)));
        TypePairs { rules: rules.collect() }
    }

    /// Score of predicting every pair whose rule has at least `share`.
    pub fn score(&self, gold: &Gold, share: f64) -> Score {
        let (mut correct, mut predicted) = (0, 0);
        for document in &gold.documents {
            each_pair(document, |h, t, types| {
                let rule =
                    self.rules.get(&(types.0.to_string(), types.1.to_string())).filter(|rule| rule.share >= share);
                let Some(rule) = rule else { return };
                predicted += 1;
                let hit = gold.relations.get(&rule.relation).is_some_and(|r| document.facts.contains_key(&(h, t, r)));
                correct += usize::from(hit);
            });
        }
        Score::new(correct, predicted, gold.facts())
    }

    /// The share with the best F1 on `gold`; the smaller of equals.
    pub fn best_share(&self, gold: &Gold) -> f64 {
        let mut shares: Vec<f64> = self.rules.values().map(|rule| rule.share).collect();
        shares.sort_by(f64::total_cmp);
        shares.dedup();
        let scored = shares.into_iter().map(|share| (self.score(gold, share).f1, share));
        scored.reduce(|best, next| if next.0 > best.0 { next } else { best }).map_or(0.0, |(_, share)| share)
    }
}

/// The baseline of `train` on `dev`, without and with a cut.
pub fn type_pair_baseline(train: &Gold, dev: &Gold) -> Baseline {
    let rules = TypePairs::learn(train);
    let share = rules.best_share(train);
    Baseline { always: rules.score(dev, 0.0), cut: rules.score(dev, share), share }
}

/// Every pair of two entities that may be predicted, with their types.
fn each_pair<'a>(document: &'a super::gold::GoldDocument, mut visit: impl FnMut(u32, u32, (&'a str, &'a str))) {
    for (h, head) in document.entities.iter().enumerate() {
        let asked = |t: usize| t != h && document.pairs.contains(h, t) && document.pairs.canonical(h, t) == (h, t);
        for (t, tail) in document.entities.iter().enumerate().filter(|(t, _)| asked(*t)) {
            visit(h as u32, t as u32, (&head.kind, &tail.kind));
        }
    }
}

//! How far chance alone moves F1: the bootstrap, and two sets of predictions compared document by document.

use super::report::Score;
use serde::Serialize;

/// correct, predicted, gold.
pub type Counts = [usize; 3];

/// What is drawn as a whole.
#[derive(Clone, Debug, Default)]
pub struct Units {
    /// Of each gold document.
    pub documents: Vec<Counts>,
    /// Predictions without a gold document or entity: all wrong.
    pub strays: usize,
}

/// F1 of two sets of predictions for the same gold documents, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub f1: f64,
    pub against_f1: f64,
    /// `f1` minus `against_f1`.
    pub difference: f64,
    /// Bounds of the difference between which 95 % of paired bootstrap samples of the documents lie.
    pub difference_interval: [f64; 2],
    /// Two-sided, by approximate randomisation over documents.
    pub p_value: f64,
}

/// Samples of the bootstrap: enough for the bounds of a 95 % interval to stand within about 0.1.
const SAMPLES: usize = 1000;
/// Shuffles of the randomisation: a p value of 0.05 stands within about 0.004.
const SHUFFLES: usize = 10_000;

/// F1 of `SAMPLES` draws of as many documents, with replacement: the 2.5 % and 97.5 % quantiles. Strays
/// stay in every sample. The same numbers in every run.
pub fn bootstrap(units: &Units) -> [f64; 2] {
    let mut random = Random(0);
    let sample = |_| f1(random.draws(units.documents.len()).map(|d| units.documents[d]).fold(units.rest(), add));
    quantiles((0..SAMPLES).map(sample).collect())
}

/// The difference of two sets of predictions for the same documents in the same order.
///
/// Interval: both are drawn together (Efron and Tibshirani 1993). p value: were the two alike, each document's
/// predictions could as well be the other's; the share of random swaps with a difference at least as large
/// (approximate randomisation: Noreen 1989; Yeh, COLING 2000), (1 + such) / (1 + all). Strays swap as one document.
pub fn compare(ours: &Units, theirs: &Units) -> Comparison {
    let total = |units: &Units| f1(units.documents.iter().copied().fold(units.rest(), add));
    let (ours_f1, theirs_f1) = (total(ours), total(theirs));
    let difference = ours_f1 - theirs_f1;
    let mut pairs: Vec<[Counts; 2]> = ours.documents.iter().zip(&theirs.documents).map(|(a, b)| [*a, *b]).collect();
    let rest = [ours.rest(), theirs.rest()];

    let mut random = Random(0);
    let sample = |_| {
        let [a, b] = random.draws(pairs.len()).map(|d| pairs[d]).fold(rest, add_both);
        f1(a) - f1(b)
    };
    let difference_interval = quantiles((0..SAMPLES).map(sample).collect());

    pairs.push(rest);
    let mut random = Random(1);
    let mut shuffle = || {
        let mut swapped = |&[a, b]: &[Counts; 2]| if random.below(2) == 1 { [b, a] } else { [a, b] };
        let [a, b] = pairs.iter().map(&mut swapped).fold([[0; 3]; 2], add_both);
        f1(a) - f1(b)
    };
    // Equal fractions may differ by a rounding.
    let extreme = (0..SHUFFLES).filter(|_| shuffle().abs() >= difference.abs() - 1e-9).count();
    let p_value = (1 + extreme) as f64 / (1 + SHUFFLES) as f64;
    Comparison { f1: ours_f1, against_f1: theirs_f1, difference, difference_interval, p_value }
}

impl Units {
    fn rest(&self) -> Counts {
        [0, self.strays, 0]
    }
}

fn f1([correct, predicted, gold]: Counts) -> f64 {
    Score::new(correct, predicted, gold).f1
}

fn add(a: Counts, b: Counts) -> Counts {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

fn add_both(a: [Counts; 2], b: [Counts; 2]) -> [Counts; 2] {
    [add(a[0], b[0]), add(a[1], b[1])]
}

/// Of `SAMPLES` values the 2.5 % and 97.5 % quantiles.
fn quantiles(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [values[SAMPLES / 40], values[SAMPLES - 1 - SAMPLES / 40]]
}

/// splitmix64, by Sebastiano Vigna (public domain).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((u128::from(z ^ (z >> 31)) * bound as u128) >> 64) as usize
    }
    /// `count` of the numbers below `count`, with replacement.
    fn draws(&mut self, count: usize) -> impl Iterator<Item = usize> {
        (0..count).map(move |_| self.below(count))
    }
}

//! What other thresholds would give, and how far scores can be believed.

use super::report::Score;
use serde::Serialize;

/// A model is asked for relations down to this margin (a score of 0.0025), for the part of the curve below its
/// own threshold.
pub const LOWEST: f64 = -6.0;

/// Most points of a curve, about.
const POINTS: f64 = 190.0;
/// Bins of scores, equally wide.
const BINS: usize = 10;

/// Precision and recall where the threshold is shifted, and the reliability of scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curves {
    /// By ascending shift; only shifts that leave relations, and 0.
    pub points: Vec<Point>,
    /// Of the predictions that the main figures count; only bins that hold some.
    pub reliability: Vec<Bin>,
    /// Expected calibration error, a fraction: the mean over predictions of |mean score - precision| of their bin
    /// (Naeini et al., AAAI 2015).
    pub calibration_error: f64,
}

/// Figures, in percent, of the relations whose margin is above `shift`. Shift 0 is the model's own adaptive threshold
/// (with its calibration, if it has one).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    pub shift: f64,
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
}

/// Predictions whose score is at least `low` and below `high` (the last bin holds 1, too). All are fractions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bin {
    pub low: f64,
    pub high: f64,
    pub count: usize,
    pub mean_score: f64,
    /// The share that is correct.
    pub precision: f64,
}

impl Curves {
    /// `candidates`: margins, and whether gold has the triple; at most k of one pair, as the rule allows at any shift.
    /// `scores`: of the predictions that count. `gold`: the number of facts. None without candidates.
    pub fn new(mut candidates: Vec<(f32, bool)>, scores: &[(f64, bool)], gold: usize) -> Option<Self> {
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (highest, lowest) = (candidates.first()?.0, candidates.last()?.0);
        let (mut next, mut correct) = (0, 0);
        let mut points = Vec::new();
        for shift in grid(f64::from(lowest).min(0.0), f64::from(highest).max(0.0)).into_iter().rev() {
            while let Some((_, hit)) = candidates.get(next).filter(|(margin, _)| f64::from(*margin) > shift) {
                correct += usize::from(*hit);
                next += 1;
            }
            if next > 0 || shift == 0.0 {
                let Score { precision, recall, f1, .. } = Score::new(correct, next, gold);
                points.push(Point { shift, precision, recall, f1 });
            }
        }
        points.reverse();
        let reliability = reliability(scores);
        Some(Curves { points, calibration_error: calibration_error(&reliability), reliability })
    }

    /// The point with the highest F1; the one nearest to 0 of equals.
    pub fn best(&self) -> Option<&Point> {
        self.points.iter().max_by(|a, b| a.f1.total_cmp(&b.f1).then(b.shift.abs().total_cmp(&a.shift.abs())))
    }
}

/// Round numbers from `low` <= 0 to `high` >= 0, 0 among them, equally far apart.
fn grid(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / POINTS;
    if rough <= 0.0 {
        return vec![0.0];
    }
    let power = rough.log10().floor();
    let unit = 10f64.powf(power.abs());
    // Dividing by a power of ten gives 0.3 where multiplying by 0.1 gives 0.30000000000000004.
    let scaled = |n: f64| if power < 0.0 { n / unit } else { n * unit };
    let step = [1.0, 2.0, 5.0].into_iter().find(|n| scaled(*n) >= rough).unwrap_or(10.0);
    // The first is below every margin; nothing is known below 0 if `low` is 0.
    let first = if low < 0.0 { (low / scaled(step)).ceil() as i64 - 1 } else { 0 };
    let last = (high / scaled(step)).ceil() as i64;
    (first..=last).map(|i| scaled(i as f64 * step)).collect()
}

/// Scores in bins, each with whether it was right.
pub fn reliability(scores: &[(f64, bool)]) -> Vec<Bin> {
    let mut sums = [(0usize, 0.0, 0usize); BINS];
    for &(score, correct) in scores {
        let (count, sum, hits) = &mut sums[((score * BINS as f64) as usize).min(BINS - 1)];
        *count += 1;
        *sum += score;
        *hits += usize::from(correct);
    }
    let edge = |i: usize| i as f64 / BINS as f64;
    let filled = sums.into_iter().enumerate().filter(|(_, (count, ..))| *count > 0);
    let bin = |(i, (count, sum, hits)): (usize, (usize, f64, usize))| {
        let (mean_score, precision) = (sum / count as f64, hits as f64 / count as f64);
        Bin { low: edge(i), high: edge(i + 1), count, mean_score, precision }
    };
    filled.map(bin).collect()
}

/// Of the predictions in `bins`; 0 without any.
pub fn calibration_error(bins: &[Bin]) -> f64 {
    let all: usize = bins.iter().map(|bin| bin.count).sum();
    let share = |bin: &Bin| bin.count as f64 / all as f64 * (bin.mean_score - bin.precision).abs();
    bins.iter().map(share).fold(0.0, |sum, share| sum + share)
}

//! What a run has logged, thinned to curves, and the page of them.

use super::{Config, End};
use crate::page::{Axis, Chart, Figure, Look, Mark, Page, Series};
use serde_json::Value;

/// A figure that is logged: where a line of train.jsonl has it, and its tag in TensorBoard.
pub const FIGURES: [(&str, &str); 10] = [
    ("/loss", "train/loss"),
    ("/norm", "train/gradient_norm"),
    ("/dev_f1", "dev/f1"),
    ("/rates/0", "rate/encoder"),
    ("/rates/1", "rate/axial"),
    ("/rates/2", "rate/head"),
    ("/documents_per_second", "speed/documents_per_second"),
    ("/memory_mib", "memory/mib"),
    ("/distillation", "train/distillation"),
    ("/evidence", "train/evidence"),
];
const LOSS: usize = 0;
const NORM: usize = 1;
const F1: usize = 2;
/// The first of three.
const RATES: usize = 3;
const SPEED: usize = 6;
const MEMORY: usize = 7;
/// Only runs with a teacher or evidence have these.
const OTHER_LOSSES: [(usize, &str); 2] = [(8, "Distillation loss"), (9, "Evidence loss")];

/// The finite figures of a log line, by number.
pub fn figures(line: &Value) -> impl Iterator<Item = (usize, f64)> {
    let found = FIGURES.iter().map(|(place, _)| line.pointer(place).and_then(Value::as_f64));
    found.enumerate().filter_map(|(i, value)| value.filter(|v| v.is_finite()).map(|v| (i, v)))
}

/// Most points of a curve.
const MOST: u64 = 400;

/// A curve of at most `MOST` points: the means over `width` updates each. The width doubles as updates come.
#[derive(Clone, Debug)]
pub struct Thinned {
    width: u64,
    /// Sum of updates, sum of values, their number.
    parts: Vec<(f64, f64, f64)>,
}

impl Default for Thinned {
    fn default() -> Self {
        Thinned { width: 1, parts: Vec::new() }
    }
}

impl Thinned {
    pub fn add(&mut self, update: u64, value: f64) {
        while update / self.width >= MOST {
            self.width *= 2;
            let add = |a: (f64, f64, f64), b: &(f64, f64, f64)| (a.0 + b.0, a.1 + b.1, a.2 + b.2);
            self.parts = self.parts.chunks(2).map(|pair| pair.iter().fold((0.0, 0.0, 0.0), add)).collect();
        }
        let at = (update / self.width) as usize;
        if self.parts.len() <= at {
            self.parts.resize(at + 1, (0.0, 0.0, 0.0));
        }
        let (updates, values, count) = &mut self.parts[at];
        (*updates, *values, *count) = (*updates + update as f64, *values + value, *count + 1.0);
    }

    /// Forgets what came from `update` on, and what stands in one mean with it.
    pub fn cut(&mut self, update: u64) {
        self.parts.truncate((update / self.width).min(MOST) as usize);
    }

    pub fn points(&self) -> Vec<(f64, f64)> {
        let filled = self.parts.iter().filter(|part| part.2 > 0.0);
        filled.map(|(updates, values, count)| (updates / count, values / count)).collect()
    }
}

/// All that was logged, in bounded memory. A run that goes on from a checkpoint does some updates again: the later
/// line counts.
#[derive(Clone, Debug, Default)]
pub struct History {
    curves: [Thinned; FIGURES.len()],
    update: u64,
    best: Option<(u64, f64)>,
    /// Updates that were skipped.
    skipped: Vec<u64>,
}

impl History {
    /// Adds a line of train.jsonl; one that is none changes nothing.
    pub fn add(&mut self, line: &Value) {
        let Some(update) = line["update"].as_u64() else { return };
        if line.get("dev_f1").is_none() {
            if update <= self.update {
                self.go_back_before(update);
            }
            self.update = update;
        }
        if line["skipped"].is_string() {
            self.skipped.push(update);
        }
        for (figure, value) in figures(line) {
            self.curves[figure].add(update, value);
            if figure == F1 && self.best.is_none_or(|(_, best)| value > best) {
                self.best = Some((update, value));
            }
        }
    }

    fn go_back_before(&mut self, update: u64) {
        self.curves.iter_mut().for_each(|curve| curve.cut(update));
        self.best = self.best.filter(|(at, _)| *at < update);
        self.skipped.retain(|at| *at < update);
    }

    /// The page of a run of `total` updates. `end`: how it ended, if it has.
    pub fn page(&self, title: &str, config: &Config, total: u64, end: Option<End>) -> String {
        let state = match end {
            None => "in training; this page is renewed at each evaluation",
            Some(End::Finished) => "finished",
            Some(End::Interrupted) => "interrupted; goes on with --resume auto",
            Some(End::Patience) => "stopped: no better development F1 for a while",
        };
        let mut page = Page::new(title, &[("State", state.into())]);
        let skipped = self.skipped.len();
        let warning =
            (skipped > 0).then(|| format!("updates skipped because their gradient was not finite: {skipped}"));
        page.warnings(&Vec::from_iter(warning));
        page.figures(&self.headlines(total));
        page.heading("Curves");
        page.charts(&self.charts());
        page.heading("Configuration");
        page.folded_text("All values, defaults included", &config.resolved().unwrap_or_default());
        page.text("The figures of each update: train.jsonl; TensorBoard reads the events.out.tfevents files.");
        page.finish()
    }

    fn headlines(&self, total: u64) -> Vec<Figure> {
        let part = 100.0 * self.update as f64 / total.max(1) as f64;
        let mut figures = vec![Figure::new("Updates", self.update.to_string(), format!("of {total} ({part:.0} %)"))];
        if let Some((update, f1)) = self.best {
            figures.push(Figure::new("Best development F1", format!("{f1:.2}"), format!("after update {update}")));
        }
        let of = |figure: usize| self.curves[figure].points();
        let mut show = |points: &[(f64, f64)], label: &str, digits: usize, note: &str| {
            if let Some((_, value)) = points.last() {
                figures.push(Figure::new(label, format!("{value:.digits$}"), note));
            }
        };
        show(&smooth(&of(LOSS)), "Loss", 4, "smoothed");
        show(&smooth(&of(SPEED)), "Documents/s", 2, "smoothed");
        show(&of(MEMORY), "Memory, MiB", 0, "tensors at their peak");
        figures
    }

    fn charts(&self) -> Vec<Chart> {
        let of = |figure: usize| self.curves[figure].points();
        let curve = |figure: usize, name: &str, look, colour| vec![series(name, of(figure), look, colour)];
        let smoothed = |figure: usize, name: &str, colour| {
            let points = of(figure);
            let smooth = smooth(&points);
            vec![
                series(name, points, Look::Raw, colour),
                series(&format!("{name}, smoothed"), smooth, Look::Line, colour),
            ]
        };
        let rates = ["encoder", "axial layers", "rest of the head"].iter().enumerate();
        let rates = rates.flat_map(|(i, name)| curve(RATES + i, name, Look::Line, i));
        let updates = Axis { label: "update", low: Some(0.0), high: Some(self.update as f64), log: false };
        let chart = |title: &str, y: Axis, series: Vec<Series>| Chart {
            title: title.into(),
            x: updates.clone(),
            y,
            series,
            ..Chart::default()
        };
        let log = |label| Axis { label, log: true, ..Axis::default() };
        let best = self.best.map(|(update, f1)| Mark { x: update as f64, y: f1, label: format!("{f1:.2}"), colour: 2 });
        let f1 = Chart { marks: best.into_iter().collect(), ..chart("Development F1", Axis::default(), Vec::new()) };
        let mut charts = vec![
            chart("Loss", log("loss"), smoothed(LOSS, "loss", 0)),
            Chart { y: from_zero("percent"), series: curve(F1, "F1", Look::Dots, 2), ..f1 },
            chart("Gradient norm, before it is clipped", log("norm"), smoothed(NORM, "norm", 3)),
            chart("Learning rates", from_zero(""), rates.collect()),
            chart("Speed", from_zero("documents/s"), smoothed(SPEED, "documents/s", 1)),
            chart("Memory", from_zero("MiB"), curve(MEMORY, "tensors at their peak", Look::Line, 0)),
        ];
        let others = OTHER_LOSSES.iter().filter(|(figure, _)| !of(*figure).is_empty());
        charts.extend(others.map(|&(figure, title)| chart(title, log("loss"), smoothed(figure, "loss", 0))));
        charts
    }
}

fn from_zero(label: &'static str) -> Axis {
    Axis { label, low: Some(0.0), ..Axis::default() }
}

fn series(name: &str, points: Vec<(f64, f64)>, look: Look, colour: usize) -> Series {
    Series { name: name.to_string(), points, look, colour }
}

/// A mean over about a fortieth of the curve to either side, with weights that fall exponentially.
pub fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (1.0 + points.len() as f64 / 40.0);
    // Weighted sum of values, and of weights, up to each point.
    let sums = |values: &mut dyn Iterator<Item = f64>| -> Vec<(f64, f64)> {
        let one = |sum: &mut (f64, f64), y: f64| {
            *sum = (keep * sum.0 + y, keep * sum.1 + 1.0);
            Some(*sum)
        };
        values.scan((0.0, 0.0), one).collect()
    };
    let before = sums(&mut points.iter().map(|point| point.1));
    let after = sums(&mut points.iter().rev().map(|point| point.1));
    let both = before.iter().zip(after.iter().rev());
    // Both sums have the point itself.
    points.iter().zip(both).map(|(&(x, y), (b, a))| (x, (b.0 + a.0 - y) / (b.1 + a.1 - 1.0))).collect()
}

//! The report of a benchmark: JSON for programs, Markdown and CSV for people.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One case, timed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What ran it: `docre`, `torch 2.9 eager`.
    pub engine: String,
    /// As in `linear 1160x768x3072 forward`.
    pub name: String,
    /// Milliseconds: the median, and the fastest and slowest run.
    pub median_ms: f64,
    pub low_ms: f64,
    pub high_ms: f64,
    pub repeats: usize,
    pub flops: f64,
    pub bytes: f64,
    /// How many documents, or tokens, a run does; 0 where that makes no sense.
    #[serde(default)]
    pub items: f64,
}

/// What the device did at most, measured beside the cases.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Peak {
    pub tflops: f64,
    pub gb_per_s: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub schema: String,
    pub device: String,
    pub peak: Option<Peak>,
    pub rows: Vec<Row>,
}

pub const SCHEMA: &str = "docre.bench.v1";

impl Row {
    pub fn new(name: &str, seconds: &[f64], work: super::Work, items: f64) -> Row {
        let mut ms: Vec<f64> = seconds.iter().map(|s| 1e3 * s).collect();
        ms.sort_by(f64::total_cmp);
        let at = |i: usize| ms.get(i).copied().unwrap_or(f64::NAN);
        Row {
            engine: "docre".into(),
            name: name.into(),
            median_ms: (at((ms.len().max(1) - 1) / 2) + at(ms.len() / 2)) / 2.0,
            low_ms: at(0),
            high_ms: at(ms.len().max(1) - 1),
            repeats: ms.len(),
            flops: work.flops,
            bytes: work.bytes,
            items,
        }
    }
    fn tflops(&self) -> f64 {
        self.flops / self.median_ms / 1e9
    }
    fn gb_per_s(&self) -> f64 {
        self.bytes / self.median_ms / 1e6
    }
    /// The larger of the shares of both peaks, in percent.
    fn of_peak(&self, peak: Peak) -> f64 {
        100.0 * (self.tflops() / peak.tflops).max(self.gb_per_s() / peak.gb_per_s)
    }
}

impl Report {
    pub fn new(device: String, peak: Option<Peak>, rows: Vec<Row>) -> Report {
        Report { schema: SCHEMA.into(), device, peak, rows }
    }

    /// A table. Rows of `others` stand below this report's row of the same name, with their time over its time.
    pub fn markdown(&self, others: &[Report]) -> String {
        let mut text = format!("{}\n\n", self.heading());
        text += "| case | engine | ms | spread | TFLOP/s | GB/s | of peak | a second | times docre |\n";
        text += "|---|---|---:|---:|---:|---:|---:|---:|---:|\n";
        for row in &self.rows {
            text += &self.line(row, String::new());
            let same = others.iter().flat_map(|other| &other.rows).filter(|other| other.name == row.name);
            same.for_each(|other| text += &self.line(other, format!("{:.2}", other.median_ms / row.median_ms)));
        }
        text
    }

    fn line(&self, row: &Row, ratio: String) -> String {
        let number = |x: f64, digits: usize| if x > 0.0 { format!("{x:.digits$}") } else { String::new() };
        let share = self.peak.map_or(String::new(), |peak| number(row.of_peak(peak), 0));
        let (tflops, bandwidth, items) =
            (number(row.tflops(), 2), number(row.gb_per_s(), 1), number(1e3 * row.items / row.median_ms, 1));
        format!(
            "| {} | {} | {:.3} | {:.3}-{:.3} | {tflops} | {bandwidth} | {share} | {items} | {ratio} |\n",
            row.name, row.engine, row.median_ms, row.low_ms, row.high_ms
        )
    }

    fn heading(&self) -> String {
        let peak = self.peak.map_or("peaks not measured".into(), |peak| {
            format!("measured peaks: {:.2} TFLOP/s, {:.0} GB/s", peak.tflops, peak.gb_per_s)
        });
        format!("{}; {peak}; medians", self.device)
    }

    pub fn csv(&self) -> String {
        let mut text = "engine,name,median_ms,low_ms,high_ms,repeats,flops,bytes,items\n".to_string();
        for r in &self.rows {
            let numbers = [r.median_ms, r.low_ms, r.high_ms, r.repeats as f64, r.flops, r.bytes, r.items];
            let numbers = numbers.map(|n| n.to_string()).join(",");
            let _ = writeln!(text, "{},\"{}\",{numbers}", r.engine, r.name);
        }
        text
    }
}

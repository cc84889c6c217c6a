//! The figures of an evaluation as a page.

use super::curves::{Bin, Curves, Point};
use super::{RelationScore, Report, Score};
use crate::page::{Axis, Bar, Cell, Chart, Figure, Look, Mark, Page, Series, Table};

/// A page of everything in `report`, in one file. `about`: names and values that say what was evaluated.
pub fn html(report: &Report, title: &str, about: &[(&str, String)]) -> String {
    let mut page = Page::new(title, about);
    page.warnings(&report.warnings());
    page.figures(&headlines(report));
    page.heading("Where it is right");
    page.table(&subsets(report));
    if let Some(curves) = &report.curves {
        page.heading("Scores");
        page.charts(&[precision_recall(curves), f1_by_shift(curves), reliability(curves), histogram(curves)]);
        page.folded_table("The bins of the reliability diagram", &bins(curves));
    }
    page.heading("Relations");
    page.table(&relations(report));
    page.heading("How it is counted");
    page.text(
        "All scores are percent, of distinct triples of head, relation and tail over all documents (micro). The interval \
         holds F1 in 95 % of 1,000 bootstrap samples of the documents. Ign F1 leaves out of the precision what is also a \
         fact of the training set. Intra: head and tail share a sentence; inter: they do not. Frequent: the ten most \
         frequent relations of DocRED; long tail: all others. Infer: facts between entities that two other facts join, \
         with the precision over all predictions, or over those between such entities. Macro F1 is the mean over the \
         relations that the gold documents have.",
    );
    page.finish()
}

fn headlines(report: &Report) -> Vec<Figure> {
    let [low, high] = report.f1_interval;
    let two = |value: f64| format!("{value:.2}");
    let all = &report.all;
    let mut figures = vec![Figure::new("F1", two(all.f1), format!("95\u{a0}%: {low:.2} to\u{a0}{high:.2}"))];
    if let (Some(f1), Some(known)) = (report.ign_f1, report.in_train) {
        figures.push(Figure::new("Ign F1", two(f1), format!("{known} known from training")));
    }
    figures.extend([
        Figure::new("Precision", two(all.precision), format!("{} of {} right", all.correct, all.predicted)),
        Figure::new("Recall", two(all.recall), format!("{} of {} found", all.correct, all.gold)),
        Figure::new("Macro F1", two(report.macro_f1), "mean over relations"),
    ]);
    if let Some(curves) = &report.curves {
        let note = "mean gap of score and precision";
        figures.push(Figure::new("Calibration error", format!("{:.3}", curves.calibration_error), note));
    }
    figures
}

fn score_cells(score: &Score) -> [Cell; 6] {
    let Score { precision, recall, f1, correct, predicted, gold } = *score;
    [
        Cell::Percent(precision),
        Cell::Percent(recall),
        Cell::Percent(f1),
        Cell::Count(correct),
        Cell::Count(predicted),
        Cell::Count(gold),
    ]
}

fn subsets(report: &Report) -> Table {
    let row = |(name, score): (&str, Score)| {
        std::iter::once(Cell::Text(name.to_string())).chain(score_cells(&score)).collect()
    };
    Table {
        caption: format!("Facts of {} documents, and subsets of them", report.documents),
        head: vec!["Subset", "Precision", "Recall", "F1", "Correct", "Predicted", "Gold"],
        rows: report.subsets().into_iter().map(row).collect(),
    }
}

fn relations(report: &Report) -> Table {
    let named = report.relations.iter().any(|r| r.name.is_some());
    let row = |r: &RelationScore| {
        let name = named.then(|| r.name.clone().unwrap_or_default());
        std::iter::once(r.r.clone()).chain(name).map(Cell::Text).chain(score_cells(&r.score)).collect()
    };
    let columns = ["Relation", "Name", "Precision", "Recall", "F1", "Correct", "Predicted", "Gold"];
    Table {
        caption: "By number of gold facts".into(),
        head: columns.into_iter().filter(|column| named || *column != "Name").collect(),
        rows: report.relations.iter().map(row).collect(),
    }
}

/// From 0 to 100.
fn percent(label: &'static str) -> Axis {
    Axis { label, low: Some(0.0), high: Some(100.0), log: false }
}

fn precision_recall(curves: &Curves) -> Chart {
    let points = curves.points.iter().map(|p| (p.recall, p.precision)).collect();
    let adaptive = curves.points.iter().find(|p| p.shift == 0.0);
    Chart {
        title: "Precision and recall".into(),
        note: "as the margin that a relation needs is shifted".into(),
        x: percent("recall"),
        y: percent("precision"),
        series: vec![Series { name: "precision".into(), points, look: Look::Line, colour: 0 }],
        marks: adaptive
            .map(|p| Mark { x: p.recall, y: p.precision, label: "adaptive threshold".into(), colour: 1 })
            .into_iter()
            .collect(),
        ..Chart::default()
    }
}

fn f1_by_shift(curves: &Curves) -> Chart {
    let of = |value: fn(&Point) -> f64| curves.points.iter().map(|p| (p.shift, value(p))).collect();
    let line = |name: &str, points, colour| Series { name: name.into(), points, look: Look::Line, colour };
    let best = curves.best();
    let adaptive = curves.points.iter().find(|p| p.shift == 0.0);
    let mark = |p: &Point| Mark { x: p.shift, y: p.f1, label: format!("best {:.2}", p.f1), colour: 0 };
    Chart {
        title: "Margin".into(),
        note: match (adaptive, best) {
            (Some(p), Some(best)) => {
                format!("F1 {:.2} at the adaptive threshold (0), {:.2} at a shift of {:.2}", p.f1, best.f1, best.shift)
            }
            _ => String::new(),
        },
        x: Axis { label: "shift of the margin that a relation needs", ..Axis::default() },
        y: percent("percent"),
        series: vec![
            line("F1", of(|p| p.f1), 0),
            line("precision", of(|p| p.precision), 1),
            line("recall", of(|p| p.recall), 2),
            Series { name: String::new(), points: vec![(0.0, 0.0), (0.0, 100.0)], look: Look::Guide, colour: 0 },
        ],
        marks: best.map(mark).into_iter().collect(),
        ..Chart::default()
    }
}

/// Bins with fewer predictions say little.
const FEW: usize = 20;

fn reliability(curves: &Curves) -> Chart {
    let filled = || curves.reliability.iter().filter(|bin| bin.count > 0);
    let bar = |bin: &Bin| Bar {
        from: bin.low,
        to: bin.high,
        height: bin.precision,
        note: format!("{} predictions: mean score {:.3}, precision {:.3}", bin.count, bin.mean_score, bin.precision),
        few: bin.count < FEW,
    };
    let fraction = |label| Axis { label, low: Some(0.0), high: Some(1.0), log: false };
    let points = filled().map(|bin| (bin.mean_score, bin.precision)).collect();
    let diagonal = vec![(0.0, 0.0), (1.0, 1.0)];
    let bars: Vec<Bar> = filled().map(bar).collect();
    Chart {
        title: "Reliability".into(),
        note: format!(
            "calibration error {:.3}; on the dashed line scores are probabilities; pale: fewer than {FEW} predictions",
            curves.calibration_error
        ),
        x: fraction("score"),
        y: fraction("precision"),
        // Without a prediction there is nothing to compare with the diagonal.
        series: if bars.is_empty() {
            Vec::new()
        } else {
            vec![
                Series { name: String::new(), points: diagonal, look: Look::Guide, colour: 0 },
                Series { name: "precision at the mean score".into(), points, look: Look::Dots, colour: 0 },
            ]
        },
        bars,
        ..Chart::default()
    }
}

fn histogram(curves: &Curves) -> Chart {
    let bar = |bin: &Bin| Bar {
        from: bin.low,
        to: bin.high,
        height: bin.count as f64,
        note: format!("{} predictions, score {:.2} to {:.2}", bin.count, bin.low, bin.high),
        few: false,
    };
    Chart {
        title: "Predictions by score".into(),
        note: "how many there are in each bin of the reliability diagram".into(),
        x: Axis { label: "score", low: Some(0.0), high: Some(1.0), log: false },
        y: Axis { label: "predictions", low: Some(0.0), ..Axis::default() },
        bars: curves.reliability.iter().filter(|bin| bin.count > 0).map(bar).collect(),
        ..Chart::default()
    }
}

fn bins(curves: &Curves) -> Table {
    let row = |bin: &Bin| {
        vec![
            Cell::Text(format!("{:.2} to {:.2}", bin.low, bin.high)),
            Cell::Count(bin.count),
            Cell::Percent(100.0 * bin.mean_score),
            Cell::Percent(100.0 * bin.precision),
        ]
    };
    Table {
        caption: "Predictions by score".into(),
        head: vec!["Score", "Predictions", "Mean score, %", "Precision, %"],
        rows: curves.reliability.iter().map(row).collect(),
    }
}

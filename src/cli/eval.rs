//! `docre eval`

use super::output::Output;
use super::progress::{Screen, show_profile};
use super::setup::{EvidenceArgs, InputArgs, ModelArgs, RuleArgs, read_all};
use crate::data::{self, Document, Options, Unit, no_labels};
use crate::error::{Error, Result};
use crate::extract::{Budget, CALIBRATION, Extractor, Outcome, Stream};
use crate::metrics::baseline::{Baseline, type_pair_baseline};
use crate::metrics::curves::LOWEST;
use crate::metrics::{Comparison, Evaluator, Facts, Gold, Report, html};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Score predictions, or a model, against gold documents
///
/// F1 as the official evaluation of DocRED and Re-DocRED counts it, Ign F1 where a training set is given, evidence F1
/// where predictions name sentences (a model does with --evidence), and more. All figures are percent. Undirected
/// relations (PubTator) are pairs of concept ids with a type, whichever of the two a prediction calls head.
///
/// Where every prediction has its margin, --json also has the curve of precision and recall over shifts of
/// the threshold, and the reliability of scores. A model is asked for relations below its own threshold, too;
/// a file has only what was written: its curve begins at its lowest margin.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  docre eval --gold dev.json --pred result.json
  docre eval --gold dev.json -m runs/demo/best --train-facts train.json
  docre eval --gold Test.PubTator -m runs/biored/best
  docre eval --gold documents.jsonl --pred relations.jsonl --json | jq .f1
  docre eval --gold dev.json -m runs/demo/best --report report.html
  docre eval --gold dev.json --pred mine.jsonl --against theirs.jsonl

Exit codes: 0 ok, 2 usage, 3 bad document, 4 bad model, 5 device or memory, 6 a file cannot be read or written,
7 a number that is not finite")]
pub struct EvalArgs {
    /// Documents with labels; several files add up
    #[arg(long, required = true, value_name = "FILE")]
    pub gold: Vec<PathBuf>,
    /// Predictions: docre.v1 lines or the official list; without it, the model predicts
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_A_MODEL)]
    pub pred: Option<PathBuf>,
    /// Other predictions for the same documents: the difference of F1, and whether it may be chance
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// For Ign F1: a list of [head, tail, relation], or a training file with labels
    #[arg(long, value_name = "FILE")]
    pub train_facts: Vec<PathBuf>,
    /// Also score the most frequent relation of each pair of entity types, learned from this file
    #[arg(long, value_name = "FILE")]
    pub baseline_train: Vec<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub rule: RuleArgs,
    #[command(flatten)]
    pub evidence: EvidenceArgs,
    #[command(flatten)]
    pub input: InputArgs,
    /// Also write the figures as a page for a browser, in one file; `-`: on standard output, instead of text
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// With a model: show on stderr where the time went, by op, and who held memory
    #[arg(long)]
    pub profile: bool,
    /// Say on stderr what was chosen: device, model
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
}

/// Predictions in a file were made without them.
const OF_A_MODEL: [&str; 6] = ["model", "threshold", "no_calibration", "max_labels", "evidence", "profile"];

#[derive(Serialize)]
struct Figures {
    #[serde(flatten)]
    report: Report,
    /// The weights that predicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// The calibration in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Comparison>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<Baseline>,
}

pub fn run(args: &EvalArgs) -> Result<u8> {
    let facts = read_facts(&args.train_facts, args.input.offset_unit)?;
    let mut evaluator = Evaluator::default();
    let mut extractor = None;
    match &args.pred {
        Some(pred) => {
            each_document(&args.gold, args, |document| evaluator.add_gold(document).map(drop))?;
            evaluator.read_predictions(pred)?;
        }
        None => extractor = Some(predict(args, &mut evaluator)?),
    }
    let mut against = None;
    if let Some(file) = &args.against {
        let mut other = Evaluator::new(evaluator.gold().clone());
        other.read_predictions(file)?;
        against = Some(evaluator.compare(&other));
    }
    let baseline = baseline(args, evaluator.gold())?;
    let report = evaluator.report(facts.as_ref(), extractor.as_ref().map(|e| &e.relations));
    let calibrated = extractor.as_ref().filter(|e| e.calibration.is_some());
    let calibration = calibrated.map(|e| e.dir.join(CALIBRATION).display().to_string());
    let model = extractor.map(|e| e.digest);
    let figures = Figures { report, model, calibration, against, baseline };
    if let Some(path) = &args.report {
        write_page(args, path, &figures)?;
        if path == Path::new("-") {
            return Ok(0); // standard output is for the page alone
        }
    }
    print(args, &figures).map_err(|e| Error::io("output", e))?;
    Ok(0)
}

fn each_document(files: &[PathBuf], args: &EvalArgs, mut take: impl FnMut(&Document) -> Result<()>) -> Result<()> {
    let mut labelled = false;
    for file in files {
        for document in data::open(file, args.input.options())? {
            let document = document?;
            labelled |= document.labels.is_some();
            take(&document).map_err(|e| e.context(file.display()))?;
        }
    }
    if labelled { Ok(()) } else { Err(no_labels(files)) }
}

fn predict(args: &EvalArgs, evaluator: &mut Evaluator) -> Result<Extractor> {
    let (device, mut extractor) = args.model.open(&args.rule, args.verbose)?;
    extractor.rule.evidence = args.evidence.least();
    judge(&mut extractor, &args.gold, args.input.options(), args.model.budget(&device), args.quiet, evaluator)?;
    if args.profile {
        show_profile(&device);
    }
    Ok(extractor)
}

/// Reads gold documents once: each is gold, and is predicted, also below the threshold.
pub fn judge(
    extractor: &mut Extractor,
    gold: &[PathBuf],
    options: Options,
    budget: Budget,
    quiet: bool,
    evaluator: &mut Evaluator,
) -> Result<()> {
    let threshold = extractor.rule.threshold;
    extractor.rule.threshold = threshold.min(LOWEST);
    let extractor = &*extractor;
    let mut screen = Screen::new(quiet);
    let mut labelled = false;
    let mut stream = Stream::new(extractor, budget, |outcome| match outcome {
        Outcome::Found { document, mut triples, .. } => {
            labelled |= document.labels.is_some();
            let number = evaluator.add_gold(&document)?;
            let candidates = triples.iter().map(|t| (t, extractor.above(t) as f32));
            evaluator.add_candidates(number, candidates, &extractor.relations);
            triples.retain(|t| extractor.above(t) > threshold);
            screen.found(triples.len());
            evaluator.add_triples(number, &triples, &extractor.relations);
            Ok(())
        }
        Outcome::Refused { error, .. } => Err(error), // a score must be one of all documents
    });
    read_all(gold, options, &mut stream)?;
    stream.finish()?;
    screen.finish();
    if labelled { Ok(()) } else { Err(no_labels(gold)) }
}

fn read_facts(files: &[PathBuf], unit: Unit) -> Result<Option<Facts>> {
    let mut facts = Facts::default();
    files.iter().try_for_each(|file| facts.read(file, unit))?;
    match (files.first(), facts.is_empty()) {
        (None, _) => Ok(None),
        (Some(_), false) => Ok(Some(facts)),
        (Some(file), true) => Err(Error::data("E-LABEL", format!("{}: no facts", file.display()))
            .fix("give a training file with labels, or a list of [head, tail, relation]")),
    }
}

fn baseline(args: &EvalArgs, gold: &Gold) -> Result<Option<Baseline>> {
    if args.baseline_train.is_empty() {
        return Ok(None);
    }
    let mut train = Gold::default();
    each_document(&args.baseline_train, args, |document| train.add(document).map(drop))?;
    Ok(Some(type_pair_baseline(&train, gold)))
}

fn write_page(args: &EvalArgs, path: &Path, figures: &Figures) -> Result<()> {
    let names = |files: &[PathBuf]| files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ");
    let mut about = vec![("Gold", names(&args.gold))];
    if let Some(pred) = &args.pred {
        about.push(("Predictions", pred.display().to_string()));
    }
    about.extend(figures.model.clone().map(|digest| ("Model", digest)));
    if !args.train_facts.is_empty() {
        about.push(("Training facts", names(&args.train_facts)));
    }
    if let Some(Baseline { always, cut, .. }) = figures.baseline {
        about.push(("Baselines", format!("F1 {:.2} and {:.2}, by entity types alone", always.f1, cut.f1)));
    }
    let files = args.gold.iter().filter_map(|path| path.file_name());
    let files: Vec<_> = files.map(|name| name.to_string_lossy()).collect();
    let title = format!("Evaluation on {}", files.join(", "));
    let inputs = [&args.gold, &args.train_facts, &args.baseline_train].into_iter().flatten();
    let inputs = inputs.chain(&args.pred).chain(&args.against);
    Output::write(path, inputs, html(&figures.report, &title, &about).as_bytes())
}

fn print(args: &EvalArgs, figures: &Figures) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, figures)?;
        return writeln!(out);
    }
    write!(out, "{}", figures.report)?;
    if let Some(path) = &figures.calibration {
        writeln!(out, "thresholds and scores of {path} (--no-calibration: without it)")?;
    }
    if let (Some(file), Some(c)) = (&args.against, &figures.against) {
        let [low, high] = c.difference_interval;
        writeln!(
            out,
            "against {} (F1 {:.2}): {:+.2}, between {low:+.2} and {high:+.2} in 95 % of paired bootstrap samples; p = {:.4} \
             (two-sided, approximate randomisation over documents)",
            file.display(),
            c.against_f1,
            c.difference,
            c.p_value
        )?;
    }
    if let Some(Baseline { always, cut, share }) = figures.baseline {
        writeln!(out, "baseline, one relation for each pair of types: F1 {:.2}", always.f1)?;
        writeln!(
            out,
            "baseline, only pairs of types that have it in {:.1} % of cases: F1 {:.2}",
            100.0 * share,
            cut.f1
        )?;
    }
    out.flush()
}

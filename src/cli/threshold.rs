//! `docre threshold`

use super::eval::judge;
use super::output::Output;
use super::setup::{InputArgs, ModelArgs, RuleArgs};
use crate::checkpoint::directory::put_file;
use crate::error::{Error, Result};
use crate::extract::{CALIBRATION, Calibration};
use crate::metrics::Evaluator;
use crate::metrics::curves::LOWEST;
use crate::metrics::tuning::{Choice, Outcome, Shifts, Tuning, tune};
use crate::text::say;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Find the threshold with the best F1 on labelled documents
///
/// A model's own threshold is where the logit of a relation passes that of the threshold class: margin 0.
/// This finds the margin with the best F1 on documents that the model was not trained on, says what to expect of
/// it on others, and writes it to calibration.json in the model directory, where extract and eval take it from.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  docre threshold -m runs/demo/best --gold dev.json
  docre threshold -m runs/demo/best --gold dev.json --per-relation --calibrate
  docre threshold -m runs/demo/best --gold dev.json --calibrate --keep-threshold
  docre threshold --gold dev.json -o calibration.json --json | jq .expected.f1

Three figures are given: F1 at the model's own threshold; F1 on these documents at the new one, too good to expect;
and what to expect of new documents: each fifth of the documents judged by what the other four suggest.

Exit codes: 0 ok, 2 usage, 3 bad document, 4 bad model, 5 device or memory, 6 a file cannot be read or written")]
pub struct ThresholdArgs {
    /// Documents with labels, none of the training set; several files add up
    #[arg(long, required = true, value_name = "FILE")]
    pub gold: Vec<PathBuf>,
    /// A threshold for each relation that has enough gold relations
    #[arg(long)]
    pub per_relation: bool,
    /// How many gold relations are enough
    #[arg(long, value_name = "N", default_value_t = 20, requires = "per_relation")]
    pub min_gold: usize,
    /// Also fit scores, sigmoid(a margin + b), so that of relations with score 0.8 four in five are right
    #[arg(long)]
    pub calibrate: bool,
    /// Leave the thresholds as they are: only calibrate scores
    #[arg(long, requires = "calibrate", conflicts_with = "per_relation")]
    pub keep_threshold: bool,
    /// Write here; `-` is standard output [default: calibration.json in the model directory]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub input: InputArgs,
    /// Write one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Say on stderr what was chosen: device, model
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Nothing on stderr but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
}

pub fn run(args: &ThresholdArgs) -> Result<u8> {
    let rule = RuleArgs { threshold: 0.0, no_calibration: true };
    let (device, mut extractor) = args.model.open(&rule, args.verbose)?;
    let mut evaluator = Evaluator::default();
    judge(&mut extractor, &args.gold, args.input.options(), args.model.budget(&device), args.quiet, &mut evaluator)?;
    let shifts = match (args.keep_threshold, args.per_relation) {
        (true, _) => Shifts::Own,
        (false, true) => Shifts::PerRelation(args.min_gold),
        (false, false) => Shifts::One,
    };
    let tuning = tune(&evaluator, Choice { shifts, calibrate: args.calibrate })?;
    let calibration = Calibration::new(&extractor.digest, tuning.shift, tuning.relations.clone(), tuning.score);
    let text = calibration.to_json(&extractor.relations)?;
    let written = write(args.output.as_deref(), &args.gold, &extractor.dir, text.as_bytes())?;
    if let Some(path) = written {
        print(args, &tuning, &path).map_err(|e| Error::io("output", e))?;
    }
    warn(&tuning);
    Ok(0)
}

/// Where it went; None: to standard output, which is then for it alone.
fn write(output: Option<&Path>, gold: &[PathBuf], dir: &Path, text: &[u8]) -> Result<Option<PathBuf>> {
    let Some(path) = output else {
        put_file(dir, CALIBRATION, text)?;
        return Ok(Some(dir.join(CALIBRATION)));
    };
    Output::write(path, gold, text)?;
    Ok((path != Path::new("-")).then(|| path.to_path_buf()))
}

fn print(args: &ThresholdArgs, tuning: &Tuning, written: &Path) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, tuning)?;
        return writeln!(out);
    }
    writeln!(out, "{:<52} {:>7} {:>7} {:>7} {:>18}", "", "P", "R", "F1", "calibration error")?;
    let mut row = |name: &str, outcome: &Outcome| {
        let (s, error) = (&outcome.score, 100.0 * outcome.calibration_error);
        writeln!(out, "{name:<52} {:>7.2} {:>7.2} {:>7.2} {error:>18.2}", s.precision, s.recall, s.f1)
    };
    row("the model's own threshold", &tuning.before)?;
    row(&format!("as written, on these very {} documents", tuning.documents), &tuning.after)?;
    if let Some(expected) = &tuning.expected {
        row("to expect of new documents (cross-validation)", expected)?;
    }
    writeln!(out, "threshold shifted by {:.4}", tuning.shift)?;
    for (relation, shift) in &tuning.relations {
        writeln!(out, "  {relation} by {shift:.4}")?;
    }
    if let Some(sigmoid) = &tuning.score {
        writeln!(out, "score = sigmoid({:.4} margin {:+.4})", sigmoid.a, sigmoid.b)?;
    }
    writeln!(out, "written to {}", written.display())
}

fn warn(tuning: &Tuning) {
    match &tuning.expected {
        None => say("warning: too few documents to say what to expect of new ones"),
        Some(expected) if expected.score.f1 < tuning.before.score.f1 => say(format_args!(
            "warning: F1 of new documents is expected to fall from {:.2} to {:.2}: give more documents, choose fewer \
             thresholds, or --keep-threshold",
            tuning.before.score.f1, expected.score.f1
        )),
        Some(_) => {}
    }
    let low = tuning.relations.values().copied().fold(tuning.shift, f64::min);
    if low < LOWEST + 1.0 {
        say(format_args!("warning: a threshold at {low:.2}: none is looked for below {LOWEST}"));
    }
}

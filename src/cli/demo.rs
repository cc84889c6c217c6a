//! `docre demo`

use super::assets::{DEMO_DOCUMENTS, find};
use super::output::print;
use super::progress::Screen;
use super::setup::{InputArgs, ModelArgs, RuleArgs, describe, read_all};
use crate::data::output::{OutputFormat, PredictionWriter};
use crate::error::{Error, Result};
use crate::extract::{Outcome, Stream};
use std::path::PathBuf;

/// Show what docre finds in a few built-in documents
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  docre demo
  docre demo --threshold 1          only the surer half
  docre demo -m runs/demo/best      with a model of your own
  docre demo my-documents.jsonl

Exit codes: as `docre extract`")]
pub struct DemoArgs {
    /// Documents [default: examples/demo.jsonl of docre]
    #[arg(value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub rule: RuleArgs,
    #[command(flatten)]
    pub input: InputArgs,
    /// Say on stderr what was chosen: device, model
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Only the table
    #[arg(short, long)]
    pub quiet: bool,
}

pub fn run(args: &DemoArgs) -> Result<u8> {
    let inputs = if args.inputs.is_empty() { vec![examples()?] } else { args.inputs.clone() };
    let (device, extractor) = args.model.open(&args.rule, args.verbose)?;
    let mut writer = PredictionWriter::new(std::io::stdout(), OutputFormat::Table, "", &extractor.relations);
    let mut screen = Screen::new(true);
    let mut stream = Stream::new(&extractor, args.model.budget(&device), |outcome| match outcome {
        Outcome::Found { document, triples, warnings } => {
            screen.found(triples.len());
            writer.document(&document, &triples, &warnings)
        }
        Outcome::Refused { error, .. } => Err(error),
    });
    read_all(&inputs, args.input.options(), &mut stream)?;
    stream.finish()?;
    writer.finish()?;
    if !args.quiet {
        let digest = extractor.digest.get(..19).unwrap_or_default();
        let (dir, device) = (extractor.dir.display(), describe(&device));
        print(format_args!("\nmodel {dir} {digest}… on {device}: {}\n", screen.summary()))?;
    }
    Ok(0)
}

fn examples() -> Result<PathBuf> {
    find(DEMO_DOCUMENTS).ok_or_else(|| {
        Error::new(crate::error::Kind::Io, "E-IO", format!("{DEMO_DOCUMENTS} is not here"))
            .fix("name a file of documents: docre demo FILE")
    })
}

//! `docre extract`

use super::output::Output;
use super::progress::{Screen, show_profile};
use super::setup::{EvidenceArgs, InputArgs, ModelArgs, RuleArgs, read_all};
use crate::data::Relations;
use crate::data::output::{OutputFormat, PredictionWriter, Triple};
use crate::error::{Error, Kind, Result};
use crate::extract::{Outcome, Stream};
use std::path::PathBuf;

/// Extract relations from documents
///
/// Reads documents whose entities are marked (DocRED JSON, one docre.v1 document a line, PubTator, or CDR and GDA with
/// candidate pairs) and writes the relations of each, in the order of the input. Memory stays constant, whatever the length of the stream;
/// the output does not depend on batches or threads.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  docre extract documents.jsonl > relations.jsonl
  cat documents.jsonl | docre extract - | jq -c .relations[]
  docre extract dev.json --to docred -o result.json
  docre extract documents.jsonl --to table --relations P17,'place of birth'
  docre extract abstracts.PubTator -m runs/biored/best --to tsv      entities are concept ids
  docre extract big.jsonl -m runs/demo/best --on-error record -o relations.jsonl
  docre extract dev.json --to docred --evidence -o result.json

Exit codes: 0 ok, 1 finished but some documents were refused, 2 usage, 3 bad document, 4 bad model,
5 device or memory, 6 a file cannot be read or written, 7 a number that is not finite")]
pub struct ExtractArgs {
    /// Files of documents; `-` reads standard input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub rule: RuleArgs,
    /// File for the result, written whole or not at all; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    #[command(flatten)]
    pub input: InputArgs,
    /// Format of the result
    #[arg(long, value_enum, default_value = "jsonl")]
    pub to: OutputFormat,
    /// Only these relations, by code or name, with commas between them [default: all]
    #[arg(long, value_name = "LIST")]
    pub relations: Vec<String>,
    #[command(flatten)]
    pub evidence: EvidenceArgs,
    /// What to do with a document that is refused
    #[arg(long, value_enum, default_value = "stop")]
    pub on_error: OnError,
    /// At the end, show on stderr where the time went, by op, and who held memory
    #[arg(long)]
    pub profile: bool,
    /// Say on stderr what was chosen: device, model
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    /// End the program with its error
    Stop,
    /// Go on; say so on stderr
    Skip,
    /// Go on; its line in the result holds the error (jsonl; other formats: as skip)
    Record,
}

/// Exit code: finished, but documents were refused.
const SOME_REFUSED: u8 = 1;

pub fn run(args: &ExtractArgs) -> Result<u8> {
    if args.evidence.evidence && !matches!(args.to, OutputFormat::Jsonl | OutputFormat::Docred) {
        return Err(Error::usage("this format has no place for --evidence").fix("--to jsonl or --to docred"));
    }
    let (device, mut extractor) = args.model.open(&args.rule, args.verbose)?;
    extractor.rule.evidence = args.evidence.least();
    let output = Output::create(&args.output, &args.inputs)?;
    let wanted = wanted(&args.relations, &extractor.relations)?;
    let mut writer = PredictionWriter::new(output, args.to, &extractor.digest, &extractor.relations);
    let mut screen = Screen::new(args.quiet);
    let mut stream = Stream::new(&extractor, args.model.budget(&device), |outcome| {
        let _span = device.profile().span("write");
        match outcome {
            Outcome::Found { document, mut triples, warnings } => {
                triples.retain(|t: &Triple| wanted.as_ref().is_none_or(|wanted| wanted[t.relation]));
                screen.found(triples.len());
                writer.document(&document, &triples, &warnings)
            }
            Outcome::Refused { id, position, error } => {
                if args.on_error == OnError::Stop {
                    return Err(error.or_fix("--on-error skip to go on without this document"));
                }
                let record = args.on_error == OnError::Record;
                screen.refused(&error, record && args.to == OutputFormat::Jsonl);
                if record { writer.refused(id.as_deref(), position, &error) } else { Ok(()) }
            }
        }
    });
    read_all(&args.inputs, args.input.options(), &mut stream)?;
    stream.finish()?;
    writer.finish()?.commit()?;
    screen.finish();
    if args.profile {
        show_profile(&device);
    }
    Ok(if screen.refused > 0 { SOME_REFUSED } else { 0 })
}

/// By class, whether its relations are wanted; none: all are.
fn wanted(lists: &[String], relations: &Relations) -> Result<Option<Vec<bool>>> {
    if lists.is_empty() {
        return Ok(None);
    }
    let mut wanted = vec![false; relations.len()];
    for list in lists {
        // A name may have commas of its own.
        let names = if relations.find(list).is_ok() { vec![&**list] } else { list.split(',').collect() };
        for name in names {
            // A wrong flag, not a wrong document.
            let class = relations.find(name.trim()).map_err(|e| e.of_kind(Kind::Usage).context("--relations"))?;
            wanted[class] = true;
        }
    }
    Ok(Some(wanted))
}

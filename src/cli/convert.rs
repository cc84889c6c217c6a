//! `docre convert`: documents from one format to another.

use super::output::Output;
use super::progress::Progress;
use super::setup::InputArgs;
use crate::data::corpus::annotated;
use crate::data::{self, Format, Writer};
use crate::error::Result;
use crate::layout::Pairs;
use crate::text::say;
use std::path::{Path, PathBuf};

/// Convert documents, labels included, to another format
///
/// docre.v1 (jsonl) holds all that the other formats do. DocRED's has no text, no ids and no candidate pairs, and no
/// mention across the end of a sentence: a document with one ends the conversion. In a PubTator file with relations (not from
/// standard input) a document without any has labels, none.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  docre convert Train.PubTator -o train.jsonl
  docre convert dev.json | jq -c .entities[]
  docre convert documents.jsonl --to docred -o documents.json

Exit codes: 0 ok, 2 usage, 3 bad document, 6 a file cannot be read or written")]
pub struct ConvertArgs {
    /// Files of documents in any format that docre reads; `-` reads standard input
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    #[command(flatten)]
    input: InputArgs,
    /// Format of the result
    #[arg(long, value_enum, default_value = "jsonl")]
    to: To,
    /// File for the result, written whole or not at all; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Nothing on stderr but errors
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum To {
    /// docre.v1, one document a line; offsets in --offset-unit
    Jsonl,
    /// One JSON array, as DocRED and Re-DocRED have it
    Docred,
}

pub fn run(args: &ConvertArgs) -> Result<u8> {
    let format = match args.to {
        To::Jsonl => Format::Jsonl,
        To::Docred => Format::Docred,
    };
    let mut writer = Writer::new(Output::create(&args.output, &args.inputs)?, format, args.input.offset_unit);
    let mut progress = Progress::new(None, args.quiet).patient();
    let (mut count, mut lost) = (0, 0);
    for input in &args.inputs {
        let documents = data::open(input, args.input.options())?;
        // Standard input cannot be read twice.
        let annotated = input != Path::new("-") && annotated(input, documents.format())?;
        for document in documents {
            let mut document = document?;
            if annotated {
                document.labels.get_or_insert_default();
            }
            writer.write(&document).map_err(|e| e.context(input.display()))?;
            count += 1;
            lost += usize::from(format == Format::Docred && document.pairs != Pairs::default());
            progress.set(count, || "documents".into());
        }
    }
    writer.finish()?.commit()?;
    progress.finish();
    progress.line(&format!("{count} documents"));
    if lost > 0 {
        say(format_args!(
            "warning: {lost} of them named candidate pairs or undirected relations; DocRED's form cannot"
        ));
    }
    Ok(0)
}

//! Documents in and out: DocRED arrays, `docre.v1` lines, PubTator and tables of candidate pairs, read one at a time.

pub mod ahead;
mod capped;
pub mod corpus;
pub mod docred;
pub mod document;
pub mod eog;
pub mod frames;
pub mod jsonl;
pub mod offsets;
pub mod output;
pub mod place;
pub mod pubtator;
pub mod relations;
mod spans;
mod split;
pub mod tokenize;

pub use corpus::Corpus;
pub use document::{Document, Entity, Label, Mention, Span, Text};
pub use offsets::Unit;
pub use relations::{Relations, Unknown};
pub use tokenize::Tokenizer;

use crate::error::{Error, Kind, Result};
use crate::text::clip;
use frames::{Frames, Position, Shape, stream};
use serde::Deserialize;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A format of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON array of documents with tokens: DocRED, Re-DocRED.
    Docred,
    /// `docre.v1`, one document a line.
    Jsonl,
    /// Title, abstract, mentions and relations of concepts: BioRED, CDR.
    Pubtator,
    /// Columns between tabs, candidate pairs with their labels: CDR and GDA as the edge-oriented graph has them.
    Eog,
}

impl Format {
    const ALL: [Format; 4] = [Format::Docred, Format::Jsonl, Format::Pubtator, Format::Eog];

    /// As `--from` has it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Docred => "docred",
            Format::Jsonl => "jsonl",
            Format::Pubtator => "pubtator",
            Format::Eog => "eog",
        }
    }
    fn shape(self) -> Shape {
        match self {
            Format::Docred => Shape::Array,
            Format::Jsonl => Shape::Lines,
            Format::Pubtator => Shape::Blocks,
            Format::Eog => Shape::Columns,
        }
    }
    /// The format of files that are cut so.
    pub fn of(shape: Shape) -> Format {
        Format::ALL.into_iter().find(|format| format.shape() == shape).unwrap_or(Format::Jsonl)
    }

    /// Reads one document, as [`Frames`] cuts it. Errors: those of the format's own `parse`.
    pub fn parse(self, bytes: &[u8], position: Position, unit: Unit) -> Result<Document> {
        match self {
            Format::Docred => docred::parse(bytes, &format!("$[{}]", position.index)),
            Format::Jsonl => jsonl::parse(bytes, position.index, unit),
            Format::Pubtator => pubtator::parse(bytes, position.line, unit),
            Format::Eog => eog::parse(bytes),
        }
    }
}

/// How to read documents.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// None: by how it begins, `[` DocRED, `{` JSONL, `ID|` PubTator, `ID` and a tab EOG.
    pub from: Option<Format>,
    /// What offsets of JSONL and PubTator count.
    pub unit: Unit,
}

/// E-LABEL for files that were to be gold.
pub fn no_labels(files: &[PathBuf]) -> Error {
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    Error::data("E-LABEL", format!("{}: no document has labels", names.join(", "))).fix("give a file with gold labels")
}

/// Opens a file, or standard input for `-`. Errors: E-IO.
pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Documents> {
    let path = path.as_ref();
    let name = if path == Path::new("-") { "standard input".into() } else { path.display().to_string() };
    Documents::new(stream(path)?, &name, options)
}

/// The documents of a stream, in order; an `Err` item is one refused document, and iteration goes on
/// behind it wherever the structure of the file allows. Holds one document at a time.
pub struct Documents {
    frames: Frames,
    format: Format,
    unit: Unit,
    name: String,
    latest: Latest,
}

/// Which document the last item was, refused or not.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    pub position: Position,
    /// Bytes that hold it, from `position.offset` on; 0 where it was too broken to be cut out.
    pub length: usize,
    /// Its id or title where that much could be read.
    pub id: Option<String>,
}

impl Documents {
    /// `name` stands for the stream in messages.
    pub fn new(input: impl Read + Send + 'static, name: &str, options: Options) -> Result<Documents> {
        let frames = Frames::open(input, options.from.map(Format::shape)).map_err(|e| e.context(name))?;
        let format = Format::of(frames.shape());
        Ok(Documents { frames, format, unit: options.unit, name: name.to_string(), latest: Latest::default() })
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Where the last item stood and what it called itself: for records of refused documents.
    pub fn latest(&self) -> &Latest {
        &self.latest
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Result<Document>> {
        let (position, frame) = self.frames.next_frame()?;
        let (mut id, mut length) = (None, 0);
        let read = frame.and_then(|bytes| {
            length = bytes.len();
            let read = self.format.parse(bytes, position, self.unit);
            id = match &read {
                Ok(document) => Some(document.id.clone()),
                Err(_) => own_name(bytes, self.format),
            };
            read
        });
        let read = read.map_err(|error| {
            let title = id.as_ref().map(|id| format!(" {:?}", clip(id, 60))).unwrap_or_default();
            match (self.format, error.kind()) {
                (_, Kind::Io) => error.context(&self.name),
                (Format::Docred, _) => error.context(format!("{}: document {}{title}", self.name, position.index)),
                _ => error.context(format!("{}: line {}{title}", self.name, position.line)),
            }
        });
        self.latest = Latest { position, length, id };
        Some(read)
    }
}

/// Id or title of a document that was refused for something else.
fn own_name(bytes: &[u8], format: Format) -> Option<String> {
    #[derive(Deserialize)]
    struct Name {
        id: Option<String>,
        title: Option<String>,
    }
    if matches!(format, Format::Pubtator | Format::Eog) {
        let end = bytes.iter().position(|b| b"|\t\n".contains(b))?;
        return std::str::from_utf8(&bytes[..end]).ok().map(str::to_string);
    }
    let name: Name = serde_json::from_slice(bytes).ok()?;
    name.id.or(name.title)
}

/// Writes documents as DocRED or as `docre.v1`, which holds all that the others do.
pub struct Writer<W: Write> {
    out: W,
    format: Format,
    unit: Unit,
    count: usize,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W, format: Format, unit: Unit) -> Self {
        Writer { out, format, unit, count: 0 }
    }

    /// Errors: E-IO, and E-SPAN where the format cannot say what the document holds; then nothing is written.
    pub fn write(&mut self, document: &Document) -> Result<()> {
        let mut bytes = Vec::new();
        match self.format {
            Format::Docred => {
                bytes.extend_from_slice(if self.count == 0 { b"[" } else { b",\n" });
                docred::write(&mut bytes, document)?;
            }
            _ => jsonl::write(&mut bytes, document, self.unit)?,
        }
        self.count += 1;
        self.out.write_all(&bytes).map_err(output_error)
    }

    /// Closes the array, flushes and gives the stream back.
    pub fn finish(mut self) -> Result<W> {
        if self.format == Format::Docred {
            self.out.write_all(if self.count == 0 { b"[]\n" } else { b"]\n" }).map_err(output_error)?;
        }
        self.out.flush().map_err(output_error)?;
        Ok(self.out)
    }
}

fn output_error(error: std::io::Error) -> Error {
    Error::io("output", error)
}

/// A failure to serialize is a failure of the stream: our values always have a JSON form.
fn unwritable(error: serde_json::Error) -> Error {
    Error::io("output", error)
}

//! Extraction from a stream: input order, memory bounded by the budget, refused documents by name.

use super::{Budget, Extractor};
use crate::data::ahead::{Prepared, read_ahead};
use crate::data::frames::Position;
use crate::data::output::Triple;
use crate::data::{Document, Documents, Latest};
use crate::device::Device;
use crate::device::cpu::cores;
use crate::error::{Error, Kind, Result};
use crate::layout::Encoded;

/// What became of one document.
pub enum Outcome {
    Found { document: Box<Document>, triples: Vec<Triple>, warnings: Vec<String> },
    Refused { id: Option<String>, position: Position, error: Error },
}

/// Gathers documents until the budget is reached, predicts them together, and hands each outcome to
/// `sink`, in the order of the input. An error of `sink` ends the stream.
pub struct Stream<'a, F: FnMut(Outcome) -> Result<()>> {
    extractor: &'a Extractor,
    budget: Budget,
    sink: F,
    waiting: Vec<Waiting>,
    pieces: usize,
    cells: usize,
}

struct Waiting {
    document: Document,
    encoded: Encoded,
    position: Position,
}

impl<'a, F: FnMut(Outcome) -> Result<()>> Stream<'a, F> {
    pub fn new(extractor: &'a Extractor, budget: Budget, sink: F) -> Self {
        Stream { extractor, budget, sink, waiting: Vec::new(), pieces: 0, cells: 0 }
    }

    /// Takes in every document of `documents`; the last ones wait until [`Stream::finish`].
    ///
    /// Errors: those of `sink`; E-IO of the input; of the model and the device, unless one document alone
    /// asks for more memory than there is: that document is refused.
    pub fn read(&mut self, documents: Documents) -> Result<()> {
        let device = self.extractor.model.params.device();
        let mut ahead = read_ahead(documents, &self.extractor.tokenizer, encoders(device));
        loop {
            let next = {
                let _span = device.profile().span("read and tokenize");
                ahead.next()
            };
            let Some(Prepared { document, latest: Latest { position, id, .. } }) = next else { return Ok(()) };
            match document {
                Ok((document, encoded)) => self.push(Waiting { document, encoded, position })?,
                Err(error) if error.kind() == Kind::Io => return self.flush().and(Err(error)),
                Err(error) => {
                    self.flush()?;
                    (self.sink)(Outcome::Refused { id, position, error })?;
                }
            }
        }
    }

    /// Predicts what still waits.
    pub fn finish(&mut self) -> Result<()> {
        self.flush()
    }

    fn push(&mut self, next: Waiting) -> Result<()> {
        let (pieces, cells) = size(&next.encoded);
        let past = self.pieces + pieces > self.budget.tokens || self.cells + cells > self.budget.cells;
        if past {
            self.flush()?;
        }
        self.pieces += pieces;
        self.cells += cells;
        self.waiting.push(next);
        // A full batch goes at once: whoever feeds a pipe line by line waits for its answer.
        let full = self.pieces >= self.budget.tokens || self.cells >= self.budget.cells;
        if full || self.waiting.len() >= self.budget.documents { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        (self.pieces, self.cells) = (0, 0);
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let (documents, encoded): (Vec<_>, Vec<_>) = waiting.map(|w| ((w.document, w.position), w.encoded)).unzip();
        let (mut documents, mut done) = (documents.into_iter(), 0);
        let sink = &mut self.sink;
        let each = |triples| {
            done += 1;
            documents.next().map_or(Ok(()), |(document, _)| found(sink, document, triples))
        };
        match self.extractor.predict_each(&encoded.iter().collect::<Vec<_>>(), each) {
            Err(error) if error.code() == "E-OOM" => {
                let mut left = documents.zip(&encoded[done..]);
                left.try_for_each(|((document, position), encoded)| self.alone(document, encoded, position))
            }
            ended => ended,
        }
    }

    /// One document that did not fit beside others, or at all.
    fn alone(&mut self, document: Document, encoded: &Encoded, position: Position) -> Result<()> {
        match self.extractor.predict(&[encoded]) {
            Ok(mut triples) => found(&mut self.sink, document, triples.pop().unwrap_or_default()),
            Err(error) if error.code() == "E-OOM" => {
                let (pieces, cells) = size(encoded);
                let (id, n) = (crate::text::clip(&document.id, 60), document.entities.len());
                let what = format!("document {id:?} ({pieces} word pieces, {n} entities, {cells} pairs)");
                let error = error.context(what).fix("a larger --max-memory, or split the document");
                (self.sink)(Outcome::Refused { id: Some(document.id), position, error })
            }
            Err(error) => Err(error),
        }
    }
}

fn found(sink: &mut impl FnMut(Outcome) -> Result<()>, document: Document, triples: Vec<Triple>) -> Result<()> {
    let warnings = warnings(&document);
    sink(Outcome::Found { document: Box::new(document), triples, warnings })
}

/// Threads that encode: on a CPU they take time from the model, which needs fifty times as much as they; a GPU waits for
/// them.
fn encoders(device: &Device) -> usize {
    match device {
        Device::Cpu(_) => 1,
        Device::Cuda(_) => cores::available().min(4),
    }
}

/// Word pieces and ordered pairs.
fn size(encoded: &Encoded) -> (usize, usize) {
    (encoded.ids.len(), encoded.mentions.len().pow(2))
}

/// What a reader of the output should know about a document that was not refused.
fn warnings(document: &Document) -> Vec<String> {
    const SHOWN: usize = 5;
    if document.entities.is_empty() {
        return vec!["no entities: relations are found between the entities that a document lists".to_string()];
    }
    let unmentioned = document.entities.iter().filter(|e| e.mentions.is_empty());
    let ids: Vec<&str> = unmentioned.clone().take(SHOWN).map(|e| e.id.as_str()).collect();
    let count = unmentioned.count();
    if count == 0 {
        return Vec::new();
    }
    let more = if count > SHOWN { ", …" } else { "" };
    vec![format!("{count} of {} entities without a mention: {}{more}", document.entities.len(), ids.join(", "))]
}

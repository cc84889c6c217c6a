//! Predictions out: `docre.v1` lines, the official DocRED submission, or a table.

use super::document::Document;
use super::frames::Position;
use super::place::pointer;
use super::relations::Relations;
use crate::error::{Error, Result};
use crate::text::{clip, one_line};
use serde::Serialize;
use std::borrow::Cow;
use std::io::Write;

/// One predicted relation between entities `head` and `tail` of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Triple {
    pub head: usize,
    pub tail: usize,
    pub relation: usize,
    /// Logit of the relation minus that of the threshold.
    pub margin: f32,
    /// sigmoid(margin), or its calibrated form.
    pub score: f32,
    /// Indices of sentences, ascending; none where evidence was not asked for.
    pub evidence: Option<Vec<u32>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// `docre.v1`: one document a line.
    Jsonl,
    /// The list that the DocRED evaluation takes: title, h_idx, t_idx, r.
    Docred,
    /// One relation a line, safe to open in a spreadsheet.
    Tsv,
    /// For people: each document's title and its relations in columns.
    Table,
}

#[derive(Serialize)]
struct Line<'a> {
    schema: &'a str,
    id: &'a str,
    model: &'a str,
    relations: Vec<LineRelation<'a>>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct LineRelation<'a> {
    h: &'a str,
    t: &'a str,
    r: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    score: f32,
    margin: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<&'a [u32]>,
}

#[derive(Serialize)]
struct Submission<'a> {
    title: &'a str,
    h_idx: usize,
    t_idx: usize,
    r: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<&'a [u32]>,
}

#[derive(Serialize)]
struct Refusal<'a> {
    schema: &'a str,
    id: &'a str,
    error: RefusalError<'a>,
}

#[derive(Serialize)]
struct RefusalError<'a> {
    code: &'a str,
    path: String,
    msg: &'a str,
}

/// Writes predictions document by document; equal calls give equal bytes.
pub struct PredictionWriter<'a, W: Write> {
    out: W,
    format: OutputFormat,
    model: String,
    relations: &'a Relations,
    begun: bool,
}

impl<'a, W: Write> PredictionWriter<'a, W> {
    /// `model` names the weights, for example `sha256:9f…`.
    pub fn new(out: W, format: OutputFormat, model: &str, relations: &'a Relations) -> Self {
        PredictionWriter { out, format, model: model.to_string(), relations, begun: false }
    }

    /// The relations of one document, in the order given. A document without any gets its line, too.
    ///
    /// Errors: E-NONFINITE for a margin or score that is no number; E-IO.
    pub fn document(&mut self, document: &Document, triples: &[Triple], warnings: &[String]) -> Result<()> {
        if let Some(bad) = triples.iter().find(|t| !(t.margin.is_finite() && t.score.is_finite())) {
            let what = format!("{:?}: margin {} and score {} of a relation", document.id, bad.margin, bad.score);
            return Err(Error::non_finite(what));
        }
        let mut bytes = Vec::new();
        match self.format {
            OutputFormat::Jsonl => self.line(&mut bytes, document, triples, warnings)?,
            OutputFormat::Docred => self.submission(&mut bytes, document, triples)?,
            OutputFormat::Tsv => self.rows(&mut bytes, document, triples),
            OutputFormat::Table => self.table(&mut bytes, document, triples, warnings),
        }
        self.put(&bytes)
    }

    /// The record of a refused document. Only JSONL has a form for it; the others stay silent.
    pub fn refused(&mut self, id: Option<&str>, position: Position, error: &Error) -> Result<()> {
        if self.format != OutputFormat::Jsonl {
            return Ok(());
        }
        let number = position.index.to_string();
        let path = error.place().map(pointer).unwrap_or_default();
        let error = RefusalError { code: error.code(), path, msg: error.what() };
        let mut bytes = json(&Refusal { schema: super::jsonl::SCHEMA, id: id.unwrap_or(&number), error })?;
        bytes.push(b'\n');
        self.put(&bytes)
    }

    /// Closes what the format left open, flushes, and gives the stream back.
    pub fn finish(mut self) -> Result<W> {
        let end: &[u8] = match (self.format, self.begun) {
            (OutputFormat::Docred, true) => b"\n]\n",
            (OutputFormat::Docred, false) => b"[]\n",
            (OutputFormat::Tsv, false) => HEADER.as_bytes(),
            _ => b"",
        };
        self.put(end)?;
        self.out.flush().map_err(super::output_error)?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(super::output_error)
    }

    fn line(&self, out: &mut Vec<u8>, document: &Document, triples: &[Triple], warnings: &[String]) -> Result<()> {
        let relations = triples.iter().map(|t| LineRelation {
            h: entity_id(document, t.head),
            t: entity_id(document, t.tail),
            r: self.relations.code(t.relation),
            name: self.relations.name(t.relation),
            score: t.score,
            margin: t.margin,
            evidence: t.evidence.as_deref(),
        });
        let relations = relations.collect();
        let schema = super::jsonl::SCHEMA;
        out.extend(json(&Line { schema, id: &document.id, model: &self.model, relations, warnings })?);
        out.push(b'\n');
        Ok(())
    }

    fn submission(&mut self, out: &mut Vec<u8>, document: &Document, triples: &[Triple]) -> Result<()> {
        for t in triples {
            out.extend_from_slice(if self.begun { b",\n" } else { b"[\n" });
            self.begun = true;
            let (r, evidence) = (self.relations.code(t.relation), t.evidence.as_deref());
            out.extend(json(&Submission { title: &document.title, h_idx: t.head, t_idx: t.tail, r, evidence })?);
        }
        Ok(())
    }

    fn rows(&mut self, out: &mut Vec<u8>, document: &Document, triples: &[Triple]) {
        if !self.begun {
            out.extend_from_slice(HEADER.as_bytes());
            self.begun = true;
        }
        for t in triples {
            let name = |e: usize| entity_name(document, e);
            let (h, t_id) = (entity_id(document, t.head), entity_id(document, t.tail));
            let (r, long) = (self.relations.code(t.relation), self.relations.name(t.relation).unwrap_or_default());
            let texts = [&document.id, h, r, t_id, name(t.head), long, name(t.tail)];
            for text in texts {
                out.extend_from_slice(cell(text).as_bytes());
                out.push(b'\t');
            }
            out.extend_from_slice(format!("{}\t{}\n", t.score, t.margin).as_bytes());
        }
    }

    fn table(&mut self, out: &mut Vec<u8>, document: &Document, triples: &[Triple], warnings: &[String]) {
        let gap = if self.begun { "\n" } else { "" };
        self.begun = true;
        out.extend(format!("{gap}{}\n", one_line(&document.title)).into_bytes());
        let names = |t: &Triple| {
            let relation = self.relations.name(t.relation).unwrap_or(self.relations.code(t.relation));
            [entity_name(document, t.head), relation, entity_name(document, t.tail)].map(|s| clip(&one_line(s), WIDEST))
        };
        let rows: Vec<[String; 3]> = triples.iter().map(names).collect();
        let width = |c: usize| rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        for (row, t) in rows.iter().zip(triples) {
            let [head, relation, tail] = row;
            let [a, b, c] = widths;
            out.extend(format!("  {head:<a$}  {relation:<b$}  {tail:<c$}  {:.2}\n", t.score).into_bytes());
        }
        if rows.is_empty() {
            out.extend(b"  (no relations)\n");
        }
        for warning in warnings {
            out.extend(format!("  warning: {}\n", one_line(warning)).into_bytes());
        }
    }
}

/// Characters of a column of the table.
const WIDEST: usize = 48;

const HEADER: &str = "id\th\tr\tt\thead\trelation\ttail\tscore\tmargin\n";

/// The id of entity `e`; empty where there is none.
pub fn entity_id(document: &Document, e: usize) -> &str {
    document.entities.get(e).map_or("", |entity| entity.id.as_str())
}

/// The first name of an entity.
fn entity_name(document: &Document, e: usize) -> &str {
    let first = document.entities.get(e).and_then(|entity| entity.mentions.first());
    first.map_or("", |mention| mention.name.as_str())
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(super::unwritable)
}

/// A text as one cell: no tab or line end, and nothing that a spreadsheet takes for a formula.
fn cell(text: &str) -> Cow<'_, str> {
    let formula = text.trim_start().starts_with(['=', '+', '-', '@']);
    if !formula && !text.contains(['\t', '\n', '\r', '\\']) && !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::from(if formula { "'" } else { "" });
    for c in text.chars() {
        match c {
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

//! PubTator: title and abstract, mentions of concepts, relations between concepts. As CDR (Li et al., Database 2016,
//! baw068) and BioRED (Luo et al., Briefings in Bioinformatics 2022, bbac282) are given out.
//!
//! ```text
//! PMID|t|title
//! PMID|a|abstract
//! PMID <tab> start <tab> end <tab> text <tab> type <tab> concept
//! PMID <tab> relation <tab> concept <tab> concept [<tab> novelty]
//! ```
//!
//! A blank line ends a document. Offsets count through the title, one space and the abstract; both are split into
//! tokens and sentences here. An entity is a concept and has its id, in the order of first mentions.
//!
//! Several concepts may share a mention: `1029,1030` is CDKN2A/B, `D015458|D016399` two diseases. Each has the mention,
//! and a relation of such a name is one of each. `,`, `;` and `|` stand between concepts, but not inside of variants as
//! tmVar writes them (`c|SUB|C|677|T`). A mention without a concept (`-`, `-1`, nothing) is left out: relations are
//! between concepts, so one of it could only be wrong.
//!
//! Relations are undirected, and their novelty is passed over. A document without a relation line is unlabelled: the
//! format has no way to say that there is none. In training data it has none where others of its file have some, as 5
//! documents of BioRED's training set ([`super::Corpus`]).

use super::document::{Document, Entity, Label, MAX_ENTITIES, MAX_ITEMS, MAX_MENTIONS, MAX_NAMES, Mention, Span, Text};
use super::offsets::{Offsets, Unit};
use super::spans::{Range, assign, cover, range, tokens};
use super::split::sentences;
use crate::error::{Error, Result};
use crate::layout::Pairs;
use crate::text::clip;
use std::collections::HashMap;

/// What [`Document::left_out`] calls mentions that are no concept's.
pub const UNNAMED: &str = "mentions without a concept";

/// The lines of one document, not yet laid on its tokens.
#[derive(Default)]
struct Lines<'a> {
    mentions: Vec<RawMention<'a>>,
    relations: Vec<RawRelation<'a>>,
}

struct RawMention<'a> {
    line: usize,
    span: (i64, i64),
    text: &'a str,
    kind: &'a str,
    concepts: &'a str,
}

struct RawRelation<'a> {
    line: usize,
    name: &'a str,
    head: &'a str,
    tail: &'a str,
}

/// Reads one document, whose first line is number `line` of its file.
///
/// Errors, with the line: E-LINE for one that is none of the four kinds; E-SPAN; E-LABEL for a relation of a concept
/// that has no mention; E-SIZE.
pub fn parse(bytes: &[u8], line: usize, unit: Unit) -> Result<Document> {
    let text = std::str::from_utf8(bytes).map_err(|_| at(line, "E-LINE", "a document that is not UTF-8"))?;
    let mut lines = (line..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()).peekable();
    let head = lines.next().and_then(|(_, text)| heading(text, "t|"));
    let (id, title) = head.ok_or_else(|| at(line, "E-LINE", "a document begins with `ID|t|title`"))?;
    let body = lines.peek().and_then(|(_, text)| heading(text, "a|")).filter(|(of, _)| *of == id);
    let raw = match body {
        Some((_, body)) => format!("{title} {body}"),
        None => title.to_string(),
    };
    let mut read = Lines::default();
    lines.skip(usize::from(body.is_some())).try_for_each(|(line, text)| read.take(line, text, id))?;
    let ranges = read.ranges(&raw, unit)?;
    let sentences = sentence_ranges(&raw, title.len(), &ranges);
    let tokens = tokens(&raw, &ranges, &sentences).map_err(|e| e.at(format!("line {line}")))?;
    let mut document = Document {
        id: id.to_string(),
        title: id.to_string(), // evaluation tells documents apart by it, and titles stand twice
        tokens: tokens.iter().map(|(a, b)| raw[a.byte..b.byte].to_string()).collect(),
        sentences: assign(&tokens, &sentences).map_err(|e| e.at(format!("line {line}")))?,
        pairs: Pairs::undirected(),
        ..Document::default()
    };
    let index = add_entities(&mut document, &read.mentions, &ranges, &tokens)?;
    if !read.relations.is_empty() {
        document.labels = Some(labels(&read.relations, &index)?);
    }
    let tokens = tokens.iter().map(|(a, b)| Span::new(a.char, b.char)).collect();
    document.text = Some(Text { tokens, raw });
    Ok(document)
}

fn at(line: usize, code: &'static str, what: impl Into<String>) -> Error {
    Error::data(code, what).at(format!("line {line}"))
}

/// `ID|t|title` as id and title.
fn heading<'a>(line: &'a str, mark: &str) -> Option<(&'a str, &'a str)> {
    let (id, rest) = line.split_once('|')?;
    Some((id, rest.strip_prefix(mark)?))
}

impl<'a> Lines<'a> {
    fn take(&mut self, line: usize, text: &'a str, id: &str) -> Result<()> {
        let fields: Vec<&str> = text.splitn(7, '\t').collect();
        let span = |start: &str, end: &str| Some((start.parse().ok()?, end.parse().ok()?));
        match fields[..] {
            [of, ..] if of != id => {
                let what = format!("a line of {:?} in document {:?}", clip(of, 40), clip(id, 40));
                return Err(at(line, "E-LINE", what).fix("put a blank line between documents"));
            }
            [_, start, end, text, kind, ref rest @ ..] if span(start, end).is_some() => {
                let concepts = rest.first().copied().unwrap_or_default();
                let span = span(start, end).unwrap_or_default();
                self.mentions.push(RawMention { line, span, text, kind, concepts });
            }
            [_, name, head, tail] | [_, name, head, tail, _] => {
                self.relations.push(RawRelation { line, name, head, tail });
            }
            _ => {
                let what =
                    format!("neither a mention (start, end, text, type, concept) nor a relation: {:?}", clip(text, 60));
                return Err(at(line, "E-LINE", what));
            }
        }
        match (self.mentions.len() > MAX_MENTIONS, self.relations.len() > MAX_ITEMS) {
            (false, false) => Ok(()),
            _ => Err(too_many(line)),
        }
    }

    /// Where the mentions stand. Their texts must be there.
    fn ranges(&self, raw: &str, unit: Unit) -> Result<Vec<Range>> {
        let offsets = Offsets::new(raw);
        let one = |mention: &RawMention| {
            let place = format!("line {}", mention.line);
            let found = range(mention.span, &offsets, unit).map_err(|e| e.context("mention").at(&place))?;
            let slice = &raw[found.0.byte..found.1.byte];
            if slice == mention.text {
                return Ok(found);
            }
            let what = format!("mention text {:?}, the offsets give {:?}", clip(mention.text, 60), clip(slice, 60));
            let fix = "correct the offsets, or say --offset-unit byte or utf16";
            Err(Error::data("E-SPAN", what).at(place).fix(fix))
        };
        self.mentions.iter().map(one).collect()
    }
}

fn too_many(line: usize) -> Error {
    let names = MAX_NAMES >> 20;
    let what = format!(
        "more than {MAX_MENTIONS} mentions, {names} MB of them, {MAX_ENTITIES} concepts or {MAX_ITEMS} relations"
    );
    at(line, "E-SIZE", what).fix("split the document")
}

fn sentence_ranges(raw: &str, title: usize, mentions: &[Range]) -> Vec<Range> {
    let spans = || mentions.iter().map(|(from, to)| from.byte..to.byte).collect();
    let parts = [sentences(raw, 0..title, spans()), sentences(raw, title..raw.len(), spans())];
    let offsets = Offsets::new(raw);
    let place = |byte| offsets.find(Unit::Byte, byte).unwrap_or_default();
    parts.concat().into_iter().map(|span| (place(span.start), place(span.end))).collect()
}

/// The concepts that an id names: none, one or several.
fn concepts(id: &str) -> impl Iterator<Item = &str> {
    let after_kind = id.strip_prefix(|c: char| c.is_ascii_lowercase()).unwrap_or(id);
    let variant = after_kind.starts_with('|') || id.starts_with("tmVar:");
    let separators: &[char] = if variant { &[] } else { &[',', ';', '|'] };
    id.split(separators).map(str::trim).filter(|concept| !matches!(*concept, "" | "-" | "-1"))
}

/// Adds the concepts and their mentions; gives the entity of each concept.
fn add_entities<'a>(
    document: &mut Document,
    raw: &[RawMention<'a>],
    ranges: &[Range],
    tokens: &[Range],
) -> Result<HashMap<&'a str, usize>> {
    let mut index = HashMap::new();
    let (mut count, mut names) = (0, 0);
    for (raw, &range) in raw.iter().zip(ranges) {
        let span = cover(tokens, range).map_err(|e| e.at(format!("line {}", raw.line)))?;
        let before = count;
        for concept in concepts(raw.concepts) {
            let e = *index.entry(concept).or_insert(document.entities.len());
            if e == document.entities.len() {
                document.entities.push(Entity { id: concept.into(), kind: raw.kind.into(), ..Entity::default() });
            }
            let entity = &mut document.entities[e];
            let kind = (raw.kind != entity.kind).then(|| raw.kind.to_string());
            let chars = Some(Span::new(range.0.char, range.1.char));
            entity.mentions.push(Mention { tokens: span, chars, name: raw.text.to_string(), kind });
            (count, names) = (count + 1, names + raw.text.len());
            if count > MAX_MENTIONS || e >= MAX_ENTITIES || names > MAX_NAMES {
                return Err(too_many(raw.line));
            }
        }
        if count == before {
            *document.left_out.entry(UNNAMED).or_default() += 1;
        }
    }
    Ok(index)
}

fn labels(relations: &[RawRelation], index: &HashMap<&str, usize>) -> Result<Vec<Label>> {
    let mut labels = Vec::with_capacity(relations.len());
    for raw in relations {
        let find = |id| {
            let entities = concepts(id).map(|concept| {
                let what = || format!("relation of {:?}, which no mention names", clip(concept, 40));
                index.get(concept).copied().ok_or_else(|| at(raw.line, "E-LABEL", what()))
            });
            entities.collect::<Result<Vec<usize>>>()
        };
        let (heads, tails) = (find(raw.head)?, find(raw.tail)?);
        if heads.is_empty() || tails.is_empty() {
            return Err(at(raw.line, "E-LABEL", "a relation without two concepts"));
        }
        if labels.len() + heads.len().saturating_mul(tails.len()) > MAX_ITEMS {
            return Err(too_many(raw.line));
        }
        let pairs = heads.iter().flat_map(|&head| tails.iter().map(move |&tail| (head, tail)));
        labels.extend(pairs.map(|(head, tail)| Label { head, tail, relation: raw.name.into(), evidence: Vec::new() }));
    }
    Ok(labels)
}

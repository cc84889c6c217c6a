//! `docre.v1`: one document a line, with running text and offsets into it.
//!
//! `{"id":"d1","text":"Ada was born in London.","entities":[{"id":"e0","type":"PER","mentions":
//! [{"start":0,"end":3}]}],"labels":[{"h":"e0","t":"e1","r":"P19","evidence":[0]}]}`
//!
//! Optional: `schema`, `title`, `sentences`, `tokens`, `labels`; of an entity `id`, `type`, `kb`; of a
//! mention `text` (must equal the slice), `name` (as facts know it) and `type` (where it is not the
//! entity's). Without tokens the text is split at white space, punctuation and every boundary of a
//! mention or sentence; without sentences it is one sentence.

use super::capped::Capped;
use super::document::{Document, Entity, Label, MAX_ENTITIES, MAX_ITEMS, MAX_MENTIONS, Mention, Span, Text};
use super::offsets::{Offsets, Place, Unit};
use super::place::{clip, json_error};
use super::split::split;
use crate::error::{Error, Result};
use crate::layout::Segments;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;

pub const SCHEMA: &str = "docre.v1";

type Pairs = Capped<(i64, i64), MAX_ITEMS>;

#[derive(Deserialize)]
struct RawDocument {
    schema: Option<String>,
    id: Option<String>,
    title: Option<String>,
    text: String,
    sentences: Option<Pairs>,
    tokens: Option<Pairs>,
    entities: Capped<RawEntity, MAX_ENTITIES>,
    labels: Option<Capped<RawLabel, MAX_ITEMS>>,
}

#[derive(Deserialize)]
struct RawEntity {
    id: Option<String>,
    #[serde(rename = "type", default)]
    kind: String,
    kb: Option<String>,
    mentions: Capped<RawMention, MAX_MENTIONS>,
}

#[derive(Deserialize)]
struct RawMention {
    start: i64,
    end: i64,
    text: Option<String>,
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct RawLabel {
    h: String,
    t: String,
    r: String,
    #[serde(default)]
    evidence: Capped<i64, MAX_ITEMS>,
}

type Range = (Place, Place);

/// Reads one line. `number` names a document that has neither id nor title.
///
/// Errors: E-JSON, E-SPAN, E-SENTENCE, E-ENTITY, E-LABEL, E-SIZE with the place in the line.
pub fn parse(json: &[u8], number: usize, unit: Unit) -> Result<Document> {
    let raw: RawDocument = serde_json::from_slice(json).map_err(|e| json_error(&e, json, "$"))?;
    if let Some(schema) = raw.schema.filter(|s| s != SCHEMA) {
        return Err(Error::data("E-JSON", format!("schema {:?}, not {SCHEMA}", clip(&schema, 40))).at("$.schema"));
    }
    let count: usize = raw.entities.0.iter().map(|e| e.mentions.0.len()).sum();
    if count > MAX_MENTIONS {
        return Err(
            Error::data("E-SIZE", format!("{count} mentions, at most {MAX_MENTIONS} are read")).at("$.entities")
        );
    }
    let offsets = Offsets::new(&raw.text);
    let mentions = mention_ranges(&raw.entities.0, &offsets, &raw.text, unit)?;
    let sentences = raw.sentences.map(|s| ranges(&s.0, &offsets, unit, "sentences")).transpose()?;
    let tokens = match &raw.tokens {
        Some(tokens) => ranges(&tokens.0, &offsets, unit, "tokens")?,
        None => split_at_boundaries(&raw.text, &mentions, sentences.as_deref())?,
    };
    let segments = match &sentences {
        Some(sentences) => assign(&tokens, sentences)?,
        None => Segments::from_lengths((!tokens.is_empty()).then_some(tokens.len())),
    };
    let id = raw.id.or_else(|| raw.title.clone()).unwrap_or_else(|| number.to_string());
    let mut document = Document {
        title: raw.title.unwrap_or_else(|| id.clone()),
        id,
        tokens: tokens.iter().map(|(a, b)| raw.text[a.byte..b.byte].to_string()).collect(),
        sentences: segments,
        ..Document::default()
    };
    let mut mentions = mentions.into_iter();
    for (e, entity) in raw.entities.0.into_iter().enumerate() {
        document.entities.push(read_entity(e, entity, &mut mentions, &tokens, &raw.text)?);
    }
    let index = entity_index(&document.entities)?;
    let labels = raw.labels.map(|labels| read_labels(labels.0, &document, &index, sentences.is_some())).transpose()?;
    document.labels = labels;
    let tokens = tokens.iter().map(|(a, b)| Span::new(a.char, b.char)).collect();
    document.text = Some(Text { tokens, raw: raw.text });
    Ok(document)
}

/// `[start, end)` as places of the text. Errors say what is wrong with the pair.
fn range((start, end): (i64, i64), offsets: &Offsets, unit: Unit) -> Result<Range> {
    let find = |offset: i64| {
        let found = usize::try_from(offset).ok().and_then(|offset| offsets.find(unit, offset));
        found.ok_or_else(|| {
            let (length, name) = (offsets.end().get(unit), unit.name());
            let what = format!("[{start},{end}) is not in the text ({length} {name}) or splits a character");
            Error::data("E-SPAN", what).fix("count code points, or say --offset-unit byte or utf16")
        })
    };
    let range = (find(start)?, find(end)?);
    if start > end {
        return Err(Error::data("E-SPAN", format!("[{start},{end}) ends before it begins")));
    }
    Ok(range)
}

/// Ranges that must ascend and not overlap: the tokens or the sentences.
fn ranges(pairs: &[(i64, i64)], offsets: &Offsets, unit: Unit, key: &str) -> Result<Vec<Range>> {
    let code = if key == "sentences" { "E-SENTENCE" } else { "E-SPAN" };
    let mut list: Vec<Range> = Vec::with_capacity(pairs.len());
    for (i, &pair) in pairs.iter().enumerate() {
        let place = || format!("$.{key}[{i}]");
        let found = range(pair, offsets, unit).map_err(|e| e.at(place()))?;
        if list.last().is_some_and(|last| found.0.byte < last.1.byte) {
            let what = format!("{key} [{},{}) begins before the one in front of it ends", pair.0, pair.1);
            return Err(Error::data(code, what).at(place()));
        }
        list.push(found);
    }
    Ok(list)
}

/// All mentions of all entities in order.
fn mention_ranges(entities: &[RawEntity], offsets: &Offsets, text: &str, unit: Unit) -> Result<Vec<Range>> {
    let mut list = Vec::new();
    for (e, entity) in entities.iter().enumerate() {
        for (m, mention) in entity.mentions.0.iter().enumerate() {
            let place = || format!("$.entities[{e}].mentions[{m}]");
            let found = range((mention.start, mention.end), offsets, unit);
            let found = found.map_err(|e| e.context("mention").at(place()))?;
            let slice = &text[found.0.byte..found.1.byte];
            if let Some(said) = mention.text.as_ref().filter(|said| *said != slice) {
                let what = format!("mention text {:?}, the offsets give {:?}", clip(said, 60), clip(slice, 60));
                let fix = "correct the offsets, or say --offset-unit byte or utf16";
                return Err(Error::data("E-SPAN", what).at(place()).fix(fix));
            }
            list.push(found);
        }
    }
    Ok(list)
}

fn split_at_boundaries(text: &str, mentions: &[Range], sentences: Option<&[Range]>) -> Result<Vec<Range>> {
    let all = mentions.iter().chain(sentences.unwrap_or_default());
    let mut boundaries: Vec<usize> = all.flat_map(|(a, b)| [a.byte, b.byte]).collect();
    let tokens = split(text, &mut boundaries, MAX_ITEMS);
    tokens.ok_or_else(|| {
        Error::data("E-SIZE", format!("a text of more than {MAX_ITEMS} tokens")).at("$.text").fix("split the document")
    })
}

/// Which tokens each sentence holds. Every token must lie in one.
fn assign(tokens: &[Range], sentences: &[Range]) -> Result<Segments> {
    let mut segments = Segments::default();
    let mut next = 0;
    for (s, (from, to)) in sentences.iter().enumerate() {
        let first = next;
        while next < tokens.len() && tokens[next].0.byte >= from.byte && tokens[next].1.byte <= to.byte {
            // An empty token on the border of two sentences belongs to the first.
            next += 1;
        }
        segments.push(next - first);
        if let Some(token) = tokens.get(next).filter(|token| token.0.byte < to.byte) {
            return Err(outside(next, token).at(format!("$.sentences[{s}]")));
        }
    }
    match tokens.get(next) {
        Some(token) => Err(outside(next, token).at("$.sentences")),
        None => Ok(segments),
    }
}

fn outside(index: usize, token: &Range) -> Error {
    let what = format!("token {index} [{},{}) does not lie inside one sentence", token.0.char, token.1.char);
    Error::data("E-SENTENCE", what)
}

fn read_entity(
    e: usize,
    raw: RawEntity,
    ranges: &mut impl Iterator<Item = Range>,
    tokens: &[Range],
    text: &str,
) -> Result<Entity> {
    let mut mentions = Vec::with_capacity(raw.mentions.0.len());
    for (m, (mention, range)) in raw.mentions.0.into_iter().zip(ranges).enumerate() {
        let span = cover(tokens, range).map_err(|error| error.at(format!("$.entities[{e}].mentions[{m}]")))?;
        mentions.push(Mention {
            tokens: span,
            chars: Some(Span::new(range.0.char, range.1.char)),
            name: mention.name.unwrap_or_else(|| text[range.0.byte..range.1.byte].to_string()),
            kind: mention.kind.filter(|kind| *kind != raw.kind),
        });
    }
    Ok(Entity { id: raw.id.unwrap_or_else(|| format!("e{e}")), kind: raw.kind, kb: raw.kb, mentions })
}

/// The tokens that `range` covers, each wholly and at least one.
fn cover(tokens: &[Range], range: Range) -> Result<Span> {
    let (from, to) = (range.0.byte, range.1.byte);
    let start = tokens.partition_point(|token| token.0.byte < from);
    let end = tokens.partition_point(|token| token.1.byte <= to);
    let cut_before = start > 0 && tokens[start - 1].1.byte > from;
    let cut_after = tokens.get(end).is_some_and(|token| token.0.byte < to);
    let (a, b) = (range.0.char, range.1.char);
    if cut_before || cut_after {
        let what = format!("mention [{a},{b}) begins or ends inside a token");
        return Err(Error::data("E-SPAN", what).fix("leave out `tokens`: the text is then split at every mention"));
    }
    if start >= end {
        return Err(Error::data("E-SPAN", format!("mention [{a},{b}) holds no token")));
    }
    Ok(Span::new(start, end))
}

/// Index of every entity by its id, which must be its own.
fn entity_index(entities: &[Entity]) -> Result<HashMap<&str, usize>> {
    let mut index = HashMap::with_capacity(entities.len());
    for (e, entity) in entities.iter().enumerate() {
        if index.insert(entity.id.as_str(), e).is_some() {
            let what = format!("two entities with the id {:?}", clip(&entity.id, 40));
            return Err(Error::data("E-ENTITY", what).at(format!("$.entities[{e}].id")));
        }
    }
    Ok(index)
}

fn read_labels(
    raw: Vec<RawLabel>,
    document: &Document,
    index: &HashMap<&str, usize>,
    has_sentences: bool,
) -> Result<Vec<Label>> {
    let count = document.sentences.len();
    let one = |(l, raw): (usize, RawLabel)| {
        let entity = |id: &str, key: &str| {
            index.get(id).copied().ok_or_else(|| {
                let what = format!("label of an unknown entity {:?}", clip(id, 40));
                Error::data("E-LABEL", what).at(format!("$.labels[{l}].{key}"))
            })
        };
        let evidence = raw.evidence.0.iter().enumerate().map(|(i, &s)| {
            let found = u32::try_from(s).ok().filter(|&s| has_sentences && (s as usize) < count);
            found.ok_or_else(|| {
                let there = if has_sentences { format!("there are {count}") } else { "none are given".to_string() };
                let what = format!("evidence in sentence {s}, {there}");
                Error::data("E-SENTENCE", what).at(format!("$.labels[{l}].evidence[{i}]"))
            })
        });
        let evidence = evidence.collect::<Result<_>>()?;
        Ok(Label { head: entity(&raw.h, "h")?, tail: entity(&raw.t, "t")?, relation: raw.r, evidence })
    };
    raw.into_iter().enumerate().map(one).collect()
}

#[derive(Serialize)]
struct OutDocument<'a> {
    schema: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    text: &'a str,
    sentences: Vec<(usize, usize)>,
    tokens: Vec<(usize, usize)>,
    entities: Vec<OutEntity<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<OutLabel<'a>>>,
}

#[derive(Serialize)]
struct OutEntity<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kb: Option<&'a str>,
    mentions: Vec<OutMention<'a>>,
}

#[derive(Serialize)]
struct OutMention<'a> {
    start: usize,
    end: usize,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
}

#[derive(Serialize)]
struct OutLabel<'a> {
    h: &'a str,
    t: &'a str,
    r: &'a str,
    evidence: &'a [u32],
}

/// Writes one line. Nothing that a DocRED document holds is lost. Errors: E-IO; E-SPAN where the
/// document's own spans do not fit its text (made by hand, not by a reader).
pub fn write(out: &mut impl Write, document: &Document, unit: Unit) -> Result<()> {
    let text = document.text_or_joined();
    let offsets = Offsets::new(&text.raw);
    let place = |at: usize| {
        offsets
            .find(Unit::Char, at)
            .ok_or_else(|| Error::data("E-SPAN", format!("{:?}: no code point {at}", document.id)))
    };
    let pair = |span: Span| Ok((place(span.start)?.get(unit), place(span.end)?.get(unit)));
    let tokens = text.tokens.iter().map(|&span| pair(span)).collect::<Result<_>>()?;
    let sentences = sentence_spans(document, &text).into_iter().map(pair).collect::<Result<_>>()?;
    let mut entities = Vec::with_capacity(document.entities.len());
    for entity in &document.entities {
        let mut mentions = Vec::with_capacity(entity.mentions.len());
        for mention in &entity.mentions {
            let span = mention.chars.unwrap_or_else(|| char_span(&text, mention.tokens));
            let (start, end) = pair(span)?;
            let slice = &text.raw[place(span.start)?.byte..place(span.end)?.byte];
            let name = (mention.name != slice).then_some(mention.name.as_str());
            mentions.push(OutMention { start, end, text: slice, name, kind: mention.kind.as_deref() });
        }
        entities.push(OutEntity { id: &entity.id, kind: &entity.kind, kb: entity.kb.as_deref(), mentions });
    }
    let title = (document.title != document.id).then_some(document.title.as_str());
    let labels = document.labels.as_ref().map(|labels| labels.iter().map(|l| out_label(document, l)).collect());
    let value =
        OutDocument { schema: SCHEMA, id: &document.id, title, text: &text.raw, sentences, tokens, entities, labels };
    serde_json::to_writer(&mut *out, &value).map_err(super::unwritable)?;
    out.write_all(b"\n").map_err(|e| Error::io("output", e))
}

/// From the first character of the first token to the last of the last.
fn char_span(text: &Text, tokens: Span) -> Span {
    let start = text.tokens.get(tokens.start).map_or(0, |span| span.start);
    let end = tokens.end.checked_sub(1).and_then(|last| text.tokens.get(last)).map_or(start, |span| span.end);
    Span::new(start, end.max(start))
}

/// An empty sentence stands between its neighbours, where no token can fall into it.
fn sentence_spans(document: &Document, text: &Text) -> Vec<Span> {
    let mut last = 0;
    let span = |range: std::ops::Range<usize>| {
        let span =
            if range.is_empty() { Span::new(last, last) } else { char_span(text, Span::new(range.start, range.end)) };
        last = span.end;
        span
    };
    document.sentences.iter().map(span).collect()
}

fn out_label<'a>(document: &'a Document, label: &'a Label) -> OutLabel<'a> {
    let id = |e: usize| document.entities.get(e).map_or("", |entity| entity.id.as_str());
    OutLabel { h: id(label.head), t: id(label.tail), r: &label.relation, evidence: &label.evidence }
}

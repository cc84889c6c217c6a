//! `docre.v1`: one document a line, with running text and offsets into it.
//!
//! `{"id":"d1","text":"Ada was born in London.","entities":[{"id":"e0","type":"PER","mentions":
//! [{"start":0,"end":3}]}],"labels":[{"h":"e0","t":"e1","r":"P19","evidence":[0]}]}`
//!
//! Optional: `schema`, `title`, `sentences`, `tokens`, `labels`, `pairs` (the candidates `[["e0","e1"],…]`, without them
//! every pair), `undirected` (true: a relation of (h, t) is one of (t, h)); of an entity `id`, `type`, `kb`; of a
//! mention `text` (must equal the slice), `name` (as facts know it) and `type` (where it is not the
//! entity's). Without tokens the text is split at white space, punctuation and every boundary of a
//! mention or sentence; without sentences it is one sentence.

use super::capped::Capped;
use super::document::{Document, Entity, Label, MAX_ENTITIES, MAX_ITEMS, MAX_MENTIONS, MAX_NAMES, Mention, Span, Text};
use super::offsets::{Offsets, Unit};
use super::output::entity_id;
use super::place::json_error;
use super::spans::{Range, assign, cover, range, tokens};
use crate::error::{Error, Result};
use crate::layout::{Pairs, Segments};
use crate::text::clip;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;

pub const SCHEMA: &str = "docre.v1";

type Spans = Capped<(i64, i64), MAX_ITEMS>;

#[derive(Deserialize)]
struct RawDocument {
    schema: Option<String>,
    id: Option<String>,
    title: Option<String>,
    text: String,
    sentences: Option<Spans>,
    tokens: Option<Spans>,
    entities: Capped<RawEntity, MAX_ENTITIES>,
    labels: Option<Capped<RawLabel, MAX_ITEMS>>,
    pairs: Option<Capped<(String, String), MAX_ITEMS>>,
    #[serde(default)]
    undirected: bool,
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

/// Reads one line. `number` names a document that has neither id nor title.
///
/// Errors: E-JSON, E-SPAN, E-SENTENCE, E-ENTITY, E-LABEL, E-PAIR, E-SIZE with the place in the line.
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
    let names: usize = mentions.iter().map(|(from, to)| to.byte - from.byte).sum();
    if names > MAX_NAMES {
        let what = format!("mentions of {names} bytes, at most {MAX_NAMES} are read");
        return Err(Error::data("E-SIZE", what).at("$.entities"));
    }
    let sentences = raw.sentences.map(|s| ranges(&s.0, &offsets, unit, "sentences")).transpose()?;
    let tokens = match &raw.tokens {
        Some(tokens) => ranges(&tokens.0, &offsets, unit, "tokens")?,
        None => tokens(&raw.text, &mentions, sentences.as_deref().unwrap_or_default()).map_err(|e| e.at("$.text"))?,
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
    let pairs = read_pairs(raw.pairs, raw.undirected, &index)?;
    (document.labels, document.pairs) = (labels, pairs);
    document.check_pairs()?;
    let tokens = tokens.iter().map(|(a, b)| Span::new(a.char, b.char)).collect();
    document.text = Some(Text { tokens, raw: raw.text });
    Ok(document)
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
        let entity =
            |id: &str, key: &str| find(index, id, "E-LABEL", "label").map_err(|e| e.at(format!("$.labels[{l}].{key}")));
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

fn find(index: &HashMap<&str, usize>, id: &str, code: &'static str, what: &str) -> Result<usize> {
    let found = index.get(id).copied();
    found.ok_or_else(|| Error::data(code, format!("{what} of an unknown entity {:?}", clip(id, 40))))
}

fn read_pairs(
    raw: Option<Capped<(String, String), MAX_ITEMS>>,
    undirected: bool,
    index: &HashMap<&str, usize>,
) -> Result<Pairs> {
    let Some(raw) = raw else { return Ok(if undirected { Pairs::undirected() } else { Pairs::default() }) };
    let mut pairs = Vec::with_capacity(raw.0.len());
    for (p, (h, t)) in raw.0.iter().enumerate() {
        let entity =
            |id: &str, side| find(index, id, "E-PAIR", "pair").map_err(|e| e.at(format!("$.pairs[{p}][{side}]")));
        pairs.push((entity(h, 0)? as u32, entity(t, 1)? as u32));
    }
    Ok(Pairs::only(pairs, undirected))
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pairs: Option<Vec<[&'a str; 2]>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    undirected: bool,
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
    let pairs = document.pairs.candidates().map(|list| out_pairs(document, list));
    let value = OutDocument {
        schema: SCHEMA,
        id: &document.id,
        title,
        text: &text.raw,
        sentences,
        tokens,
        entities,
        labels,
        pairs,
        undirected: document.pairs.undirected,
    };
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
    let id = |e: usize| entity_id(document, e);
    OutLabel { h: id(label.head), t: id(label.tail), r: &label.relation, evidence: &label.evidence }
}

/// An undirected pair once.
fn out_pairs<'a>(document: &'a Document, list: &[(u32, u32)]) -> Vec<[&'a str; 2]> {
    let once = list.iter().filter(|&&(h, t)| document.pairs.canonical(h, t) == (h, t));
    once.map(|&(h, t)| [h, t].map(|e| entity_id(document, e as usize))).collect()
}

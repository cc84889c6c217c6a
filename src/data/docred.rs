//! DocRED and Re-DocRED: one JSON array of `{title, sents, vertexSet, labels}`.
//!
//! `pos` is the truth about a mention, `name` only its name among the facts of Ign F1. Entities get the
//! ids `e0`, `e1`, … Keys that are not listed here (`global_pos`, `index`) are passed over.

use super::capped::Capped;
use super::document::{Document, Entity, Label, MAX_ENTITIES, MAX_ITEMS, MAX_MENTIONS, MAX_NAMES, Mention, Span};
use super::place::json_error;
use crate::error::{Error, Result};
use crate::layout::Segments;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::io::Write;

#[derive(Deserialize)]
struct RawDocument {
    title: String,
    sents: Sentences,
    #[serde(rename = "vertexSet")]
    entities: Capped<Capped<RawMention, MAX_MENTIONS>, MAX_ENTITIES>,
    labels: Option<Capped<RawLabel, MAX_ITEMS>>,
}

#[derive(Deserialize)]
struct RawMention {
    name: Option<String>,
    pos: (i64, i64),
    sent_id: i64,
    #[serde(rename = "type", default)]
    kind: String,
}

#[derive(Deserialize)]
struct RawLabel {
    h: i64,
    t: i64,
    r: String,
    #[serde(default)]
    evidence: Capped<i64, MAX_ITEMS>,
}

/// `[[token]]`, laid flat while it is read.
#[derive(Default)]
struct Sentences {
    tokens: Vec<String>,
    segments: Segments,
}

impl<'de> Deserialize<'de> for Sentences {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Outer;
        impl<'de> Visitor<'de> for Outer {
            type Value = Sentences;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an array of sentences")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sentences: A) -> Result<Sentences, A::Error> {
                let mut all = Sentences::default();
                while let Some(sentence) = sentences.next_element::<Capped<String, MAX_ITEMS>>()? {
                    if all.tokens.len() + sentence.0.len() > MAX_ITEMS || all.segments.len() == MAX_ITEMS {
                        return Err(A::Error::custom(format!("more than {MAX_ITEMS} tokens or sentences")));
                    }
                    all.segments.push(sentence.0.len());
                    all.tokens.extend(sentence.0);
                }
                Ok(all)
            }
        }
        input.deserialize_seq(Outer)
    }
}

/// Reads one element of the array; `root` is its place, for example `$[17]`.
///
/// Errors: E-JSON, E-SPAN, E-SENTENCE, E-LABEL, E-SIZE with the place below `root`.
pub fn parse(json: &[u8], root: &str) -> Result<Document> {
    let raw: RawDocument = serde_json::from_slice(json).map_err(|e| json_error(&e, json, root))?;
    let mentions: usize = raw.entities.0.iter().map(|e| e.0.len()).sum();
    if mentions > MAX_MENTIONS {
        let what = format!("{mentions} mentions, at most {MAX_MENTIONS} are read");
        return Err(Error::data("E-SIZE", what).at(format!("{root}.vertexSet")));
    }
    let Sentences { tokens, segments: sentences } = raw.sents;
    let mut document = Document { id: raw.title.clone(), title: raw.title, tokens, sentences, ..Document::default() };
    let mut names = 0;
    for (e, raw) in raw.entities.0.into_iter().enumerate() {
        let entity = read_entity(&document, e, raw.0, root, &mut names)?;
        document.entities.push(entity);
    }
    if let Some(labels) = raw.labels {
        let read = labels.0.into_iter().enumerate().map(|(l, label)| read_label(&document, l, label, root));
        document.labels = Some(read.collect::<Result<_>>()?);
    }
    Ok(document)
}

fn read_entity(document: &Document, e: usize, raw: Vec<RawMention>, root: &str, names: &mut usize) -> Result<Entity> {
    let mut entity = Entity { id: format!("e{e}"), ..Entity::default() };
    entity.mentions.reserve_exact(raw.len());
    for (m, raw) in raw.into_iter().enumerate() {
        let place = || format!("{root}.vertexSet[{e}][{m}]");
        let tokens = locate(&document.sentences, &raw).map_err(|(key, error)| error.at(place() + key))?;
        if m == 0 {
            entity.kind = raw.kind.clone();
        }
        let kind = (raw.kind != entity.kind).then_some(raw.kind);
        let mut mention = Mention { tokens, chars: None, name: String::new(), kind };
        mention.name = raw.name.unwrap_or_else(|| document.surface(&mention));
        *names += mention.name.len();
        if *names > MAX_NAMES {
            let what = format!("mentions of more than {MAX_NAMES} bytes, at most so many are read");
            return Err(Error::data("E-SIZE", what).at(place()));
        }
        entity.mentions.push(mention);
    }
    Ok(entity)
}

/// Sentence and `pos` as a range of tokens of the document. An error comes with the key that is wrong.
fn locate(sentences: &Segments, raw: &RawMention) -> Result<Span, (&'static str, Error)> {
    let (from, to) = raw.pos;
    let sentence = usize::try_from(raw.sent_id).ok().filter(|&s| s < sentences.len());
    let Some(s) = sentence else {
        let what = format!("mention in sentence {}, there are {}", raw.sent_id, sentences.len());
        return Err((".sent_id", Error::data("E-SENTENCE", what)));
    };
    let length = sentences.length(s);
    if from < 0 || to <= from {
        return Err((".pos", Error::data("E-SPAN", format!("mention pos [{from},{to}] is empty or negative"))));
    }
    match (usize::try_from(from), usize::try_from(to)) {
        (Ok(from), Ok(to)) if to <= length => {
            let start = sentences.starts[s];
            Ok(Span::new(start + from, start + to))
        }
        _ => {
            let what = format!("mention pos [{from},{to}] ends past sentence {s} ({length} tokens)");
            Err((".pos", Error::data("E-SPAN", what)))
        }
    }
}

fn read_label(document: &Document, l: usize, raw: RawLabel, root: &str) -> Result<Label> {
    let place = |key: &str| format!("{root}.labels[{l}].{key}");
    let entity = |index: i64, key: &str| {
        let found = usize::try_from(index).ok().filter(|&i| i < document.entities.len());
        found.ok_or_else(|| {
            let what = format!("label of entity {index}, there are {}", document.entities.len());
            Error::data("E-LABEL", what).at(place(key))
        })
    };
    let evidence = raw.evidence.0.iter().enumerate().map(|(i, &s)| {
        let found = u32::try_from(s).ok().filter(|&s| (s as usize) < document.sentences.len());
        found.ok_or_else(|| {
            let what = format!("evidence in sentence {s}, there are {}", document.sentences.len());
            Error::data("E-SENTENCE", what).at(place(&format!("evidence[{i}]")))
        })
    });
    let evidence = evidence.collect::<Result<_>>()?;
    Ok(Label { head: entity(raw.h, "h")?, tail: entity(raw.t, "t")?, relation: raw.r, evidence })
}

#[derive(Serialize)]
struct OutDocument<'a> {
    title: &'a str,
    sents: Vec<&'a [String]>,
    #[serde(rename = "vertexSet")]
    entities: Vec<Vec<OutMention<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<OutLabel<'a>>>,
}

#[derive(Serialize)]
struct OutMention<'a> {
    name: &'a str,
    pos: [usize; 2],
    sent_id: usize,
    #[serde(rename = "type")]
    kind: &'a str,
}

#[derive(Serialize)]
struct OutLabel<'a> {
    h: usize,
    t: usize,
    r: &'a str,
    evidence: &'a [u32],
}

/// Writes one element of the array. Lost: running text, ids and knowledge base of entities, candidate pairs and that
/// relations are undirected, which the format has no place for. Errors: E-SPAN for a mention that crosses a sentence's
/// end; E-IO.
pub fn write(out: &mut impl Write, document: &Document) -> Result<()> {
    let sents = document.sentences.iter().map(|s| &document.tokens[s]).collect();
    let mut entities = Vec::with_capacity(document.entities.len());
    for (e, entity) in document.entities.iter().enumerate() {
        let mentions = entity.mentions.iter().enumerate().map(|(m, mention)| {
            out_mention(document, entity, mention).map_err(|error| error.at(format!("$.entities[{e}].mentions[{m}]")))
        });
        entities.push(mentions.collect::<Result<_>>()?);
    }
    let labels = document.labels.as_ref().map(|labels| labels.iter().map(out_label).collect());
    let value = OutDocument { title: &document.title, sents, entities, labels };
    serde_json::to_writer(out, &value).map_err(super::unwritable)
}

fn out_mention<'a>(document: &'a Document, entity: &'a Entity, mention: &'a Mention) -> Result<OutMention<'a>> {
    let Span { start, end } = mention.tokens;
    let sent_id = document.sentence_of(start);
    if sent_id >= document.sentences.len() || end > document.sentences.starts[sent_id + 1] {
        let what = format!("{:?}: DocRED has no mentions across the end of a sentence", document.title);
        return Err(Error::data("E-SPAN", what).fix("join the sentences, or write JSONL"));
    }
    let offset = document.sentences.starts[sent_id];
    let kind = mention.kind.as_deref().unwrap_or(&entity.kind);
    Ok(OutMention { name: &mention.name, pos: [start - offset, end - offset], sent_id, kind })
}

fn out_label(label: &Label) -> OutLabel<'_> {
    OutLabel { h: label.head, t: label.tail, r: &label.relation, evidence: &label.evidence }
}

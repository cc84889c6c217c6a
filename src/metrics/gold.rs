//! What an evaluation keeps of the gold documents: no text, only names, sentences and relations.

use super::names::Names;
use crate::data::{Document, Entity};
use crate::layout::Pairs;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// (head, tail, relation) in one document; the relation is a number of [`Gold::relations`].
pub type Fact = (u32, u32, u32);

#[derive(Clone, Debug, Default)]
pub struct GoldEntity {
    pub id: String,
    pub kind: String,
    /// Names of its mentions, as facts know them.
    pub names: Vec<String>,
    /// Sentences with a mention, ascending.
    pub sentences: Vec<u32>,
    /// How many mentions it has.
    pub mentions: usize,
}

#[derive(Clone, Debug, Default)]
pub struct GoldDocument {
    pub title: String,
    pub entities: Vec<GoldEntity>,
    /// Each fact once, with the sentences of its evidence.
    pub facts: BTreeMap<Fact, BTreeSet<u32>>,
    /// What may be predicted. An undirected pair is counted once, lower entity first, in gold and predictions alike, as
    /// the evaluations of BioRED and CDR do, which compare unordered pairs of concepts.
    pub pairs: Pairs,
}

#[derive(Clone, Debug, Default)]
pub struct Gold {
    pub documents: Vec<GoldDocument>,
    pub relations: Names,
    by_title: HashMap<String, usize>,
    by_id: HashMap<String, usize>,
    /// Documents whose title an earlier one had: their relations are added to the earlier document.
    pub repeated_titles: usize,
}

impl Gold {
    /// Adds a document and gives its number. Labels that stand twice count once; `Na` is no fact.
    pub fn add(&mut self, document: &Document) -> usize {
        let known = self.by_title.get(&document.title).copied();
        self.repeated_titles += usize::from(known.is_some());
        let number = known.unwrap_or_else(|| {
            let entities = document.entities.iter().map(|entity| read_entity(document, entity)).collect();
            let title = document.title.clone();
            let pairs = document.pairs.clone();
            self.documents.push(GoldDocument { title, entities, facts: BTreeMap::new(), pairs });
            self.documents.len() - 1
        });
        self.by_title.entry(document.title.clone()).or_insert(number);
        self.by_id.entry(document.id.clone()).or_insert(number);
        for label in document.gold().iter().filter(|label| !label.relation.eq_ignore_ascii_case("na")) {
            let (head, tail) = document.pairs.canonical(label.head as u32, label.tail as u32);
            let fact = (head, tail, self.relations.add(&label.relation));
            self.documents[number].facts.entry(fact).or_default().extend(&label.evidence);
        }
        number
    }

    pub fn by_title(&self, title: &str) -> Option<usize> {
        self.by_title.get(title).copied()
    }
    pub fn by_id(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }
    pub fn facts(&self) -> usize {
        self.documents.iter().map(|d| d.facts.len()).sum()
    }
}

impl GoldDocument {
    /// Whether some mention of each of the two share a sentence.
    pub fn is_intra(&self, head: u32, tail: u32) -> bool {
        match (self.entities.get(head as usize), self.entities.get(tail as usize)) {
            (Some(h), Some(t)) => h.sentences.iter().any(|s| t.sentences.binary_search(s).is_ok()),
            _ => false,
        }
    }
    /// Pairs (h, t) with some h -> o -> t in gold, o neither of them: t can be inferred from h.
    pub fn two_step_pairs(&self) -> BTreeSet<(u32, u32)> {
        let edges: BTreeSet<(u32, u32)> = self.facts.keys().map(|&(h, t, _)| (h, t)).collect();
        let mut pairs = BTreeSet::new();
        for &(h, o) in edges.iter().filter(|(h, o)| h != o) {
            let next = edges.range((o, 0)..=(o, u32::MAX)).map(|&(_, t)| t);
            pairs.extend(next.filter(|&t| t != o && t != h).map(|t| (h, t)));
        }
        pairs
    }
    pub fn entity(&self, id: &str) -> Option<u32> {
        self.entities.iter().position(|e| e.id == id).map(|e| e as u32)
    }
}

fn read_entity(document: &Document, entity: &Entity) -> GoldEntity {
    let spans = entity.mentions.iter().map(|m| m.tokens).filter(|span| !span.is_empty());
    let touched = spans.flat_map(|span| document.sentence_of(span.start)..=document.sentence_of(span.end - 1));
    let sentences: BTreeSet<u32> = touched.map(|s| s as u32).collect();
    let mut names: Vec<String> = entity.mentions.iter().map(|m| m.name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let sentences = sentences.into_iter().collect();
    let mentions = entity.mentions.len();
    GoldEntity { id: entity.id.clone(), kind: entity.kind.clone(), names, sentences, mentions }
}

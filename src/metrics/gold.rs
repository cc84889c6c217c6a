//! What an evaluation keeps of the gold documents: no text, only names, sentences and relations.

use super::names::Names;
use crate::data::{Document, Entity};
use crate::error::{Error, Result};
use crate::layout::Pairs;
use crate::text::clip;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// (head, tail, relation) in one document; the relation is a number of [`Gold::relations`].
pub type Fact = (u32, u32, u32);

#[derive(Clone, Debug, Default, PartialEq)]
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
    by_id: HashMap<String, usize>,
    /// None: several documents have the title.
    by_title: HashMap<String, Option<usize>>,
    /// Documents that stood there before: their relations are added to the earlier ones.
    pub repeated: usize,
}

impl Gold {
    /// Adds a document and gives its number. Labels that stand twice count once; `Na` is no fact.
    ///
    /// Error: E-TITLE for another document with the id of one before (in DocRED's form: its title).
    pub fn add(&mut self, document: &Document) -> Result<usize> {
        let number = self.number(document)?;
        for label in document.gold().iter().filter(|label| !label.relation.eq_ignore_ascii_case("na")) {
            let (head, tail) = document.pairs.canonical(label.head as u32, label.tail as u32);
            let fact = (head, tail, self.relations.add(&label.relation));
            self.documents[number].facts.entry(fact).or_default().extend(&label.evidence);
        }
        Ok(number)
    }

    fn number(&mut self, document: &Document) -> Result<usize> {
        let entities = document.entities.iter().map(|entity| read_entity(document, entity)).collect();
        if let Some(&known) = self.by_id.get(&document.id) {
            let first = &self.documents[known];
            if (&first.title, &first.entities) != (&document.title, &entities) {
                let what = format!("{:?} is the name of two documents", clip(&document.id, 60));
                return Err(Error::data("E-TITLE", what).fix("give them different ids, or take one of them out"));
            }
            self.repeated += 1;
            return Ok(known);
        }
        let number = self.documents.len();
        self.by_id.insert(document.id.clone(), number);
        self.by_title.entry(document.title.clone()).and_modify(|one| *one = None).or_insert(Some(number));
        let (title, pairs) = (document.title.clone(), document.pairs.clone());
        self.documents.push(GoldDocument { title, entities, facts: BTreeMap::new(), pairs });
        Ok(number)
    }

    /// The document of this title. Error: E-TITLE where there are several.
    pub fn by_title(&self, title: &str) -> Result<Option<usize>> {
        match self.by_title.get(title) {
            Some(None) => {
                Err(Error::data("E-TITLE", format!("{:?} is the title of several documents", clip(title, 60)))
                    .fix("predictions as docre.v1 lines, which have ids"))
            }
            found => Ok(found.copied().flatten()),
        }
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

//! Facts of the training set, for Ign F1: (head name, tail name, relation).

use super::names::Names;
use crate::data::frames::{Frames, Shape, stream};
use crate::data::place::json_error;
use crate::data::{Document, Format, Unit, docred};
use crate::error::Result;
use std::collections::HashSet;
use std::path::Path;

#[derive(Clone, Debug, Default)]
pub struct Facts {
    names: Names,
    facts: HashSet<(u32, u32, u32)>,
}

impl Facts {
    /// Reads a list of `[head name, tail name, relation]`, or the facts of a training file in any
    /// format: every name of the head with every name of the tail. Several files add up.
    ///
    /// Errors: E-IO, E-JSON and those of a document.
    pub fn read(&mut self, path: &Path, unit: Unit) -> Result<()> {
        let mut frames = Frames::open(stream(path)?, None)?; // told by how it begins: not in the documents' format
        let shape = frames.shape();
        while let Some((position, frame)) = frames.next_frame() {
            let root = format!("$[{}]", position.index);
            let read = frame.and_then(|json| match shape {
                Shape::Array => self.read_one(json, &root),
                _ => Format::of(shape).parse(json, position, unit).map(|d| self.add_document(&d)),
            });
            read.map_err(|e| e.context(path.display()))?;
        }
        Ok(())
    }

    fn read_one(&mut self, json: &[u8], root: &str) -> Result<()> {
        if json.first() == Some(&b'{') {
            self.add_document(&docred::parse(json, root)?);
            return Ok(());
        }
        let (head, tail, relation): (String, String, String) =
            serde_json::from_slice(json).map_err(|e| json_error(&e, json, root))?;
        self.add(&head, &tail, &relation);
        Ok(())
    }

    pub fn add(&mut self, head: &str, tail: &str, relation: &str) {
        let fact = (self.names.add(head), self.names.add(tail), self.names.add(relation));
        self.facts.insert(fact);
    }

    pub fn add_document(&mut self, document: &Document) {
        for label in document.gold() {
            let (Some(head), Some(tail)) = (document.entities.get(label.head), document.entities.get(label.tail))
            else {
                continue;
            };
            for h in &head.mentions {
                for t in &tail.mentions {
                    self.add(&h.name, &t.name, &label.relation);
                }
            }
        }
    }

    pub fn len(&self) -> usize {
        self.facts.len()
    }
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// Whether any name of the head and any of the tail are a fact with `relation`.
    pub fn contains_any(&self, heads: &[String], tails: &[String], relation: &str) -> bool {
        let Some(r) = self.names.get(relation) else { return false };
        let tails: Vec<u32> = tails.iter().filter_map(|t| self.names.get(t)).collect();
        let mut heads = heads.iter().filter_map(|h| self.names.get(h));
        heads.any(|h| tails.iter().any(|&t| self.facts.contains(&(h, t, r))))
    }
}

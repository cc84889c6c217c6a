//! The classes of a model: their order, codes (`P17`) and names (`country`). Class 0 is the threshold.

use super::document::Document;
use crate::error::{Error, Kind, Result};
use crate::layout::Labels;
use crate::text::{clip, distance};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// The code that class 0 gets where the data does not name it.
pub const THRESHOLD: &str = "Na";

/// What to do with a label whose relation the inventory does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    Error,
    Skip,
}

/// Relation classes in the model's order. Two inventories are equal if codes and their order are.
#[derive(Clone, Debug)]
pub struct Relations {
    codes: Vec<String>,
    names: Vec<Option<String>>,
    index: HashMap<String, usize>,
}

impl PartialEq for Relations {
    fn eq(&self, other: &Self) -> bool {
        self.codes == other.codes
    }
}

/// One class in `relations.json`.
#[derive(Serialize, Deserialize)]
struct Entry {
    id: usize,
    r: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

fn is_threshold(code: &str) -> bool {
    code.eq_ignore_ascii_case(THRESHOLD)
}

impl Relations {
    /// Class `i` is `codes[i]`; class 0 must be `Na`. Errors: E-RELATION for a code that stands twice.
    pub fn from_codes(codes: Vec<String>) -> Result<Self> {
        if !codes.first().is_some_and(|code| is_threshold(code)) {
            let first = codes.first().map_or("missing".to_string(), |code| format!("{:?}", clip(code, 40)));
            let what = format!("class 0 must be the threshold {THRESHOLD:?}, it is {first}");
            return Err(Error::data("E-RELATION", what).fix("give \"Na\" the id 0"));
        }
        let mut index = HashMap::with_capacity(codes.len());
        for (i, code) in codes.iter().enumerate() {
            if index.insert(code.clone(), i).is_some() || (i > 0 && is_threshold(code)) {
                return Err(Error::data("E-RELATION", format!("two classes named {:?}", clip(code, 40))));
            }
        }
        Ok(Relations { names: vec![None; codes.len()], codes, index })
    }

    /// The threshold, then the names in sorted order: for data that comes without rel2id.json.
    pub fn from_names(names: impl IntoIterator<Item = String>) -> Self {
        let mut codes: Vec<String> = names.into_iter().filter(|name| !is_threshold(name)).collect();
        codes.sort_unstable();
        codes.dedup();
        codes.insert(0, THRESHOLD.to_string());
        let index = codes.iter().cloned().enumerate().map(|(i, code)| (code, i)).collect();
        Relations { names: vec![None; codes.len()], codes, index }
    }

    /// Reads `rel2id.json`, `{"Na": 0, "P17": 1, …}`: ids are kept and must be 0..n without holes.
    pub fn read_rel2id(path: &Path) -> Result<Self> {
        let ids: BTreeMap<String, i64> = read_json(path)?;
        let mut codes = vec![None; ids.len()];
        for (code, id) in ids {
            let count = codes.len();
            let slot = usize::try_from(id).ok().and_then(|id| codes.get_mut(id)).filter(|slot| slot.is_none());
            let Some(slot) = slot else {
                let what =
                    format!("{:?} has the id {id}; ids must be 0 to {} without holes", clip(&code, 40), count - 1);
                return Err(Error::data("E-RELATION", what).context(path.display()));
            };
            *slot = Some(code);
        }
        Self::from_codes(codes.into_iter().flatten().collect()).map_err(|e| e.context(path.display()))
    }

    /// Adds the names of `rel_info.json`, `{"P17": "country", …}`. Codes without a name keep none.
    pub fn read_names(&mut self, path: &Path) -> Result<()> {
        let names: HashMap<String, String> = read_json(path)?;
        for (code, name) in self.codes.iter().zip(&mut self.names) {
            *name = names.get(code).cloned();
        }
        Ok(())
    }

    /// Reads `relations.json` of a model: `[{"id":0,"r":"Na"},{"id":1,"r":"P17","name":"country"},…]`,
    /// in the order of ids; `r` and `name` are what predictions print under these keys.
    pub fn load(path: &Path) -> Result<Self> {
        let entries: Vec<Entry> = read_json(path)?;
        if let Some((i, entry)) = entries.iter().enumerate().find(|(i, entry)| *i != entry.id) {
            let what = format!("{}: id {} stands at place {i}; ids must be 0, 1, 2, …", path.display(), entry.id);
            return Err(Error::data("E-RELATION", what).at(format!("$[{i}].id")));
        }
        let (codes, names) = entries.into_iter().map(|entry| (entry.r, entry.name)).unzip();
        let mut relations = Self::from_codes(codes).map_err(|e| e.context(path.display()))?;
        relations.names = names;
        Ok(relations)
    }

    /// Those of a model directory: what is wrong with its `relations.json` is wrong with the model, not with a document.
    pub fn of_model(dir: &Path) -> Result<Self> {
        let blame = |e: Error| if e.kind() == Kind::Data { e.of_kind(Kind::Model) } else { e };
        Self::load(&dir.join("relations.json")).map_err(blame)
    }

    /// Reads either form: an object is rel2id.json, a list relations.json.
    pub fn read_any(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
            Some(b'[') => Self::load(path),
            _ => Self::read_rel2id(path),
        }
    }

    /// The text of `relations.json`, one class a line.
    pub fn to_json(&self) -> Result<String> {
        let mut lines = Vec::with_capacity(self.len());
        for (id, (r, name)) in self.codes.iter().zip(&self.names).enumerate() {
            let entry = Entry { id, r: r.clone(), name: name.clone() };
            lines.push(serde_json::to_string(&entry).map_err(super::unwritable)?);
        }
        Ok(format!("[{}]\n", lines.join(",\n")))
    }

    /// Number of classes, the threshold included.
    pub fn len(&self) -> usize {
        self.codes.len()
    }
    /// Never: class 0 is always there.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }
    pub fn codes(&self) -> &[String] {
        &self.codes
    }
    /// The code of class `id`, for example `P17`; empty past the last.
    pub fn code(&self, id: usize) -> &str {
        self.codes.get(id).map_or("", String::as_str)
    }
    /// The name of class `id` for people, for example `country`.
    pub fn name(&self, id: usize) -> Option<&str> {
        self.names.get(id)?.as_deref()
    }
    /// The class of a code. Every spelling of `Na` is class 0.
    pub fn id(&self, code: &str) -> Option<usize> {
        self.index.get(code).copied().or_else(|| is_threshold(code).then_some(0))
    }

    /// As `id`. Error: E-RELATION with the nearest code or name.
    pub fn require(&self, code: &str) -> Result<usize> {
        self.id(code).ok_or_else(|| self.unknown(code))
    }

    /// The class that people mean by its code or, in any case, its name; never the threshold.
    ///
    /// Error: E-RELATION with the nearest code.
    pub fn find(&self, text: &str) -> Result<usize> {
        let named = |id: &usize| self.name(*id).is_some_and(|name| name.eq_ignore_ascii_case(text));
        let found = self.id(text).filter(|id| *id > 0).or_else(|| (1..self.len()).find(named));
        found.ok_or_else(|| self.unknown(text))
    }

    fn unknown(&self, code: &str) -> Error {
        let error = Error::data("E-RELATION", format!("unknown relation {:?}", clip(code, 40)));
        match self.nearest(code) {
            Some(near) => {
                let name = self.id(near).and_then(|id| self.name(id));
                let name = name.map(|name| format!(" ({})", clip(name, 60))).unwrap_or_default();
                error.fix(format!("did you mean {near:?}{name}?"))
            }
            None => error.fix(format!("the inventory has {} relations, this is none of them", self.len() - 1)),
        }
    }

    /// The code whose spelling, or whose name's, is nearest to `text`.
    pub fn nearest(&self, text: &str) -> Option<&str> {
        let limit = text.chars().take(64).count().div_ceil(3);
        let far = |i: usize| {
            let name = self.name(i).map_or(usize::MAX, |name| distance(text, name));
            distance(text, &self.codes[i]).min(name)
        };
        let best = (1..self.len()).map(|i| (far(i), i)).min()?;
        (best.0 <= limit).then(|| self.code(best.1))
    }

    /// Gold relations as bits, `entities^2` cells of `len()` classes, with their evidence, and how many labels were
    /// skipped.
    ///
    /// A label `Na` says that there is no relation: no bit. A relation given twice counts once. An undirected one is set
    /// both ways, and cells that are no candidate pair are left out. Errors: E-RELATION with the document and the place,
    /// unless `unknown` is `Skip`; E-LABEL; E-OOM where the cells do not fit into memory.
    pub fn encode(&self, document: &Document, unknown: Unknown) -> Result<(Labels, usize)> {
        let side = document.entities.len();
        let mut labels = self.empty_labels(side).map_err(|e| e.context(format!("{:?}", clip(&document.id, 60))))?;
        let outside = |cell: &usize| !document.pairs.contains(cell / side, cell % side);
        (0..side * side).filter(outside).for_each(|cell| labels.leave_out(cell));
        let (mut evidence, mut skipped) = (BTreeSet::new(), 0);
        for (l, label) in document.gold().iter().enumerate() {
            let located = |e: Error| e.context(format!("{:?}", clip(&document.id, 60))).at(format!("$.labels[{l}]"));
            if label.head.max(label.tail) >= side {
                return Err(located(Error::data("E-LABEL", format!("a label of an entity past the {side} there are"))));
            }
            match self.id(&label.relation) {
                Some(0) => {}
                Some(class) => {
                    let both = [(label.head, label.tail), (label.tail, label.head)];
                    for (head, tail) in &both[..1 + usize::from(document.pairs.undirected)] {
                        let cell = head * side + tail;
                        labels.set(cell, class);
                        evidence.extend(label.evidence.iter().map(|&sentence| (cell as u32, class, sentence)));
                    }
                }
                None if unknown == Unknown::Skip => skipped += 1,
                None => return Err(located(self.unknown(&label.relation))),
            }
        }
        labels.evidence = evidence.into_iter().map(|(cell, _, sentence)| (cell, sentence)).collect();
        Ok((labels, skipped))
    }

    fn empty_labels(&self, side: usize) -> Result<Labels> {
        let words = (side * side).saturating_mul(self.len().div_ceil(64));
        let mut probe: Vec<u64> = Vec::new();
        probe.try_reserve_exact(words).map_err(|_| {
            Error::device("E-OOM", format!("{side} entities: no memory for {} MB of labels", words >> 17))
        })?;
        drop(probe);
        Ok(Labels::new(side * side, self.len()))
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| super::place::json_error(&e, &bytes, "$").context(path.display()))
}

//! Where documents, entities and cells lie in packed tensors: rows one behind the other, without padding or masks.

use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// Starts of consecutive runs of rows: run `i` is `starts[i]..starts[i + 1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    pub starts: Vec<usize>,
}

impl Default for Segments {
    fn default() -> Self {
        Segments { starts: vec![0] }
    }
}

impl Segments {
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut segments = Segments::default();
        lengths.into_iter().for_each(|n| segments.push(n));
        segments
    }
    pub fn push(&mut self, length: usize) {
        self.starts.push(self.rows() + length);
    }
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Rows of all segments together.
    pub fn rows(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }
    pub fn range(&self, i: usize) -> Range<usize> {
        self.starts[i]..self.starts[i + 1]
    }
    pub fn length(&self, i: usize) -> usize {
        self.starts[i + 1] - self.starts[i]
    }
    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        (0..self.len()).map(|i| self.range(i))
    }
}

/// Tables of cells, one a document: table `d` has `side(d)^2` rows, row-major (subject, object).
///
/// `repeat[d]` says how many identical pad entities the last index of table `d` stands for (spec §4);
/// 0: none, every index is an entity of the document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    pub side: Vec<usize>,
    pub cells: Segments,
    pub repeat: Vec<usize>,
}

impl Tables {
    /// Exactly `n x n` cells for a document of `n` entities.
    pub fn exact(entities: &[usize]) -> Self {
        Self::padded(entities, 0)
    }
    /// As `exact`, with a pad index that stands for the `pad - n` missing entities where `n < pad`.
    pub fn padded(entities: &[usize], pad: usize) -> Self {
        let repeat: Vec<usize> = entities.iter().map(|&n| pad.saturating_sub(n)).collect();
        let side: Vec<usize> = entities.iter().zip(&repeat).map(|(&n, &r)| n + usize::from(r > 0)).collect();
        let cells = Segments::from_lengths(side.iter().map(|n| n * n));
        Tables { side, cells, repeat }
    }
    pub fn len(&self) -> usize {
        self.side.len()
    }
    pub fn is_empty(&self) -> bool {
        self.side.is_empty()
    }
    /// Entities of document `d`, the pad index not counted.
    pub fn entities(&self, d: usize) -> usize {
        self.side[d] - usize::from(self.repeat[d] > 0)
    }
}

/// A document as the model reads it.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    /// Word pieces with the special tokens around them, of any length.
    pub ids: Vec<u32>,
    /// Per entity, per mention: the index in `ids` of its opening `*`.
    pub mentions: Vec<Vec<u32>>,
    /// Runs of `ids`, one a sentence. A `*` belongs to the sentence of the token that it stands beside (a mention
    /// across sentences has its two in different ones), the special tokens at both ends to none.
    pub sentences: Vec<Range<u32>>,
    pub pairs: Pairs,
}

/// Which pairs of entities of a document may have relations, and whether these have a direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// A relation of (h, t) is one of (t, h): a model learns both, and what it finds both ways counts once.
    pub undirected: bool,
    /// Ascending; None: every pair.
    candidates: Option<Vec<(u32, u32)>>,
}

impl Pairs {
    pub fn undirected() -> Self {
        Pairs { undirected: true, candidates: None }
    }
    /// Only these (head, tail), in any order, some perhaps twice; undirected: also the other way round.
    pub fn only(mut candidates: Vec<(u32, u32)>, undirected: bool) -> Self {
        if undirected {
            candidates.extend_from_within(..);
            let half = candidates.len() / 2;
            candidates[half..].iter_mut().for_each(|(h, t)| std::mem::swap(h, t));
        }
        candidates.sort_unstable();
        candidates.dedup();
        Pairs { undirected, candidates: Some(candidates) }
    }
    /// None: every pair is one.
    pub fn candidates(&self) -> Option<&[(u32, u32)]> {
        self.candidates.as_deref()
    }
    pub fn contains(&self, head: usize, tail: usize) -> bool {
        let known = |list: &Vec<_>| list.binary_search(&(head as u32, tail as u32)).is_ok();
        self.candidates.as_ref().is_none_or(known)
    }
    /// The pair as predictions and gold relations are counted: an undirected one begins with the lower index.
    pub fn canonical<T: Ord>(&self, head: T, tail: T) -> (T, T) {
        if self.undirected && tail < head { (tail, head) } else { (head, tail) }
    }
    /// Pairs of two of `entities` that are asked about; of an undirected one both directions are one.
    pub fn count(&self, entities: usize) -> usize {
        let ordered = match &self.candidates {
            Some(list) => list.iter().filter(|(h, t)| h != t).count(),
            None => entities * entities.saturating_sub(1),
        };
        if self.undirected { ordered / 2 } else { ordered }
    }
}

/// Gold relations of one document: a bit mask of `classes` bits a cell (subject-major, diagonal included).
///
/// A cell with no bit has no relation. Bit 0, the threshold class, is no gold class: it says that the cell is left out,
/// whatever its other bits; a loss neither counts such a cell nor learns from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    pub classes: usize,
    /// `cells x words` with `words = classes.div_ceil(64)`.
    pub bits: Vec<u64>,
    /// (cell, sentence) once for each relation of the cell that names the sentence as evidence, by cell.
    pub evidence: Vec<(u32, u32)>,
}

impl Labels {
    pub fn new(cells: usize, classes: usize) -> Self {
        Labels { classes, bits: vec![0; cells * classes.div_ceil(64)], evidence: Vec::new() }
    }
    pub fn words(&self) -> usize {
        self.classes.div_ceil(64)
    }
    pub fn cells(&self) -> usize {
        self.bits.len() / self.words().max(1)
    }
    pub fn set(&mut self, cell: usize, class: usize) {
        let words = self.words();
        self.bits[cell * words + class / 64] |= 1 << (class % 64);
    }
    pub fn get(&self, cell: usize, class: usize) -> bool {
        self.bits[cell * self.words() + class / 64] >> (class % 64) & 1 == 1
    }
    /// The loss passes over this cell.
    pub fn leave_out(&mut self, cell: usize) {
        self.set(cell, 0);
    }
    pub fn is_left_out(&self, cell: usize) -> bool {
        self.get(cell, 0)
    }
    /// Gold relations of a cell.
    pub fn relations(&self, cell: usize) -> usize {
        let ones: u32 = self.bits[cell * self.words()..][..self.words()].iter().map(|w| w.count_ones()).sum();
        ones as usize - usize::from(self.is_left_out(cell))
    }
    /// Puts the cells of `other` behind these.
    pub fn append(&mut self, other: &Labels) {
        debug_assert!(self.classes == other.classes);
        let cells = self.cells() as u32;
        self.evidence.extend(other.evidence.iter().map(|&(cell, sentence)| (cells + cell, sentence)));
        self.bits.extend_from_slice(&other.bits);
    }
}

/// An ordered pair of entities of document `document` of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub document: u32,
    pub subject: u32,
    pub object: u32,
}

/// The cells, unordered pairs and entities of a batch of documents.
///
/// Document `d` has `n` entities (rows `entities.range(d)`), `n (n + 1) / 2` unordered pairs with
/// `a <= b` (rows `pairs.range(d)`, by a, then b) and a table of cells, perhaps with a pad index.
#[derive(Clone, Debug, Default)]
pub struct Grid {
    pub tables: Arc<Tables>,
    pub entities: Segments,
    pub pairs: Segments,
}

impl Grid {
    /// `pad_entities` as in [`Tables::padded`].
    pub fn new(entities: &[usize], pad_entities: usize) -> Self {
        Grid {
            tables: Arc::new(Tables::padded(entities, pad_entities)),
            entities: Segments::from_lengths(entities.iter().copied()),
            pairs: Segments::from_lengths(entities.iter().map(|n| n * (n + 1) / 2)),
        }
    }
    /// Row of the unordered pair `{s, o}` of document `d`; `None` if one of them is the pad index.
    pub fn pair(&self, d: usize, s: usize, o: usize) -> Option<usize> {
        let n = self.entities.length(d);
        let (a, b) = (s.min(o), s.max(o));
        (b < n).then(|| self.pairs.starts[d] + a * (2 * n + 1 - a) / 2 + (b - a))
    }
}

/// Rows as weighted sums of other rows: row `i` is the sum of `weight[j] * x[index[j]]` over `j` in `rows.range(i)`.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub rows: Segments,
    pub index: Vec<u32>,
    pub weight: Vec<f64>,
}

impl Sources {
    /// Refuses indices past `rows` and lists of unequal length, in the name of `op`.
    pub fn check(&self, op: &str, rows: usize) -> Result<()> {
        if self.rows.rows() != self.index.len() || self.index.len() != self.weight.len() {
            return Err(Error::shape(
                op,
                "indices and weights",
                self.rows.rows(),
                (self.index.len(), self.weight.len()),
            ));
        }
        match self.index.iter().find(|&&i| i as usize >= rows) {
            Some(i) => Err(Error::shape(op, "a source row", format!("below {rows}"), i)),
            None => Ok(()),
        }
    }
    /// The other direction: for each of `rows` source rows, the rows that use it, ascending, with their weights.
    pub fn transposed(&self, rows: usize) -> Sources {
        let mut uses = vec![0; rows];
        self.index.iter().for_each(|&i| uses[i as usize] += 1);
        let by_source = Segments::from_lengths(uses);
        let mut next = by_source.starts.clone();
        let (mut index, mut weight) = (vec![0; self.index.len()], vec![0.0; self.index.len()]);
        for (row, range) in self.rows.iter().enumerate() {
            for j in range {
                let at = &mut next[self.index[j] as usize];
                (index[*at], weight[*at]) = (row as u32, self.weight[j]);
                *at += 1;
            }
        }
        Sources { rows: by_source, index, weight }
    }
}

/// One encoder window of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its rows in the packed encoder tensors, special tokens included.
    pub rows: Range<usize>,
    /// The document positions that it answers for.
    pub keep: Range<usize>,
    /// The packed row of document position `keep.start`.
    pub first: usize,
}

impl Window {
    /// The packed row of document position `t`, if the window keeps it.
    pub fn row(&self, t: usize) -> Option<usize> {
        self.keep.contains(&t).then(|| self.first + t - self.keep.start)
    }
    /// The kept rows, counted from the window's first row.
    pub fn local(&self) -> Range<usize> {
        let from = self.first - self.rows.start;
        from..from + self.keep.len()
    }
}

/// Tokens, windows, entities and mentions of a batch of documents.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    /// Document positions, packed.
    pub tokens: Segments,
    /// Windows of each document, into `window`.
    pub windows: Segments,
    pub window: Vec<Window>,
    /// Entities of each document.
    pub entities: Segments,
    /// Mentions of each entity, into `mention`.
    pub mentions: Segments,
    /// Document position of each mention's opening marker.
    pub mention: Vec<usize>,
    /// Sentences of each document, into `sentence`.
    pub sentences: Segments,
    /// Document positions of each sentence.
    pub sentence: Vec<Range<usize>>,
}

impl Documents {
    pub fn len(&self) -> usize {
        self.tokens.len()
    }
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
    pub fn windows_of(&self, d: usize) -> &[Window] {
        &self.window[self.windows.range(d)]
    }
    pub fn mentions_of(&self, entity: usize) -> &[usize] {
        &self.mention[self.mentions.range(entity)]
    }
    pub fn sentences_of(&self, d: usize) -> &[Range<usize>] {
        &self.sentence[self.sentences.range(d)]
    }
    /// Packed encoder rows of document `d`: its windows follow each other.
    pub fn rows_of(&self, d: usize) -> Range<usize> {
        match self.windows_of(d) {
            [first, .., last] => first.rows.start..last.rows.end,
            [only] => only.rows.clone(),
            [] => 0..0,
        }
    }
    /// Elements of the entity attention of each document over `heads`: `[entities, heads, tokens]` blocks.
    pub fn attention(&self, heads: usize) -> Segments {
        let size = |d| self.entities.length(d) * heads * self.tokens.length(d);
        Segments::from_lengths((0..self.len()).map(size))
    }
}

/// Pairs of a batch whose evidence is asked for: row `i` has a value for each sentence of the document of `cells[i]`.
#[derive(Clone, Debug)]
pub struct EvidencePairs {
    pub documents: Arc<Documents>,
    pub cells: Vec<Cell>,
    pub rows: Segments,
}

impl EvidencePairs {
    /// Errors: E-SHAPE for a cell that the documents do not have, or a sentence outside of its document.
    pub fn new(documents: &Arc<Documents>, cells: Vec<Cell>) -> Result<Self> {
        if documents.sentences.len() != documents.len() {
            return Err(Error::shape("evidence", "lists of sentences", documents.len(), documents.sentences.len()));
        }
        for (d, tokens) in documents.tokens.iter().enumerate() {
            if let Some(s) = documents.sentences_of(d).iter().find(|s| s.start > s.end || s.end > tokens.len()) {
                return Err(Error::shape("evidence", "a sentence", format!("within {} tokens", tokens.len()), s));
            }
        }
        let entities = |c: &Cell| match (c.document as usize) < documents.len() {
            true => documents.entities.length(c.document as usize),
            false => 0,
        };
        if let Some(c) = cells.iter().find(|c| c.subject.max(c.object) as usize >= entities(c)) {
            return Err(Error::shape("evidence", "a pair", format!("of {} documents' entities", documents.len()), c));
        }
        let rows = Segments::from_lengths(cells.iter().map(|c| documents.sentences.length(c.document as usize)));
        Ok(EvidencePairs { documents: documents.clone(), cells, rows })
    }
    /// The pair's subject and object among all entities of the batch.
    pub fn entities(&self, pair: usize) -> [usize; 2] {
        let Cell { document, subject, object } = self.cells[pair];
        [subject, object].map(|e| self.documents.entities.starts[document as usize] + e as usize)
    }
    /// For each entity of the batch the pairs that it is in, ascending, each with the other entity; a pair of an entity
    /// with itself twice.
    pub fn by_entity(&self) -> Vec<Vec<(usize, usize)>> {
        let mut uses = vec![Vec::new(); self.documents.entities.rows()];
        for pair in 0..self.cells.len() {
            let [s, o] = self.entities(pair);
            uses[s].push((pair, o));
            uses[o].push((pair, s));
        }
        uses
    }
}

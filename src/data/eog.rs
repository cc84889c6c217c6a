//! CDR and GDA as the edge-oriented graph has them, whose files ATLOP and others train on (Christopoulou et al.,
//! EMNLP 2019; written by `data_processing/process.py` and `filter_hypernyms.py` of github.com/fenchri/edge-oriented-graph).
//!
//! A line a document, columns between tabs: its id, its text (`|` between sentences, a space between tokens) and for each
//! candidate pair 17 columns:
//!
//! - 1: `1:NR:2` no relation, `1:CID:2` or `1:GDA:2` one, `not_include` no candidate;
//! - 2 to 5: which of the two stands first, whether in one sentence, where their nearest mentions are: passed over;
//! - 6 to 11: the head (chemical, gene): id, names (`|` between), type, then for each mention (`:` between) its first
//!   token, the token behind its last, and its sentence;
//! - 12 to 17: the tail (disease), likewise.
//!
//! The pair is (head, tail) whatever column 2 says: that is the order in the text. Tokens are counted through the whole
//! document. An entity is what its first pair says of it; one of a pair that is no candidate is kept. Pairs that are not
//! listed are no candidates either.

use super::document::{Document, Entity, Label, MAX_ENTITIES, MAX_ITEMS, MAX_MENTIONS, Mention, Span};
use crate::error::{Error, Result};
use crate::layout::Pairs;
use crate::text::clip;
use std::collections::HashMap;

/// What [`Document::left_out`] calls pairs that the file takes out.
pub const EXCLUDED: &str = "pairs marked not_include";

/// Columns of a pair.
const COLUMNS: usize = 17;
/// The first column of the head and of the tail; each has six.
const SIDES: [usize; 2] = [5, 11];

/// Reads one line.
///
/// Errors: E-LINE for columns that are not as above, E-SPAN for a mention outside the text, E-SIZE; each with the pair
/// and its column, counted from 1.
pub fn parse(bytes: &[u8]) -> Result<Document> {
    let line = std::str::from_utf8(bytes).map_err(|_| Error::data("E-LINE", "a document that is not UTF-8"))?;
    let mut columns = line.trim_end().split('\t');
    let (id, text) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
    let mut document = Document { id: id.into(), title: id.into(), labels: Some(Vec::new()), ..Document::default() };
    read_text(text, &mut document)?;
    let mut reader = Reader { document, index: HashMap::new(), mentions: 0, candidates: Vec::new() };
    for number in 1.. {
        let mut pair = [""; COLUMNS];
        let filled = pair.iter_mut().zip(&mut columns).map(|(to, column)| *to = column).count();
        match filled {
            0 => break,
            COLUMNS => reader.pair(number, &pair)?,
            n => {
                let what = format!("pair {number} has {n} columns, not {COLUMNS}");
                return Err(Error::data("E-LINE", what));
            }
        }
    }
    let Reader { mut document, candidates, .. } = reader;
    document.pairs = Pairs::only(candidates, false);
    Ok(document)
}

fn read_text(text: &str, document: &mut Document) -> Result<()> {
    for sentence in text.split('|') {
        let before = document.tokens.len();
        document.tokens.extend(sentence.split(' ').take(MAX_ITEMS + 1).map(str::to_string));
        if document.tokens.len() > MAX_ITEMS {
            let what = format!("a text of more than {MAX_ITEMS} tokens");
            return Err(Error::data("E-SIZE", what).fix("split the document"));
        }
        document.sentences.push(document.tokens.len() - before);
    }
    Ok(())
}

struct Reader<'a> {
    document: Document,
    index: HashMap<&'a str, usize>,
    mentions: usize,
    candidates: Vec<(u32, u32)>,
}

/// Column `c` (from 0) of a pair is wrong.
fn wrong(pair: usize, c: usize, code: &'static str, what: impl Into<String>) -> Error {
    Error::data(code, what).at(format!("pair {pair}, column {}", c + 1))
}

impl<'a> Reader<'a> {
    fn pair(&mut self, number: usize, columns: &[&'a str; COLUMNS]) -> Result<()> {
        let [head, tail] = [self.entity(number, columns, SIDES[0])?, self.entity(number, columns, SIDES[1])?];
        if columns[0] == "not_include" {
            *self.document.left_out.entry(EXCLUDED).or_default() += 1;
            return Ok(());
        }
        let name = columns[0].strip_prefix("1:").and_then(|rest| rest.strip_suffix(":2"));
        let relation = name.ok_or_else(|| {
            let what = format!("{:?} is neither 1:RELATION:2 nor not_include", clip(columns[0], 40));
            wrong(number, 0, "E-LINE", what)
        })?;
        if self.candidates.len() == MAX_ITEMS {
            return Err(wrong(number, 0, "E-SIZE", format!("more than {MAX_ITEMS} pairs")));
        }
        self.candidates.push((head as u32, tail as u32));
        if relation != "NR" {
            let label = Label { head, tail, relation: relation.into(), evidence: Vec::new() };
            self.document.labels.get_or_insert_default().push(label);
        }
        Ok(())
    }

    /// The entity whose columns begin at `from`.
    fn entity(&mut self, pair: usize, columns: &[&'a str; COLUMNS], from: usize) -> Result<usize> {
        let id = columns[from];
        if let Some(&known) = self.index.get(id) {
            return Ok(known);
        }
        let e = self.document.entities.len();
        if e == MAX_ENTITIES {
            return Err(wrong(pair, from, "E-SIZE", format!("more than {MAX_ENTITIES} entities")));
        }
        let mut entity = Entity { id: id.into(), kind: columns[from + 2].into(), ..Entity::default() };
        let count = columns[from + 3].split(':').count();
        let parts = [(1, '|'), (4, ':'), (5, ':')].map(|(c, mark)| (c, columns[from + c].split(mark).count()));
        if let Some((c, n)) = parts.into_iter().find(|(_, n)| *n != count) {
            let what = format!("{count} mentions begin, but there are {n} in this column");
            return Err(wrong(pair, from + c, "E-LINE", what));
        }
        self.mentions += count;
        if self.mentions > MAX_MENTIONS {
            return Err(wrong(pair, from + 3, "E-SIZE", format!("more than {MAX_MENTIONS} mentions")));
        }
        let ends = columns[from + 4].split(':');
        let starts = columns[from + 3].split(':').zip(ends).zip(columns[from + 1].split('|'));
        for ((start, end), name) in starts {
            let length = self.document.tokens.len();
            let span = start.parse().ok().zip(end.parse().ok()).map(|(start, end)| Span::new(start, end));
            let tokens = span.filter(|span| !span.is_empty() && span.end <= length).ok_or_else(|| {
                let what = format!("mention {:?} to {:?} of {length} tokens", clip(start, 20), clip(end, 20));
                wrong(pair, from + 3, "E-SPAN", what)
            })?;
            entity.mentions.push(Mention { tokens, chars: None, name: name.into(), kind: None });
        }
        self.index.insert(id, e);
        self.document.entities.push(entity);
        Ok(e)
    }
}

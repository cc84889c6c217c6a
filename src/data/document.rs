//! The one form of a document that every reader makes and every writer takes.

use crate::error::{Error, Result};
use crate::layout::{Pairs, Segments};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Most tokens or labels of one document: 400 times the longest of Re-DocRED. A bound on memory against
/// hostile files; a document past it is refused by name, never cut.
pub const MAX_ITEMS: usize = 1 << 18;
/// Most mentions of one document, for the same reason: they are the largest items.
pub const MAX_MENTIONS: usize = 1 << 17;
/// Most entities of one document: their 268 million cells times 97 logits would need 104 GB.
pub const MAX_ENTITIES: usize = 1 << 14;

/// Most bytes in the names of all mentions, which spans of a few bytes each could make gigabytes of.
pub const MAX_NAMES: usize = 8 << 20;

/// `start..end`, half-open: of tokens of the document, or of Unicode code points of its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    pub fn new(start: usize, end: usize) -> Self {
        Span { start, end }
    }
    pub fn len(&self) -> usize {
        self.end - self.start
    }
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }
    pub fn overlaps(&self, other: &Span) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// The running text of a document and where its tokens stand in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    pub raw: String,
    /// One a token, in code points of `raw`; ascending, never overlapping.
    pub tokens: Vec<Span>,
}

/// One document. Entities are named by their index, tokens counted through the whole document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// As given, else the title, else the number of the document in its file.
    pub id: String,
    /// As given, else the id.
    pub title: String,
    pub tokens: Vec<String>,
    /// Runs of `tokens`, one a sentence: together they hold every token.
    pub sentences: Segments,
    /// None for formats that have only tokens (DocRED).
    pub text: Option<Text>,
    pub entities: Vec<Entity>,
    /// None where the document does not say (unlabelled text); `Some` of nothing where it has none.
    pub labels: Option<Vec<Label>>,
    /// The pairs that may have relations, and whether these have a direction. Every label is of one of them.
    pub pairs: Pairs,
    /// What the reader passed over, each with its reason, and how many of them: `mentions without a concept`.
    pub left_out: BTreeMap<&'static str, usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entity {
    pub id: String,
    /// The type, for example `PER`: that of the first mention where mentions differ.
    pub kind: String,
    /// Identifier in a knowledge base.
    pub kb: Option<String>,
    pub mentions: Vec<Mention>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mention {
    /// Never empty.
    pub tokens: Span,
    /// In code points of the text, where there is one.
    pub chars: Option<Span>,
    /// The name by which facts know this mention (Ign F1). Not always the tokens: 2 % of Re-DocRED.
    pub name: String,
    /// Where it is not the entity's.
    pub kind: Option<String>,
}

/// One gold relation between the entities `head` and `tail`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    pub head: usize,
    pub tail: usize,
    pub relation: String,
    /// Indices of sentences, in the order given.
    pub evidence: Vec<u32>,
}

impl Document {
    /// The gold relations; none where the document does not say.
    pub fn gold(&self) -> &[Label] {
        self.labels.as_deref().unwrap_or_default()
    }

    /// The tokens of a mention, spaces between them where the script has any.
    pub fn surface(&self, mention: &Mention) -> String {
        let tokens = self.tokens.get(mention.tokens.start..mention.tokens.end).unwrap_or_default();
        let mut text = String::new();
        for (i, token) in tokens.iter().enumerate() {
            if i > 0 && self.space_between(&tokens[i - 1], token) {
                text.push(' ');
            }
            text.push_str(token);
        }
        text
    }

    /// Chinese and Japanese have no spaces, and a document whose tokens are single characters (HacRED) says nothing
    /// about those of other words in it. A space stands on either side of an empty token.
    fn space_between(&self, left: &str, right: &str) -> bool {
        match (left.chars().next_back(), right.chars().next()) {
            (Some(left), Some(right)) => !(is_unspaced(left) || is_unspaced(right) || self.is_in_characters()),
            _ => true,
        }
    }

    /// As its first tokens tell.
    fn is_in_characters(&self) -> bool {
        let first = || self.tokens.iter().take(64);
        first().all(|token| token.chars().nth(1).is_none()) && first().flat_map(|token| token.chars()).any(is_unspaced)
    }

    /// Index of the sentence that holds `token`; the number of sentences where none does.
    pub fn sentence_of(&self, token: usize) -> usize {
        // Of the sentences that begin at or before the token the last one: the others are empty or past.
        self.sentences.starts[1..].partition_point(|&end| end <= token)
    }

    /// The text; joined from the tokens as [`Document::surface`] does where the format had no text.
    pub fn text_or_joined(&self) -> Cow<'_, Text> {
        if let Some(text) = &self.text {
            return Cow::Borrowed(text);
        }
        let mut text = Text::default();
        let mut at = 0;
        for (i, token) in self.tokens.iter().enumerate() {
            // An empty token gets a place that no other token or sentence ends at.
            let space = match i {
                0 => token.is_empty(),
                _ => self.space_between(&self.tokens[i - 1], token),
            };
            if space {
                text.raw.push(' ');
                at += 1;
            }
            text.raw.push_str(token);
            let end = at + token.chars().count();
            text.tokens.push(Span::new(at, end));
            at = end;
        }
        Cow::Owned(text)
    }

    /// Checks what every reader promises. For documents made by hand before they are encoded.
    ///
    /// Errors: E-SENTENCE, E-SPAN, E-LABEL, E-PAIR with the place inside the document.
    pub fn check(&self) -> Result<()> {
        let starts = &self.sentences.starts;
        if starts.first() != Some(&0) || starts.last() != Some(&self.tokens.len()) || !starts.is_sorted() {
            return Err(Error::data("E-SENTENCE", "the sentences do not cover the tokens one after the other"));
        }
        for (e, entity) in self.entities.iter().enumerate() {
            for (m, mention) in entity.mentions.iter().enumerate() {
                let Span { start, end } = mention.tokens;
                if start >= end || end > self.tokens.len() {
                    let what = format!("mention [{start},{end}) is not inside the {} tokens", self.tokens.len());
                    return Err(Error::data("E-SPAN", what).at(format!("$.entities[{e}].mentions[{m}]")));
                }
            }
        }
        for (l, label) in self.gold().iter().enumerate() {
            if label.head.max(label.tail) >= self.entities.len() {
                let what = format!("no entity {}, there are {}", label.head.max(label.tail), self.entities.len());
                return Err(Error::data("E-LABEL", what).at(format!("$.labels[{l}]")));
            }
            if let Some(s) = label.evidence.iter().find(|s| **s as usize >= self.sentences.len()) {
                let what = format!("evidence in sentence {s}, there are {}", self.sentences.len());
                return Err(Error::data("E-SENTENCE", what).at(format!("$.labels[{l}].evidence")));
            }
        }
        self.check_pairs()
    }

    /// Candidate pairs of entities that there are, and every label on one of them. Error: E-PAIR.
    pub fn check_pairs(&self) -> Result<()> {
        let count = self.entities.len();
        let mut candidates = self.pairs.candidates().unwrap_or_default().iter();
        if let Some((h, t)) = candidates.find(|(h, t)| *h.max(t) as usize >= count) {
            let what = format!("no entity {}, there are {count}", h.max(t));
            return Err(Error::data("E-PAIR", what).at("$.pairs"));
        }
        match self.gold().iter().position(|label| !self.pairs.contains(label.head, label.tail)) {
            None => Ok(()),
            Some(l) => {
                Err(Error::data("E-PAIR", "a label of a pair that is no candidate").at(format!("$.labels[{l}]")))
            }
        }
    }
}

/// Han, kana and the marks that go with them: written without spaces.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{303f}' | '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{ff00}'..='\u{ff9f}' | '\u{20000}'..='\u{3ffff}')
}

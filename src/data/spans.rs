//! Ranges of a text that becomes tokens: what every format with running text does alike.

use super::document::{MAX_ITEMS, Span};
use super::offsets::{Offsets, Place, Unit};
use super::split::split;
use crate::error::{Error, Result};
use crate::layout::Segments;

/// From, to: of a mention, a token or a sentence.
pub type Range = (Place, Place);

/// `[start, end)` as places of the text. Errors say what is wrong with the pair.
pub fn range((start, end): (i64, i64), offsets: &Offsets, unit: Unit) -> Result<Range> {
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

/// The tokens of a text: it is split at white space, punctuation and the ends of every range. Error: E-SIZE.
pub fn tokens(text: &str, mentions: &[Range], sentences: &[Range]) -> Result<Vec<Range>> {
    let all = mentions.iter().chain(sentences);
    let mut boundaries: Vec<usize> = all.flat_map(|(a, b)| [a.byte, b.byte]).collect();
    let tokens = split(text, &mut boundaries, MAX_ITEMS);
    tokens.ok_or_else(|| {
        Error::data("E-SIZE", format!("a text of more than {MAX_ITEMS} tokens")).fix("split the document")
    })
}

/// Which tokens each sentence holds. Every token must lie in one.
pub fn assign(tokens: &[Range], sentences: &[Range]) -> Result<Segments> {
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

/// The tokens that `range` covers, each wholly and at least one.
pub fn cover(tokens: &[Range], range: Range) -> Result<Span> {
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

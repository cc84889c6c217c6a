//! Splits a text without tokens: at white space, punctuation and every boundary that is given; and into sentences.

use super::offsets::Place;
use std::ops::Range;

/// Each token as (start, end), ascending; None where there are more than `most`. Boundaries are byte
/// offsets in any order.
///
/// A mark of punctuation is a token by itself, as BERT's own first step has it.
pub fn split(text: &str, boundaries: &mut Vec<usize>, most: usize) -> Option<Vec<(Place, Place)>> {
    boundaries.sort_unstable();
    boundaries.dedup();
    let mut boundaries = boundaries.iter().copied().peekable();
    let mut tokens = Vec::new();
    let mut open: Option<Place> = None;
    let mut at = Place::default();
    for c in text.chars() {
        if tokens.len() >= most {
            return None;
        }
        while boundaries.next_if(|&b| b < at.byte).is_some() {}
        let alone = is_punctuation(c);
        if (c.is_whitespace() || alone || boundaries.peek() == Some(&at.byte)) && open.is_some() {
            tokens.extend(open.take().map(|start| (start, at)));
        }
        if !c.is_whitespace() && open.is_none() {
            open = Some(at);
        }
        at = Place { char: at.char + 1, byte: at.byte + c.len_utf8(), utf16: at.utf16 + c.len_utf16() };
        if alone {
            tokens.extend(open.take().map(|start| (start, at)));
        }
    }
    tokens.extend(open.map(|start| (start, at)));
    (tokens.len() <= most).then_some(tokens)
}

/// ASCII punctuation and symbols, and the marks of the scripts with most text. Not "everything but
/// letters": combining marks such as the virama stand inside words.
pub fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c,
            '¡' | '§' | '«' | '¶' | '·' | '»' | '¿'
            | '\u{37e}' | '\u{387}' // Greek question mark and raised dot
            | '\u{55a}'..='\u{55f}' | '\u{589}' | '\u{58a}' // Armenian
            | '\u{5be}' | '\u{5c0}' | '\u{5c3}' | '\u{5f3}' | '\u{5f4}' // Hebrew
            | '\u{60c}' | '\u{60d}' | '\u{61b}' | '\u{61e}' | '\u{61f}' | '\u{66a}'..='\u{66d}' | '\u{6d4}' // Arabic
            | '\u{964}' | '\u{965}' // danda
            | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}'
            | '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}' | '\u{3014}'..='\u{301f}' | '\u{30fb}'
            | '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff20}' | '\u{ff3b}'..='\u{ff40}' | '\u{ff5b}'..='\u{ff65}')
}

/// Sentences of `text[within]` as ranges of bytes: they end behind `.`, `!` or `?` and what closes there, where white
/// space and then no lower-case letter follows, but never inside one of `whole`, the mentions.
///
/// An abbreviation before a capital ends one, too. Sentences only decide which pairs count as intra.
pub fn sentences(text: &str, within: Range<usize>, mut whole: Vec<Range<usize>>) -> Vec<Range<usize>> {
    whole.sort_unstable_by_key(|span| span.start);
    let mut reach = 0;
    for span in &mut whole {
        reach = span.end.max(reach);
        span.end = reach; // the furthest end of all spans up to here
    }
    let inside = |at: usize| {
        let before = whole.partition_point(|span| span.start < at);
        before > 0 && whole[before - 1].end > at
    };
    let mut found = Vec::new();
    let (mut start, mut last, mut ended) = (None, within.start, false);
    for (i, c) in text[within.clone()].char_indices().map(|(i, c)| (within.start + i, c)) {
        if c.is_whitespace() {
            continue;
        }
        let begins = ended && last < i && !c.is_lowercase() && !inside(i);
        if let Some(begin) = start.filter(|_| begins) {
            found.push(begin..last);
            start = None;
        }
        start = start.or(Some(i));
        let closes = matches!(c, '"' | '\'' | ')' | ']' | '”' | '’');
        ended = matches!(c, '.' | '!' | '?') || ended && last == i && closes;
        last = i + c.len_utf8();
    }
    found.extend(start.map(|begin| begin..last));
    found
}

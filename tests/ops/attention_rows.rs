use crate::attention::{drop_row, softmax};
use crate::support::*;
use docre::dtype::DType;
use docre::layout::{Documents, Window};
use docre::ops::attention::attention;
use docre::ops::attention_rows::attention_rows;
use docre::rng::Dropout;
use std::ops::Range;
use std::sync::Arc;

/// A document: its tokens, the positions that each window keeps, and the mentions of each entity.
pub struct Text<'a> {
    pub tokens: usize,
    pub keep: &'a [Range<usize>],
    pub mentions: &'a [&'a [usize]],
}

impl<'a> Text<'a> {
    pub fn short(tokens: usize, mentions: &'a [&'a [usize]]) -> Self {
        Text { tokens, keep: &[], mentions }
    }
    fn windows(&self) -> Vec<Range<usize>> {
        if self.keep.is_empty() { std::iter::once(0..self.tokens).collect() } else { self.keep.to_vec() }
    }
}

/// One special row stands for each side of a window that is not a side of its document.
pub fn documents(texts: &[Text]) -> Documents {
    let (mut documents, mut row) = (Documents::default(), 0);
    for text in texts {
        let windows = text.windows();
        documents.windows.push(windows.len());
        for keep in windows {
            let first = row + usize::from(keep.start > 0);
            let end = first + keep.len() + usize::from(keep.end < text.tokens);
            documents.window.push(Window { rows: row..end, keep, first });
            row = end;
        }
        documents.tokens.push(text.tokens);
        documents.entities.push(text.mentions.len());
        for mentions in text.mentions {
            documents.mentions.push(mentions.len());
            documents.mention.extend_from_slice(mentions);
        }
    }
    documents
}

fn rows(documents: &Documents) -> usize {
    documents.window.last().map_or(0, |w| w.rows.end)
}

/// The attention row of one mention: kept columns of every window that keeps it, renormalised if there are several.
fn mention_row<T: Plain>(
    qkv: &[T],
    text: &Text,
    windows: &[Window],
    token: usize,
    head: usize,
    (heads, dim, drop): (usize, usize, Dropout),
) -> Vec<T> {
    let mut row = vec![T::ZERO; text.tokens];
    for w in windows.iter().filter(|w| w.keep.contains(&token)) {
        let at = w.first + token - w.keep.start;
        let (_, mut p) = softmax(qkv, at, w.rows.clone(), head, heads, dim);
        drop_row(&mut p, drop, at, head, heads);
        w.keep.clone().for_each(|t| row[t] += p[w.first - w.rows.start + t - w.keep.start]);
    }
    if windows.len() > 1 {
        let total = row.iter().fold(T::of(1e-10), |a, &x| a + x);
        row.iter_mut().for_each(|x| *x /= total);
    }
    row
}

fn plain<T: Plain>(qkv: &[T], texts: &[Text], heads: usize, dim: usize, drop: Dropout) -> Vec<T> {
    let all = documents(texts);
    let mut out = Vec::new();
    for (d, text) in texts.iter().enumerate() {
        for (mentions, head) in text.mentions.iter().flat_map(|m| (0..heads).map(move |h| (m, h))) {
            let mut sum = vec![T::ZERO; text.tokens];
            for &token in *mentions {
                let row = mention_row(qkv, text, all.windows_of(d), token, head, (heads, dim, drop));
                sum.iter_mut().zip(row).for_each(|(s, x)| *s += x / T::of(mentions.len() as f64));
            }
            out.extend(sum);
        }
    }
    out
}

fn case(texts: &[Text], heads: usize, dim: usize, p: f64) {
    let (documents, drop) = (Arc::new(documents(texts)), dropout_of(p));
    let segments = Arc::new(docre::layout::Segments::from_lengths(documents.window.iter().map(|w| w.rows.len())));
    check(
        &[activation("qkv", &[rows(&documents), 3 * heads * dim])],
        &|tape, t| {
            let lse = attention(tape, &t[0], &segments, heads, drop)?.lse;
            attention_rows(tape, &t[0], &lse, &documents, heads, drop)
        },
        &|v| plain::<f64>(&v[0], texts, heads, dim, drop),
        &|v| plain::<f32>(&v[0], texts, heads, dim, drop),
    );
}

#[test]
fn five_checks() {
    case(&[], 2, 4, 0.0);
    case(&[Text::short(1, &[&[0]])], 1, 1, 0.0);
    // No entity; entities with none, one and several mentions, one of them counted twice.
    for p in [0.0, 0.1] {
        let texts = [Text::short(3, &[]), Text::short(9, &[&[], &[4], &[0, 8, 4, 4]]), Text::short(7, &[&[6]])];
        case(&texts, 3, 5, p);
    }
    case(&[Text::short(11, &[&[2]]), Text::short(12, &[&[11]]), Text::short(13, &[&[0, 12]])], 12, 8, 0.1);
    case(&[Text::short(33, &[&[1, 2], &[31]])], 12, 64, 0.0);
    let forty_two: Vec<&[usize]> = vec![&[1, 4]; 42];
    case(&[Text::short(6, &forty_two)], 2, 4, 0.1);
}

/// Positions that one window, two and three keep; the division by the row's sum and its backward pass.
#[test]
fn several_windows() {
    let mentions: &[&[usize]] = &[&[0], &[5, 6], &[], &[11, 19, 5], &[7]];
    for p in [0.0, 0.1] {
        let two = Text { tokens: 20, keep: &[0..12, 5..20], mentions };
        let three = Text { tokens: 20, keep: &[0..8, 4..13, 6..20], mentions };
        case(&[Text::short(4, &[&[2]]), two, Text::short(5, &[]), three], 2, 6, p);
    }
}

/// A row of several windows sums to one, whatever dropout and the special rows took from it.
#[test]
fn rows_of_several_windows_sum_to_one() {
    let text = [Text { tokens: 20, keep: &[0..12, 5..20], mentions: &[&[3], &[6, 15]] }];
    let documents = Arc::new(documents(&text));
    let segments = Arc::new(docre::layout::Segments::from_lengths(documents.window.iter().map(|w| w.rows.len())));
    let op: Op = &|tape, t| {
        let lse = attention(tape, &t[0], &segments, 2, dropout_of(0.3))?.lse;
        attention_rows(tape, &t[0], &lse, &documents, 2, dropout_of(0.3))
    };
    let a = value(&poisoned(2), DType::F64, &[activation("qkv", &[rows(&documents), 48])], op);
    for (i, row) in a.chunks(20).enumerate() {
        let sum: f64 = row.iter().sum();
        // x / (x + 1e-10) for sums of about one.
        assert!((sum - 1.0).abs() < 1e-9, "row {i} sums to {sum}");
    }
}

#[test]
fn a_document_has_the_same_bits_alone() {
    let second = || Text { tokens: 20, keep: &[0..12, 5..20], mentions: &[&[3], &[6, 15]] };
    let (all, one) = (documents(&[Text::short(9, &[&[1]]), second(), Text::short(4, &[&[0]])]), documents(&[second()]));
    let (heads, dim, off) = (2, 16, Dropout::default());
    let of = |documents: Documents| {
        let segments = Arc::new(docre::layout::Segments::from_lengths(documents.window.iter().map(|w| w.rows.len())));
        let documents = Arc::new(documents);
        move |tape: &mut docre::tape::Tape, t: &[docre::tensor::Tensor]| {
            let lse = attention(tape, &t[0], &segments, heads, off)?.lse;
            attention_rows(tape, &t[0], &lse, &documents, heads, off)
        }
    };
    let width = 3 * heads * dim;
    let place = 9 * width..(9 + rows(&one)) * width;
    check_alone(
        &[activation("qkv", &[rows(&all), width])],
        &of(all),
        &of(one),
        9 * heads,
        std::slice::from_ref(&place),
    );
}

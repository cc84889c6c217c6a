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

/// qkv rounded to bf16, and the log-sum-exp of each of its rows.
fn layer(texts: &[Text], heads: usize, dim: usize) -> [Input; 2] {
    let documents = documents(texts);
    let qkv = activation("qkv", &[rows(&documents), 3 * heads * dim]);
    let values = round(&qkv.values);
    let of_row = |(row, window): (usize, &Window)| -> Vec<f64> {
        (0..heads).map(|head| softmax(&values, row, window.rows.clone(), head, heads, dim).0).collect()
    };
    let places = documents.window.iter().flat_map(|w| w.rows.clone().map(move |row| (row, w)));
    let lse = places.flat_map(of_row).map(|x| f64::from(x as f32)).collect();
    let lse = Input { values: lse, ..wide(activation("lse", &[rows(&documents), heads])) };
    [qkv, lse]
}

/// A mention in one window: its row, the probabilities of the window's rows, their dropout factors.
struct Source<'a> {
    window: &'a Window,
    at: usize,
    p: Vec<f64>,
    factors: Vec<f64>,
}

impl<'a> Source<'a> {
    fn new(
        qkv: &[f64],
        window: &'a Window,
        at: usize,
        head: usize,
        (heads, dim, drop): (usize, usize, Dropout),
    ) -> Self {
        let p = softmax(qkv, at, window.rows.clone(), head, heads, dim).1;
        let mut factors = vec![1.0; p.len()];
        drop_row(&mut factors, drop, at, head, heads);
        Source { window, at, p, factors }
    }
    /// Sum over the kept rows of probability after dropout times `weight(document position)`.
    fn sum(&self, weight: impl Fn(usize) -> f64) -> f64 {
        let x = |(t, j): (usize, usize)| self.p[j] * self.factors[j] * weight(t);
        self.window.keep.clone().zip(self.window.local()).map(x).sum()
    }
    /// Gradient of the scores from that of the kept rows' probabilities after dropout.
    fn backward(&self, dx: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut dp = vec![0.0; self.p.len()];
        self.window.keep.clone().zip(self.window.local()).for_each(|(t, j)| dp[j] = self.factors[j] * dx(t));
        let mean: f64 = self.p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        self.p.iter().zip(&dp).map(|(p, dp)| p * (dp - mean)).collect()
    }
}

/// dqkv of naive code that rounds to bf16 the gradients of scores, operands of the last products, and the result.
fn plain_gradient(qkv: &[f64], texts: &[Text], da: &[f64], sizes: (usize, usize, Dropout)) -> Vec<f64> {
    let (all, mut dqkv, mut block, (heads, dim, _)) = (documents(texts), vec![0.0; qkv.len()], 0, sizes);
    let place = |row: usize, part: usize, head: usize| ((row * 3 + part) * heads + head) * dim;
    for (d, text) in texts.iter().enumerate() {
        for (mentions, head) in text.mentions.iter().flat_map(|m| (0..heads).map(move |h| (m, h))) {
            let da = &da[block..block + text.tokens];
            block += text.tokens;
            for &token in *mentions {
                let seen =
                    all.windows_of(d).iter().filter_map(|w| Some(Source::new(qkv, w, w.row(token)?, head, sizes)));
                let seen: Vec<Source> = seen.collect();
                let (mut total, mut mean) = (1.0, 0.0);
                if all.windows_of(d).len() > 1 {
                    total = seen.iter().map(|s| s.sum(|_| 1.0)).sum::<f64>() + 1e-10;
                    mean = seen.iter().map(|s| s.sum(|t| da[t])).sum::<f64>() / total;
                }
                for s in &seen {
                    let ds = s.backward(|t| (da[t] - mean) / total / mentions.len() as f64 / (dim as f64).sqrt());
                    for (j, ds) in s.window.rows.clone().zip(round(&ds)) {
                        for k in 0..dim {
                            dqkv[place(s.at, 0, head) + k] += ds * qkv[place(j, 1, head) + k];
                            dqkv[place(j, 1, head) + k] += ds * qkv[place(s.at, 0, head) + k];
                        }
                    }
                }
            }
        }
    }
    round(&dqkv)
}

fn gpu_case(texts: &[Text], heads: usize, dim: usize, p: f64) {
    gpu_case_in(&layer(texts, heads, dim), texts, heads, dim, p);
}

/// `inputs` may have rows behind those of the documents.
fn gpu_case_in(inputs: &[Input; 2], texts: &[Text], heads: usize, dim: usize, p: f64) {
    let (all, drop) = (Arc::new(documents(texts)), dropout_of(p));
    on_gpu_against(inputs, &|tape, t| attention_rows(tape, &t[0], &t[1], &all, heads, drop), &|v, da| {
        let narrow: Vec<f32> = v[0].iter().map(|&x| x as f32).collect();
        let value = plain::<f32>(&narrow, texts, heads, dim, drop).into_iter().map(f64::from).collect();
        let dqkv = plain_gradient(&v[0], texts, da, (heads, dim, drop));
        Outcome { value, grads: vec![dqkv, vec![0.0; v[1].len()]] }
    });
}

#[test]
fn on_the_gpu() {
    let one: &[&[usize]] = &[&[0]];
    // No mention, one, two, five; a mention twice; rows that two entities share.
    let some: &[&[usize]] = &[&[], &[4], &[0, 8], &[4, 0, 2, 6, 6], &[], &[8]];
    for (p, dim) in [(0.0, 32), (0.1, 32), (0.1, 48), (0.1, 64), (0.1, 96), (0.3, 128)] {
        gpu_case(&[], 2, dim, p);
        gpu_case(&[Text::short(1, one)], 1, dim, p);
        gpu_case(&[Text::short(3, &[]), Text::short(9, some), Text::short(7, &[&[6]])], 3, dim, p);
        let keep: &[&[std::ops::Range<usize>]] = &[&[0..12, 5..20], &[0..8, 4..13, 6..20]];
        let mentions: &[&[usize]] = &[&[0], &[5, 6], &[], &[11, 19, 5], &[7], &[18]];
        let long = |i: usize| Text { tokens: 20, keep: keep[i], mentions };
        gpu_case(&[Text::short(4, &[&[2]]), long(0), Text::short(5, &[]), long(1)], 2, dim, p);
    }
    // Tiles of 128 keys, chunks of 16 sources, 12 heads.
    let many: Vec<Vec<usize>> = (0..42).map(|e| (0..e % 4).map(|m| (e * 31 + m * 17) % 127).collect()).collect();
    let many: Vec<&[usize]> = many.iter().map(Vec::as_slice).collect();
    gpu_case(
        &[Text::short(127, &many), Text::short(128, &many[..2]), Text::short(129, &[&[128, 3], &[127]])],
        2,
        64,
        0.1,
    );
    gpu_case(&[Text::short(33, &[&[1, 2], &[31]])], 12, 64, 0.1);
    gpu_case(&[Text { tokens: 190, keep: &[0..131, 60..190], mentions: &many }], 1, 32, 0.1);
    let texts = [Text::short(3, one), Text::short(5, one)];
    gpu_case_in(&layer(&texts, 2, 32), &texts[..1], 2, 32, 0.1);
    let (texts, off) = ([Text::short(3, one)], Dropout::default());
    let all = Arc::new(documents(&texts));
    let op: Op = &|tape, t| attention_rows(tape, &t[0], &t[1], &all, 2, off);
    refused_on_gpu(&layer(&texts, 2, 24), op, "attention_rows on the GPU: heads of 24");
}

/// Mean documents, but for a number of tokens that lets every row of A begin with a sector. `sums` has no gate: it
/// stores 8 bytes a source and head, wherever they lie.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let (docs, tokens, heads, dim) = (2, 288, 12, 64);
    let mentions: Vec<Vec<usize>> =
        (0..20).map(|e| (0..1 + e % 2).map(|m| (e * 14 + m * 7) % tokens).collect()).collect();
    let mentions: Vec<&[usize]> = mentions.iter().map(Vec::as_slice).collect();
    let texts: Vec<Text> = (0..docs).map(|_| Text::short(tokens, &mentions)).collect();
    let (all, drop) = (Arc::new(documents(&texts)), dropout_of(0.1));
    let op: Op = &|tape, t| attention_rows(tape, &t[0], &t[1], &all, heads, drop);
    let inputs = layer(&texts, heads, dim);
    let counted = counted(|| std::mem::drop(run(&device, DType::BF16, &inputs, op, 0.0)));

    let (sources, width, tiles) = (all.mention.len(), heads * dim, tokens.div_ceil(128));
    let (keys, queries, of_a) = (docs * tokens * width * 2, sources * width * 2, docs * 20 * heads * tokens * 4);
    // 48 bytes say to each thread where it is; of each source the row is asked for by those who fetch eight columns
    // of its query or draw four keys, and 64 bytes by one; log-sum-exp is 4 bytes of a sector.
    let lists =
        |of_source: usize| heads * (docs * tiles * 128 * 48 + tiles * sources * (4 * (8 + 33) + 64 + of_source));
    let lse = sources * 32 * heads.div_ceil(8);
    gate(
        &counted,
        "attention_rows_forward_64",
        keys + queries + lse + 32 * sources + of_a,
        keys + tiles * queries + lists(4) + of_a,
    );
    let partial = 2 * tiles * queries;
    gate(
        &counted,
        "attention_rows_backward_64",
        2 * keys + queries + lse + 32 * sources + of_a + partial,
        2 * keys + tiles * queries + lists(12) + sources * heads * tokens * 4 + partial,
    );
    // A thread asks where the sources of its row are, 8 bytes, and 8 of each.
    let (rows, threads) = (docs * tokens, width / 4);
    gate(
        &counted,
        "attention_rows_queries",
        2 * keys + partial + 4 * rows + 8 * sources,
        2 * keys + partial + threads * (8 * rows + 8 * sources),
    );
}

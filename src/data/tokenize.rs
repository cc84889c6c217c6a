//! Word pieces and mention markers: what the encoder reads (spec §1).
//!
//! Every token is split by itself. The literal piece `*` stands before the first and behind the last
//! token of every mention; mentions that begin (or end) at the same token share one.

use super::document::Document;
use crate::error::{Error, Result};
use crate::layout::Encoded;
use crate::text::clip;
use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Once, RwLock};
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

/// The piece around mentions.
pub const MARKER: &str = "*";
/// Tokens whose pieces are remembered (about 10 MB), and the longest of them in bytes.
const CACHE_TOKENS: usize = 1 << 17;
const CACHE_BYTES: usize = 64;

/// The algorithm that splits tokens into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// BERT: `[CLS] … [SEP]`.
    WordPiece,
    /// RoBERTa: `<s> … </s>`, tokens without a space in front.
    Bpe,
    /// XLM-R: `<s> … </s>`, tokens with the usual mark in front.
    Unigram,
    WordLevel,
}

/// Ids of the pieces that have a meaning of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Specials {
    /// First piece of every sequence: `[CLS]` or `<s>`.
    pub cls: u32,
    /// Last piece: `[SEP]` or `</s>`.
    pub sep: u32,
    /// The literal `*`.
    pub marker: u32,
}

/// A `tokenizer.json`, ready to encode documents. Can be used from many threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    family: Family,
    specials: Specials,
    ids: usize,
    pieces: RwLock<HashMap<Box<str>, Box<[u32]>>>,
}

impl Tokenizer {
    /// Loads `tokenizer.json` of a directory, or the file itself. Truncation and padding that the file
    /// asks for are switched off.
    ///
    /// Errors: E-IO; E-TOKENIZER for a damaged file or a vocabulary without `*` or the special pieces.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        let bytes = std::fs::read(&file).map_err(|e| Error::io(&file, e))?;
        Self::from_bytes(&bytes).map_err(|e| e.context(file.display()))
    }

    /// As `open`, from the bytes of a `tokenizer.json`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let loaded = quietly(|| tokenizers::Tokenizer::from_bytes(bytes));
        let mut inner = match loaded {
            Ok(Ok(inner)) => inner,
            Ok(Err(error)) => return Err(damaged(&error.to_string())),
            Err(_) => return Err(damaged("the `tokenizers` library gave up on it")),
        };
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| damaged(&e.to_string()))?;
        let family = match inner.get_model() {
            ModelWrapper::WordPiece(_) => Family::WordPiece,
            ModelWrapper::BPE(_) => Family::Bpe,
            ModelWrapper::Unigram(_) => Family::Unigram,
            ModelWrapper::WordLevel(_) => Family::WordLevel,
        };
        if let Some(mut splitter) = inner.get_pre_tokenizer().cloned() {
            without_prefix_space(&mut splitter);
            inner.with_pre_tokenizer(Some(splitter));
        }
        let specials = find_specials(&inner, family)?;
        let ids = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        Ok(Tokenizer { inner, family, specials, ids, pieces: RwLock::default() })
    }

    pub fn family(&self) -> Family {
        self.family
    }
    pub fn specials(&self) -> Specials {
        self.specials
    }
    /// One more than the largest id: the encoder's embedding needs at least as many rows.
    pub fn ids(&self) -> usize {
        self.ids
    }

    /// The pieces of a document with markers and special pieces, of any length, for every mention the index
    /// of its opening marker, and the run of every sentence.
    ///
    /// Errors: those of [`Document::check`]; E-TOKENIZER where the library fails on a token.
    pub fn encode(&self, document: &Document) -> Result<Encoded> {
        document.check().map_err(|e| named(e, document))?;
        let (opens, closes) = markers(document);
        let mut ids = Vec::with_capacity(document.tokens.len() * 3 / 2 + 2);
        let mut opened = vec![0; document.tokens.len()];
        let mut sentences = Vec::with_capacity(document.sentences.len());
        ids.push(self.specials.cls);
        for sentence in document.sentences.iter() {
            let start = index(ids.len())?;
            for t in sentence {
                if opens[t] {
                    opened[t] = index(ids.len())?;
                    ids.push(self.specials.marker);
                }
                self.append_pieces(&document.tokens[t], &mut ids).map_err(|e| named(e, document))?;
                if closes[t] {
                    ids.push(self.specials.marker);
                }
            }
            sentences.push(start..index(ids.len())?);
        }
        ids.push(self.specials.sep);
        index(ids.len())?;
        let of_entity = |mentions: &[super::Mention]| mentions.iter().map(|m| opened[m.tokens.start]).collect();
        let mentions = document.entities.iter().map(|e| of_entity(&e.mentions)).collect();
        Ok(Encoded { ids, mentions, sentences, pairs: document.pairs.clone() })
    }

    fn append_pieces(&self, token: &str, ids: &mut Vec<u32>) -> Result<()> {
        if token.len() > CACHE_BYTES {
            ids.extend_from_slice(&self.split(token)?);
            return Ok(());
        }
        // A poisoned lock only means that another thread died between two whole entries.
        if let Some(known) = self.pieces.read().unwrap_or_else(|e| e.into_inner()).get(token) {
            ids.extend_from_slice(known);
            return Ok(());
        }
        let pieces = self.split(token)?;
        ids.extend_from_slice(&pieces);
        let mut known = self.pieces.write().unwrap_or_else(|e| e.into_inner());
        if known.len() < CACHE_TOKENS {
            known.insert(token.into(), pieces);
        }
        Ok(())
    }

    fn split(&self, token: &str) -> Result<Box<[u32]>> {
        let encoding = quietly(|| self.inner.encode_fast(token, false));
        let why = match encoding {
            Ok(Ok(encoding)) => return Ok(encoding.get_ids().into()),
            Ok(Err(error)) => clip(&error.to_string(), 100),
            Err(_) => "the `tokenizers` library gave up".to_string(),
        };
        Err(Error::model("E-TOKENIZER", format!("token {:?}: {why}", clip(token, 40))))
    }
}

fn named(error: Error, document: &Document) -> Error {
    error.context(format!("{:?}", clip(&document.id, 60)))
}

fn damaged(why: &str) -> Error {
    Error::model("E-TOKENIZER", format!("not a tokenizer.json that can be used: {}", clip(why, 200)))
}

/// Piece numbers are u32, as in [`Encoded`].
fn index(at: usize) -> Result<u32> {
    u32::try_from(at).map_err(|_| Error::data("E-SIZE", "a document of more than 4 billion pieces"))
}

/// For every token: does a mention begin here, does one end here.
fn markers(document: &Document) -> (Vec<bool>, Vec<bool>) {
    let mut opens = vec![false; document.tokens.len()];
    let mut closes = opens.clone();
    for mention in document.entities.iter().flat_map(|e| &e.mentions) {
        opens[mention.tokens.start] = true;
        closes[mention.tokens.end - 1] = true;
    }
    (opens, closes)
}

/// RoBERTa's reference splits each token as it stands; a prefix space would make other pieces of it.
fn without_prefix_space(splitter: &mut PreTokenizerWrapper) {
    match splitter {
        PreTokenizerWrapper::ByteLevel(bytes) => bytes.add_prefix_space = false,
        PreTokenizerWrapper::Sequence(parts) => parts.as_mut().iter_mut().for_each(without_prefix_space),
        _ => {}
    }
}

fn find_specials(inner: &tokenizers::Tokenizer, family: Family) -> Result<Specials> {
    let id = |piece: &str| inner.token_to_id(piece);
    let pair = |start: &str, end: &str| Some((id(start)?, id(end)?));
    let (bert, roberta) = (pair("[CLS]", "[SEP]"), pair("<s>", "</s>"));
    let ends = if family == Family::WordPiece { bert.or(roberta) } else { roberta.or(bert) };
    let Some((cls, sep)) = ends else {
        return Err(damaged("the vocabulary has neither [CLS] and [SEP] nor <s> and </s>"));
    };
    let Some(marker) = id(MARKER) else {
        return Err(damaged("the vocabulary has no piece `*`, which marks mentions"));
    };
    Ok(Specials { cls, sep, marker })
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs code that may panic on damaged input without a report on the terminal: the caller makes one
/// line of it. Panics of other threads are reported as always.
fn quietly<T>(run: impl FnOnce() -> T) -> std::thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    result
}

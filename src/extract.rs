//! From documents to triples with a trained model.

mod calibration;
mod stream;

pub use calibration::{CALIBRATION, Calibration, Sigmoid};
pub use stream::{Outcome, Stream};

use crate::checkpoint::open_to_infer;
use crate::data::output::Triple;
use crate::data::{Document, Relations, Tokenizer};
use crate::device::Device;
use crate::dtype::{DType, Real};
use crate::error::{Error, Kind, Result};
use crate::layout::{Cell, Encoded, EvidencePairs};
use crate::model::{Batch, Model};
use crate::ops::evidence::evidence;
use crate::ops::loss::predict_above;
use crate::tape::Tape;
use crate::tensor::Tensor;
use crate::text::hex;
use sha2::{Digest, Sha256};
use std::borrow::Borrow;
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What counts as a relation.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// A relation needs `l_r - l_TH > threshold`.
    pub threshold: f64,
    /// At most so many relations of one ordered pair.
    pub max_labels: usize,
    /// Name the evidence of each pair that has a relation: the sentences with more than this part of its attention
    /// (spec §11). None: evidence is not asked for.
    pub evidence: Option<f64>,
}

/// The published threshold of [`Rule::evidence`].
pub const EVIDENCE_THRESHOLD: f64 = 0.2;

/// How many documents are taken together. One document always goes whole.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Word pieces.
    pub tokens: usize,
    /// Ordered pairs.
    pub cells: usize,
    pub documents: usize,
}

impl Budget {
    /// What is read before the model runs, so that every core, or the GPU, has enough to do: on a CPU a document of middling
    /// length or some short ones for each thread, four times.
    pub fn of(device: &Device) -> Self {
        let threads = match device {
            Device::Cpu(cpu) => cpu.threads().max(2),
            Device::Cuda(_) => 16,
        };
        Budget { tokens: threads << 10, cells: threads << 11, documents: usize::MAX }
    }
    /// What goes through the model as one of the parts of a batch. On a CPU a whole document of middling length, or some
    /// short ones: what an op needs stays in the caches. On a GPU as many rows as its kernels need to fill it.
    pub fn of_part(device: &Device) -> Self {
        let (tokens, cells) = match device {
            Device::Cpu(_) => (192, 512),
            Device::Cuda(_) => (4 << 10, 8 << 10),
        };
        Budget { tokens, cells, documents: usize::MAX }
    }
}

/// A model directory, ready to extract.
pub struct Extractor {
    /// The model directory.
    pub dir: PathBuf,
    pub model: Model,
    /// Shared with the threads that read ahead.
    pub tokenizer: Arc<Tokenizer>,
    pub relations: Relations,
    /// Its threshold comes on top of the calibration's shifts.
    pub rule: Rule,
    /// From `calibration.json`, where the directory has one.
    pub calibration: Option<Calibration>,
    /// `sha256:` and the hash of the weights' bytes, for the output.
    pub digest: String,
}

impl Extractor {
    /// Opens `config.json`, `tokenizer.json`, `relations.json`, the weights of `dir` and its `calibration.json`, if any.
    pub fn open(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let mut extractor = Self::open_uncalibrated(dir, device)?;
        let path = extractor.dir.join(CALIBRATION);
        if path.exists() {
            extractor.calibration = Some(Calibration::load(&path, &extractor.relations)?);
        }
        Ok(extractor)
    }
    /// As [`Extractor::open`], as if there were no `calibration.json`.
    pub fn open_uncalibrated(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let dir = dir.as_ref();
        let (model, digest) = {
            let _span = device.profile().span("load weights");
            open_to_infer(dir, device, digest_of)?
        };
        let _span = device.profile().span("load tokenizer");
        let top_k = model.head().map_err(|e| e.context(dir.display()))?.top_k;
        let tokenizer = Arc::new(Tokenizer::open(dir)?);
        let relations = open_relations(dir, &model)?;
        let rule = Rule { threshold: 0.0, max_labels: top_k, evidence: None };
        Ok(Extractor { dir: dir.to_path_buf(), model, tokenizer, relations, rule, calibration: None, digest })
    }
    /// The word pieces of a document.
    pub fn encode(&self, document: &Document) -> Result<Encoded> {
        let _span = self.model.params.device().profile().span("tokenize");
        self.tokenizer.encode(document)
    }
    /// Triples of each document: by cell, the surest first. Of one pair the largest margins, at most `max_labels`, that
    /// are [`Extractor::above`] the rule's threshold.
    pub fn predict(&self, documents: &[&Encoded]) -> Result<Vec<Vec<Triple>>> {
        let mut all = Vec::with_capacity(documents.len());
        self.predict_each(documents, |triples| {
            all.push(triples);
            Ok(())
        })?;
        Ok(all)
    }
    /// As [`Extractor::predict`]; `each` gets the triples of each document in order: on a GPU as soon as it is done.
    pub fn predict_each(&self, documents: &[&Encoded], mut each: impl FnMut(Vec<Triple>) -> Result<()>) -> Result<()> {
        // Asked for a little more than is wanted: one comparison, in `above`, decides whatever is rounded.
        const MORE: f64 = 1e-3;
        let lowest = self.calibration.as_ref().map_or(0.0, Calibration::lowest);
        let rule = Rule { threshold: self.rule.threshold + lowest - MORE, ..self.rule };
        let compute = |part: &[&Encoded]| together(&self.model, part, rule);
        one_by_one(&self.model, documents, compute, |mut triples| {
            triples.retain(|t| self.above(t) > self.rule.threshold);
            if let Some(sigmoid) = self.calibration.as_ref().and_then(|c| c.score) {
                triples.iter_mut().for_each(|t| t.score = sigmoid.score(f64::from(t.margin)) as f32);
            }
            each(triples)
        })
    }
    /// The margin of a triple above the calibrated threshold of its relation.
    pub fn above(&self, triple: &Triple) -> f64 {
        let shift = self.calibration.as_ref().map_or(0.0, |c| c.shift(self.relations.code(triple.relation)));
        f64::from(triple.margin) - shift
    }
    /// Encodes and predicts.
    pub fn extract(&self, documents: &[Document]) -> Result<Vec<Vec<Triple>>> {
        let encoded: Vec<Encoded> = documents.iter().map(|d| self.encode(d)).collect::<Result<_>>()?;
        self.predict(&encoded.iter().collect::<Vec<_>>())
    }
}

fn open_relations(dir: &Path, model: &Model) -> Result<Relations> {
    let path = dir.join("relations.json");
    let labels = &model.config.labels;
    if labels.is_empty() && !path.exists() {
        let what = format!("{}: no relations.json, and no id2label in config.json", dir.display());
        return Err(Error::model("E-RELATIONS", what).fix("one of them must name the relations"));
    }
    let of_labels = || Relations::from_codes(labels.clone()).map_err(|e| e.of_kind(Kind::Model).context(dir.display()));
    let relations = if path.exists() { Relations::of_model(dir)? } else { of_labels()? };
    let classes = model.head()?.classes;
    if relations.len() != classes || (!labels.is_empty() && relations.codes() != labels) {
        let what = format!("{} names {} relations, the model has {classes}", path.display(), relations.len());
        return Err(
            Error::model("E-RELATIONS", what).fix("relations.json and config.json must list the same relations")
        );
    }
    Ok(relations)
}

/// Of the weights in f32, one after another.
pub fn digest_of(weights: &[f32]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytemuck::cast_slice::<f32, u8>(weights))))
}

/// Triples of each document, between its candidate pairs.
pub fn predict<E: Borrow<Encoded>>(model: &Model, documents: &[E], rule: Rule) -> Result<Vec<Vec<Triple>>> {
    let documents: Vec<&Encoded> = documents.iter().map(Borrow::borrow).collect();
    side_by_side(model, &documents, |part| together(model, part, rule))
}

/// `compute`, which gives something for each document, of parts of `documents` side by side.
pub fn side_by_side<T: Send + Sync>(
    model: &Model,
    documents: &[&Encoded],
    compute: impl Fn(&[&Encoded]) -> Result<Vec<T>> + Sync,
) -> Result<Vec<T>> {
    let mut all = Vec::with_capacity(documents.len());
    one_by_one(model, documents, compute, |found| {
        all.push(found);
        Ok(())
    })?;
    Ok(all)
}

/// As [`side_by_side`]; `each` gets what there is of each document in order: on a GPU as soon as it is done.
fn one_by_one<T: Send + Sync>(
    model: &Model,
    documents: &[&Encoded],
    compute: impl Fn(&[&Encoded]) -> Result<Vec<T>> + Sync,
    mut each: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let device = model.params.device();
    let parts = batches(documents, Budget::of_part(device));
    device.side_by_side(
        parts.len(),
        |i| compute(&documents[parts[i].clone()]),
        |found| found.into_iter().try_for_each(&mut each),
    )
}

fn together(model: &Model, documents: &[&Encoded], rule: Rule) -> Result<Vec<Vec<Triple>>> {
    let profile = model.params.device().profile();
    let batch = {
        let _span = profile.span("lay out batch");
        model.batch(documents)?
    };
    let wanted = rule.evidence.is_some();
    let (logits, a) = model.forward_with_attention(&mut Tape::inference(), &batch, false, wanted)?;
    let logits = logits.to_cpu()?;
    let _span = profile.span("predict");
    refuse_non_finite(&logits)?;
    let found = batch.cells.iter().zip(predict_above(&logits, rule.max_labels, rule.threshold)?);
    let asked = |cell: &Cell| {
        let (head, tail) = (cell.subject as usize, cell.object as usize);
        // The diagonal's logits are zero: below a negative threshold they are no relations either.
        head != tail && documents[cell.document as usize].pairs.contains(head, tail)
    };
    let related = found.filter(|(cell, found)| !found.is_empty() && asked(cell));
    let (cells, found): (Vec<Cell>, Vec<_>) = related.unzip();
    let named = rule.evidence.zip(a).map(|(least, a)| evidence_of(model, &batch, &a, cells.clone(), least));
    let named = named.transpose()?;
    let mut triples = vec![Vec::new(); documents.len()];
    for (i, (cell, found)) in cells.iter().zip(found).enumerate() {
        let evidence = named.as_ref().map(|of_cells| &of_cells[i]);
        triples[cell.document as usize].extend(found.into_iter().map(|(relation, margin)| Triple {
            head: cell.subject as usize,
            tail: cell.object as usize,
            relation: relation as usize,
            margin: margin as f32,
            score: (1.0 / (1.0 + (-margin).exp())) as f32,
            evidence: evidence.cloned(),
        }));
    }
    documents.iter().zip(&mut triples).filter(|(d, _)| d.pairs.undirected).for_each(|(d, t)| join_directions(d, t));
    Ok(triples)
}

/// The sentences that have more than `least` of the attention of each of `cells`.
fn evidence_of(model: &Model, batch: &Batch, a: &Tensor, cells: Vec<Cell>, least: f64) -> Result<Vec<Vec<u32>>> {
    let pairs = Arc::new(EvidencePairs::new(&batch.documents, cells)?);
    let p = evidence(a, &pairs, model.pooling()?)?.to_f64()?;
    let above = |row: Range<usize>| (0..).zip(&p[row]).filter(|(_, p)| **p > least).map(|(s, _)| s).collect();
    Ok(pairs.rows.iter().map(above).collect())
}

/// A relation that was found both ways is one, as sure as the surer of the two.
fn join_directions(document: &Encoded, triples: &mut Vec<Triple>) {
    triples.iter_mut().for_each(|t| (t.head, t.tail) = document.pairs.canonical(t.head, t.tail));
    let surer = |a: &Triple, b: &Triple| b.margin.total_cmp(&a.margin);
    let pair = |t: &Triple| (t.head, t.tail);
    triples.sort_by(|a, b| pair(a).cmp(&pair(b)).then(surer(a, b)).then(a.relation.cmp(&b.relation)));
    let mut seen = HashSet::new();
    triples.retain(|t| seen.insert((t.head, t.tail, t.relation)));
}

/// A comparison with NaN is false: such a document would look as if it held no relation.
fn refuse_non_finite(logits: &Tensor) -> Result<()> {
    let all = match logits.dtype() {
        DType::F64 => finite::<f64>(logits),
        _ => finite::<f32>(logits),
    };
    if all { Ok(()) } else { Err(Error::non_finite("logits that are not finite").fix("use an earlier checkpoint")) }
}

fn finite<T: Real>(logits: &Tensor) -> bool {
    // Without a way out between them, so that many are tested at once.
    logits.slice::<T>().chunks(1 << 10).all(|part| part.iter().fold(true, |all, l| all & l.is_finite()))
}

/// Runs of consecutive documents that fit the budget.
pub fn batches<E: Borrow<Encoded>>(documents: &[E], budget: Budget) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut tokens, mut cells) = (0, 0, 0);
    for (i, document) in documents.iter().map(Borrow::borrow).enumerate() {
        let (t, c) = (document.ids.len(), document.mentions.len().pow(2));
        let full = tokens + t > budget.tokens || cells + c > budget.cells || i - start >= budget.documents;
        if i > start && full {
            runs.push(start..i);
            (start, tokens, cells) = (i, 0, 0);
        }
        tokens += t;
        cells += c;
    }
    if start < documents.len() {
        runs.push(start..documents.len());
    }
    runs
}

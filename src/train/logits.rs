//! A teacher's logits on disk: shards of safetensors in half precision, read a document at a time in any order.
//!
//! `logits-00000.safetensors`, .. hold consecutive runs of a corpus's documents, their n x n cells one after another,
//! subject-major. Dense: `logits` F16 `[cells, R]`. Sparse: of each cell the threshold class and the k - 1 largest of
//! the others, `classes` U16 `[cells, k]`, and `values` F16 `[cells, k + 1]`, the last of them the mean of the rest,
//! which stands for each of them. `hash` U64 `[documents]`: the first 8 bytes of the SHA-256 of a document's bytes.
//! The header's metadata names model, data, relations and form. The bytes depend on nothing else: a shard that is there
//! is never made again, and one that a kill left unfinished has no name yet.

use crate::checkpoint::{AtomicFile, Planned, Stored, TensorFile, TensorWriter};
use crate::data::{Corpus, Relations};
use crate::error::{Error, Result};
use half::f16;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A shard holds at most so many documents, and cells (51 MB of 97 classes) unless a single document has more.
const DOCUMENTS: usize = 256;
const CELLS: usize = 1 << 18;

/// What of a cell's logits is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    #[default]
    Dense,
    /// So many classes of each cell, the threshold among them.
    Sparse(usize),
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Form::Dense => f.write_str("dense"),
            Form::Sparse(kept) => write!(f, "sparse {kept}"),
        }
    }
}

impl Form {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("sparse ") {
            Some(kept) => kept.parse().ok().map(Form::Sparse),
            None => (text == "dense").then_some(Form::Dense),
        }
    }
}

/// What shards are of: those of anything else are refused.
pub struct Identity {
    metadata: BTreeMap<String, String>,
    form: Form,
    classes: usize,
    /// Cells of each document.
    cells: Vec<usize>,
}

impl Identity {
    /// Logits of the weights with the hash `model` for all documents of `corpus`.
    pub fn new(model: &str, corpus: &Corpus, relations: &Relations, form: Form) -> Result<Self> {
        let classes = relations.len();
        if let Form::Sparse(kept) = form
            && !(2..=classes).contains(&kept)
        {
            return Err(Error::usage(format!("sparse logits of {kept} classes: 2 to {classes} are possible")));
        }
        let metadata = [
            ("format", "docre.logits.v1".to_string()),
            ("model", model.to_string()),
            ("data", corpus.hash().to_string()),
            ("relations", relations.codes().join(" ")),
            ("form", form.to_string()),
        ];
        Ok(Identity {
            metadata: metadata.map(|(key, value)| (key.to_string(), value)).into(),
            form,
            classes,
            cells: (0..corpus.len()).map(|i| corpus.entities(i).pow(2)).collect(),
        })
    }

    /// The documents of each shard.
    pub fn shards(&self) -> Vec<Range<usize>> {
        let mut shards = Vec::new();
        let (mut start, mut cells) = (0, 0);
        for (i, &own) in self.cells.iter().enumerate() {
            if i > start && (i - start == DOCUMENTS || cells + own > CELLS) {
                shards.push(start..i);
                (start, cells) = (i, 0);
            }
            cells += own;
        }
        if start < self.cells.len() {
            shards.push(start..self.cells.len());
        }
        shards
    }

    /// Bytes of a cell.
    fn width(&self) -> usize {
        match self.form {
            Form::Dense => 2 * self.classes,
            Form::Sparse(kept) => 2 * (2 * kept + 1),
        }
    }

    /// Bytes of all shards on disk, but for their headers.
    pub fn bytes(&self) -> usize {
        self.cells.iter().sum::<usize>() * self.width() + 8 * self.cells.len()
    }

    fn check(&self, file: &TensorFile, documents: usize) -> Result<()> {
        let wrong = |what: String| {
            Err(Error::model("E-LOGITS", format!("{}: {what}", file.path().display()))
                .fix("another directory for these logits, or remove this one"))
        };
        for (key, value) in &self.metadata {
            match file.metadata().get(key) {
                Some(found) if found == value => {}
                _ => return wrong(format!("logits of another {key}")),
            }
        }
        let (_, hashes) = file.read_u64("hash")?;
        if hashes.len() != documents {
            return wrong(format!("{} documents, {documents} are needed", hashes.len()));
        }
        Ok(())
    }
}

fn path_of(dir: &Path, shard: usize) -> PathBuf {
    dir.join(format!("logits-{shard:05}.safetensors"))
}

/// Whether shard number `shard` is there. Error: E-LOGITS where it is one of something else.
pub fn is_done(dir: &Path, identity: &Identity, shard: usize) -> Result<bool> {
    let path = path_of(dir, shard);
    if !path.exists() {
        return Ok(false);
    }
    identity.check(&TensorFile::open(path)?, identity.shards()[shard].len()).map(|()| true)
}

/// Of one document in a form: classes (none where dense) and values, row after row.
#[derive(Default, PartialEq, Debug)]
struct Packed {
    classes: Vec<u16>,
    values: Vec<f16>,
}

impl Packed {
    fn new(logits: &[f16], classes: usize, form: Form) -> Self {
        let Form::Sparse(kept) = form else { return Packed { classes: Vec::new(), values: logits.to_vec() } };
        let mut packed = Packed::default();
        for row in logits.chunks_exact(classes) {
            let mut order: Vec<u16> = (0..classes as u16).collect();
            // Of equal logits the lower class; the threshold before all.
            order[1..].sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
            let (first, rest) = order.split_at(kept);
            let sum: f64 = rest.iter().map(|&class| row[class as usize].to_f64()).sum();
            packed.classes.extend(first);
            packed.values.extend(first.iter().map(|&class| row[class as usize]));
            packed.values.push(f16::from_f64(sum / rest.len().max(1) as f64));
        }
        packed
    }

    fn unpack(self, classes: usize, form: Form) -> Result<Vec<f16>> {
        let Form::Sparse(kept) = form else { return Ok(self.values) };
        let mut logits = Vec::with_capacity(self.values.len() / (kept + 1) * classes);
        for (own, values) in self.classes.chunks_exact(kept).zip(self.values.chunks_exact(kept + 1)) {
            let start = logits.len();
            logits.resize(start + classes, values[kept]);
            for (&class, &value) in own.iter().zip(values) {
                let to = logits.get_mut(start + class as usize).filter(|_| (class as usize) < classes);
                *to.ok_or_else(|| Error::model("E-LOGITS", format!("class {class} of {classes}")))? = value;
            }
        }
        Ok(logits)
    }

    fn hash(&self) -> u64 {
        let mut hash = Sha256::new();
        hash.update(bytemuck::cast_slice::<u16, u8>(&self.classes));
        hash.update(bytemuck::cast_slice::<f16, u8>(&self.values));
        hash.finalize().iter().take(8).fold(0, |hash, &byte| hash << 8 | u64::from(byte))
    }
}

/// Writes shard number `shard`: `documents` are the logits of its documents, `[n x n, R]` each.
pub fn write(dir: &Path, identity: &Identity, shard: usize, documents: &[Vec<f16>]) -> Result<()> {
    let packed: Vec<Packed> =
        documents.iter().map(|logits| Packed::new(logits, identity.classes, identity.form)).collect();
    let cells = documents.iter().map(|logits| logits.len() / identity.classes).sum();
    let mut plan = match identity.form {
        Form::Dense => vec![Planned::new("logits", Stored::F16, &[cells, identity.classes])],
        Form::Sparse(kept) => vec![
            Planned::new("values", Stored::F16, &[cells, kept + 1]),
            Planned::new("classes", Stored::U16, &[cells, kept]),
        ],
    };
    plan.push(Planned::new("hash", Stored::U64, &[documents.len()]));
    let mut file = AtomicFile::create(path_of(dir, shard))?;
    let mut writer = TensorWriter::new(&mut file, plan, &identity.metadata)?;
    for Packed { values, .. } in &packed {
        writer.write(&values.iter().map(|v| v.to_f32()).collect::<Vec<_>>())?;
    }
    packed.iter().try_for_each(|p| writer.write_u16(&p.classes))?;
    writer.write_u64(&packed.iter().map(Packed::hash).collect::<Vec<_>>())?;
    writer.finish()?;
    file.commit()
}

/// The logits of a whole corpus.
pub struct Logits {
    identity: Identity,
    shards: Vec<(Range<usize>, TensorFile)>,
    /// Of each document: its first row in its shard, and its hash.
    places: Vec<(usize, u64)>,
}

impl Logits {
    /// Opens the logits of `dir` for `corpus`, of whatever weights and in whatever form they are.
    pub fn find(dir: &Path, corpus: &Corpus, relations: &Relations) -> Result<Self> {
        let file = TensorFile::open(path_of(dir, 0))?;
        let said = |key: &str| file.metadata().get(key).map_or("", String::as_str);
        let what = || Error::model("E-LOGITS", format!("{} holds no logits", file.path().display()));
        let form = Form::parse(said("form")).ok_or_else(what)?;
        Self::open(dir, Identity::new(said("model"), corpus, relations, form)?)
    }

    /// Opens the shards of `dir`. Errors: E-IO where one is missing, E-LOGITS where one is of something else.
    pub fn open(dir: &Path, identity: Identity) -> Result<Self> {
        let (mut shards, mut places) = (Vec::new(), Vec::new());
        for (number, range) in identity.shards().into_iter().enumerate() {
            let file = TensorFile::open(path_of(dir, number))?;
            identity.check(&file, range.len())?;
            let mut row = 0;
            for (document, hash) in range.clone().zip(file.read_u64("hash")?.1) {
                places.push((row, hash));
                row += identity.cells[document];
            }
            shards.push((range, file));
        }
        Ok(Logits { identity, shards, places })
    }

    /// Logits of document `i`, `[n x n, R]`. Error: E-LOGITS where its bytes are not those that were written.
    pub fn document(&self, i: usize) -> Result<Vec<f16>> {
        let shard = self.shards.partition_point(|(range, _)| range.end <= i);
        let file = &self.shards[shard].1;
        let (row, hash) = self.places[i];
        let rows = row..row + self.identity.cells[i];
        let form = self.identity.form;
        let packed = match form {
            Form::Dense => Packed { classes: Vec::new(), values: file.rows("logits", Stored::F16, rows)? },
            Form::Sparse(_) => Packed {
                classes: file.rows("classes", Stored::U16, rows.clone())?,
                values: file.rows("values", Stored::F16, rows)?,
            },
        };
        if packed.hash() != hash {
            let what = format!("{}: the logits of document {i} are damaged", file.path().display());
            return Err(Error::model("E-LOGITS", what).fix("remove this file and make it again"));
        }
        packed.unpack(self.identity.classes, form)
    }
}

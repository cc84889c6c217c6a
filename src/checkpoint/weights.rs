//! Loading a checkpoint into one flat array of parameters, and writing it back under the released names.
//!
//! Loading is in two steps: [`Loader::check`] looks at names and shapes only, so that a wrong file is
//! refused before anything is allocated; [`Loader::fill`] then streams each tensor to its place.

use super::header::Stored;
use super::shards::Checkpoint;
use super::tensors::{Slice, zeros};
use super::writer::{Planned, TensorWriter};
use crate::dtype::Real;
use crate::model::names::{Group, ParamSpec, Part, Source, ranges};
use crate::text::shape_name;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// What a checkpoint must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Every parameter of the table.
    Everything,
    /// The encoder; head and axial layers start anew, even if the file has them.
    Encoder,
}

/// What became of the tensors of a checkpoint. Names are the checkpoint's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    pub used: Vec<String>,
    /// In the file, not in the model: poolers, masked-language heads, or a head that is started anew.
    pub unused: Vec<String>,
    /// In the model, not in the file. Not empty only with [`Want::Encoder`]: the new head.
    pub missing: Vec<String>,
    /// Indices into the table of the parameters that the caller has to initialize.
    pub fresh: Vec<usize>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors used", self.used.len())?;
        for (what, names) in [("unused", &self.unused), ("new", &self.missing)] {
            if !names.is_empty() {
                write!(f, ", {} {what} ({})", names.len(), some_of(names))?;
            }
        }
        Ok(())
    }
}

/// The first few names.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let first = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{first}, …") } else { first }
}

/// A checkpoint that fits a parameter table.
#[derive(Debug)]
pub struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    table: &'a [ParamSpec],
    prefix: &'static str,
    report: LoadReport,
}

/// Longest first: the encoder's tensors begin with one of these in files of different origin.
const PREFIXES: [&str; 4] = ["roberta.", "model.", "bert.", ""];
/// What our files begin them with: as released.
const OUR_PREFIX: &str = "model.";

impl<'a> Loader<'a> {
    /// Compares names and shapes. Nothing is read yet.
    pub fn check(checkpoint: &'a Checkpoint, table: &'a [ParamSpec], want: Want) -> Result<Self> {
        let mut loader = Loader { checkpoint, table, prefix: prefix_of(checkpoint), report: LoadReport::default() };
        loader.compare(want).map_err(|e| e.context(checkpoint.path().display()))?;
        Ok(loader)
    }

    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// Reads every tensor into its place in `flat`, the parameters of the table one after another;
    /// those listed in the report's `fresh` are left as they are.
    pub fn fill<T: Real>(&self, flat: &mut [T]) -> Result<()> {
        let places = ranges(self.table);
        let total = places.last().map_or(0, |last| last.end);
        if flat.len() != total {
            return Err(Error::shape("load", "the flat array's length", total, flat.len()));
        }
        let fresh: BTreeSet<usize> = self.report.fresh.iter().copied().collect();
        for (i, (param, place)) in self.table.iter().zip(places).enumerate() {
            if !fresh.contains(&i) {
                self.fill_param(param, &mut flat[place])?;
            }
        }
        Ok(())
    }

    fn fill_param<T: Real>(&self, param: &ParamSpec, values: &mut [T]) -> Result<()> {
        for source in &param.sources {
            let found = self.find(param.group, source).and_then(|name| Some((self.checkpoint.info(&name)?, name)));
            let Some((info, name)) = found else { continue }; // `compare` found them all
            let slice = match &source.part {
                Part::All | Part::Rows(_) => Slice::all(info),
                Part::Columns(columns) => Slice::columns(info, columns.clone()),
            };
            self.checkpoint.read_into(&name, &slice, &mut values[piece(param, source)])?;
        }
        Ok(())
    }

    fn compare(&mut self, want: Want) -> Result<()> {
        let (mut used, mut missing) = (BTreeSet::new(), Vec::new());
        for (i, param) in self.table.iter().enumerate() {
            if want == Want::Encoder && param.group != Group::Encoder {
                self.report.fresh.push(i);
                missing.extend(param.sources.iter().map(|s| (param.group, s)));
                continue;
            }
            for source in &param.sources {
                match self.find(param.group, source) {
                    None => missing.push((param.group, source)),
                    Some(name) => {
                        check_shape(self.checkpoint, &name, source)?;
                        used.insert(name);
                    }
                }
            }
        }
        self.refuse_missing(want, &missing)?;
        let mut names: Vec<String> = missing.iter().map(|(_, s)| s.name.clone()).collect();
        names.dedup(); // the two halves of an extractor
        let unused = self.checkpoint.names().filter(|n| !used.contains(*n)).map(String::from).collect();
        self.report.used = used.into_iter().collect();
        self.report.unused = unused;
        self.report.missing = names;
        self.refuse_layers(want)
    }

    /// The name under which the file holds `source`.
    fn find(&self, group: Group, source: &Source) -> Option<String> {
        let prefix = if group == Group::Encoder { self.prefix } else { "" };
        let name = format!("{prefix}{}", source.name);
        if self.checkpoint.info(&name).is_some() {
            return Some(name);
        }
        // TensorFlow's words, in files converted long ago
        let old = match name.strip_suffix("LayerNorm.weight") {
            Some(stem) => format!("{stem}LayerNorm.gamma"),
            None => format!("{}LayerNorm.beta", name.strip_suffix("LayerNorm.bias")?),
        };
        self.checkpoint.info(&old).map(|_| old)
    }

    fn refuse_missing(&self, want: Want, missing: &[(Group, &Source)]) -> Result<()> {
        let required = |group: Group| want == Want::Everything || group == Group::Encoder;
        let mut names: Vec<String> = Vec::new();
        for (_, source) in missing.iter().filter(|(group, _)| required(*group)) {
            names.push(format!("{} ({})", source.name, shape_name(&source.shape)));
        }
        names.dedup();
        if names.is_empty() {
            return Ok(());
        }
        let all: BTreeSet<&str> = self.table.iter().flat_map(|p| &p.sources).map(|s| s.name.as_str()).collect();
        let what = format!("{} of {} tensors missing: {}", names.len(), all.len(), some_of(&names));
        let error = Error::model("E-WEIGHTS", what);
        if missing.iter().all(|(group, _)| *group != Group::Encoder) && !self.has_head() {
            return Err(error.fix("this looks like a plain encoder: train a head with `docre train`"));
        }
        Err(error.fix("config.json must describe this model.safetensors"))
    }

    fn has_head(&self) -> bool {
        let head = self.table.iter().filter(|p| p.group != Group::Encoder);
        head.flat_map(|p| &p.sources).any(|s| self.checkpoint.info(&s.name).is_some())
    }

    /// A configuration with fewer layers than the file would load, and compute something else.
    fn refuse_layers(&self, want: Want) -> Result<()> {
        let encoder = format!("{}encoder.layer.", self.prefix);
        let axial = "axial_transformer.";
        let layer = |n: &&String| n.starts_with(&encoder) || want == Want::Everything && n.starts_with(axial);
        match self.report.unused.iter().find(layer) {
            None => Ok(()),
            Some(name) => Err(Error::model("E-WEIGHTS", format!("{name} belongs to no layer of the configuration"))
                .fix("correct num_hidden_layers or docre.axial_layers in config.json")),
        }
    }
}

/// Opens, checks and reads: the flat array and the report.
pub fn load<T: Real>(path: impl AsRef<Path>, table: &[ParamSpec], want: Want) -> Result<(Vec<T>, LoadReport)> {
    let checkpoint = Checkpoint::open(path)?;
    let loader = Loader::check(&checkpoint, table, want)?;
    let mut flat = zeros(table.iter().map(ParamSpec::elements).sum())?;
    loader.fill(&mut flat)?;
    Ok((flat, loader.report))
}

fn prefix_of(checkpoint: &Checkpoint) -> &'static str {
    let has = |prefix: &&str| checkpoint.info(&format!("{prefix}embeddings.word_embeddings.weight")).is_some();
    PREFIXES.into_iter().find(has).unwrap_or("")
}

fn check_shape(checkpoint: &Checkpoint, name: &str, source: &Source) -> Result<()> {
    let Some(info) = checkpoint.info(name) else { return Ok(()) };
    if info.shape != source.shape {
        let (found, wanted) = (shape_name(&info.shape), shape_name(&source.shape));
        let what = format!("{name} is {found} in the file, the configuration asks for {wanted}");
        return Err(Error::model("E-WEIGHTS", what).fix("config.json must describe this model.safetensors"));
    }
    if !info.stored.is_float() {
        return Err(Error::model("E-WEIGHTS", format!("{name} holds {}, not weights", info.stored.name())));
    }
    Ok(())
}

/// The part of a parameter's values that a source gives.
fn piece(param: &ParamSpec, source: &Source) -> Range<usize> {
    match &source.part {
        Part::All | Part::Columns(_) => 0..param.elements(),
        Part::Rows(rows) => {
            let width: usize = param.shape[1..].iter().product();
            rows.start * width..rows.end * width
        }
    }
}

/// One tensor of the checkpoint: its name, whole shape, and our pieces side by side, left to right.
struct Assembled<'a> {
    name: String,
    shape: &'a [usize],
    pieces: Vec<Range<usize>>,
}

/// The inverse of the table, in its order.
fn assemble(table: &[ParamSpec]) -> Vec<Assembled<'_>> {
    let mut found: Vec<Assembled> = Vec::new();
    let mut index = BTreeMap::new();
    for (param, place) in table.iter().zip(ranges(table)) {
        let prefix = if param.group == Group::Encoder { OUR_PREFIX } else { "" };
        for source in &param.sources {
            let inner = piece(param, source);
            let range = place.start + inner.start..place.start + inner.end;
            let at = *index.entry(&source.name).or_insert(found.len());
            if at == found.len() {
                let name = format!("{prefix}{}", source.name);
                found.push(Assembled { name, shape: &source.shape, pieces: Vec::new() });
            }
            found[at].pieces.push(range); // the table lists column parts from left to right
        }
    }
    found
}

/// Streams the weights as safetensors to `out`, under the names of the released program. The metadata
/// gets `format: pt`, without which Hugging Face's readers refuse a file.
pub fn save<T: Real>(
    out: &mut dyn Write,
    table: &[ParamSpec],
    flat: &[T],
    stored: Stored,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let total: usize = table.iter().map(ParamSpec::elements).sum();
    if flat.len() != total {
        return Err(Error::shape("save", "the flat array's length", total, flat.len()));
    }
    let tensors = assemble(table);
    let plan = tensors.iter().map(|t| Planned::new(&t.name, stored, t.shape)).collect();
    let mut metadata = metadata.clone();
    metadata.entry("format".into()).or_insert_with(|| "pt".into());
    let mut writer = TensorWriter::new(out, plan, &metadata)?;
    for tensor in &tensors {
        match &tensor.pieces[..] {
            [whole] => writer.write(&flat[whole.clone()])?,
            pieces => write_columns(&mut writer, tensor.shape[0], pieces, flat)?,
        }
    }
    writer.finish().map(|_| ())
}

/// Row by row, each piece's columns of that row.
fn write_columns<T: Real, W: Write>(
    writer: &mut TensorWriter<W>,
    rows: usize,
    pieces: &[Range<usize>],
    flat: &[T],
) -> Result<()> {
    for row in 0..rows {
        for piece in pieces {
            let width = piece.len() / rows;
            writer.write(&flat[piece.start + row * width..][..width])?;
        }
    }
    Ok(())
}

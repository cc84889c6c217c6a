//! How a run begins: what is in its directory, its data, the model that it starts from.

use super::config::Config;
use super::log::LINES;
use super::state::{self, Progress};
use super::step::{Example, Trainer};
use crate::checkpoint::{Want, build};
use crate::data::{self, Document, Relations, Tokenizer, Unknown, no_labels};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::text::hex;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The configuration of a run, in its directory.
pub const RESOLVED: &str = "config.resolved.toml";

/// Documents ready for the model.
pub struct Split {
    pub examples: Vec<Example>,
    /// Of what the model sees of them, in hexadecimal digits.
    pub hash: String,
    /// Gold labels left out because the inventory does not have their relation.
    pub unknown: usize,
}

/// Updates of a whole run over so many documents.
pub fn total_updates(config: &Config, documents: usize) -> u64 {
    let size = config.schedule.batch * config.schedule.accumulate;
    (config.schedule.epochs * documents.div_ceil(size)) as u64
}

/// Where a run goes on: the newest complete checkpoint of `dir`, if it is to.
///
/// Errors: E-USAGE where a fresh run would write over another one, or over what somebody else calls `best`.
pub fn find(config: &Config, dir: &Path, resume: bool) -> Result<Option<PathBuf>> {
    let found = state::find(dir)?;
    if found.is_some() && resume {
        return Ok(found);
    }
    let there = |name: &str| dir.join(name).exists();
    if !resume && (found.is_some() || there("best") || there(LINES)) {
        let fix = "--resume auto to go on with it, or another --out";
        return Err(Error::usage(format!("{} already holds a run", dir.display())).fix(fix));
    }
    // The same run, killed before its first checkpoint, may have saved its first weights.
    let of = std::fs::read_to_string(dir.join(RESOLVED)).ok().and_then(|text| Config::parse(&text, &[]).ok());
    if there("best") && of.is_none_or(|of| of.decisive().ok() != config.decisive().ok()) {
        let what = format!("{} has no checkpoint to go on from, and a `best` that is not this run's", dir.display());
        return Err(Error::usage(what).fix("another --out, or move `best` away"));
    }
    Ok(None)
}

pub fn unknown(config: &Config) -> Unknown {
    if config.data.skip_unknown_relations { Unknown::Skip } else { Unknown::Error }
}

/// The inventory: the checkpoint's, or rel2id.json, or the sorted names of the data.
pub fn inventory(config: &Config, start: &Path, resumed: bool) -> Result<Relations> {
    if resumed || config.model.keep_head {
        return Relations::of_model(start);
    }
    let mut relations = match &config.data.relations {
        Some(path) => Relations::read_any(path)?,
        None => Relations::from_names(names_in_data(config)?),
    };
    if let Some(path) = &config.data.relation_names {
        relations.read_names(path)?;
    }
    Ok(relations)
}

fn names_in_data(config: &Config) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for path in config.data.train.iter().chain(&config.data.dev) {
        for document in data::open(path, data::Options::default())? {
            names.extend(document?.gold().iter().map(|label| label.relation.clone()));
        }
    }
    Ok(names)
}

/// Reads and encodes all documents of some files. Error: E-LABEL where none of them has labels.
pub fn read(paths: &[PathBuf], tokenizer: &Tokenizer, relations: &Relations, unknown: Unknown) -> Result<Split> {
    let mut split = Split { examples: Vec::new(), hash: String::new(), unknown: 0 };
    let mut hash = Sha256::new();
    let mut labelled = paths.is_empty();
    for path in paths {
        for document in data::open(path, data::Options::default())? {
            let document: Document = document?;
            labelled |= document.labels.is_some();
            let (labels, skipped) = relations.encode(&document, unknown).map_err(|e| e.context(path.display()))?;
            let encoded = tokenizer.encode(&document).map_err(|e| e.context(path.display()))?;
            split.unknown += skipped;
            hash.update(bytemuck::cast_slice::<u32, u8>(&encoded.ids));
            encoded.mentions.iter().for_each(|rows| hash.update(bytemuck::cast_slice::<u32, u8>(rows)));
            hash.update(bytemuck::cast_slice::<u64, u8>(&labels.bits));
            split.examples.push(Example { encoded, labels, unknown_gold: skipped, teacher: Vec::new() });
        }
    }
    split.hash = hex(&hash.finalize());
    if labelled { Ok(split) } else { Err(no_labels(paths)) }
}

/// The configuration of the model: that of `start`, or with a new head.
pub fn start_config(config: &Config, start: &Path, resumed: bool, relations: &Relations) -> Result<ModelConfig> {
    let given = ModelConfig::load(start)?;
    if resumed || config.model.keep_head { Ok(given) } else { config.model_config(&given, relations.codes()) }
}

/// What rounds the weights of a run: they are the same bits on every CPU or every GPU in the same precision.
pub fn arithmetic(device: &Device) -> &'static str {
    match device {
        Device::Cuda(_) => "bf16 on a GPU",
        Device::Cpu(cpu) if cpu.precision == DType::BF16 => "bf16 on a CPU",
        Device::Cpu(_) => "f32 on a CPU",
    }
}

pub fn start_trainer(
    config: &Config,
    start: &Path,
    model: ModelConfig,
    found: Option<&Path>,
    total: u64,
    device: &Device,
) -> Result<(Trainer, Progress)> {
    let want = if found.is_some() || config.model.keep_head { Want::Everything } else { Want::Encoder };
    let (model, _) = build::<f32>(start, model, want, config.schedule.seed, device)?;
    let mut trainer = Trainer::new(model, config, total)?;
    let decisive = config.decisive()?;
    let layout = state::layout(&trainer.model.params);
    let Some(dir) = found else {
        return Ok((trainer, Progress { config: decisive, layout, ..Progress::default() }));
    };
    let progress = state::read_progress(dir)?;
    if progress.config != decisive {
        return Err(Error::usage(format!("{} was made by another configuration", dir.display()))
            .fix("--out for a new run, or the configuration in config.resolved.toml"));
    }
    if progress.layout != layout {
        let what = format!("{}: another version of docre made it, with its parameters in another order", dir.display());
        return Err(
            Error::model("E-STATE", what).fix("a new run that starts from it: model.start, model.keep_head = true")
        );
    }
    state::restore(dir, &progress, &mut trainer.optimizer)?;
    Ok((trainer, progress))
}

//! Checkpoints of a run: weights, optimizer, and where in the data it is.

use super::step::{Optimizer, Trainer};
use crate::checkpoint::directory::{Staging, checkpoint_name, latest_complete, prune, save_directory};
use crate::checkpoint::{Planned, Stored, TensorFile, TensorWriter, save_model};
use crate::data::Relations;
use crate::error::{Error, Result};
use crate::model::Params;
use crate::tensor::Tensor;
use crate::text::{hex, say};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "trainer_state.json";
const MOMENTS: [&str; 2] = ["m", "v"];

/// Where a run is. Everything that the next update depends on beside weights and moments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Updates done, and updates tried (skipped ones included).
    pub updates: u64,
    pub tried: u64,
    pub epoch: usize,
    /// Documents of this epoch already used.
    pub used: usize,
    /// Best development F1 in percent, and the update that it was measured after.
    pub best_f1: Option<f64>,
    pub best_update: u64,
    /// Evaluations since the best one.
    pub waited: usize,
    /// The configuration that decides the course of the run.
    pub config: String,
    /// Hashes of the documents that it learns from and is evaluated on.
    #[serde(default)]
    pub data: String,
    /// The precision and the kind of device that it was computed in.
    #[serde(default)]
    pub arithmetic: String,
    /// The order of the parameters, which is that of the moments.
    #[serde(default)]
    pub layout: String,
}

/// A hash of the parameters' names and shapes in their order.
pub fn layout(params: &Params) -> String {
    let names = params.specs().iter().map(|spec| format!("{} {:?}\n", spec.name, spec.shape));
    let hash = Sha256::digest(names.collect::<String>());
    hex(&hash[..8])
}

/// What every model directory of a run holds beside the weights.
pub struct Companions {
    /// The bytes of tokenizer.json.
    pub tokenizer: Vec<u8>,
    pub relations: Relations,
}

fn write_model(staging: &mut Staging, trainer: &Trainer, with: &Companions) -> Result<()> {
    save_model(staging, &trainer.model, Stored::F32)?;
    staging.write("tokenizer.json", &with.tokenizer)?;
    staging.write("relations.json", with.relations.to_json()?.as_bytes())
}

/// Saves `run/checkpoint-NNNNNN` and removes old ones.
pub fn save_checkpoint(
    run: &Path,
    trainer: &Trainer,
    progress: &Progress,
    with: &Companions,
    keep: usize,
) -> Result<PathBuf> {
    let dir = run.join(checkpoint_name(progress.tried));
    save_directory(&dir, |staging| {
        write_model(staging, trainer, with)?;
        let moments = [trainer.optimizer.m.to_cpu()?, trainer.optimizer.v.to_cpu()?];
        staging.write_with(OPTIMIZER, |out| {
            let plan = MOMENTS.map(|name| Planned::new(name, Stored::F32, moments[0].shape()));
            let mut writer = TensorWriter::new(out, plan.to_vec(), &BTreeMap::new())?;
            moments.iter().try_for_each(|m| writer.write(m.slice::<f32>()))?;
            writer.finish().map(|_| ())
        })?;
        let json = serde_json::to_string_pretty(progress).map_err(|e| Error::io(STATE, e))?;
        staging.write(STATE, json.as_bytes())
    })?;
    prune(run, keep)?;
    Ok(dir)
}

/// Saves `run/best`: a model directory ready for `docre extract -m`.
pub fn save_best(run: &Path, trainer: &Trainer, with: &Companions) -> Result<()> {
    save_directory(run.join("best"), |staging| write_model(staging, trainer, with))
}

/// The newest complete checkpoint of `run`, if there is one.
pub fn find(run: &Path) -> Result<Option<PathBuf>> {
    let Some(latest) = latest_complete(run)? else { return Ok(None) };
    for error in &latest.passed_over {
        say(format_args!("warning: passed over a broken checkpoint: {error}"));
    }
    Ok(Some(latest.dir))
}

/// Reads the progress of a checkpoint.
pub fn read_progress(dir: &Path) -> Result<Progress> {
    let path = dir.join(STATE);
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::model("E-STATE", format!("{}: {e}", path.display())))
}

/// Puts the moments of a checkpoint into `optimizer`.
pub fn restore(dir: &Path, progress: &Progress, optimizer: &mut Optimizer) -> Result<()> {
    let file = TensorFile::open(dir.join(OPTIMIZER))?;
    for (name, into) in MOMENTS.into_iter().zip([&mut optimizer.m, &mut optimizer.v]) {
        let (shape, values) = file.read_f32(name)?;
        if shape != into.shape() {
            let what = format!("{OPTIMIZER}: {name} has shape {shape:?}, the model needs {:?}", into.shape());
            return Err(Error::model("E-STATE", what));
        }
        *into = Tensor::from_vec(into.device(), "optimizer", into.shape(), values)?;
    }
    optimizer.updates = progress.updates;
    Ok(())
}

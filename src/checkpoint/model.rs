//! A model from its directory, and back.

use super::directory::Staging;
use super::header::Stored;
use super::shards::WEIGHTS_FILE;
use super::weights::{LoadReport, Want, load, save};
use crate::device::Device;
use crate::dtype::Real;
use crate::error::{Error, Result};
use crate::model::config::{Architecture, ModelConfig};
use crate::model::names::{ParamSpec, parameter_table};
use crate::model::params::initialize;
use crate::model::{Model, Params};
use std::collections::BTreeMap;
use std::path::Path;

/// Opens a directory with a trained head.
pub fn open_model<T: Real>(dir: impl AsRef<Path>, device: &Device) -> Result<(Model, LoadReport)> {
    let dir = dir.as_ref();
    let config = ModelConfig::load(dir)?;
    build::<T>(dir, config, Want::Everything, 0, device)
}

/// As [`open_model`], only to compute with: the weights lie as products take them. Beside it, what `see` makes of all
/// weights in f32, on a thread of its own.
pub fn open_to_infer<R: Send>(
    dir: impl AsRef<Path>,
    device: &Device,
    see: impl FnOnce(&[f32]) -> R + Send,
) -> Result<(Model, R)> {
    let dir = dir.as_ref();
    let config = ModelConfig::load(dir)?;
    build_to_infer(dir, config, Want::Everything, 0, device, see)
}

/// As [`build`], only to compute with; see [`open_to_infer`].
pub fn build_to_infer<R: Send>(
    dir: impl AsRef<Path>,
    config: ModelConfig,
    want: Want,
    seed: u64,
    device: &Device,
    see: impl FnOnce(&[f32]) -> R + Send,
) -> Result<(Model, R)> {
    let atlop = config.head.as_ref().is_some_and(|head| head.architecture == Architecture::Atlop);
    if atlop && matches!(device, Device::Cpu(cpu) if cpu.int8) {
        let say = "int8 is for KD-DocRE models, and this one is ATLOP's: its bilinear form gives the logits themselves";
        return Err(Error::usage(say).fix("--precision bf16"));
    }
    let (table, flat, _) = read::<f32>(dir, &config, want, seed)?;
    let (params, seen) = std::thread::scope(|scope| {
        let seen = scope.spawn(|| see(&flat));
        let params = Params::to_infer(device, table, &flat);
        (params, seen.join())
    });
    let seen = seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    Ok((Model { config, params: params? }, seen))
}

/// Builds `config` on the encoder in `dir`; what `want` leaves open starts from `seed`.
pub fn build<T: Real>(
    dir: impl AsRef<Path>,
    config: ModelConfig,
    want: Want,
    seed: u64,
    device: &Device,
) -> Result<(Model, LoadReport)> {
    let (table, flat, report) = read::<T>(dir, &config, want, seed)?;
    let params = Params::new(device, table, flat)?;
    Ok((Model { config, params }, report))
}

/// The parameters of `config`, one after another.
fn read<T: Real>(
    dir: impl AsRef<Path>,
    config: &ModelConfig,
    want: Want,
    seed: u64,
) -> Result<(Vec<ParamSpec>, Vec<T>, LoadReport)> {
    let table = parameter_table(config);
    let (mut flat, report) = load::<T>(dir, &table, want)?;
    initialize(&table, &report.fresh, seed, &mut flat);
    Ok((table, flat, report))
}

/// Writes config.json and the weights, under the released names, into a directory being made.
pub fn save_model(staging: &mut Staging, model: &Model, stored: Stored) -> Result<()> {
    staging.write("config.json", model.config.to_json().as_bytes())?;
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let flat = model.params.flat().to_cpu()?;
    let flat = flat.slice::<f32>();
    staging.write_with(WEIGHTS_FILE, |out| save(out, model.params.specs(), flat, stored, &metadata))
}

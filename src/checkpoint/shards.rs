//! A model's weights, in one file or in several listed by `model.safetensors.index.json`.

use super::header::TensorInfo;
use super::tensors::{Slice, TensorFile, read_bounded};
use crate::dtype::Real;
use crate::text::one_line;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const WEIGHTS_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const MAX_INDEX: u64 = 64 << 20;
/// Each shard keeps a file open.
const MAX_SHARDS: usize = 512;

/// All tensors of a model, wherever they lie.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<TensorFile>,
    place: BTreeMap<String, usize>,
}

impl Checkpoint {
    /// `path` is a `.safetensors` file, an index of shards, or a directory that holds either.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = if path.is_dir() { weights_in(path)? } else { path.to_path_buf() };
        if file.extension().is_some_and(|e| e == "json") {
            return open_index(&file);
        }
        let whole = TensorFile::open(&file)?;
        let place = whole.names().map(|n| (n.to_string(), 0)).collect();
        Ok(Checkpoint { path: file, files: vec![whole], place })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The file or files of tensors, without the index.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(TensorFile::path)
    }
    /// In alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.file_of(name)?.info(name)
    }
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.files[0].metadata() // `open` refuses an index without a shard
    }
    pub fn read_into<T: Real>(&self, name: &str, slice: &Slice, out: &mut [T]) -> Result<()> {
        match self.file_of(name) {
            Some(file) => file.read_into(name, slice, out),
            None => Err(bad(&self.path, format!("no tensor {}", one_line(name)))),
        }
    }
    fn file_of(&self, name: &str) -> Option<&TensorFile> {
        self.place.get(name).map(|&i| &self.files[i])
    }
}

fn bad(path: &Path, what: impl Into<String>) -> Error {
    Error::model("E-TENSORS", what).context(path.display())
}

fn weights_in(dir: &Path) -> Result<PathBuf> {
    for name in [WEIGHTS_FILE, INDEX_FILE] {
        let file = dir.join(name);
        if file.exists() {
            return Ok(file);
        }
    }
    let error = Error::model("E-MODEL", format!("{}: no {WEIGHTS_FILE} and no {INDEX_FILE}", dir.display()));
    if dir.join("pytorch_model.bin").exists() {
        return Err(error
            .fix("save pytorch_model.bin as safetensors: in Python, `save_pretrained(dir, safe_serialization=True)`"));
    }
    Err(error.fix("name a model directory"))
}

/// A name of a file beside its index: anything that could leave the directory is refused.
pub fn check_file_name(name: &str) -> Result<()> {
    let plain = !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && !name.contains("..")
        && name.chars().all(|c| !c.is_control() && !matches!(c, '/' | '\\' | ':'));
    if plain {
        return Ok(());
    }
    Err(Error::model("E-MODEL", format!("refused file name '{}'", one_line(name))))
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn open_index(path: &Path) -> Result<Checkpoint> {
    let json = read_bounded(path, MAX_INDEX)?;
    let index: Index = serde_json::from_slice(&json).map_err(|e| bad(path, one_line(&e.to_string())))?;
    let mut shards: Vec<&String> = index.weight_map.values().collect();
    shards.sort();
    shards.dedup();
    if shards.is_empty() || shards.len() > MAX_SHARDS {
        return Err(bad(path, format!("{} shards, 1 to {MAX_SHARDS} are read", shards.len())));
    }
    let mut found = Checkpoint { path: path.into(), files: Vec::new(), place: BTreeMap::new() };
    for shard in shards {
        check_file_name(shard).map_err(|e| e.context(path.display()))?;
        add_shard(&mut found, &path.with_file_name(shard))?;
    }
    for (name, shard) in &index.weight_map {
        let held = found.file_of(name).and_then(|f| f.path().file_name());
        if held.is_none_or(|f| f != shard.as_str()) {
            return Err(bad(path, format!("tensor {} is not in {}", one_line(name), one_line(shard))));
        }
    }
    Ok(found)
}

fn add_shard(found: &mut Checkpoint, file: &Path) -> Result<()> {
    let shard = TensorFile::open(file)?;
    for name in shard.names() {
        if found.place.insert(name.to_string(), found.files.len()).is_some() {
            return Err(bad(file, format!("tensor {name} is in another shard too")));
        }
    }
    found.files.push(shard);
    Ok(())
}

//! Where the files that belong to docre lie: the demo checkpoint and the examples.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The model that runs where none is named.
pub const DEMO_MODEL: &str = "weights/demo";
pub const DEMO_DOCUMENTS: &str = "examples/demo.jsonl";

/// `name` under the first place that has it: the working directory (a checkout), `share/docre` beside the
/// binary's directory (an installation), the directory it was built from (`cargo run` from elsewhere).
pub fn find(name: &str) -> Option<PathBuf> {
    places().into_iter().map(|place| place.join(name)).find(|path| path.exists())
}

fn places() -> Vec<PathBuf> {
    let binary = std::env::current_exe().ok();
    let prefix = binary.as_deref().and_then(Path::parent).and_then(Path::parent);
    let mut places = vec![PathBuf::new()];
    places.extend(prefix.map(|prefix| prefix.join("share/docre")));
    places.push(PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    places
}

/// The model directory: as named, else `DOCRE_MODEL`, else the demo checkpoint.
pub fn model(named: Option<&Path>) -> Result<PathBuf> {
    let variable = || std::env::var_os("DOCRE_MODEL").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let dir = named.map(Path::to_path_buf).or_else(variable).or_else(|| find(DEMO_MODEL));
    let dir = dir.ok_or_else(|| {
        Error::model("E-MODEL", format!("no model: there is no {DEMO_MODEL} here"))
            .fix("name one: -m DIR, or DOCRE_MODEL")
    })?;
    if dir.is_dir() {
        return Ok(dir);
    }
    let what = if dir.exists() { "is no directory" } else { "does not exist" };
    Err(Error::model("E-MODEL", format!("{}: {what}", dir.display()))
        .fix("name a model directory: config.json, tokenizer.json, relations.json, model.safetensors"))
}

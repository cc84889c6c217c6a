//! What a run leaves to look at: train.jsonl, TensorBoard's event files, index.html.

use super::events::Events;
use super::history::{FIGURES, History, figures};
use super::{Config, End};
use crate::checkpoint::write_atomic;
use crate::error::{Error, Result};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A line of JSON for each update and each evaluation.
pub const LINES: &str = "train.jsonl";

/// The log of a run. A run that goes on adds to train.jsonl, and starts another event file.
pub struct Log {
    dir: PathBuf,
    /// train.jsonl, from the first line on.
    file: Option<File>,
    events: Option<Events>,
    history: History,
}

impl Log {
    /// Reads train.jsonl in `dir`, where there is one. Errors: E-IO.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(LINES);
        let failed = |e| Error::io(&path, e);
        let mut history = History::default();
        if path.exists() {
            for line in BufReader::new(File::open(&path).map_err(failed)?).split(b'\n') {
                // A killed run may leave a part of a line.
                history.add(&serde_json::from_slice(&line.map_err(failed)?).unwrap_or(Value::Null));
            }
        }
        Ok(Log { dir: dir.to_path_buf(), file: None, events: None, history })
    }

    /// Adds a line: to train.jsonl, and its figures to the event file. Errors: E-IO.
    pub fn line(&mut self, line: &Value) -> Result<()> {
        let path = self.dir.join(LINES);
        let file = match self.file.take() {
            Some(file) => file,
            None => at_its_end(&path).map_err(|e| Error::io(&path, e))?,
        };
        let text = format!("{line}\n");
        self.file.insert(file).write_all(text.as_bytes()).map_err(|e| Error::io(&path, e))?;
        self.history.add(line);
        let step = line["update"].as_u64().unwrap_or(0);
        let values: Vec<_> = figures(line).map(|(figure, value)| (FIGURES[figure].1, value)).collect();
        if values.is_empty() {
            return Ok(());
        }
        let events = match self.events.take() {
            Some(events) => events,
            None => Events::create(&self.dir, step)?,
        };
        self.events.insert(events).scalars(step, &values)
    }

    /// Writes index.html anew, whole or not at all. Errors: E-IO.
    pub fn page(&self, config: &Config, total: u64, end: Option<End>) -> Result<()> {
        let full = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        let name = full.file_name().map_or("Training".into(), |name| name.to_string_lossy());
        write_atomic(self.dir.join("index.html"), self.history.page(&name, config, total, end).as_bytes())
    }
}

/// The file to add lines to, behind a whole one.
fn at_its_end(path: &Path) -> std::io::Result<File> {
    let mut file = File::options().create(true).read(true).append(true).open(path)?;
    if file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

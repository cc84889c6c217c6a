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

/// The log of a run. A run that goes on adds to train.jsonl, and starts another event file.
pub struct Log {
    dir: PathBuf,
    file: File,
    events: Option<Events>,
    history: History,
}

impl Log {
    /// Opens train.jsonl in `dir` and reads what it holds. Errors: E-IO.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("train.jsonl");
        let failed = |e| Error::io(&path, e);
        let mut file = File::options().create(true).read(true).append(true).open(&path).map_err(failed)?;
        let mut history = History::default();
        for line in BufReader::new(&file).split(b'\n') {
            // A killed run may leave a part of a line.
            history.add(&serde_json::from_slice(&line.map_err(failed)?).unwrap_or(Value::Null));
        }
        if !ends_a_line(&mut file).map_err(failed)? {
            file.write_all(b"\n").map_err(failed)?;
        }
        Ok(Log { dir: dir.to_path_buf(), file, events: None, history })
    }

    /// Adds a line: to train.jsonl, and its figures to the event file. Errors: E-IO.
    pub fn line(&mut self, line: &Value) -> Result<()> {
        let text = format!("{line}\n");
        self.file.write_all(text.as_bytes()).map_err(|e| Error::io(self.dir.join("train.jsonl"), e))?;
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

/// Whether nothing, or a whole line, is at the end.
fn ends_a_line(file: &mut File) -> std::io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

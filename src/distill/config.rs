//! The configuration of all stages: one TOML file.
//!
//! The sections of `docre train` ([`train::Config`]) at the top hold for every stage that trains; `[teacher.schedule]`,
//! `[student.data]` and so on hold for one. Of the stages those run that have a table: `[teacher]`, `[logits]`,
//! `[student]`, `[finetune]`; without `[teacher]`, `logits.teacher` names a model that is there already.

use crate::error::{Error, Result};
use crate::train::config::{explain, read_table, read_text, set};
use crate::train::{self, logits};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Where the teacher's logits are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// On disk, of all classes: 2 bytes each.
    #[default]
    Dense,
    /// On disk, of `keep` classes a cell.
    Sparse,
    /// Nowhere: the student's stage computes them when it needs them, each epoch again.
    Live,
}

/// `[logits]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogitsSection {
    pub form: Storage,
    /// Classes of a cell in sparse logits, the threshold among them.
    pub keep: usize,
    /// A model instead of the teacher stage's.
    pub teacher: Option<PathBuf>,
}

impl Default for LogitsSection {
    fn default() -> Self {
        LogitsSection { form: Storage::Dense, keep: 16, teacher: None }
    }
}

impl LogitsSection {
    /// What is stored; None: nothing.
    pub fn stored(&self) -> Option<logits::Form> {
        match self.form {
            Storage::Dense => Some(logits::Form::Dense),
            Storage::Sparse => Some(logits::Form::Sparse(self.keep)),
            Storage::Live => None,
        }
    }
}

/// All stages, each with the configuration that it runs with.
#[derive(Clone, Debug)]
pub struct Config {
    pub teacher: Option<train::Config>,
    pub logits: LogitsSection,
    pub student: train::Config,
    pub finetune: Option<train::Config>,
}

impl Config {
    /// Reads `path`, applies `overrides` (`student.schedule.epochs=3`), and lets the stages meet in the directory `out`.
    pub fn load(path: &Path, overrides: &[String], out: &Path) -> Result<Self> {
        Self::parse(&read_text(path)?, overrides, out).map_err(|e| e.context(path.display()))
    }

    pub fn parse(text: &str, overrides: &[String], out: &Path) -> Result<Self> {
        let mut base = read_table(text)?;
        refuse_shadowed(&base, overrides)?;
        overrides.iter().try_for_each(|assignment| set(&mut base, assignment))?;
        let [teacher, logits, student, finetune] = STAGES.map(|stage| take(&mut base, stage));
        let logits = logits?.unwrap_or_default();
        let logits: LogitsSection = Value::Table(logits).try_into().map_err(|e| wrong("logits", &e))?;
        let (teacher, finetune) = (teacher?, finetune?);
        let student = student?.ok_or_else(|| Error::usage("no [student]: nothing to distil into"))?;
        if base.contains_key("distillation") {
            return Err(Error::usage("[distillation] is the student's alone: [student.distillation]"));
        }
        let model = match (&logits.teacher, &teacher) {
            (Some(model), None) => model.clone(),
            (None, Some(_)) => out.join("teacher").join("best"),
            (Some(_), Some(_)) => return Err(Error::usage("[teacher] and logits.teacher: one of them")),
            (None, None) => return Err(Error::usage("no [teacher], and no logits.teacher: a model that is there")),
        };
        let mut wiring = Table::new();
        put(&mut wiring, "data", "relations", text_of(&model.join("relations.json")));
        match logits.stored() {
            Some(_) => put(&mut wiring, "distillation", "logits", text_of(&out.join("logits"))),
            None => put(&mut wiring, "distillation", "teacher", text_of(&model)),
        }
        let student = stage("student", [&base, &student, &wiring])?;
        let mut wiring = Table::new();
        put(&mut wiring, "model", "start", text_of(&out.join("student").join("best")));
        put(&mut wiring, "model", "keep_head", Value::Boolean(true));
        Ok(Config {
            teacher: teacher.map(|own| stage("teacher", [&base, &own])).transpose()?,
            logits,
            student,
            finetune: finetune.map(|own| stage("finetune", [&base, &own, &wiring])).transpose()?,
        })
    }

    /// The teacher's model directory.
    pub fn teacher_model(&self, out: &Path) -> PathBuf {
        self.logits.teacher.clone().unwrap_or_else(|| out.join("teacher").join("best"))
    }

    /// What every stage runs with, as TOML.
    pub fn resolved(&self) -> Result<String> {
        let wrong = |e: toml::ser::Error| Error::usage(e.to_string());
        let mut all = Table::new();
        let stages = [("teacher", self.teacher.as_ref()), ("student", Some(&self.student))];
        for (name, config) in stages.into_iter().chain([("finetune", self.finetune.as_ref())]) {
            if let Some(config) = config {
                all.insert(name.into(), Value::try_from(config).map_err(wrong)?);
            }
        }
        all.insert("logits".into(), Value::try_from(&self.logits).map_err(wrong)?);
        toml::to_string_pretty(&all).map_err(wrong)
    }
}

const STAGES: [&str; 4] = ["teacher", "logits", "student", "finetune"];

/// A value that is set for all stages, where each of them has its own: it would change nothing.
fn refuse_shadowed(file: &Table, overrides: &[String]) -> Result<()> {
    let trained = || STAGES.iter().filter(|stage| **stage != "logits" && file.contains_key(**stage));
    let names: Vec<&str> = overrides.iter().filter_map(|o| o.split('=').next()).map(str::trim).collect();
    for name in names.iter().filter(|name| name.contains('.')) {
        let own: Vec<String> = trained().map(|stage| format!("{stage}.{name}")).collect();
        if own.iter().all(|own| has(file, own) && !names.contains(&own.as_str())) {
            let what = format!("-s {name} is for stages without a value of their own, and all have one");
            return Err(Error::usage(what).fix(format!("-s {}", own.join("=… -s ") + "=…")));
        }
    }
    Ok(())
}

fn has(table: &Table, name: &str) -> bool {
    match name.split_once('.') {
        None => table.contains_key(name),
        Some((section, rest)) => table.get(section).and_then(Value::as_table).is_some_and(|inner| has(inner, rest)),
    }
}

fn text_of(path: &Path) -> Value {
    Value::String(path.to_string_lossy().into_owned())
}

fn wrong(stage: &str, error: &toml::de::Error) -> Error {
    explain(error, "").context(format!("[{stage}]"))
}

fn take(table: &mut Table, stage: &str) -> Result<Option<Table>> {
    match table.remove(stage) {
        None => Ok(None),
        Some(Value::Table(own)) => Ok(Some(own)),
        Some(_) => Err(Error::usage(format!("{stage} is no table"))),
    }
}

fn put(table: &mut Table, section: &str, key: &str, value: Value) {
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Some(section) = section.as_table_mut() {
        section.insert(key.into(), value);
    }
}

/// The configuration of a stage: later tables win.
fn stage<const N: usize>(name: &str, tables: [&Table; N]) -> Result<train::Config> {
    let mut all = Table::new();
    for table in tables {
        merge(&mut all, table);
    }
    train::Config::from_table(all).map_err(|e| e.context(format!("[{name}]")))
}

fn merge(into: &mut Table, from: &Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

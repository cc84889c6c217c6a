//! The training configuration: a TOML file, `section.key=value` overrides, defaults.

use crate::error::{Error, Result};
use crate::model::config::{Architecture, HeadConfig, ModelConfig};
use crate::ops::loss::{Distillation, Objective};
use crate::text::{nearest, one_line};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A whole configuration. Unknown keys are errors.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub data: Data,
    pub model: ModelSection,
    #[serde(default)]
    pub objective: ObjectiveSection,
    /// A teacher whose logits the model is to come close to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationSection>,
    #[serde(default)]
    pub schedule: Schedule,
    #[serde(default)]
    pub output: Output,
}

/// Paths are relative to the directory in which docre runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Training documents, in any format that `docre extract` reads.
    pub train: Vec<PathBuf>,
    /// Development documents; without them the last weights are the best.
    #[serde(default)]
    pub dev: Vec<PathBuf>,
    /// rel2id.json; without it the sorted relation names of training and development data.
    pub relations: Option<PathBuf>,
    /// rel_info.json: a name for each relation.
    pub relation_names: Option<PathBuf>,
    /// Leave out labels whose relation is not in the inventory instead of refusing the document.
    #[serde(default)]
    pub skip_unknown_relations: bool,
}

impl Data {
    /// Every file that is named.
    pub fn files(&self) -> Vec<PathBuf> {
        let tables = self.relations.iter().chain(&self.relation_names);
        self.train.iter().chain(&self.dev).chain(tables).cloned().collect()
    }
}

/// The encoder to start from and the head to train. (Unknown keys are refused with the head's.)
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelSection {
    /// A Hugging Face directory, or a model of docre.
    pub start: PathBuf,
    /// Keep the head of `start` (fine-tuning) instead of starting a new one.
    #[serde(default)]
    pub keep_head: bool,
    /// Fields of config.json's `docre` section that differ from the released head.
    #[serde(flatten)]
    pub head: serde_json::Map<String, serde_json::Value>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveKind {
    /// With the `1 +` of the released program.
    #[default]
    AdaptiveFocal,
    /// As the paper prints it.
    AdaptiveFocalPaper,
    AdaptiveThreshold,
    BalancedSoftmax,
    Atgl,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectiveSection {
    pub kind: ObjectiveKind,
    /// Of the focal losses.
    pub gamma: f64,
    /// Of ATGL: the weight of a gold relation, at least 1.
    pub alpha: f64,
    /// Part of the cells without a relation that an update's loss counts, drawn anew each time: 1, all of them.
    pub negatives: f64,
    /// How much the evidence loss counts, which draws attention to gold evidence sentences: 0.1 for BERT, 0.05 for
    /// RoBERTa (spec §11); 0: off.
    pub evidence: f64,
}

impl Default for ObjectiveSection {
    fn default() -> Self {
        ObjectiveSection { kind: ObjectiveKind::default(), gamma: 1.0, alpha: 2.0, negatives: 1.0, evidence: 0.0 }
    }
}

impl ObjectiveSection {
    pub fn objective(&self) -> Objective {
        match self.kind {
            ObjectiveKind::AdaptiveFocal => Objective::AdaptiveFocal { gamma: self.gamma, released: true },
            ObjectiveKind::AdaptiveFocalPaper => Objective::AdaptiveFocal { gamma: self.gamma, released: false },
            ObjectiveKind::AdaptiveThreshold => Objective::AdaptiveThreshold,
            ObjectiveKind::BalancedSoftmax => Objective::BalancedSoftmax,
            ObjectiveKind::Atgl => Objective::Atgl { alpha: self.alpha },
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum DistillationKind {
    /// Of raw logits, mean over cells and classes.
    #[default]
    Mse,
    /// KL(teacher || student) of the softmax over all classes, mean over cells.
    Kl,
}

/// Which documents the teacher's own predictions are labels of.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum SelfLabels {
    /// Those that come without labels.
    #[default]
    Absent,
    Always,
    /// None: a document without labels has no relation.
    Never,
}

/// The teacher: `logits`, a directory of stored ones, or `teacher`, a model that computes them when they are needed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillationSection {
    pub logits: Option<PathBuf>,
    pub teacher: Option<PathBuf>,
    #[serde(default)]
    pub kind: DistillationKind,
    /// Of the distillation term; 0: only the teacher's labels are used.
    #[serde(default = "one")]
    pub weight: f64,
    #[serde(default)]
    pub self_labels: SelfLabels,
    /// What a relation's logit must be above the threshold's to be a label.
    #[serde(default)]
    pub margin: f64,
}

fn one() -> f64 {
    1.0
}

impl DistillationSection {
    pub fn kind(&self) -> Distillation {
        match self.kind {
            DistillationKind::Mse => Distillation::Mse,
            DistillationKind::Kl => Distillation::Kl,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    pub epochs: usize,
    /// Documents that go through the model at once, and how many such batches make one update.
    pub batch: usize,
    pub accumulate: usize,
    pub encoder_rate: f64,
    /// As released the encoder's rate; here a setting.
    pub axial_rate: f64,
    pub head_rate: f64,
    /// Part of all updates over which the rates rise linearly from 0; then they fall linearly to 0.
    pub warmup: f64,
    /// The largest norm of the whole gradient; larger ones are scaled down.
    pub clip: f64,
    pub weight_decay: f64,
    pub adam_epsilon: f64,
    pub seed: u64,
    /// Recompute each encoder and axial layer in the backward pass: less memory, 15 to 20 % more time.
    pub recompute: bool,
    /// Evaluate every so many updates too; 0: only after each epoch.
    pub eval_every: u64,
    /// Stop after so many evaluations without a better F1; 0: never.
    pub patience: usize,
}

impl Default for Schedule {
    /// BERT-base as published (spec §6).
    fn default() -> Self {
        Schedule {
            epochs: 30,
            batch: 4,
            accumulate: 1,
            encoder_rate: 3e-5,
            axial_rate: 3e-5,
            head_rate: 1e-4,
            warmup: 0.06,
            clip: 1.0,
            weight_decay: 0.0,
            adam_epsilon: 1e-6,
            seed: 66,
            recompute: false,
            eval_every: 0,
            patience: 0,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Output {
    /// Save a checkpoint every so many updates too; 0: only after each epoch.
    pub save_every: u64,
    /// Checkpoints to keep beside the best weights.
    pub keep: usize,
    /// Read loss and gradient norm every so many updates, for which a GPU is waited for: those of each are in the log,
    /// and what is read late changes no bit. 0: of each update on the CPU, of ten at once on a GPU.
    pub log_every: usize,
}

impl Default for Output {
    fn default() -> Self {
        Output { save_every: 0, keep: 2, log_every: 0 }
    }
}

impl Config {
    /// Reads `path` and applies `overrides` (`schedule.epochs=3`).
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        Self::parse(&read_text(path)?, overrides).map_err(|e| e.context(path.display()))
    }

    pub fn parse(text: &str, overrides: &[String]) -> Result<Self> {
        let mut table = read_table(text)?;
        overrides.iter().try_for_each(|assignment| set(&mut table, assignment))?;
        Self::from_table(table)
    }

    /// Of a table of sections.
    pub fn from_table(table: toml::Table) -> Result<Self> {
        let config: Config = table.try_into().map_err(|e| explain(&e, ""))?;
        config.check()?;
        Ok(config)
    }

    /// All values, defaults included, as TOML.
    pub fn resolved(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|e| Error::usage(e.to_string()))
    }

    /// What decides the course of a run: all but how often it saves and reads.
    pub fn decisive(&self) -> Result<String> {
        Config { output: Output::default(), ..self.clone() }.resolved()
    }

    fn check(&self) -> Result<()> {
        let s = &self.schedule;
        let counts = [("epochs", s.epochs), ("batch", s.batch), ("accumulate", s.accumulate)];
        if let Some((name, count)) = counts.iter().find(|(_, count)| !(1..=1_000_000).contains(count)) {
            return Err(Error::usage(format!("schedule.{name} must be from 1 to 1000000, is {count}")));
        }
        let rates = [("encoder_rate", s.encoder_rate), ("axial_rate", s.axial_rate), ("head_rate", s.head_rate)];
        if let Some((name, rate)) = rates.iter().find(|(_, rate)| !(rate.is_finite() && (0.0..1.0).contains(rate))) {
            return Err(Error::usage(format!("schedule.{name} must be from 0 to 1, is {rate}")));
        }
        if !(0.0..=1.0).contains(&s.warmup) || s.clip.is_nan() || s.clip <= 0.0 {
            return Err(Error::usage("schedule.warmup must be from 0 to 1, schedule.clip above 0"));
        }
        let o = &self.objective;
        let at_least = [
            ("schedule.weight_decay", s.weight_decay, 0.0),
            ("schedule.adam_epsilon", s.adam_epsilon, f64::MIN_POSITIVE),
            ("objective.gamma", o.gamma, 0.0),
            ("objective.alpha", o.alpha, 1.0),
            ("objective.evidence", o.evidence, 0.0),
        ];
        if let Some((name, value, least)) =
            at_least.iter().find(|(_, value, least)| !(least..=&f64::MAX).contains(&value))
        {
            return Err(Error::usage(format!("{name} must be at least {least}, is {value}")));
        }
        if let Some(d) = &self.distillation {
            if d.logits.is_some() == d.teacher.is_some() {
                return Err(Error::usage("[distillation] needs logits or teacher, one of them"));
            }
            if !(d.weight.is_finite() && d.weight >= 0.0 && d.margin.is_finite()) {
                return Err(Error::usage("distillation.weight must be at least 0, distillation.margin a number"));
            }
        }
        if !(0.0..=1.0).contains(&o.negatives) {
            return Err(Error::usage(format!("objective.negatives must be from 0 to 1, is {}", o.negatives)));
        }
        if self.data.train.is_empty() {
            return Err(Error::usage("data.train names no file"));
        }
        Ok(())
    }

    /// The configuration of the model to train: that of `start`, with the head of this file.
    pub fn model_config(&self, start: &ModelConfig, labels: &[String]) -> Result<ModelConfig> {
        let mut fields = self.model.head.clone();
        let architecture = match fields.get("architecture").and_then(|v| v.as_str()) {
            Some("atlop") => Architecture::Atlop,
            _ => Architecture::KdDocre,
        };
        fields.insert("classes".into(), labels.len().into());
        let head = HeadConfig::released(architecture, labels.len());
        let mut all: serde_json::Value = serde_json::from_str(&start.with_head(head, labels.to_vec())?.to_json())
            .map_err(|e| Error::usage(e.to_string()))?;
        if let Some(section) = all.get_mut("docre").and_then(|d| d.as_object_mut()) {
            section.extend(fields);
        }
        ModelConfig::parse(&all.to_string()).map_err(|e| e.context("model"))
    }
}

/// The text of a configuration file. Errors: E-IO; E-USAGE for one that is too long or not text.
pub fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| Error::io(path, e))?; // perhaps a pipe, whose length nobody knows
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    if bytes.len() as u64 > LONGEST {
        return Err(Error::usage(format!("{}: too long for a configuration", path.display())));
    }
    String::from_utf8(bytes).map_err(|_| Error::usage(format!("{}: not UTF-8", path.display())))
}

const LONGEST: u64 = 1 << 20;

/// The tables of a TOML text.
pub fn read_table(text: &str) -> Result<toml::Table> {
    text.parse().map_err(|e| explain(&e, text))
}

/// What is wrong with a configuration, in a line: with its place in `text` or its key, and what was probably meant.
pub fn explain(error: &toml::de::Error, text: &str) -> Error {
    let shown = error.to_string();
    let key = shown.lines().find_map(|line| line.strip_prefix("in `")?.strip_suffix('`'));
    let what = one_line(error.message());
    let what = match (error.span().and_then(|span| text.get(..span.start)), key) {
        (Some(before), _) => format!("line {}: {what}", before.matches('\n').count() + 1),
        (None, Some(key)) => format!("{}: {what}", one_line(key)),
        (None, None) => what,
    };
    // "unknown field `epoch`, expected one of `epochs`, `batch`"
    let names: Vec<&str> = error.message().split('`').skip(1).step_by(2).collect();
    let meant = names.split_first().and_then(|(word, known)| nearest(word, known));
    match meant {
        Some(meant) if error.message().starts_with("unknown ") => {
            Error::usage(what).fix(format!("{meant} was probably meant"))
        }
        _ => Error::usage(what),
    }
}

/// Sets `a.b=value`; the value is TOML, or else taken as text.
pub fn set(table: &mut toml::Table, assignment: &str) -> Result<()> {
    let wrong = || Error::usage(format!("{assignment:?} is not of the form section.key=value"));
    let (path, value) = assignment.split_once('=').ok_or_else(wrong)?;
    let (sections, key) = path.trim().rsplit_once('.').ok_or_else(wrong)?;
    let parsed = format!("x = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("x"));
    let value = parsed.unwrap_or_else(|| toml::Value::String(value.trim().to_string()));
    let mut section = table;
    for name in sections.split('.') {
        let entry = section.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        section = entry.as_table_mut().ok_or_else(wrong)?;
    }
    section.insert(key.to_string(), value);
    Ok(())
}

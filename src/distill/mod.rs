//! The semi-supervised pipeline (Tan et al. 2022, section 3.4; spec §6): a teacher from annotated documents, its logits
//! over others, a student from both, fine-tuned on the annotated ones.
//!
//! Each stage has its directory, `teacher`, `logits`, `student` and `finetune`, and a mark `stage.json` there: a hash of
//! everything that it is made from, and whether it is done. A pipeline that was cut goes on where it was.

pub mod config;
pub mod plan;

pub use config::Config;

use crate::checkpoint::directory::hash_file;
use crate::checkpoint::write_atomic;
use crate::data::{Corpus, Relations, Tokenizer};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::layout::Encoded;
use crate::text::hex;
use crate::train::logits::{self, Identity};
use crate::train::teacher::Teacher;
use crate::train::{self, End, Run, Watch};
use half::f16;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// In their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    Teacher,
    Logits,
    Student,
    Finetune,
}

impl Stage {
    pub const ALL: [Stage; 4] = [Stage::Teacher, Stage::Logits, Stage::Student, Stage::Finetune];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Teacher => "teacher",
            Stage::Logits => "logits",
            Stage::Student => "student",
            Stage::Finetune => "finetune",
        }
    }
}

/// `stage.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Mark {
    /// SHA-256 of the configuration, the data and the model that the stage starts from.
    inputs: String,
    /// Of a student with stored logits: what these were made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    logits: Option<String>,
    done: bool,
    /// Best development F1 in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    best_f1: Option<f64>,
}

/// The stages of a configuration in a directory.
pub struct Pipeline {
    pub config: Config,
    pub dir: PathBuf,
    pub device: Device,
}

impl Pipeline {
    /// The stages that this configuration has.
    pub fn stages(&self) -> Vec<Stage> {
        Stage::ALL.into_iter().filter(|&stage| stage == Stage::Student || self.has(stage)).collect()
    }

    fn has(&self, stage: Stage) -> bool {
        match stage {
            Stage::Logits => self.config.logits.stored().is_some(),
            _ => self.training(stage).is_some(),
        }
    }

    /// What a stage trains with; None where it does not train.
    pub fn training(&self, stage: Stage) -> Option<&train::Config> {
        match stage {
            Stage::Teacher => self.config.teacher.as_ref(),
            Stage::Logits => None,
            Stage::Student => Some(&self.config.student),
            Stage::Finetune => self.config.finetune.as_ref(),
        }
    }

    /// A stage's directory.
    pub fn path(&self, stage: Stage) -> PathBuf {
        self.dir.join(stage.name())
    }

    /// The model that the last stage makes.
    pub fn result(&self) -> PathBuf {
        let last = if self.has(Stage::Finetune) { Stage::Finetune } else { Stage::Student };
        self.path(last).join("best")
    }

    /// Runs the stages, or one, from where they are. Errors: E-STAGE for a stage that was made from something else;
    /// E-USAGE where the one before is not done.
    pub fn run(&self, only: Option<Stage>, stop: &dyn Fn() -> bool, watch: &mut dyn Watch) -> Result<End> {
        let stages = self.stages();
        if let Some(stage) = only.filter(|stage| !stages.contains(stage)) {
            return Err(Error::usage(format!("this configuration has no stage {}", stage.name())));
        }
        for (i, &stage) in stages.iter().enumerate() {
            if only.is_some_and(|only| only != stage) {
                continue;
            }
            for &before in &stages[..i] {
                if !self.found(before)?.is_some_and(|mark| mark.done) {
                    let what = format!("stage {} needs {}, which is not done", stage.name(), before.name());
                    return Err(Error::usage(what));
                }
            }
            if self.run_stage(stage, stop, watch)? == End::Interrupted {
                return Ok(End::Interrupted);
            }
        }
        Ok(End::Finished)
    }

    fn run_stage(&self, stage: Stage, stop: &dyn Fn() -> bool, watch: &mut dyn Watch) -> Result<End> {
        let dir = self.path(stage);
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        if let Some(found) = self.found(stage)?.filter(|mark| mark.done) {
            let figure = found.best_f1.map_or(String::new(), |f1| format!(", best F1 {f1:.2}"));
            watch.message(&format!("{}: done before{figure}", stage.name()));
            return Ok(End::Finished);
        }
        let mut mark =
            Mark { inputs: self.inputs(stage)?, logits: self.inputs_of_logits(stage)?, done: false, best_f1: None };
        self.write_mark(stage, &mark)?;
        watch.message(&format!("{}: {}", stage.name(), dir.display()));
        let end = match self.training(stage) {
            Some(config) => {
                let mut run = Run::open(config.clone(), &dir, true, &self.device, watch)?;
                let end = run.train(stop, watch)?;
                mark.best_f1 = run.progress.best_f1;
                end
            }
            None => self.make_logits(&dir, stop, watch)?,
        };
        if end != End::Interrupted {
            mark.done = true;
            self.write_mark(stage, &mark)?;
        }
        Ok(end)
    }

    /// The mark of a stage that was begun. Error: E-STAGE for one that was made from something else.
    fn found(&self, stage: Stage) -> Result<Option<Mark>> {
        let path = self.path(stage).join("stage.json");
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|e| Error::io(&path, e))?,
        };
        let mark: Mark =
            serde_json::from_slice(&bytes).map_err(|e| Error::model("E-STAGE", format!("{}: {e}", path.display())))?;
        let inputs = match self.inputs(stage) {
            Err(e) if e.kind() == Kind::Io && mark.done => return Ok(Some(mark)), // its data may be elsewhere by now
            inputs => inputs?,
        };
        let logits = self.inputs_of_logits(stage)?;
        if mark.inputs != inputs || mark.logits.is_some() && mark.logits != logits {
            let what = format!("{} was made from other inputs", self.path(stage).display());
            return Err(Error::model("E-STAGE", what)
                .fix("another --out, or remove this directory and those of the stages behind it"));
        }
        Ok(Some(mark))
    }

    fn write_mark(&self, stage: Stage, mark: &Mark) -> Result<()> {
        let path = self.path(stage).join("stage.json");
        let json = serde_json::to_vec_pretty(mark).map_err(|e| Error::io(&path, e))?;
        write_atomic(path, &json)
    }

    /// A hash of everything that decides what a stage makes.
    fn inputs(&self, stage: Stage) -> Result<String> {
        let mut hash = Sha256::new();
        let mut add = |part: &str| hash.update(format!("{} {part}\n", part.len()));
        let data: Vec<PathBuf> = match self.training(stage) {
            Some(config) => {
                add(&config.decisive()?);
                add(&model_hash(&config.model.start)?);
                config.data.files()
            }
            None => {
                add(&format!("{:?}", self.config.logits));
                self.config.student.data.train.clone()
            }
        };
        if matches!(stage, Stage::Logits | Stage::Student) {
            add(&model_hash(&self.config.teacher_model(&self.dir))?);
        }
        data.iter().try_for_each(|file| hash_file(file).map(|hash| add(&hash)))?;
        Ok(hex(&hash.finalize()))
    }

    fn inputs_of_logits(&self, stage: Stage) -> Result<Option<String>> {
        let stored = stage == Stage::Student && self.has(Stage::Logits);
        stored.then(|| self.inputs(Stage::Logits)).transpose()
    }

    /// Computes the shards that are not there yet.
    fn make_logits(&self, dir: &Path, stop: &dyn Fn() -> bool, watch: &mut dyn Watch) -> Result<End> {
        let source = self.config.teacher_model(&self.dir);
        let relations = Relations::of_model(&source)?;
        let teacher = Teacher::open(&source, &relations, &self.device)?;
        let tokenizer = Tokenizer::open(&source)?;
        let corpus = self.corpus(|_| Ok(()))?;
        let identity = self.identity(&teacher.digest, &corpus, &relations)?;
        for (shard, range) in identity.shards().into_iter().enumerate() {
            if stop() {
                return Ok(End::Interrupted);
            }
            watch.logits(range.start, corpus.len());
            if !logits::is_done(dir, &identity, shard)? {
                let made = logits_of(&teacher, &tokenizer, &corpus, range)?;
                logits::write(dir, &identity, shard, &made)?;
            }
        }
        watch.logits(corpus.len(), corpus.len());
        Ok(End::Finished)
    }

    /// The documents that the student learns from.
    pub fn corpus(&self, check: impl FnMut(&crate::data::Document) -> Result<()>) -> Result<Corpus> {
        Corpus::open(&self.config.student.data.train, check)
    }

    fn identity(&self, digest: &str, corpus: &Corpus, relations: &Relations) -> Result<Identity> {
        Identity::new(digest, corpus, relations, self.config.logits.stored().unwrap_or_default())
    }
}

fn logits_of(teacher: &Teacher, tokenizer: &Tokenizer, corpus: &Corpus, range: Range<usize>) -> Result<Vec<Vec<f16>>> {
    let encode = |i: usize| {
        let document = corpus.document(i)?;
        tokenizer.encode(&document).map_err(|e| e.context(corpus.path(i).display()))
    };
    let encoded: Vec<Encoded> = range.map(encode).collect::<Result<_>>()?;
    teacher.logits(&encoded.iter().collect::<Vec<_>>())
}

/// Of the files of a model directory that decide what it computes.
fn model_hash(dir: &Path) -> Result<String> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
    let files = entries.map(|entry| entry.map(|entry| entry.path()).map_err(|e| Error::io(dir, e)));
    let mut files = files.collect::<Result<Vec<_>>>()?;
    let decides = |file: &Path| {
        let named = ["config.json", "tokenizer.json", "relations.json"].iter().any(|name| file.ends_with(name));
        named || file.extension().is_some_and(|kind| kind == "safetensors")
    };
    files.retain(|file| decides(file));
    files.sort();
    let hashes = files.iter().map(|file| hash_file(file)).collect::<Result<Vec<_>>>()?;
    Ok(hashes.concat())
}

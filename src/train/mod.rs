//! Training: data, epochs, evaluation, checkpoints.

pub mod config;
pub mod events;
pub mod evidence;
mod examples;
pub mod history;
pub mod log;
pub mod logits;
pub mod state;
pub mod step;
pub mod teacher;

pub use config::Config;
pub use examples::Examples;
pub use step::{Example, Trainer};

use crate::checkpoint::{Want, build};
use crate::data::{self, Document, Relations, Tokenizer, Unknown};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::extract::{Rule, predict};
use crate::layout::Encoded;
use crate::model::config::ModelConfig;
use crate::rng::Stream;
use log::Log;
use state::{Companions, Progress};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Documents ready for the model.
pub struct Split {
    pub examples: Vec<Example>,
    /// Gold labels left out because the inventory does not have their relation.
    pub unknown: usize,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Finished,
    /// `stop` said so; a checkpoint was saved.
    Interrupted,
    /// `patience` evaluations brought nothing better.
    Patience,
}

/// What a run tells its user: progress lines on stderr.
pub trait Watch {
    /// A run is about to train.
    fn begin(&mut self, _run: &Run) {}
    /// A teacher has gone through so many documents.
    fn logits(&mut self, _done: usize, _documents: usize) {}
    fn update(&mut self, run: &Run, report: &step::Report);
    fn evaluated(&mut self, run: &Run, f1: f64, best: bool);
    fn message(&mut self, text: &str);
}

/// A training run.
pub struct Run {
    pub config: Config,
    pub trainer: Trainer,
    pub progress: Progress,
    train: Examples,
    dev: Vec<Example>,
    with: Companions,
    dir: PathBuf,
    log: Log,
    started: Instant,
    started_at: u64,
    /// Updates whose losses have not been read, each with the progress before it; when the first of them began.
    pending: Vec<(step::Pending, Progress)>,
    pending_since: Instant,
    /// Documents a second in the updates read last.
    speed: f64,
    /// Updates in a row whose gradient is not finite.
    bad_steps: usize,
    /// The next update is read before another starts.
    careful: bool,
}

/// Gives up after so many steps in a row whose gradient is not finite.
const MOST_SKIPPED: usize = 10;

impl Run {
    /// Loads data and model; goes on from the newest complete checkpoint of `dir` if `resume`.
    pub fn open(config: Config, dir: &Path, resume: bool, device: &Device, watch: &mut dyn Watch) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let found = if resume { state::find(dir)? } else { refuse_used(dir)? };
        let start = found.clone().unwrap_or_else(|| config.model.start.clone());
        let tokenizer = Tokenizer::open(&start)?;
        let relations = inventory(&config, &start, found.is_some())?;
        let dev = read(&config.data.dev, &tokenizer, &relations, Unknown::Skip)?;
        let model = start_config(&config, &start, found.is_some(), &relations)?;
        let top_k = model.head()?.top_k;
        let train = Examples::open(&config, tokenizer, relations.clone(), unknown(&config), top_k, device)?;
        let total = total_updates(&config, train.len());
        let (trainer, progress) = start_trainer(&config, &start, model, found.as_deref(), total, device)?;
        if let Some(dir) = &found {
            watch.message(&format!("going on from {} (update {})", dir.display(), progress.updates));
        }
        let skipped = train.skipped + dev.unknown;
        if skipped > 0 {
            watch.message(&format!("{skipped} labels of unknown relations left out"));
        }
        let tokenizer_file = start.join("tokenizer.json");
        let tokenizer = std::fs::read(&tokenizer_file).map_err(|e| Error::io(&tokenizer_file, e))?;
        crate::checkpoint::write_atomic(dir.join("config.resolved.toml"), config.resolved()?.as_bytes())?;
        Ok(Run {
            started_at: progress.tried,
            config,
            trainer,
            progress,
            train,
            dev: dev.examples,
            with: Companions { tokenizer, relations },
            dir: dir.to_path_buf(),
            log: Log::open(dir)?,
            started: Instant::now(),
            pending: Vec::new(),
            pending_since: Instant::now(),
            speed: 0.0,
            bad_steps: 0,
            careful: false,
        })
    }

    /// Updates an epoch.
    pub fn updates_an_epoch(&self) -> usize {
        self.train.len().div_ceil(self.config.schedule.batch * self.config.schedule.accumulate)
    }
    pub fn documents(&self) -> (usize, usize) {
        (self.train.len(), self.dev.len())
    }
    /// Seconds since this process began to train, and updates that it has tried.
    pub fn pace(&self) -> (f64, u64) {
        (self.started.elapsed().as_secs_f64(), self.progress.tried - self.started_at)
    }

    /// The most that tensors have held so far.
    pub fn memory_mib(&self) -> f64 {
        self.trainer.model.params.device().ledger().peak() as f64 / f64::from(1 << 20)
    }

    /// Trains to the end, or until `stop` says so between two updates.
    pub fn train(&mut self, stop: &dyn Fn() -> bool, watch: &mut dyn Watch) -> Result<End> {
        watch.begin(self);
        let end = self.train_epochs(stop, watch)?;
        self.log.page(&self.config, self.trainer.total, Some(end))?;
        Ok(end)
    }

    fn train_epochs(&mut self, stop: &dyn Fn() -> bool, watch: &mut dyn Watch) -> Result<End> {
        while self.progress.epoch < self.config.schedule.epochs {
            let order = self.order(self.progress.epoch);
            while self.progress.used < order.len() {
                if stop() {
                    self.settle(watch)?;
                    self.save()?;
                    return Ok(End::Interrupted);
                }
                self.start(&order)?;
                if self.between_updates(order.len(), watch)? {
                    return Ok(End::Patience);
                }
            }
            self.progress.epoch += 1;
            self.progress.used = 0;
            let waited_enough = self.evaluate(watch)?;
            self.save()?;
            if waited_enough {
                return Ok(End::Patience);
            }
        }
        Ok(End::Finished)
    }

    fn start(&mut self, order: &[usize]) -> Result<()> {
        if self.pending.is_empty() {
            self.pending_since = Instant::now();
        }
        let size = self.config.schedule.batch * self.config.schedule.accumulate;
        let end = (self.progress.used + size).min(order.len());
        let mut examples = self.train.read(&order[self.progress.used..end])?;
        let negatives = self.config.objective.negatives;
        if negatives < 1.0 {
            let mut stream = Stream::new(self.config.schedule.seed, (2 << 32) + self.progress.tried);
            examples.iter_mut().for_each(|example| example.keep_negatives(negatives, &mut stream));
        }
        let examples: Vec<&Example> = examples.iter().collect();
        let pending = self.trainer.start(&examples, self.pending.last().map(|(update, _)| update))?;
        self.pending.push((pending, self.progress.clone()));
        self.progress.used = end;
        self.progress.tried += 1;
        self.progress.updates = self.trainer.optimizer.updates;
        Ok(())
    }

    /// How many updates may be under way before they are read.
    fn most_pending(&self) -> usize {
        match (self.config.output.log_every, self.trainer.model.params.device()) {
            _ if self.careful => 1,
            (0, Device::Cpu(_)) => 1,
            (0, Device::Cuda(_)) => 10,
            (every, _) => every,
        }
    }

    /// Reads the updates under way. False: one that others were started after is bad, so that they all changed nothing:
    /// the run is back before it, and does it again to see which gradient it is.
    fn settle(&mut self, watch: &mut dyn Watch) -> Result<bool> {
        let pending = std::mem::take(&mut self.pending);
        let count = pending.len();
        self.measure_speed(&pending)?;
        for (i, (update, before)) in pending.into_iter().enumerate() {
            let report = self.trainer.read(&update)?;
            self.careful = report.bad.is_some();
            if self.careful && i + 1 < count {
                self.progress = before;
                return Ok(false);
            }
            self.progress.updates = self.trainer.optimizer.updates;
            self.report(&before, &report, watch)?;
        }
        Ok(true)
    }

    /// Over updates that are all done when they are read, which takes no longer than to read the last of them.
    fn measure_speed(&mut self, pending: &[(step::Pending, Progress)]) -> Result<()> {
        let Some((_, before)) = pending.first() else { return Ok(()) };
        if let Device::Cuda(gpu) = self.trainer.model.params.device() {
            gpu.synchronize()?;
        }
        let documents = self.progress.used - before.used;
        self.speed = documents as f64 / self.pending_since.elapsed().as_secs_f64();
        Ok(())
    }

    fn report(&mut self, before: &Progress, report: &step::Report, watch: &mut dyn Watch) -> Result<()> {
        if let Some(name) = &report.bad {
            watch.message(&format!("update skipped: the gradient of {name} is not finite"));
        }
        let updates = before.updates + u64::from(report.bad.is_none());
        self.log.line(&serde_json::json!({
            "update": before.tried + 1, "epoch": before.epoch, "loss": report.loss,
            "distillation": report.distillation, "evidence": report.evidence, "norm": report.norm,
            "rates": self.trainer.rates(updates), "skipped": report.bad,
            "documents_per_second": self.speed, "memory_mib": self.memory_mib(),
        }))?;
        watch.update(self, report);
        self.bad_steps = if report.bad.is_some() { self.bad_steps + 1 } else { 0 };
        if let (Some(name), true) = (&report.bad, self.bad_steps >= MOST_SKIPPED) {
            let what = format!("{MOST_SKIPPED} updates in a row with a gradient that is not finite, first in {name}");
            return Err(Error::non_finite(what).fix("lower the learning rates"));
        }
        Ok(())
    }

    /// Reads, evaluates and saves where the configuration asks for it within an epoch of `documents`; true: stop.
    fn between_updates(&mut self, documents: usize, watch: &mut dyn Watch) -> Result<bool> {
        let due = |every: u64| every > 0 && self.progress.tried.is_multiple_of(every);
        let (evaluate, save) = (due(self.config.schedule.eval_every), due(self.config.output.save_every));
        let read = evaluate || save || self.progress.used == documents || self.pending.len() >= self.most_pending();
        if !read || !self.settle(watch)? {
            return Ok(false);
        }
        let stop = if evaluate { self.evaluate(watch)? } else { false };
        if save {
            self.save()?;
        }
        Ok(stop)
    }

    /// The documents of an epoch in the order of (seed, epoch).
    fn order(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.train.len()).collect();
        Stream::new(self.config.schedule.seed, (1 << 32) + epoch as u64).shuffle(&mut order);
        order
    }

    /// Evaluates and renews the page. True: `patience` is over.
    fn evaluate(&mut self, watch: &mut dyn Watch) -> Result<bool> {
        let waited_enough = self.evaluate_weights(watch)?;
        self.log.page(&self.config, self.trainer.total, None)?;
        Ok(waited_enough)
    }

    /// Development F1; keeps the best weights.
    fn evaluate_weights(&mut self, watch: &mut dyn Watch) -> Result<bool> {
        if self.dev.is_empty() {
            state::save_best(&self.dir, &self.trainer, &self.with)?;
            return Ok(false);
        }
        let f1 = 100.0 * self.dev_f1()?;
        let best = self.progress.best_f1.is_none_or(|b| f1 > b);
        if best {
            (self.progress.best_f1, self.progress.best_update) = (Some(f1), self.progress.updates);
            self.progress.waited = 0;
            state::save_best(&self.dir, &self.trainer, &self.with)?;
        } else {
            self.progress.waited += 1;
        }
        self.log
            .line(&serde_json::json!({"update": self.progress.tried, "epoch": self.progress.epoch, "dev_f1": f1}))?;
        watch.evaluated(self, f1, best);
        let patience = self.config.schedule.patience;
        Ok(patience > 0 && self.progress.waited >= patience)
    }

    fn dev_f1(&self) -> Result<f64> {
        let model = &self.trainer.model;
        let rule = Rule { threshold: 0.0, max_labels: model.head()?.top_k, evidence: None };
        let encoded: Vec<Encoded> = self.dev.iter().map(|e| e.encoded.clone()).collect();
        let predicted = predict(model, &encoded, rule)?;
        let (mut correct, mut guessed, mut gold) = (0, 0, 0);
        for (example, triples) in self.dev.iter().zip(&predicted) {
            let n = example.encoded.mentions.len();
            guessed += triples.len();
            correct += triples.iter().filter(|t| example.labels.get(t.head * n + t.tail, t.relation)).count();
            gold += example.gold();
        }
        Ok(if guessed + gold == 0 { 0.0 } else { 2.0 * correct as f64 / (guessed + gold) as f64 })
    }

    fn save(&mut self) -> Result<()> {
        state::save_checkpoint(&self.dir, &self.trainer, &self.progress, &self.with, self.config.output.keep)?;
        Ok(())
    }
}

/// Updates of a whole run over so many documents.
pub fn total_updates(config: &Config, documents: usize) -> u64 {
    let size = config.schedule.batch * config.schedule.accumulate;
    (config.schedule.epochs * documents.div_ceil(size)) as u64
}

/// A fresh run must not write over another one.
fn refuse_used(dir: &Path) -> Result<Option<PathBuf>> {
    match state::find(dir)? {
        None => Ok(None),
        Some(_) => Err(Error::usage(format!("{} already holds a run", dir.display()))
            .fix("--resume auto to go on with it, or another --out")),
    }
}

fn unknown(config: &Config) -> Unknown {
    if config.data.skip_unknown_relations { Unknown::Skip } else { Unknown::Error }
}

/// The inventory: the checkpoint's, or rel2id.json, or the sorted names of the data.
pub fn inventory(config: &Config, start: &Path, resumed: bool) -> Result<Relations> {
    if resumed || config.model.keep_head {
        return Relations::load(&start.join("relations.json"));
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

/// Reads and encodes all documents of some files.
pub fn read(paths: &[PathBuf], tokenizer: &Tokenizer, relations: &Relations, unknown: Unknown) -> Result<Split> {
    let mut split = Split { examples: Vec::new(), unknown: 0 };
    for path in paths {
        for document in data::open(path, data::Options::default())? {
            let document: Document = document?;
            let (labels, skipped) = relations.encode(&document, unknown).map_err(|e| e.context(path.display()))?;
            let encoded = tokenizer.encode(&document).map_err(|e| e.context(path.display()))?;
            split.unknown += skipped;
            split.examples.push(Example { encoded, labels, unknown_gold: skipped, teacher: Vec::new() });
        }
    }
    Ok(split)
}

/// The configuration of the model: that of `start`, or with a new head.
fn start_config(config: &Config, start: &Path, resumed: bool, relations: &Relations) -> Result<ModelConfig> {
    let given = ModelConfig::load(start)?;
    if resumed || config.model.keep_head { Ok(given) } else { config.model_config(&given, relations.codes()) }
}

fn start_trainer(
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

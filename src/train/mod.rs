//! Training: data, epochs, evaluation, checkpoints.

pub mod config;
pub mod events;
pub mod evidence;
mod examples;
pub mod history;
pub mod log;
pub mod logits;
pub mod start;
pub mod state;
pub mod step;
pub mod teacher;

pub use config::Config;
pub use examples::Examples;
pub use start::{inventory, read, total_updates};
pub use step::{Example, Trainer};

use crate::checkpoint::write_atomic;
use crate::data::{Tokenizer, Unknown};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::extract::{Rule, predict};
use crate::layout::Encoded;
use crate::rng::Stream;
use log::Log;
use state::{Companions, Progress};
use std::path::{Path, PathBuf};
use std::time::Instant;

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
    /// Loads data and model; goes on from the newest complete checkpoint of `dir` if `resume`. Writes nothing yet.
    pub fn open(config: Config, dir: &Path, resume: bool, device: &Device, watch: &mut dyn Watch) -> Result<Self> {
        let found = start::find(&config, dir, resume)?;
        let start = found.clone().unwrap_or_else(|| config.model.start.clone());
        let tokenizer = Tokenizer::open(&start)?;
        let relations = inventory(&config, &start, found.is_some())?;
        let dev = read(&config.data.dev, &tokenizer, &relations, Unknown::Skip)?;
        let model = start::start_config(&config, &start, found.is_some(), &relations)?;
        let top_k = model.head()?.top_k;
        let train = Examples::open(&config, tokenizer, relations.clone(), start::unknown(&config), top_k, device)?;
        let total = total_updates(&config, train.len());
        let (trainer, mut progress) = start::start_trainer(&config, &start, model, found.as_deref(), total, device)?;
        let data = format!("{} {}", train.hash(), dev.hash);
        if ![&data, ""].contains(&progress.data.as_str()) {
            return Err(Error::usage(format!("{} was trained on other documents", dir.display()))
                .fix("another --out; model.start and model.keep_head = true begin with its weights"));
        }
        progress.data = data;
        let arithmetic = start::arithmetic(device);
        if ![arithmetic, ""].contains(&progress.arithmetic.as_str()) {
            watch.message(&format!(
                "warning: so far this run computed in {}; in {arithmetic} its weights become others",
                progress.arithmetic
            ));
        }
        progress.arithmetic = arithmetic.into();
        if let Some(dir) = &found {
            watch.message(&format!("going on from {} (update {})", dir.display(), progress.updates));
        }
        let skipped = train.skipped + dev.unknown;
        if skipped > 0 {
            watch.message(&format!("{skipped} labels of unknown relations left out"));
        }
        let tokenizer_file = start.join("tokenizer.json");
        let tokenizer = std::fs::read(&tokenizer_file).map_err(|e| Error::io(&tokenizer_file, e))?;
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
        std::fs::create_dir_all(&self.dir).map_err(|e| Error::io(&self.dir, e))?;
        write_atomic(self.dir.join(start::RESOLVED), self.config.resolved()?.as_bytes())?;
        watch.begin(self);
        let end = self.train_epochs(stop, watch)?;
        self.log.page(&self.config, self.trainer.total, Some(end))?;
        Ok(end)
    }

    fn train_epochs(&mut self, stop: &dyn Fn() -> bool, watch: &mut dyn Watch) -> Result<End> {
        if self.waited_enough() {
            return Ok(End::Patience); // a run that had ended
        }
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
        self.log.line(&serde_json::json!({
            "update": before.tried + 1, "epoch": before.epoch, "loss": report.loss,
            "distillation": report.distillation, "evidence": report.evidence, "norm": report.norm,
            "rates": self.trainer.rates(before.updates), "skipped": report.bad,
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
        Ok(self.waited_enough())
    }

    fn waited_enough(&self) -> bool {
        let patience = self.config.schedule.patience;
        patience > 0 && self.progress.waited >= patience
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

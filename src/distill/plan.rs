//! What a pipeline will do, before it does anything.

use super::{Pipeline, Stage};
use crate::checkpoint::{Want, build_to_infer};
use crate::data::{self, Corpus, Tokenizer};
use crate::error::Result;
use crate::extract::{Rule, predict};
use crate::layout::Encoded;
use crate::model::config::ModelConfig;
use crate::model::names::{ParamSpec, parameter_table};
use crate::train::logits::{Form, Identity};
use crate::train::{self, inventory, total_updates};
use std::fmt;
use std::time::Instant;

/// Documents of a trial pass, and what training costs, in forward passes.
const TRIAL: usize = 12;
const TRAINING: f64 = 3.3;

pub struct Plan {
    pub stages: Vec<StagePlan>,
    pub parameters: usize,
}

pub struct StagePlan {
    pub stage: Stage,
    pub documents: usize,
    pub updates: u64,
    /// Bytes on disk when it is done: logits, or checkpoints with their moments and the best weights.
    pub disk: usize,
    /// From a trial pass over a few documents; None without one.
    pub seconds: Option<f64>,
}

impl Plan {
    /// Reads all documents once; `trial`: also times a few of them.
    pub fn new(pipeline: &Pipeline, trial: bool) -> Result<Self> {
        let first = pipeline.config.teacher.as_ref().unwrap_or(&pipeline.config.student);
        let relations = inventory(first, &first.model.start, false)?;
        let model = first.model_config(&ModelConfig::load(&first.model.start)?, relations.codes())?;
        let parameters = parameter_table(&model).iter().map(ParamSpec::elements).sum();
        let corpus = pipeline.corpus(|_| Ok(()))?;
        let pace = if trial { documents_a_second(pipeline, first, model)? } else { None };
        let mut stages = Vec::new();
        for stage in pipeline.stages() {
            let Some(config) = pipeline.training(stage) else {
                let form = pipeline.config.logits.stored().unwrap_or(Form::Dense);
                let disk = Identity::new("", &corpus, &relations, form)?.bytes();
                let seconds = pace.map(|pace| corpus.len() as f64 / pace);
                stages.push(StagePlan { stage, documents: corpus.len(), updates: 0, disk, seconds });
                continue;
            };
            let documents = match stage {
                Stage::Student => corpus.len(),
                _ => Corpus::open(&config.data.train, |_| Ok(()))?.len(),
            };
            let dev = config.data.dev.iter().map(|file| Corpus::open(std::slice::from_ref(file), |_| Ok(())));
            let dev: usize = dev.map(|corpus| corpus.map(|c| c.len())).sum::<Result<usize>>()?;
            let passes = config.schedule.epochs as f64 * (TRAINING * documents as f64 + dev as f64);
            stages.push(StagePlan {
                stage,
                documents,
                updates: total_updates(config, documents),
                disk: (12 * (config.output.keep + 1) + 4) * parameters,
                seconds: pace.map(|pace| passes / pace),
            });
        }
        Ok(Plan { stages, parameters })
    }
}

/// Of a forward pass over the first documents, with random weights in the head.
fn documents_a_second(pipeline: &Pipeline, config: &train::Config, model: ModelConfig) -> Result<Option<f64>> {
    let start = &config.model.start;
    let (model, ()) = build_to_infer(start, model, Want::Encoder, 0, &pipeline.device, |_| ())?;
    let tokenizer = Tokenizer::open(start)?;
    let documents = data::open(&config.data.train[0], data::Options::default())?.take(TRIAL);
    let encoded = documents.map(|document| tokenizer.encode(&document?)).collect::<Result<Vec<Encoded>>>()?;
    let rule = Rule { threshold: 0.0, max_labels: 1, evidence: None };
    predict(&model, &encoded, rule)?; // the caches and the pool fill
    let begin = Instant::now();
    predict(&model, &encoded, rule)?;
    let pace = encoded.len() as f64 / begin.elapsed().as_secs_f64();
    Ok(Some(pace).filter(|pace| pace.is_finite() && *pace > 0.0))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        writeln!(
            f,
            "{:.1} M parameters: {} MiB for weights, gradients and moments while training, beside activations",
            self.parameters as f64 / 1e6,
            mib(16 * self.parameters)
        )?;
        writeln!(f, "{:<10}{:>10}{:>10}{:>12}{:>12}", "stage", "documents", "updates", "disk", "about")?;
        for stage in &self.stages {
            let time = stage.seconds.map_or("-".to_string(), |s| format!("{:.0} min", (s / 60.0).ceil()));
            let updates = if stage.updates > 0 { stage.updates.to_string() } else { "-".into() };
            let disk = format!("{} MiB", mib(stage.disk));
            writeln!(f, "{:<10}{:>10}{updates:>10}{disk:>12}{time:>12}", stage.stage.name(), stage.documents)?;
        }
        Ok(())
    }
}

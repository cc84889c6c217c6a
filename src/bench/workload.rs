//! What the benchmarks of whole models run: mean documents on BERT-base with random weights, or real documents on a
//! real encoder; the head is random, as released but for what a model directory says.

use super::sizes;
use crate::checkpoint::{Want, build, build_to_infer};
use crate::data::{Relations, Tokenizer, Unknown};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::layout::Encoded;
use crate::model::Model;
use crate::model::config::{Architecture, HeadConfig, ModelConfig};
use crate::train::{Example, read};
use std::path::{Path, PathBuf};

/// Where model and documents come from.
pub enum Workload {
    /// So many mean documents.
    Mean {
        documents: usize,
        examples: Vec<Example>,
    },
    Real {
        encoder: PathBuf,
        config: Box<ModelConfig>,
        examples: Vec<Example>,
    },
}

const SEED: u64 = 1;

impl Workload {
    pub fn mean(documents: usize) -> Self {
        Workload::Mean { documents, examples: sizes::examples(documents) }
    }

    /// The encoder in the directory `encoder`, and the first `count` documents of `file`.
    pub fn real(encoder: &Path, file: &Path, count: usize) -> Result<Self> {
        let given = ModelConfig::load(encoder)?;
        let config = match &given.head {
            Some(_) => given,
            None => {
                let labels = (0..sizes::CLASSES).map(|r| if r == 0 { "Na".into() } else { format!("R{r}") }).collect();
                given.with_head(HeadConfig::released(Architecture::KdDocre, sizes::CLASSES), labels)?
            }
        };
        let tokenizer = Tokenizer::open(encoder)?;
        // Labels are of our own, so that documents need none.
        let nothing = Relations::from_codes(vec!["Na".into()])?;
        let mut examples = read(&[file.to_path_buf()], &tokenizer, &nothing, Unknown::Skip)?.examples;
        if examples.is_empty() {
            return Err(Error::usage(format!("{} holds no document", file.display())));
        }
        examples.truncate(count);
        let classes = config.head.as_ref().map_or(sizes::CLASSES, |head| head.classes);
        for example in &mut examples {
            example.labels = sizes::labels_of(example.encoded.mentions.len().pow(2), classes);
        }
        Ok(Workload::Real { encoder: encoder.to_path_buf(), config: Box::new(config), examples })
    }

    pub fn examples(&self) -> &[Example] {
        match self {
            Workload::Mean { examples, .. } | Workload::Real { examples, .. } => examples,
        }
    }
    pub fn encoded(&self) -> Vec<Encoded> {
        self.examples().iter().map(|e| e.encoded.clone()).collect()
    }
    pub fn tokens(&self) -> usize {
        self.examples().iter().map(|e| e.encoded.ids.len()).sum()
    }

    /// To be trained, with dropout `dropout`.
    pub fn model(&self, device: &Device, dropout: f64) -> Result<Model> {
        match self {
            Workload::Mean { .. } => sizes::model(device, dropout),
            Workload::Real { encoder, config, .. } => {
                let mut config = (**config).clone();
                config.encoder.hidden_dropout_prob = dropout;
                config.encoder.attention_probs_dropout_prob = dropout;
                Ok(build::<f32>(encoder, config, Want::Encoder, SEED, device)?.0)
            }
        }
    }
    /// To extract with.
    pub fn ready(&self, device: &Device) -> Result<Model> {
        match self {
            Workload::Mean { .. } => sizes::ready(device),
            Workload::Real { encoder, config, .. } => {
                Ok(build_to_infer(encoder, (**config).clone(), Want::Encoder, SEED, device, |_| ())?.0)
            }
        }
    }
    /// Names the case.
    pub fn name(&self) -> String {
        match self {
            Workload::Mean { documents, .. } => format!("{documents} documents"),
            Workload::Real { encoder, examples, .. } => {
                let name = encoder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                format!("{name}, {} real documents", examples.len())
            }
        }
    }
}

//! The model: configuration, parameters, and the way from word pieces to logits.

pub mod batch;
pub mod config;
pub mod encoder;
mod fields;
pub mod names;
pub mod pairs;
pub mod params;

pub use batch::Batch;
pub use params::Params;

use crate::error::Result;
use crate::ops::context_pool::Pooling;
use crate::tape::Tape;
use crate::tensor::Tensor;
use config::{HeadConfig, ModelConfig};

/// A configuration and its weights on a device.
pub struct Model {
    pub config: ModelConfig,
    pub params: Params,
}

impl Model {
    /// The head's configuration; an error for a plain encoder.
    pub fn head(&self) -> Result<&HeadConfig> {
        self.config.head()
    }
    pub fn batch(&self, documents: &[&crate::layout::Encoded]) -> Result<Batch> {
        Batch::new(documents, &self.config.encoder, self.head()?, self.params.device().ledger())
    }
    /// Logits of every cell of the batch (`Batch::cells`). `recompute` trades time for memory in training.
    pub fn forward(&self, tape: &mut Tape, batch: &Batch, recompute: bool) -> Result<Tensor> {
        self.forward_observed(tape, batch, recompute, &mut |_, _| {})
    }
    /// As [`Model::forward`], with the entity attention (see `ops::attention_rows`) if it is `wanted`.
    pub fn forward_with_attention(
        &self,
        tape: &mut Tape,
        batch: &Batch,
        recompute: bool,
        wanted: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let mut attention = None;
        let mut keep = |name: &str, tensor: &Tensor| {
            if wanted && name == "attention" {
                attention = Some(tensor.clone());
            }
        };
        let logits = self.forward_observed(tape, batch, recompute, &mut keep)?;
        Ok((logits, attention))
    }
    /// How the entity attention becomes one weight a token.
    pub fn pooling(&self) -> Result<Pooling> {
        Ok(pairs::pooling(&self.config.encoder, self.head()?))
    }
    /// As [`Model::forward`], showing intermediate tensors to `observe`.
    pub fn forward_observed(
        &self,
        tape: &mut Tape,
        batch: &Batch,
        recompute: bool,
        observe: pairs::Observer,
    ) -> Result<Tensor> {
        let encoding = encoder::encode(tape, &self.params, &self.config.encoder, batch, recompute)?;
        pairs::logits(tape, &self.params, &self.config.encoder, self.head()?, batch, &encoding, recompute, observe)
    }
}

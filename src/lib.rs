//! docre: document-level relation extraction (KD-DocRE, ATLOP), training and inference.
pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod device;
pub mod dtype;
pub mod error;
pub mod extract;
pub mod layout;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod rng;
pub mod tape;
pub mod tensor;
pub mod text;
pub mod train;
pub use error::{Error, Result};

//! docre: document-level relation extraction (KD-DocRE, ATLOP), training and inference.
pub mod cli;
pub mod data;
pub mod error;
pub mod layout;
pub mod metrics;
pub use error::{Error, Result};

//! docre: document-level relation extraction (KD-DocRE, ATLOP), training and inference.
pub mod data;
pub mod error;
pub mod layout;
pub use error::{Error, Result};

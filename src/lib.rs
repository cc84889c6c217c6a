//! docre: document-level relation extraction (KD-DocRE, ATLOP), training and inference.
pub mod checkpoint;
pub mod device;
pub mod error;
pub mod layout;
pub mod model;
pub mod text;
pub use error::{Error, Result};

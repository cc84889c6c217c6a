//! docre: document-level relation extraction (KD-DocRE, ATLOP), training and inference.
pub mod device;
pub mod dtype;
pub mod error;
pub mod layout;
pub mod ops;
pub mod rng;
pub mod tape;
pub mod tensor;
pub use error::{Error, Result};

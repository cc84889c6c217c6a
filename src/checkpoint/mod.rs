//! Weights and states on disk: safetensors in and out, and directories that survive a crash.

pub mod atomic;
pub mod directory;
pub mod header;
pub mod model;
pub mod shards;
pub mod tensors;
pub mod weights;
pub mod writer;

pub use atomic::{AtomicFile, links, write_atomic};
pub use header::{Stored, TensorInfo};
pub use model::{build, build_to_infer, open_model, open_to_infer, save_model};
pub use shards::Checkpoint;
pub use tensors::{Slice, TensorFile};
pub use weights::{LoadReport, Loader, Want, load, save};
pub use writer::{Planned, TensorWriter};

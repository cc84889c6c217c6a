//! What a model is: its configuration and its parameters by name.

pub mod config;
pub mod fields;
pub mod names;

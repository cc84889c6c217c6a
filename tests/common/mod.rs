//! Shared by the test files.
pub mod gold;
pub mod golden;
pub mod gpu;
pub mod lab;
pub mod models;
pub mod real;
pub mod room;
pub mod tiny;

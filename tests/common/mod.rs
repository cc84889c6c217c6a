//! Shared by the test files.
pub mod golden;
pub mod tiny;

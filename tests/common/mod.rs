//! Shared by the test files.
#![allow(dead_code)] // each test file uses its part

pub mod gold;
pub mod golden;
pub mod gpu;
pub mod lab;
pub mod models;
pub mod real;
pub mod room;
pub mod tiny;

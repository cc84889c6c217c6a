//! Devices.
pub mod cuda;

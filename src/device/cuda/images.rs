//! The kernels' images as the build script left them.
//!
//! `IMAGES`: name of `kernels/NAME.cu` and its fat binary; empty without nvcc at build time.
//! `NVCC`: the compiler and its version, or why the table is empty (`doctor` prints it).

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

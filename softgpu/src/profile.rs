//! The GPUs that this driver can claim to be.

/// Limits and attributes of one GPU.
#[derive(Debug, PartialEq)]
pub struct Profile {
    pub name: &'static str,
    pub major: u32,
    pub minor: u32,
    pub multiprocessors: u32,
    /// Bytes of shared memory: of a block by default, of a block at most (opt-in), of a multiprocessor.
    pub shared_default: u32,
    pub shared_opt_in: u32,
    pub shared_per_multiprocessor: u32,
    pub threads_per_multiprocessor: u32,
    pub blocks_per_multiprocessor: u32,
    pub registers_per_multiprocessor: u32,
}

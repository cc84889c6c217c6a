//! Device memory: allocations that are never given out twice, poisoned, with guard pages between them.

/// Device addresses are host addresses inside of one reserved range.
pub struct Memory {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// More than the device has left.
    Full,
    /// Not (wholly) inside of a live allocation, or no address that was given out.
    Invalid,
}

impl Memory {
    /// `bytes`: how much the device has.
    pub fn new(_bytes: u64) -> Memory {
        todo!()
    }

    /// The address, a multiple of 256. The bytes are 0xFF and count as uninitialised.
    pub fn alloc(&self, _bytes: usize) -> Result<u64, MemoryError> {
        todo!()
    }

    pub fn free(&self, _address: u64) -> Result<(), MemoryError> {
        todo!()
    }

    pub fn write(&self, _address: u64, _bytes: &[u8]) -> Result<(), MemoryError> {
        todo!()
    }

    pub fn read(&self, _address: u64, _bytes: &mut [u8]) -> Result<(), MemoryError> {
        todo!()
    }

    pub fn copy(&self, _to: u64, _from: u64, _bytes: usize) -> Result<(), MemoryError> {
        todo!()
    }

    /// memset with a pattern of 1, 2 or 4 bytes.
    pub fn fill(&self, _address: u64, _pattern: &[u8], _count: usize) -> Result<(), MemoryError> {
        todo!()
    }

    /// Start and size of the live allocation that holds this address.
    pub fn range(&self, _address: u64) -> Option<(u64, usize)> {
        todo!()
    }

    /// Bytes free and in all.
    pub fn info(&self) -> (u64, u64) {
        todo!()
    }
}

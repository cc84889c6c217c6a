//! What a kernel did wrong, and where.

use std::fmt;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Global access outside of every live allocation.
    OutOfBounds,
    /// Global access to an allocation that was freed.
    UseAfterFree,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// Global bytes read before anything wrote them.
    GlobalUninitialised,
    /// Bytes that two blocks of one launch touch, at least one writing, without order between them.
    GlobalRace,
    /// Shared access outside of the block's static and dynamic shared memory.
    SharedOutOfBounds,
    SharedUninitialised,
    /// Bytes that two threads touch between barriers, at least one writing.
    SharedRace,
    /// The destination of a cp.async touched before the copy was waited for.
    AsyncCopyUnfinished,
    LocalOutOfBounds,
    /// Store to .const memory or to a kernel parameter.
    ReadOnly,
    /// A barrier that not all live threads of the warp, or of the block, reach at the same place.
    DivergentBarrier,
    /// shfl, vote, mma or ldmatrix in a warp whose named lanes do not all take part.
    DivergentCollective,
    /// Every live warp waits.
    Deadlock,
    /// More instructions than the limit: an endless loop.
    InstructionLimit,
    Trap,
    Assert,
    /// Something that this machine cannot execute, found when it was reached.
    Unsupported,
}

impl FaultKind {
    /// The CUresult that the real driver would return; for what hardware does not notice, "launch failed".
    pub fn cu_result(self) -> u32 {
        match self {
            Self::OutOfBounds | Self::UseAfterFree | Self::SharedOutOfBounds | Self::LocalOutOfBounds => 700,
            Self::Misaligned => 716,
            Self::InstructionLimit | Self::Deadlock => 702,
            Self::Assert => 710,
            Self::Unsupported => 801,
            _ => 719,
        }
    }
}

/// One fault: the first in the order of blocks that the launch met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub kind: FaultKind,
    pub kernel: String,
    /// Line of the PTX text, from 1.
    pub ptx_line: u32,
    /// The PTX instruction, as written.
    pub instruction: String,
    /// File and line of the CUDA source, where it was compiled with -lineinfo; then where that was inlined.
    pub source: Vec<(String, u32)>,
    pub block: [u32; 3],
    pub thread: Option<[u32; 3]>,
    pub address: Option<u64>,
    /// The rest of the sentence: sizes, the other thread, the allocation nearby.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = serde_json::to_value(self.kind).unwrap_or_default();
        write!(f, "{}: {}", kind.as_str().unwrap_or("fault"), self.detail)?;
        if let Some(address) = self.address {
            write!(f, " (address {address:#x})")?;
        }
        write!(f, "\n  kernel {}, PTX line {}: {}", self.kernel, self.ptx_line, self.instruction)?;
        for (i, (file, line)) in self.source.iter().enumerate() {
            write!(f, "\n  {} {file}:{line}", if i == 0 { "at" } else { "inlined at" })?;
        }
        let [x, y, z] = self.block;
        write!(f, "\n  block ({x}, {y}, {z})")?;
        if let Some([x, y, z]) = self.thread {
            write!(f, ", thread ({x}, {y}, {z})")?;
        }
        Ok(())
    }
}

//! The machine: decoded kernels, and the cores that run their blocks.
//!
//! A core runs one block at a time, a warp of 32 lanes at an instruction. Warps diverge and rejoin at
//! the immediate post-dominator of the branch. Blocks are dealt to cores in the order of their numbers,
//! so that the first fault in that order is always found.

mod access;
mod barrier;
mod block;
mod copies;
mod global;
mod grid;
mod registers;
mod shared;
mod warp;

pub use access::Where;
pub use block::{Core, Job};
pub use global::Order;
pub use grid::run;
pub use registers::{FULL, LANES, Mask, Raw, Slot, Value, lanes};

use crate::FaultKind;

/// What an instruction met; the place is added by the core.
#[derive(Debug)]
pub struct Trouble {
    pub kind: FaultKind,
    pub lane: Option<usize>,
    pub address: Option<u64>,
    pub detail: String,
}

pub type Done = Result<(), Box<Trouble>>;

/// A fault of one lane, or of the warp.
pub fn trouble<T>(kind: FaultKind, lane: Option<usize>, detail: impl Into<String>) -> Result<T, Box<Trouble>> {
    Err(Box::new(Trouble { kind, lane, address: None, detail: detail.into() }))
}

/// An instruction that does not change the flow of control, ready to run for the lanes of a mask that is not empty.
pub type Step = Box<dyn Fn(&mut Core<'_>, Mask) -> Done + Send + Sync>;

/// What decides whether a lane takes part: a predicate register, flipped by the second mask.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    pub predicate: usize,
    pub flip: Mask,
}

/// No place to rejoin at: the branch has no common successor, or nothing is split.
pub const NOWHERE: u32 = u32::MAX;

/// bar, barrier.
#[derive(Clone, Copy, Debug)]
pub struct Barrier {
    /// Registers: which of the 16, and how many threads (None: all of the block).
    pub number: Slot,
    pub threads: Option<Slot>,
    /// bar.arrive goes on without waiting.
    pub waits: bool,
    pub reduction: Option<Reduction>,
}

#[derive(Clone, Copy, Debug)]
pub struct Reduction {
    pub source: Guard,
    pub kind: ReductionKind,
}

/// Where the result goes.
#[derive(Clone, Copy, Debug)]
pub enum ReductionKind {
    Count(Slot),
    And(usize),
    Or(usize),
}

pub enum Action {
    Step(Step),
    Branch {
        target: u32,
        rejoin: u32,
    },
    Table {
        index: Slot,
        targets: Vec<u32>,
        rejoin: u32,
    },
    Call {
        entry: u32,
    },
    /// The end of a function: back to the caller, or the end of the thread.
    Leave,
    Exit,
    Barrier(Barrier),
    /// bar.warp.sync with its member mask.
    WarpBarrier(Slot),
    /// Lets other warps go on.
    Yield,
}

pub struct Ins {
    pub guard: Guard,
    pub action: Action,
}

/// What the counters need to know of an instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    #[default]
    Integer,
    Float,
    Special,
    Tensor,
    Conversion,
    Move,
    LoadStore,
    Warp,
    Control,
    /// Not in the text: prepares an operand.
    Hidden,
}

/// What a fault's report says of an instruction.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub line: u32,
    /// The innermost place first, then where it was inlined.
    pub source: Vec<(String, u32)>,
    pub class: Class,
    /// Floating-point operations: a lane, or a warp for tensor instructions.
    pub flops: u32,
}

/// Registers that hold the same in all lanes, or depend on the thread alone: set before a warp starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preset {
    Bits {
        bits: u64,
        wide: bool,
    },
    ThreadIndex(usize),
    BlockIndex(usize),
    BlockSize(usize),
    GridSize(usize),
    Lane,
    Warp,
    Warps,
    Multiprocessor,
    Multiprocessors,
    GridId,
    /// %lanemask_eq, le, lt, ge, gt.
    LaneMask(LaneMask),
    SharedBytes,
    DynamicSharedBytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LaneMask {
    Equal,
    LessEqual,
    Less,
    GreaterEqual,
    Greater,
}

/// A kernel, decoded.
#[derive(Default)]
pub struct Code {
    pub instructions: Vec<Ins>,
    pub places: Vec<Place>,
    pub entry: u32,
    pub slots: usize,
    pub predicates: usize,
    pub presets: Vec<(Slot, Preset)>,
    /// Bytes of local memory a thread.
    pub local: usize,
    /// Bytes of static shared memory with the gaps between variables; and the gaps.
    pub shared: usize,
    pub gaps: Vec<(usize, usize)>,
    /// Whether blocks can wait for one another: there are fences or atomics.
    pub orders: bool,
    /// The text, for reports.
    pub text: std::sync::Arc<str>,
}

//! PTX text as data. Names are resolved while parsing: what is left are registers and variables by
//! number, and labels by name.

use std::rc::Rc;

mod parse;
mod scan;

pub use parse::parse;

/// Width of a register; predicates hold one bit a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Pred,
    /// 8 or 16 bits, kept in 32.
    Half,
    Word,
    Double,
    Quad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A variable of the module or of a function.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub align: u32,
    /// Bytes; 0 for `extern .shared name[]`.
    pub size: usize,
    /// Defined in another module.
    pub external: bool,
    pub init: Vec<Init>,
    pub line: u32,
}

/// One piece of an initialiser.
#[derive(Clone, Debug)]
pub enum Init {
    Bytes(Vec<u8>),
    /// Address of a module variable, 8 bytes.
    Address(String, i64),
}

/// Where a name of a function points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VariableId {
    Module(usize),
    Function(usize),
}

#[derive(Clone, Debug)]
pub enum Operand {
    Register(usize),
    /// `!p` in an operand list.
    Not(usize),
    /// `%tid.x` and its like, with the dot.
    Special(String),
    Int(i128),
    /// Bits of a `0f` literal, and of a `0d` or decimal one.
    Float32(u32),
    Float64(u64),
    /// A variable's address plus an offset.
    Variable(VariableId, i64),
    /// A label or a function.
    Name(String),
    /// `[register + offset]`.
    Address(Box<Operand>, i64),
    Vector(Vec<Operand>),
    /// `p|q`, `d|p`.
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
    /// `_`
    Sink,
}

#[derive(Clone, Debug)]
pub struct Instruction {
    pub line: u32,
    /// File number and line of the source, where the compiler said so; then where that was inlined.
    pub source: Rc<[(u32, u32)]>,
    /// Register, and whether the instruction runs where it is false.
    pub guard: Option<(usize, bool)>,
    /// With all of its modifiers.
    pub opcode: String,
    pub operands: Vec<Operand>,
}

#[derive(Clone, Debug)]
pub enum Statement {
    Label(String, u32),
    Instruction(Instruction),
    /// A `.branchtargets` table.
    Targets(String, Vec<String>),
}

#[derive(Clone, Debug)]
pub struct Function {
    pub name: String,
    pub entry: bool,
    pub line: u32,
    pub returns: Vec<usize>,
    /// Numbers of `variables`.
    pub params: Vec<usize>,
    pub variables: Vec<Variable>,
    pub registers: Vec<Width>,
    pub max_threads: Option<u32>,
    /// None: a declaration.
    pub body: Option<Vec<Statement>>,
}

#[derive(Clone, Debug, Default)]
pub struct Source {
    pub version: (u32, u32),
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
    /// `.file` numbers and names.
    pub files: Vec<(u32, String)>,
}

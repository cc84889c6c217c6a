//! An opcode and its modifiers, taken apart.

use super::Refusal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U16x2,
    U32,
    U64,
    S8,
    S16,
    S16x2,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
}

impl Type {
    pub fn parse(text: &str) -> Option<Type> {
        use Type::*;
        Some(match text {
            "pred" => Pred,
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "b128" => B128,
            "u8" => U8,
            "u16" => U16,
            "u16x2" => U16x2,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s16x2" => S16x2,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => Bf16,
            "bf16x2" => Bf16x2,
            "tf32" => Tf32,
            "f32" => F32,
            "f64" => F64,
            _ => return None,
        })
    }

    pub fn bytes(self) -> usize {
        use Type::*;
        match self {
            Pred | B8 | U8 | S8 => 1,
            B16 | U16 | S16 | F16 | Bf16 => 2,
            B32 | U32 | S32 | U16x2 | S16x2 | F16x2 | Bf16x2 | Tf32 | F32 => 4,
            B64 | U64 | S64 | F64 => 8,
            B128 => 16,
        }
    }

    pub fn signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    /// Two values of 16 bits.
    pub fn packed(self) -> bool {
        use Type::*;
        matches!(self, U16x2 | S16x2 | F16x2 | Bf16x2)
    }

    pub fn float(self) -> bool {
        use Type::*;
        matches!(self, F16 | F16x2 | Bf16 | Bf16x2 | Tf32 | F32 | F64)
    }
}

/// How results are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

/// The head and what is left of the modifiers; lowering takes them one by one.
pub struct Opcode<'a> {
    pub text: &'a str,
    pub head: &'a str,
    rest: Vec<&'a str>,
}

impl<'a> Opcode<'a> {
    pub fn new(text: &'a str) -> Self {
        let mut parts = text.split('.');
        Opcode { text, head: parts.next().unwrap_or(""), rest: parts.collect() }
    }

    /// Takes the modifier if it is there.
    pub fn take(&mut self, modifier: &str) -> bool {
        let at = self.rest.iter().position(|part| *part == modifier);
        at.map(|at| self.rest.remove(at)).is_some()
    }

    /// Takes the first modifier of these that is there.
    pub fn one_of(&mut self, modifiers: &[&'static str]) -> Option<&'static str> {
        modifiers.iter().copied().find(|modifier| self.take(modifier))
    }

    /// Takes the next type, from the left.
    pub fn ty(&mut self) -> Result<Type, Refusal> {
        self.optional_type().ok_or_else(|| Refusal(format!("{}: a type is missing", self.text)))
    }

    pub fn optional_type(&mut self) -> Option<Type> {
        let at = self.rest.iter().position(|part| Type::parse(part).is_some())?;
        Type::parse(self.rest.remove(at))
    }

    /// rn, rz, rm, rp; nearest if none is named.
    pub fn rounding(&mut self) -> Rounding {
        match self.one_of(&["rn", "rz", "rm", "rp"]) {
            Some("rz") => Rounding::Zero,
            Some("rm") => Rounding::Down,
            Some("rp") => Rounding::Up,
            _ => Rounding::Nearest,
        }
    }

    /// What is left.
    pub fn rest(&self) -> &[&'a str] {
        &self.rest
    }

    /// Drops what only advises the hardware.
    pub fn drop(&mut self, modifiers: &[&str]) {
        self.rest.retain(|part| !modifiers.contains(part));
    }

    /// All modifiers are understood.
    pub fn end(&self) -> Result<(), Refusal> {
        match self.rest.first() {
            None => Ok(()),
            Some(part) => Err(Refusal(format!("{}: .{part} is not supported here", self.text))),
        }
    }

    pub fn unsupported<T>(&self) -> Result<T, Refusal> {
        Err(Refusal(format!("{} is not supported", self.text)))
    }
}

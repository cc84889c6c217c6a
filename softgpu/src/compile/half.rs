//! Half precision and bfloat16, alone and packed in pairs. PTX ISA, section "Half Precision
//! Floating-Point Instructions". Results are computed in double precision and rounded once.

use ::half::{bf16, f16};

use super::frame::Frame;
use super::opcode::{Opcode, Rounding, Type};
use super::round::to_short;
use super::{Lowered, Refusal};
use crate::machine::{Action, Class};
use crate::ptx::Operand;

/// A 16-bit format.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Half,
    Brain,
}

pub const NAN16: u16 = 0x7FFF;

impl Format {
    #[inline(always)]
    pub fn read(self, bits: u16) -> f64 {
        match self {
            Format::Half => f16::from_bits(bits).to_f64(),
            Format::Brain => bf16::from_bits(bits).to_f32() as f64,
        }
    }

    pub fn round(self, x: f64, rounding: Rounding) -> u16 {
        if x.is_nan() {
            return NAN16;
        }
        match self {
            Format::Half => to_short(x, 10, 5, rounding) as u16,
            Format::Brain => to_short(x, 7, 8, rounding) as u16,
        }
    }

    pub fn flush(self, bits: u16) -> u16 {
        let exponent = if self == Format::Half { 0x7C00 } else { 0x7F80 };
        if bits & exponent == 0 { bits & 0x8000 } else { bits }
    }
}

/// What the modifiers ask for.
#[derive(Clone, Copy)]
struct Style {
    format: Format,
    ftz: bool,
    sat: bool,
    relu: bool,
    nan: bool,
    rounding: Rounding,
}

impl Style {
    fn input(self, bits: u16) -> f64 {
        self.format.read(if self.ftz { self.format.flush(bits) } else { bits })
    }

    fn output(self, x: f64) -> u16 {
        let x = if self.sat && !x.is_nan() { x.clamp(0.0, 1.0) } else { x };
        let x = if self.sat && x.is_nan() || self.relu && x < 0.0 { 0.0 } else { x };
        let bits = self.format.round(x, self.rounding);
        if self.ftz { self.format.flush(bits) } else { bits }
    }
}

pub fn lower(frame: &mut Frame, mut op: Opcode, operands: &[Operand]) -> Result<Lowered, Refusal> {
    let rounding = op.rounding();
    let (ftz, sat, relu, nan) = (op.take("ftz"), op.take("sat"), op.take("relu"), op.take("NaN"));
    let approx = op.take("approx");
    let ty = op.ty()?;
    let format = if matches!(ty, Type::F16 | Type::F16x2) { Format::Half } else { Format::Brain };
    let packed = matches!(ty, Type::F16x2 | Type::Bf16x2);
    let style = Style { format, ftz, sat, relu, nan, rounding };
    let action = compute(frame, &mut op, operands, style, packed)?;
    op.end()?;
    let each = match op.head {
        "fma" => 2,
        "add" | "sub" | "mul" | "min" | "max" => 1,
        _ => 0,
    };
    let class = if approx { Class::Special } else { Class::Float };
    Ok(Lowered { action, class, flops: each * (1 + packed as u32) })
}

fn compute(f: &mut Frame, op: &mut Opcode, ops: &[Operand], s: Style, packed: bool) -> Result<Action, Refusal> {
    let r = s.format;
    match op.head {
        "add" => two(f, ops, packed, move |a, b| s.output(s.input(a) + s.input(b))),
        "sub" => two(f, ops, packed, move |a, b| s.output(s.input(a) - s.input(b))),
        "mul" => two(f, ops, packed, move |a, b| s.output(s.input(a) * s.input(b))),
        "fma" => three(f, ops, packed, move |a, b, c| s.output(fused(s.input(a), s.input(b), s.input(c)))),
        "min" | "max" => {
            let max = op.head == "max";
            two(f, ops, packed, move |a, b| extremum(s, a, b, max))
        }
        "neg" => one(f, ops, packed, move |a| if s.ftz { r.flush(a) ^ 0x8000 } else { a ^ 0x8000 }),
        "abs" => one(f, ops, packed, move |a| if s.ftz { r.flush(a) & 0x7FFF } else { a & 0x7FFF }),
        "ex2" => one(f, ops, packed, move |a| s.output(s.input(a).exp2())),
        "tanh" => one(f, ops, packed, move |a| s.output(s.input(a).tanh())),
        _ => op.unsupported(),
    }
}

/// a b + c rounded to odd in double precision, so that rounding again is right: the product is exact.
fn fused(a: f64, b: f64, c: f64) -> f64 {
    let (sum, rest) = super::round::two_sum(a * b, c);
    if rest == 0.0 || sum.to_bits() & 1 == 1 {
        return sum;
    }
    if (rest > 0.0) == (sum > 0.0) { f64::from_bits(sum.to_bits() + 1) } else { f64::from_bits(sum.to_bits() - 1) }
}

fn extremum(s: Style, a: u16, b: u16, max: bool) -> u16 {
    let (a, b) = if s.ftz { (s.format.flush(a), s.format.flush(b)) } else { (a, b) };
    let (x, y) = (s.format.read(a), s.format.read(b));
    match (x.is_nan(), y.is_nan()) {
        (true, true) => return NAN16,
        (true, false) | (false, true) if s.nan => return NAN16,
        (true, false) => return b,
        (false, true) => return a,
        _ => {}
    }
    let first_wins = if x == y { x.is_sign_positive() == max } else { (x > y) == max };
    if first_wins { a } else { b }
}

fn one(
    f: &mut Frame,
    ops: &[Operand],
    packed: bool,
    g: impl Fn(u16) -> u16 + Copy + Send + Sync + 'static,
) -> Result<Action, Refusal> {
    if !packed {
        return f.map1(ops, g);
    }
    f.map1(ops, move |a: u32| join(g(low(a)), g(high(a))))
}

fn two(
    f: &mut Frame,
    ops: &[Operand],
    packed: bool,
    g: impl Fn(u16, u16) -> u16 + Copy + Send + Sync + 'static,
) -> Result<Action, Refusal> {
    if !packed {
        return f.map2(ops, g);
    }
    f.map2(ops, move |a: u32, b: u32| join(g(low(a), low(b)), g(high(a), high(b))))
}

fn three(
    f: &mut Frame,
    ops: &[Operand],
    packed: bool,
    g: impl Fn(u16, u16, u16) -> u16 + Copy + Send + Sync + 'static,
) -> Result<Action, Refusal> {
    if !packed {
        return f.map3(ops, g);
    }
    f.map3(ops, move |a: u32, b: u32, c: u32| join(g(low(a), low(b), low(c)), g(high(a), high(b), high(c))))
}

pub fn low(x: u32) -> u16 {
    x as u16
}

pub fn high(x: u32) -> u16 {
    (x >> 16) as u16
}

pub fn join(low: u16, high: u16) -> u32 {
    (high as u32) << 16 | low as u32
}

//! cvt. PTX ISA, section "Data Movement and Conversion Instructions: cvt".

use ::half::{bf16, f16};

use super::frame::{Frame, step};
use super::half::{Format, join};
use super::opcode::{Opcode, Rounding, Type};
use super::round::{NAN32, directed, flush, to_f32};
use super::{Lowered, Refusal};
use crate::machine::{Action, Class, LANES, Raw, Value};
use crate::ptx::Operand;

#[derive(Clone, Copy)]
struct Style {
    rounding: Rounding,
    /// rni, rzi, rmi, rpi: to a whole number.
    whole: Option<Rounding>,
    ftz: bool,
    sat: bool,
    relu: bool,
    /// rna: ties away from zero.
    away: bool,
    /// What a NaN becomes as an integer.
    nan: i128,
}

pub fn lower(frame: &mut Frame, mut op: Opcode, operands: &[Operand]) -> Result<Lowered, Refusal> {
    let whole = op.one_of(&["rni", "rzi", "rmi", "rpi"]).map(|name| match name {
        "rni" => Rounding::Nearest,
        "rzi" => Rounding::Zero,
        "rmi" => Rounding::Down,
        _ => Rounding::Up,
    });
    if op.take("pack") {
        return pack_integers(frame, op, operands);
    }
    let away = op.take("rna");
    let (ftz, sat, relu, rounding) = (op.take("ftz"), op.take("sat"), op.take("relu"), op.rounding());
    let (to, from) = (op.ty()?, op.ty()?);
    op.end()?;
    let top = from == Type::F64 || to.bytes() == 8;
    let nan = if top { 1 << (8 * to.bytes() - 1) } else { 0 };
    let style = Style { rounding, whole, ftz, sat, relu, away, nan };
    let action = match (to, from) {
        (Type::F16x2 | Type::Bf16x2, Type::F32) if !sat => pack(frame, operands, style, to)?,
        (Type::U64 | Type::B64, Type::U32) => frame.map1(operands, |a: u32| a as u64)?,
        (Type::S64, Type::S32) => frame.map1(operands, |a: i32| a as i64)?,
        (Type::U32 | Type::S32, Type::U64 | Type::S64) if !style.sat => frame.map1(operands, |a: u64| a as u32)?,
        (Type::F32, Type::S32) if style.rounding == Rounding::Nearest => frame.map1(operands, |a: i32| a as f32)?,
        (Type::F32, Type::U32) if style.rounding == Rounding::Nearest => frame.map1(operands, |a: u32| a as f32)?,
        (Type::F32, Type::Bf16) if !style.ftz && !style.sat => {
            frame.map1(operands, |a: u16| narrow_to_single(bf16::from_bits(a).to_f32()))?
        }
        (Type::F32, Type::F16) if !style.ftz && !style.sat => {
            frame.map1(operands, |a: u16| narrow_to_single(f16::from_bits(a).to_f32()))?
        }
        (Type::Bf16, Type::F32) if style.rounding == Rounding::Nearest && !style.relu && !style.sat => {
            frame.map1(operands, nearest_bf16)?
        }
        (Type::F64, Type::F32) if !style.ftz => frame.map1(operands, |a: f32| a as f64)?,
        _ if [to, from].iter().any(|ty| ty.packed() || matches!(ty, Type::Pred | Type::B128)) => {
            return op.unsupported();
        }
        _ => general(frame, operands, style, to, from)?,
    };
    Ok(Lowered::new(Class::Conversion, action))
}

fn narrow_to_single(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(NAN32) } else { x }
}

fn nearest_bf16(x: f32) -> u16 {
    if x.is_nan() { super::half::NAN16 } else { bf16::from_f32(x).to_bits() }
}

/// Two singles into one register: the first operand goes to the upper half.
fn pack(f: &mut Frame, ops: &[Operand], s: Style, to: Type) -> Result<Action, Refusal> {
    if to == Type::Bf16x2 && s.rounding == Rounding::Nearest && !s.relu {
        return f.map2(ops, |a: f32, b: f32| join(nearest_bf16(b), nearest_bf16(a)));
    }
    let format = if to == Type::F16x2 { Format::Half } else { Format::Brain };
    f.map2(ops, move |a: f32, b: f32| join(short(b as f64, s, format), short(a as f64, s, format)))
}

fn short(x: f64, s: Style, format: Format) -> u16 {
    let x = if s.relu && x < 0.0 { 0.0 } else { x };
    format.round(x, s.rounding)
}

/// cvt.pack: a clamped above b, and what fits of c above both.
fn pack_integers(f: &mut Frame, mut op: Opcode, ops: &[Operand]) -> Result<Lowered, Refusal> {
    let (sat, to, from) = (op.take("sat"), op.ty()?, op.ty()?);
    if !sat || from != Type::S32 || !matches!(to, Type::U8 | Type::S8 | Type::U16 | Type::S16) {
        return op.unsupported();
    }
    let (bits, (least, most)) = (8 * to.bytes(), range(to));
    let fit = move |x: i32| (x as i128).clamp(least, most) as u32 & ((1 << bits) - 1);
    let action = match op.optional_type() {
        None if bits == 16 => f.map2(ops, move |a, b| fit(a) << 16 | fit(b))?,
        Some(Type::B32) if bits == 8 => f.map3(ops, move |a, b, c: u32| c << 16 | fit(a) << 8 | fit(b))?,
        _ => return op.unsupported(),
    };
    op.end()?;
    Ok(Lowered::new(Class::Conversion, action))
}

/// A value on its way from one type to another.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

fn general(f: &mut Frame, ops: &[Operand], s: Style, to: Type, from: Type) -> Result<Action, Refusal> {
    f.expect(ops, 2..=2)?;
    let wide_target = f.target_is_wide(&ops[0]);
    match (from.bytes() == 8, wide_target) {
        (true, true) => between::<u64, u64>(f, ops, s, to, from),
        (true, false) => between::<u64, u32>(f, ops, s, to, from),
        (false, true) => between::<u32, u64>(f, ops, s, to, from),
        (false, false) => between::<u32, u32>(f, ops, s, to, from),
    }
}

fn between<A: Raw + Value, D: Raw>(
    f: &mut Frame,
    ops: &[Operand],
    s: Style,
    to: Type,
    from: Type,
) -> Result<Action, Refusal> {
    let d = f.target::<D>(&ops[0])?;
    let a = match from {
        Type::F32 => f.source::<f32>(&ops[1])?,
        Type::F64 => f.source::<f64>(&ops[1])?,
        _ => f.source::<A>(&ops[1])?,
    };
    Ok(step(move |core, mask| {
        let values = *core.warp.registers.view::<A>(a);
        let mut out = [D::default(); LANES];
        for lane in 0..LANES {
            out[lane] = D::from_bits(write(to, s, read(from, s, values[lane].bits())));
        }
        core.warp.registers.write(d, mask, &out);
        Ok(())
    }))
}

fn read(from: Type, s: Style, bits: u64) -> Number {
    use Type::*;
    match from {
        U8 | B8 => Number::Int(bits as u8 as i128),
        S8 => Number::Int(bits as i8 as i128),
        U16 | B16 => Number::Int(bits as u16 as i128),
        S16 => Number::Int(bits as i16 as i128),
        U32 | B32 => Number::Int(bits as u32 as i128),
        S32 => Number::Int(bits as i32 as i128),
        U64 | B64 => Number::Int(bits as i128),
        S64 => Number::Int(bits as i64 as i128),
        F16 => Number::Float(Format::Half.read(bits as u16)),
        Bf16 => Number::Float(Format::Brain.read(bits as u16)),
        F64 => Number::Float(f64::from_bits(bits)),
        _ => {
            let x = f32::from_bits(bits as u32);
            Number::Float(if s.ftz { flush(x) } else { x } as f64)
        }
    }
}

/// The register's bits; integers narrower than the register are extended by their sign.
fn write(to: Type, s: Style, number: Number) -> u64 {
    if to.float() {
        return write_float(to, s, number);
    }
    let (least, most) = range(to);
    let value = match number {
        Number::Int(i) if s.sat => i.clamp(least, most),
        Number::Int(i) => i,
        Number::Float(x) if x.is_nan() => s.nan,
        // Floats always saturate.
        Number::Float(x) => (to_whole(x, s.whole.unwrap_or(Rounding::Zero)) as i128).clamp(least, most),
    };
    let shift = 64 - 8 * to.bytes();
    match to.signed() {
        true => ((value as i64) << shift >> shift) as u64,
        false => (value as u64) << shift >> shift,
    }
}

fn range(ty: Type) -> (i128, i128) {
    let bits = 8 * ty.bytes();
    match ty.signed() {
        true => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
        false => (0, (1i128 << bits) - 1),
    }
}

fn to_whole(x: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

fn write_float(to: Type, s: Style, number: Number) -> u64 {
    let (x, rest) = match number {
        // An integer of 64 bits may not fit a double: what is missing decides the rounding.
        Number::Int(i) => (i as f64, (i - (i as f64) as i128) as f64),
        Number::Float(x) => (s.whole.map_or(x, |rounding| to_whole(x, rounding)), 0.0),
    };
    let x = if s.relu && x < 0.0 { 0.0 } else { x };
    let (x, rest) = match s.sat {
        true if x > 0.0 => (x.min(1.0), 0.0),
        true => (0.0, 0.0), // NaN too
        false => (x, rest),
    };
    match to {
        Type::F64 => directed(x, rest, s.rounding).to_bits(),
        Type::F16 => Format::Half.round(odd(x, rest), s.rounding) as u64,
        Type::Bf16 => Format::Brain.round(odd(x, rest), s.rounding) as u64,
        Type::Tf32 => tf32(x as f32, s) as u64,
        _ => {
            let single = to_f32(x, rest, s.rounding);
            (if s.ftz { flush(single) } else { single }).to_bits() as u64
        }
    }
}

/// Rounded to odd, so that rounding to a short format is right.
fn odd(x: f64, rest: f64) -> f64 {
    if rest == 0.0 || x.to_bits() & 1 == 1 {
        return x;
    }
    if (rest > 0.0) == (x > 0.0) { f64::from_bits(x.to_bits() + 1) } else { f64::from_bits(x.to_bits() - 1) }
}

/// 10 bits of fraction in 32 bits of register.
fn tf32(x: f32, s: Style) -> u32 {
    if x.is_nan() {
        return NAN32;
    }
    let bits = x.to_bits();
    let bias = match (s.away, s.rounding) {
        (true, _) => 0x1000,
        (_, Rounding::Nearest) => 0xFFF + (bits >> 13 & 1),
        _ => 0, // rz; the manual has no others
    };
    if x.is_infinite() { bits } else { bits.wrapping_add(bias) & !0x1FFF }
}

//! Integer arithmetic, logic and bit fields. PTX ISA, sections "Integer Arithmetic", "Extended-Precision
//! Integer Arithmetic", "Logic and Shift".

use super::frame::{Frame, step};
use super::half::{high, join, low};
use super::opcode::{Opcode, Type};
use super::{Lowered, Refusal, refuse};
use crate::machine::{Action, Class, LANES, Raw, Value};
use crate::ptx::Operand;

/// Predicate register that holds the carry of add.cc and its like.
const CARRY: usize = 1;

pub fn lower(frame: &mut Frame, mut op: Opcode, operands: &[Operand]) -> Result<Lowered, Refusal> {
    let carries = op.rest().contains(&"cc");
    let action = match op.head {
        "add" | "sub" if carries => return extended(frame, op, operands),
        "addc" | "subc" => return extended(frame, op, operands),
        "mad" | "madc" if carries || op.head == "madc" => return extended_mad(frame, op, operands),
        "add" | "sub" => add(frame, &mut op, operands)?,
        "mul" => mul(frame, &mut op, operands)?,
        "mad" => mad(frame, &mut op, operands)?,
        "mul24" | "mad24" => mul24(frame, &mut op, operands)?,
        "min" | "max" if op.rest().iter().any(|part| matches!(*part, "relu" | "u16x2" | "s16x2")) => {
            extremum(frame, &mut op, operands)?
        }
        "div" | "rem" | "min" | "max" | "sad" => typed(frame, &mut op, operands)?,
        "abs" | "neg" => signed(frame, &mut op, operands)?,
        "and" | "or" | "xor" | "not" | "cnot" => logic(frame, &mut op, operands)?,
        "shl" | "shr" => shift(frame, &mut op, operands)?,
        "shf" => funnel(frame, &mut op, operands)?,
        "lop3" => lop3(frame, &mut op, operands)?,
        "popc" | "clz" | "brev" | "bfind" => count(frame, &mut op, operands)?,
        "bfe" | "bfi" | "bmsk" | "szext" | "fns" => fields(frame, &mut op, operands)?,
        "dp4a" | "dp2a" => dot(frame, &mut op, operands)?,
        _ => return op.unsupported(),
    };
    op.end()?;
    Ok(Lowered::new(Class::Integer, action))
}

fn add(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let minus = op.head == "sub";
    if op.take("sat") {
        return match (op.ty()?, minus) {
            (Type::S32, false) => f.map2(ops, |a: i32, b: i32| a.saturating_add(b)),
            (Type::S32, true) => f.map2(ops, |a: i32, b: i32| a.saturating_sub(b)),
            _ => op.unsupported(),
        };
    }
    match (op.ty()?, minus) {
        (Type::U16x2 | Type::S16x2, false) => pairs(f, ops, u16::wrapping_add),
        (Type::U16 | Type::S16, false) => f.map2(ops, |a: u16, b: u16| a.wrapping_add(b)),
        (Type::U16 | Type::S16, true) => f.map2(ops, |a: u16, b: u16| a.wrapping_sub(b)),
        (Type::U32 | Type::S32, false) => f.map2(ops, |a: u32, b: u32| a.wrapping_add(b)),
        (Type::U32 | Type::S32, true) => f.map2(ops, |a: u32, b: u32| a.wrapping_sub(b)),
        (Type::U64 | Type::S64, false) => f.map2(ops, |a: u64, b: u64| a.wrapping_add(b)),
        (Type::U64 | Type::S64, true) => f.map2(ops, |a: u64, b: u64| a.wrapping_sub(b)),
        _ => op.unsupported(),
    }
}

/// Two operations on halves.
fn pairs(
    f: &mut Frame,
    ops: &[Operand],
    half: impl Fn(u16, u16) -> u16 + Send + Sync + 'static,
) -> Result<Action, Refusal> {
    f.map2(ops, move |a: u32, b: u32| join(half(low(a), low(b)), half(high(a), high(b))))
}

fn mul(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    use Type::*;
    let part = op.one_of(&["lo", "hi", "wide"]);
    match (part, op.ty()?) {
        (Some("lo"), U16 | S16) => f.map2(ops, |a: u16, b: u16| a.wrapping_mul(b)),
        (Some("lo"), U32 | S32) => f.map2(ops, |a: u32, b: u32| a.wrapping_mul(b)),
        (Some("lo"), U64 | S64) => f.map2(ops, |a: u64, b: u64| a.wrapping_mul(b)),
        (Some("hi"), U16) => f.map2(ops, |a: u16, b: u16| ((a as u32 * b as u32) >> 16) as u16),
        (Some("hi"), S16) => f.map2(ops, |a: i16, b: i16| ((a as i32 * b as i32) >> 16) as i16),
        (Some("hi"), U32) => f.map2(ops, |a: u32, b: u32| ((a as u64 * b as u64) >> 32) as u32),
        (Some("hi"), S32) => f.map2(ops, |a: i32, b: i32| ((a as i64 * b as i64) >> 32) as i32),
        (Some("hi"), U64) => f.map2(ops, |a: u64, b: u64| ((a as u128 * b as u128) >> 64) as u64),
        (Some("hi"), S64) => f.map2(ops, |a: i64, b: i64| ((a as i128 * b as i128) >> 64) as i64),
        (Some("wide"), U16) => f.map2(ops, |a: u16, b: u16| a as u32 * b as u32),
        (Some("wide"), S16) => f.map2(ops, |a: i16, b: i16| a as i32 * b as i32),
        (Some("wide"), U32) => f.map2(ops, |a: u32, b: u32| a as u64 * b as u64),
        (Some("wide"), S32) => f.map2(ops, |a: i32, b: i32| a as i64 * b as i64),
        _ => op.unsupported(),
    }
}

fn mad(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    use Type::*;
    let part = op.one_of(&["lo", "hi", "wide"]);
    if op.take("sat") {
        return match (part, op.ty()?) {
            (Some("hi"), S32) => {
                f.map3(ops, |a: i32, b: i32, c: i32| (((a as i64 * b as i64) >> 32) as i32).saturating_add(c))
            }
            _ => op.unsupported(),
        };
    }
    match (part, op.ty()?) {
        (Some("lo"), U16 | S16) => f.map3(ops, |a: u16, b: u16, c: u16| a.wrapping_mul(b).wrapping_add(c)),
        (Some("lo"), U32 | S32) => f.map3(ops, |a: u32, b: u32, c: u32| a.wrapping_mul(b).wrapping_add(c)),
        (Some("lo"), U64 | S64) => f.map3(ops, |a: u64, b: u64, c: u64| a.wrapping_mul(b).wrapping_add(c)),
        (Some("hi"), U16) => {
            f.map3(ops, |a: u16, b: u16, c: u16| (((a as u32 * b as u32) >> 16) as u16).wrapping_add(c))
        }
        (Some("hi"), S16) => {
            f.map3(ops, |a: i16, b: i16, c: i16| (((a as i32 * b as i32) >> 16) as i16).wrapping_add(c))
        }
        (Some("hi"), U32) => {
            f.map3(ops, |a: u32, b: u32, c: u32| (((a as u64 * b as u64) >> 32) as u32).wrapping_add(c))
        }
        (Some("hi"), S32) => {
            f.map3(ops, |a: i32, b: i32, c: i32| (((a as i64 * b as i64) >> 32) as i32).wrapping_add(c))
        }
        (Some("hi"), U64) => {
            f.map3(ops, |a: u64, b: u64, c: u64| (((a as u128 * b as u128) >> 64) as u64).wrapping_add(c))
        }
        (Some("hi"), S64) => {
            f.map3(ops, |a: i64, b: i64, c: i64| (((a as i128 * b as i128) >> 64) as i64).wrapping_add(c))
        }
        (Some("wide"), U16) => f.map3(ops, |a: u16, b: u16, c: u32| (a as u32 * b as u32).wrapping_add(c)),
        (Some("wide"), S16) => f.map3(ops, |a: i16, b: i16, c: i32| (a as i32 * b as i32).wrapping_add(c)),
        (Some("wide"), U32) => f.map3(ops, |a: u32, b: u32, c: u64| (a as u64 * b as u64).wrapping_add(c)),
        (Some("wide"), S32) => f.map3(ops, |a: i32, b: i32, c: i64| (a as i64 * b as i64).wrapping_add(c)),
        _ => op.unsupported(),
    }
}

/// 24-bit factors: .lo gives bits 0 to 31 of the product, .hi bits 16 to 47.
fn mul24(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let shift = match op.one_of(&["lo", "hi"]) {
        Some("lo") => 0,
        Some("hi") => 16,
        _ => return op.unsupported(),
    };
    let unsigned = move |a: u32, b: u32| (((a & 0xFF_FFFF) as u64 * (b & 0xFF_FFFF) as u64) >> shift) as u32;
    let signed = move |a: i32, b: i32| (((a << 8 >> 8) as i64 * (b << 8 >> 8) as i64) >> shift) as i32;
    match (op.head, op.ty()?) {
        ("mul24", Type::U32) => f.map2(ops, unsigned),
        ("mul24", Type::S32) => f.map2(ops, signed),
        ("mad24", Type::U32) => f.map3(ops, move |a, b, c: u32| unsigned(a, b).wrapping_add(c)),
        ("mad24", Type::S32) => f.map3(ops, move |a, b, c: i32| signed(a, b).wrapping_add(c)),
        _ => op.unsupported(),
    }
}

/// div, rem, min, max, sad of one integer type. Division by zero gives all ones, as GPUs do; its
/// remainder is the dividend.
fn typed(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    macro_rules! on {
        ($int:ty) => {
            match op.head {
                "div" => f.map2(ops, |a: $int, b: $int| if b == 0 { !0 } else { a.wrapping_div(b) }),
                "rem" => f.map2(ops, |a: $int, b: $int| if b == 0 { a } else { a.wrapping_rem(b) }),
                "min" => f.map2(ops, |a: $int, b: $int| a.min(b)),
                "max" => f.map2(ops, |a: $int, b: $int| a.max(b)),
                _ => f.map3(ops, |a: $int, b: $int, c: $int| c.wrapping_add(a.max(b).wrapping_sub(a.min(b)))),
            }
        };
    }
    match op.ty()? {
        Type::U16 => on!(u16),
        Type::S16 => on!(i16),
        Type::U32 => on!(u32),
        Type::S32 => on!(i32),
        Type::U64 => on!(u64),
        Type::S64 => on!(i64),
        _ => op.unsupported(),
    }
}

/// min and max of halves, and those that make what is negative 0.
fn extremum(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let (max, relu) = (op.head == "max", op.take("relu"));
    let least = if relu { 0 } else { i16::MIN };
    match op.ty()? {
        Type::U16x2 if !relu => pairs(f, ops, move |a, b| if max { a.max(b) } else { a.min(b) }),
        Type::S16x2 => pairs(f, ops, move |a, b| {
            let (a, b) = (a as i16, b as i16);
            if max { a.max(b) } else { a.min(b) }.max(least) as u16
        }),
        Type::S32 => f.map2(ops, move |a: i32, b: i32| if max { a.max(b) } else { a.min(b) }.max(0)),
        _ => op.unsupported(),
    }
}

fn signed(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    match (op.head, op.ty()?) {
        ("abs", Type::S16) => f.map1(ops, |a: i16| a.wrapping_abs()),
        ("abs", Type::S32) => f.map1(ops, |a: i32| a.wrapping_abs()),
        ("abs", Type::S64) => f.map1(ops, |a: i64| a.wrapping_abs()),
        ("neg", Type::S16) => f.map1(ops, |a: i16| a.wrapping_neg()),
        ("neg", Type::S32) => f.map1(ops, |a: i32| a.wrapping_neg()),
        ("neg", Type::S64) => f.map1(ops, |a: i64| a.wrapping_neg()),
        _ => op.unsupported(),
    }
}

fn logic(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    macro_rules! on {
        ($int:ty) => {
            match op.head {
                "and" => f.map2(ops, |a: $int, b: $int| a & b),
                "or" => f.map2(ops, |a: $int, b: $int| a | b),
                "xor" => f.map2(ops, |a: $int, b: $int| a ^ b),
                "not" => f.map1(ops, |a: $int| !a),
                _ => f.map1(ops, |a: $int| (a == 0) as $int),
            }
        };
    }
    match op.ty()? {
        Type::Pred => predicates(f, op, ops),
        Type::B16 => on!(u16),
        Type::B32 => on!(u32),
        Type::B64 => on!(u64),
        _ => op.unsupported(),
    }
}

/// Logic on predicates: 32 lanes at once.
fn predicates(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let d = f.predicate_target(ops.first().unwrap_or(&Operand::Int(0)))?;
    let unary = op.head == "not";
    f.expect(ops, if unary { 2..=2 } else { 3..=3 })?;
    let (a, b) = (f.predicate(&ops[1])?, f.predicate(ops.get(2).unwrap_or(&ops[1]))?);
    let combine: fn(u32, u32) -> u32 = match op.head {
        "and" => |a, b| a & b,
        "or" => |a, b| a | b,
        "xor" => |a, b| a ^ b,
        "not" => |a, _| !a,
        _ => return op.unsupported(),
    };
    Ok(step(move |core, mask| {
        let held = &mut core.warp.registers.predicates;
        let value = combine(held[a.predicate] ^ a.flip, held[b.predicate] ^ b.flip);
        held[d] = held[d] & !mask | value & mask;
        Ok(())
    }))
}

/// Shifts by as much as the width or more give 0, or the sign.
fn shift(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    use Type::*;
    macro_rules! on {
        ($int:ty) => {
            match op.head {
                "shl" => f.map2(ops, |a: $int, b: u32| a.checked_shl(b).unwrap_or(0)),
                _ => f.map2(ops, |a: $int, b: u32| a >> b.min(<$int>::BITS - 1) >> (b >= <$int>::BITS) as u32),
            }
        };
    }
    match (op.head, op.ty()?) {
        (_, B16 | U16) => on!(u16),
        (_, B32 | U32) => on!(u32),
        (_, B64 | U64) => on!(u64),
        ("shr", S16) => on!(i16),
        ("shr", S32) => on!(i32),
        ("shr", S64) => on!(i64),
        _ => op.unsupported(),
    }
}

fn funnel(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let (left, wrap) = (op.one_of(&["l", "r"]), op.one_of(&["wrap", "clamp"]));
    if op.ty()? != Type::B32 {
        return op.unsupported();
    }
    let amount: fn(u32) -> u32 = if wrap == Some("wrap") { |c| c & 31 } else { |c| c.min(32) };
    let both = |a: u32, b: u32| (b as u64) << 32 | a as u64;
    match left {
        Some("l") => f.map3(ops, move |a: u32, b: u32, c: u32| (both(a, b) << amount(c) >> 32) as u32),
        Some("r") => f.map3(ops, move |a: u32, b: u32, c: u32| (both(a, b) >> amount(c)) as u32),
        _ => op.unsupported(),
    }
}

fn lop3(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    if op.ty()? != Type::B32 || op.rest().iter().any(|part| matches!(*part, "or" | "and")) {
        return op.unsupported();
    }
    f.expect(ops, 5..=5)?;
    let Operand::Int(table) = ops[4] else { return refuse("the table of lop3 must be a number") };
    let term = move |bit: u32, a: u32, b: u32, c: u32| {
        let chosen = 0u32.wrapping_sub((table as u32) >> bit & 1);
        let pick = |x: u32, one: bool| if one { x } else { !x };
        chosen & pick(a, bit & 4 != 0) & pick(b, bit & 2 != 0) & pick(c, bit & 1 != 0)
    };
    f.map3(&ops[..4], move |a: u32, b: u32, c: u32| (0..8).fold(0, |set, bit| set | term(bit, a, b, c)))
}

fn count(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    use Type::*;
    let shift = op.take("shiftamt");
    match (op.head, op.ty()?) {
        ("popc", B32) => f.map1(ops, |a: u32| a.count_ones()),
        ("popc", B64) => f.map1(ops, |a: u64| a.count_ones()),
        ("clz", B32) => f.map1(ops, |a: u32| a.leading_zeros()),
        ("clz", B64) => f.map1(ops, |a: u64| a.leading_zeros()),
        ("brev", B32) => f.map1(ops, |a: u32| a.reverse_bits()),
        ("brev", B64) => f.map1(ops, |a: u64| a.reverse_bits()),
        ("bfind", U32) => f.map1(ops, move |a: u32| find(a.leading_zeros(), 32, shift)),
        ("bfind", S32) => f.map1(ops, move |a: i32| find((a ^ a >> 31).leading_zeros(), 32, shift)),
        ("bfind", U64) => f.map1(ops, move |a: u64| find(a.leading_zeros(), 64, shift)),
        ("bfind", S64) => f.map1(ops, move |a: i64| find((a ^ a >> 63).leading_zeros(), 64, shift)),
        _ => op.unsupported(),
    }
}

/// The highest bit's position, or how far to shift it to the top; all ones if there is none.
fn find(zeros: u32, bits: u32, shift: bool) -> u32 {
    match (zeros == bits, shift) {
        (true, _) => u32::MAX,
        (false, true) => zeros,
        (false, false) => bits - 1 - zeros,
    }
}

fn fields(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    use Type::*;
    let mode = op.one_of(&["clamp", "wrap"]);
    match (op.head, op.ty()?) {
        ("bfe", U32) => f.map3(ops, |a: u32, b: u32, c: u32| extract(a as u64, false, b, c, 32) as u32),
        ("bfe", S32) => f.map3(ops, |a: i32, b: u32, c: u32| extract(a as i64 as u64, true, b, c, 32) as u32),
        ("bfe", U64) => f.map3(ops, |a: u64, b: u32, c: u32| extract(a, false, b, c, 64)),
        ("bfe", S64) => f.map3(ops, |a: u64, b: u32, c: u32| extract(a, true, b, c, 64)),
        ("bfi", B32) => insert::<u32>(f, ops, 32),
        ("bfi", B64) => insert::<u64>(f, ops, 64),
        ("bmsk", B32) => {
            let wrap = mode == Some("wrap");
            f.map2(ops, move |a: u32, b: u32| {
                let (a, b) = if wrap { (a & 31, b & 31) } else { (a.min(32), b.min(32)) };
                ((((1u64 << b) - 1) << a) & 0xFFFF_FFFF) as u32
            })
        }
        ("szext", ty @ (U32 | S32)) => {
            let (wrap, signed) = (mode == Some("wrap"), ty == S32);
            f.map2(ops, move |a: u32, b: u32| {
                let bits = if wrap { b & 31 } else { b.min(32) };
                extract(if signed { a as i32 as i64 as u64 } else { a as u64 }, signed, 0, bits, 32) as u32
            })
        }
        ("fns", B32) => f.map3(ops, find_nth_set),
        _ => op.unsupported(),
    }
}

/// bfe: `len` bits from `pos`; beyond the top comes the sign (of the field, or of the whole value if the
/// field reaches past it).
fn extract(a: u64, signed: bool, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 0xFF, len & 0xFF);
    let bit = |at: u32| a >> at.min(width - 1) & 1;
    let fill = signed && len > 0 && bit((pos + len - 1).min(width - 1)) == 1;
    let taken = if pos >= width { 0 } else { len.min(width - pos) };
    let low = if taken == 0 { 0 } else { (a >> pos) & (u64::MAX >> (64 - taken)) };
    let above = if taken >= 64 { 0 } else { u64::MAX << taken };
    if fill { low | above } else { low }
}

fn insert<T: Value<Raw = T> + Raw>(f: &mut Frame, ops: &[Operand], width: u32) -> Result<Action, Refusal> {
    f.expect(ops, 5..=5)?;
    let d = f.target::<T>(&ops[0])?;
    let (a, b) = (f.source::<T>(&ops[1])?, f.source::<T>(&ops[2])?);
    let (pos, len) = (f.source::<u32>(&ops[3])?, f.source::<u32>(&ops[4])?);
    Ok(step(move |core, mask| {
        let r = &mut core.warp.registers;
        let mut out = *r.view::<T>(b);
        for lane in 0..LANES {
            let (pos, len) = (r.view::<u32>(pos)[lane] & 0xFF, r.view::<u32>(len)[lane] & 0xFF);
            let taken = if pos >= width { 0 } else { len.min(width - pos) };
            if taken > 0 {
                let field = (u64::MAX >> (64 - taken)) << pos;
                let (a, b) = (r.view::<T>(a)[lane].bits(), out[lane].bits());
                out[lane] = T::from_bits(b & !field | a << pos & field);
            }
        }
        r.write(d, mask, &out);
        Ok(())
    }))
}

/// Position of the offset-th set bit from `base`, upwards or (offset < 0) downwards.
fn find_nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    let mut left = offset.unsigned_abs();
    let mut at = base as i64;
    if offset == 0 {
        return if base < 32 && mask >> base & 1 == 1 { base } else { u32::MAX };
    }
    while (0..32).contains(&at) {
        if mask >> at & 1 == 1 {
            left -= 1;
            if left == 0 {
                return at as u32;
            }
        }
        at += offset.signum() as i64;
    }
    u32::MAX
}

/// dp4a, dp2a: products of bytes (or of halves and bytes), added to c.
fn dot(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let high = op.one_of(&["lo", "hi"]) == Some("hi");
    let (a_signed, b_signed) = (op.ty()?.signed(), op.ty()?.signed());
    let byte = |x: u32, i: u32, signed: bool| {
        let byte = (x >> (8 * i)) as u8;
        if signed { byte as i8 as i32 } else { byte as i32 }
    };
    let half = |x: u32, i: u32, signed: bool| {
        let half = (x >> (16 * i)) as u16;
        if signed { half as i16 as i32 } else { half as i32 }
    };
    if op.head == "dp4a" {
        return f.map3(ops, move |a: u32, b: u32, c: u32| {
            (0..4).fold(c, |sum, i| sum.wrapping_add((byte(a, i, a_signed) * byte(b, i, b_signed)) as u32))
        });
    }
    let first = if high { 2 } else { 0 };
    f.map3(ops, move |a: u32, b: u32, c: u32| {
        (0..2).fold(c, |sum, i| sum.wrapping_add((half(a, i, a_signed) * byte(b, first + i, b_signed)) as u32))
    })
}

/// add.cc, addc, sub.cc, subc: with the carry, or borrow, of the lane.
fn extended(f: &mut Frame, mut op: Opcode, ops: &[Operand]) -> Result<Lowered, Refusal> {
    let cc = op.take("cc");
    let minus = op.head.starts_with("sub");
    let carries_in = op.head.ends_with('c');
    let action = match op.ty()? {
        Type::U32 | Type::S32 | Type::B32 => carry::<u32>(f, ops, minus, carries_in, cc)?,
        Type::U64 | Type::S64 | Type::B64 => carry::<u64>(f, ops, minus, carries_in, cc)?,
        _ => return op.unsupported(),
    };
    op.end()?;
    Ok(Lowered::new(Class::Integer, action))
}

fn carry<T: Value<Raw = T> + Raw>(
    f: &mut Frame,
    ops: &[Operand],
    minus: bool,
    with: bool,
    cc: bool,
) -> Result<Action, Refusal> {
    f.expect(ops, 3..=3)?;
    let d = f.target::<T>(&ops[0])?;
    let (a, b) = (f.source::<T>(&ops[1])?, f.source::<T>(&ops[2])?);
    let top = 32 * T::SLOTS as u32;
    Ok(step(move |core, mask| {
        let r = &mut core.warp.registers;
        let (mut out, mut flags) = ([T::default(); LANES], 0u32);
        let held = r.predicates[CARRY];
        for lane in 0..LANES {
            let extra = (with && held >> lane & 1 == 1) as u128;
            let (a, b) = (r.view::<T>(a)[lane].bits() as u128, r.view::<T>(b)[lane].bits() as u128);
            let full = if minus { a.wrapping_sub(b).wrapping_sub(extra) } else { a + b + extra };
            out[lane] = T::from_bits(full as u64);
            flags |= ((full >> top & 1) as u32) << lane;
        }
        r.write(d, mask, &out);
        if cc {
            r.predicates[CARRY] = held & !mask | flags & mask;
        }
        Ok(())
    }))
}

/// mad.lo.cc, madc.hi and so on, of unsigned or signed words.
fn extended_mad(f: &mut Frame, mut op: Opcode, ops: &[Operand]) -> Result<Lowered, Refusal> {
    let cc = op.take("cc");
    let with = op.head == "madc";
    let high = op.one_of(&["lo", "hi"]) == Some("hi");
    let ty = op.ty()?;
    f.expect(ops, 4..=4)?;
    let action = match ty {
        Type::U32 | Type::S32 => mad_carry::<u32>(f, ops, [high, ty.signed(), with, cc])?,
        Type::U64 | Type::S64 => mad_carry::<u64>(f, ops, [high, ty.signed(), with, cc])?,
        _ => return op.unsupported(),
    };
    op.end()?;
    Ok(Lowered::new(Class::Integer, action))
}

fn mad_carry<T: Value<Raw = T> + Raw>(f: &mut Frame, ops: &[Operand], flags: [bool; 4]) -> Result<Action, Refusal> {
    let [high, signed, with, cc] = flags;
    let d = f.target::<T>(&ops[0])?;
    let (a, b, c) = (f.source::<T>(&ops[1])?, f.source::<T>(&ops[2])?, f.source::<T>(&ops[3])?);
    let width = 32 * T::SLOTS as u32;
    let extend = move |x: T| match (signed, width) {
        (true, 32) => x.bits() as i32 as i128,
        (true, _) => x.bits() as i64 as i128,
        (false, _) => x.bits() as i128,
    };
    Ok(step(move |core, mask| {
        let r = &mut core.warp.registers;
        let (mut out, mut carries) = ([T::default(); LANES], 0u32);
        let held = r.predicates[CARRY];
        for lane in 0..LANES {
            let product = extend(r.view::<T>(a)[lane]).wrapping_mul(extend(r.view::<T>(b)[lane]));
            let part = (if high { product >> width } else { product }) as u128 & (u128::MAX >> (128 - width));
            let extra = (with && held >> lane & 1 == 1) as u128;
            let full = part + r.view::<T>(c)[lane].bits() as u128 + extra;
            out[lane] = T::from_bits(full as u64);
            carries |= ((full >> width & 1) as u32) << lane;
        }
        r.write(d, mask, &out);
        if cc {
            r.predicates[CARRY] = held & !mask | carries & mask;
        }
        Ok(())
    }))
}

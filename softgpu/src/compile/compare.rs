//! Comparison and selection. PTX ISA, section "Comparison and Selection Instructions".

use super::frame::{Frame, step};
use super::half::Format;
use super::opcode::{Opcode, Type};
use super::round::flush;
use super::{Lowered, Refusal, refuse};
use crate::machine::{Action, Class, FULL, Guard, LANES, Value};
use crate::ptx::Operand;

const TESTS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

pub fn lower(frame: &mut Frame, mut op: Opcode, operands: &[Operand]) -> Result<Lowered, Refusal> {
    let action = match op.head {
        "setp" | "set" => set(frame, &mut op, operands)?,
        "selp" => select(frame, &mut op, operands)?,
        _ => select_by_sign(frame, &mut op, operands)?,
    };
    op.end()?;
    Ok(Lowered::new(if op.head == "selp" { Class::Move } else { Class::Integer }, action))
}

/// p = test(a)
pub fn test1<T: Value>(
    f: &mut Frame,
    ops: &[Operand],
    test: impl Fn(T) -> bool + Send + Sync + 'static,
) -> Result<Action, Refusal> {
    f.expect(ops, 2..=2)?;
    let (d, a) = (f.predicate_target(&ops[0])?, f.source::<T>(&ops[1])?);
    Ok(step(move |core, mask| {
        let registers = &mut core.warp.registers;
        let values = registers.view::<T::Raw>(a);
        let mut found = 0;
        for lane in 0..LANES {
            found |= (test(T::get(values[lane])) as u32) << lane;
        }
        let held = &mut registers.predicates[d];
        *held = *held & !mask | found & mask;
        Ok(())
    }))
}

/// Where the verdict of a comparison goes, and what it is combined with.
#[derive(Clone, Copy)]
struct Verdict {
    target: Target,
    /// `q` of `p|q`: what the complement gives, or the upper half.
    second: Option<usize>,
    combine: Option<(Combine, Guard)>,
}

impl Verdict {
    fn combined(&self, found: u32, held: &[u32]) -> u32 {
        match self.combine {
            None => found,
            Some((Combine::And, c)) => found & (held[c.predicate] ^ c.flip),
            Some((Combine::Or, c)) => found | (held[c.predicate] ^ c.flip),
            Some((Combine::Xor, c)) => found ^ (held[c.predicate] ^ c.flip),
        }
    }
}

#[derive(Clone, Copy)]
enum Target {
    Predicate(usize),
    /// set: all ones or 1.0, else 0.
    Word {
        slot: usize,
        yes: u32,
    },
}

#[derive(Clone, Copy)]
enum Combine {
    And,
    Or,
    Xor,
}

fn set(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let Some(test) = op.one_of(&TESTS) else { return refuse(format!("{}: no comparison", op.text)) };
    let combine = op.one_of(&["and", "or", "xor"]).map(|name| match name {
        "and" => Combine::And,
        "or" => Combine::Or,
        _ => Combine::Xor,
    });
    let ftz = op.take("ftz");
    let result = if op.head == "set" { Some(op.ty()?) } else { None };
    let ty = op.ty()?;
    f.expect(ops, if combine.is_some() { 4..=4 } else { 3..=3 })?;
    let (first, second) = match &ops[0] {
        Operand::Pair(p, q) => (p.as_ref(), Some(f.predicate_target(q)?)),
        other => (other, None),
    };
    let target = match result {
        None => Target::Predicate(f.predicate_target(first)?),
        Some(to) => match truth(to, ty) {
            Some(yes) => Target::Word { slot: f.target::<u32>(first)?, yes },
            None => return op.unsupported(),
        },
    };
    let combine = match combine {
        Some(combine) => Some((combine, f.predicate(&ops[3])?)),
        None => None,
    };
    let half = move |x: u16| Format::Half.read(if ftz { Format::Half.flush(x) } else { x });
    let v = Verdict { target, second, combine };
    match ty {
        Type::U16 => integers::<u16>(f, ops, test, v),
        Type::S16 => integers::<i16>(f, ops, test, v),
        Type::B16 => integers::<u16>(f, ops, test, v),
        Type::U32 | Type::B32 => integers::<u32>(f, ops, test, v),
        Type::S32 => integers::<i32>(f, ops, test, v),
        Type::U64 | Type::B64 => integers::<u64>(f, ops, test, v),
        Type::S64 => integers::<i64>(f, ops, test, v),
        Type::F32 if ftz => floats(f, ops, test, v, flush),
        Type::F32 => floats(f, ops, test, v, |x: f32| x),
        Type::F64 => floats(f, ops, test, v, |x: f64| x),
        Type::F16 => floats(f, ops, test, v, move |x: u16| half(x)),
        Type::Bf16 => floats(f, ops, test, v, |x: u16| Format::Brain.read(x)),
        Type::F16x2 => pairs(f, ops, test, v, half),
        Type::Bf16x2 => pairs(f, ops, test, v, |x| Format::Brain.read(x)),
        _ => op.unsupported(),
    }
}

/// What set writes where the test holds; of pairs, to each half.
fn truth(to: Type, from: Type) -> Option<u32> {
    match (to, from.packed()) {
        (Type::U32 | Type::S32, true) | (Type::U16 | Type::S16, false) => Some(0xFFFF),
        (Type::U32 | Type::S32, false) => Some(u32::MAX),
        (Type::F32, false) => Some(1f32.to_bits()),
        (Type::F16, false) | (Type::F16x2, true) => Some(0x3C00),
        (Type::Bf16, false) | (Type::Bf16x2, true) => Some(0x3F80),
        _ => None,
    }
}

fn integers<T: Value + Ord>(f: &mut Frame, ops: &[Operand], test: &str, v: Verdict) -> Result<Action, Refusal> {
    match test {
        "eq" => compare(f, ops, v, |a: T, b: T| a == b),
        "ne" => compare(f, ops, v, |a: T, b: T| a != b),
        "lt" | "lo" => compare(f, ops, v, |a: T, b: T| a < b),
        "le" | "ls" => compare(f, ops, v, |a: T, b: T| a <= b),
        "gt" | "hi" => compare(f, ops, v, |a: T, b: T| a > b),
        "ge" | "hs" => compare(f, ops, v, |a: T, b: T| a >= b),
        other => refuse(format!(".{other} compares no integers")),
    }
}

/// What floats are to each other, one bit each.
const LESS: u32 = 1;
const EQUAL: u32 = 2;
const GREATER: u32 = 4;
const UNORDERED: u32 = 8;

/// The relations in which a test holds.
fn relations(test: &str) -> Result<u32, Refusal> {
    Ok(match test {
        "eq" => EQUAL,
        "ne" => LESS | GREATER,
        "lt" => LESS,
        "le" => LESS | EQUAL,
        "gt" => GREATER,
        "ge" => GREATER | EQUAL,
        "equ" => EQUAL | UNORDERED,
        "neu" => LESS | GREATER | UNORDERED,
        "ltu" => LESS | UNORDERED,
        "leu" => LESS | EQUAL | UNORDERED,
        "gtu" => GREATER | UNORDERED,
        "geu" => GREATER | EQUAL | UNORDERED,
        "num" => LESS | EQUAL | GREATER,
        "nan" => UNORDERED,
        other => return refuse(format!(".{other} compares no floats")),
    })
}

#[inline(always)]
fn stand<F: PartialOrd>(relations: u32, a: F, b: F) -> bool {
    let found = ((a < b) as u32 * LESS) | ((a == b) as u32 * EQUAL) | ((a > b) as u32 * GREATER);
    relations & (if found == 0 { UNORDERED } else { found }) != 0
}

fn floats<T: Value, F: PartialOrd>(
    f: &mut Frame,
    ops: &[Operand],
    test: &str,
    v: Verdict,
    to: impl Fn(T) -> F + Send + Sync + 'static,
) -> Result<Action, Refusal> {
    let relations = relations(test)?;
    compare(f, ops, v, move |a: T, b: T| stand(relations, to(a), to(b)))
}

/// Both halves: `p|q` are the verdicts on the lower and the upper one, or each half of a word gets its own.
fn pairs(
    f: &mut Frame,
    ops: &[Operand],
    test: &str,
    v: Verdict,
    to: impl Fn(u16) -> f64 + Send + Sync + 'static,
) -> Result<Action, Refusal> {
    let relations = relations(test)?;
    let (a, b) = (f.source::<u32>(&ops[1])?, f.source::<u32>(&ops[2])?);
    Ok(step(move |core, mask| {
        let registers = &mut core.warp.registers;
        let (a, b) = (registers.view::<u32>(a), registers.view::<u32>(b));
        let half =
            |lane: usize, shift: u32| stand(relations, to((a[lane] >> shift) as u16), to((b[lane] >> shift) as u16));
        let halves = [0, 16].map(|shift| (0..LANES).fold(0, |found, lane| found | (half(lane, shift) as u32) << lane));
        let held = &mut registers.predicates;
        let [low, high] = halves.map(|found| v.combined(found, held));
        if let Some(q) = v.second {
            held[q] = held[q] & !mask | high & mask;
        }
        match v.target {
            Target::Predicate(p) => held[p] = held[p] & !mask | low & mask,
            Target::Word { slot, yes } => {
                let words = std::array::from_fn(|lane| ((low >> lane & 1) * yes) | ((high >> lane & 1) * (yes << 16)));
                registers.write(slot, mask, &words);
            }
        }
        Ok(())
    }))
}

fn compare<T: Value>(
    f: &mut Frame,
    ops: &[Operand],
    v: Verdict,
    test: impl Fn(T, T) -> bool + Send + Sync + 'static,
) -> Result<Action, Refusal> {
    let (a, b) = (f.source::<T>(&ops[1])?, f.source::<T>(&ops[2])?);
    Ok(step(move |core, mask| {
        let registers = &mut core.warp.registers;
        let (a, b) = (registers.view::<T::Raw>(a), registers.view::<T::Raw>(b));
        let mut found = 0;
        for lane in 0..LANES {
            found |= (test(T::get(a[lane]), T::get(b[lane])) as u32) << lane;
        }
        let held = &mut registers.predicates;
        let (verdict, opposite) = (v.combined(found, held), v.combined(!found, held));
        if let Some(q) = v.second {
            held[q] = held[q] & !mask | opposite & mask;
        }
        match v.target {
            Target::Predicate(p) => held[p] = held[p] & !mask | verdict & mask,
            Target::Word { slot, yes } => {
                let words = std::array::from_fn(|lane| if verdict >> lane & 1 == 1 { yes } else { 0 });
                registers.write(slot, mask, &words);
            }
        }
        Ok(())
    }))
}

fn select(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    f.expect(ops, 4..=4)?;
    let p = f.predicate(&ops[3])?;
    match op.ty()? {
        Type::B16 | Type::U16 | Type::S16 => select_of::<u16>(f, ops, p),
        Type::B32 | Type::U32 | Type::S32 => select_of::<u32>(f, ops, p),
        Type::F32 => select_of::<f32>(f, ops, p),
        Type::B64 | Type::U64 | Type::S64 => select_of::<u64>(f, ops, p),
        Type::F64 => select_of::<f64>(f, ops, p),
        _ => op.unsupported(),
    }
}

fn select_of<T: Value>(f: &mut Frame, ops: &[Operand], p: Guard) -> Result<Action, Refusal> {
    let d = f.target::<T::Raw>(&ops[0])?;
    let (a, b) = (f.source::<T>(&ops[1])?, f.source::<T>(&ops[2])?);
    Ok(step(move |core, mask| {
        let registers = &mut core.warp.registers;
        let chosen = registers.predicates[p.predicate] ^ p.flip;
        let mut out = *registers.view::<T::Raw>(b);
        let a = registers.view::<T::Raw>(a);
        if chosen == FULL {
            out = *a;
        } else {
            for lane in 0..LANES {
                out[lane] = if chosen >> lane & 1 == 1 { a[lane] } else { out[lane] };
            }
        }
        registers.write(d, mask, &out);
        Ok(())
    }))
}

/// slct: a where c >= 0, else b.
fn select_by_sign(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let ftz = op.take("ftz");
    let ty = op.ty()?;
    let by = op.ty()?;
    macro_rules! on {
        ($int:ty) => {
            match by {
                Type::S32 => f.map3(ops, |a: $int, b: $int, c: i32| if c >= 0 { a } else { b }),
                Type::F32 if ftz => f.map3(ops, |a: $int, b: $int, c: f32| if flush(c) >= 0.0 { a } else { b }),
                Type::F32 => f.map3(ops, |a: $int, b: $int, c: f32| if c >= 0.0 { a } else { b }),
                _ => op.unsupported(),
            }
        };
    }
    match ty.bytes() {
        2 => on!(u16),
        4 if ty == Type::F32 => on!(f32),
        4 => on!(u32),
        8 if ty == Type::F64 => on!(f64),
        8 => on!(u64),
        _ => op.unsupported(),
    }
}

//! Moves, addresses and byte permutation. PTX ISA, section "Data Movement and Conversion Instructions".

use super::frame::{Frame, step};
use super::opcode::{Opcode, Type};
use super::{LOCAL_WINDOW, Lowered, Refusal, SHARED_WINDOW, WINDOW, refuse};
use crate::machine::{Action, Class, LANES, Slot};
use crate::ptx::{Operand, Space};

pub fn lower(frame: &mut Frame, mut op: Opcode, operands: &[Operand]) -> Result<Lowered, Refusal> {
    let action = match op.head {
        "mov" => mov(frame, &mut op, operands)?,
        "cvta" => cvta(frame, &mut op, operands)?,
        "prmt" => prmt(frame, &mut op, operands)?,
        "isspacep" => isspacep(frame, &mut op, operands)?,
        _ => return op.unsupported(),
    };
    op.end()?;
    Ok(Lowered::new(Class::Move, action))
}

fn mov(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    f.expect(ops, 2..=2)?;
    let ty = op.ty()?;
    match (&ops[0], &ops[1]) {
        (Operand::Vector(parts), _) => return unpack(f, parts, &ops[1], ty),
        (_, Operand::Vector(parts)) => return pack(f, &ops[0], parts, ty),
        _ => {}
    }
    match ty {
        Type::Pred => {
            let (d, a) = (f.predicate_target(&ops[0])?, f.predicate(&ops[1])?);
            Ok(step(move |core, mask| {
                let held = &mut core.warp.registers.predicates;
                let value = held[a.predicate] ^ a.flip;
                held[d] = held[d] & !mask | value & mask;
                Ok(())
            }))
        }
        Type::F32 => f.map1(ops, |a: f32| a),
        Type::F64 => f.map1(ops, |a: f64| a),
        ty if ty.bytes() <= 4 => f.map1(ops, |a: u32| a),
        Type::B64 | Type::U64 | Type::S64 => f.map1(ops, |a: u64| a),
        _ => op.unsupported(),
    }
}

/// mov.b32 {a, b}, c: the parts from the lowest bits on.
fn unpack(f: &mut Frame, parts: &[Operand], whole: &Operand, ty: Type) -> Result<Action, Refusal> {
    let bits = bits_of_part(parts, ty)?;
    let wide = ty.bytes() == 8;
    let source = if wide { f.source::<u64>(whole)? } else { f.source::<u32>(whole)? };
    let targets: Vec<Slot> = parts.iter().map(|part| f.target::<u32>(part)).collect::<Result<_, _>>()?;
    Ok(step(move |core, mask| {
        let registers = &mut core.warp.registers;
        let values: [u64; LANES] = match wide {
            true => *registers.view::<u64>(source),
            false => registers.view::<u32>(source).map(u64::from),
        };
        for (part, &target) in targets.iter().enumerate() {
            let field = values.map(|x| (x >> (part as u32 * bits) & (u64::MAX >> (64 - bits))) as u32);
            registers.write(target, mask, &field);
        }
        Ok(())
    }))
}

fn pack(f: &mut Frame, target: &Operand, parts: &[Operand], ty: Type) -> Result<Action, Refusal> {
    let bits = bits_of_part(parts, ty)?;
    let sources: Vec<Slot> = parts.iter().map(|part| f.source::<u32>(part)).collect::<Result<_, _>>()?;
    let wide = ty.bytes() == 8;
    let d = if wide { f.target::<u64>(target)? } else { f.target::<u32>(target)? };
    Ok(step(move |core, mask| {
        let registers = &mut core.warp.registers;
        let mut out = [0u64; LANES];
        for (part, &source) in sources.iter().enumerate() {
            let values = registers.view::<u32>(source);
            for lane in 0..LANES {
                out[lane] |= (values[lane] as u64 & (u64::MAX >> (64 - bits))) << (part as u32 * bits);
            }
        }
        match wide {
            true => registers.write(d, mask, &out),
            false => registers.write(d, mask, &out.map(|x| x as u32)),
        }
        Ok(())
    }))
}

fn bits_of_part(parts: &[Operand], ty: Type) -> Result<u32, Refusal> {
    match (ty.bytes() * 8, parts.len()) {
        (16, 2) => Ok(8),
        (32, 2) => Ok(16),
        (32, 4) => Ok(8),
        (64, 2) => Ok(32),
        (64, 4) => Ok(16),
        (bits, parts) => refuse(format!("{bits} bits in {parts} parts")),
    }
}

/// cvta.space: an offset becomes a generic address; cvta.to.space: back.
fn cvta(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let to = op.take("to");
    let window = match op.one_of(&["global", "const", "shared", "local", "param"]) {
        Some("shared") => SHARED_WINDOW,
        Some("local") => LOCAL_WINDOW,
        Some("param") if f.function.entry => return refuse("generic addresses of kernel parameters are not supported"),
        Some(_) => 0,
        None => return op.unsupported(),
    };
    op.drop(&["::cta"]);
    match op.ty()? {
        Type::U64 if to => f.map1(ops, move |a: u64| a.wrapping_sub(window)),
        Type::U64 => f.map1(ops, move |a: u64| a.wrapping_add(window)),
        _ => op.unsupported(),
    }
}

fn isspacep(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let space = op.one_of(&["global", "const", "shared", "local"]);
    let window = match space {
        Some("shared") => SHARED_WINDOW,
        Some("local") => LOCAL_WINDOW,
        Some(_) => 0,
        None => return op.unsupported(),
    };
    if window != 0 {
        return super::compare::test1(f, ops, move |a: u64| a & WINDOW == window);
    }
    // Constants lie between other variables.
    let constants = f.layout.source.variables.iter().enumerate().filter(|(_, variable)| variable.space == Space::Const);
    let places = constants.filter_map(|(i, variable)| Some((*f.layout.addresses.get(&i)?, variable.size as u64)));
    let places: Vec<(u64, u64)> = places.collect();
    let constant = move |a: u64| places.iter().any(|&(start, bytes)| a.wrapping_sub(start) < bytes);
    let wanted = space == Some("const");
    super::compare::test1(f, ops, move |a: u64| a & WINDOW == 0 && constant(a) == wanted)
}

fn prmt(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    if op.ty()? != Type::B32 {
        return op.unsupported();
    }
    let mode = op.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
    f.map3(ops, move |a: u32, b: u32, c: u32| permute(a, b, selectors(mode, c)))
}

/// Four selectors of 4 bits each.
fn selectors(mode: Option<&str>, c: u32) -> u32 {
    let n = c & 3;
    let each = |pick: fn(u32, u32) -> u32| (0..4).fold(0, |set, i| set | pick(i, n) << (4 * i));
    match mode {
        None => c,
        Some("f4e") => each(|i, n| n + i),
        Some("b4e") => each(|i, n| (n + 8 - i) % 8),
        Some("rc8") => each(|_, n| n),
        Some("ecl") => each(|i, n| i.max(n)),
        Some("ecr") => each(|i, n| i.min(n)),
        Some(_) => each(|i, n| (n & 1) * 2 + (i & 1)),
    }
}

fn permute(a: u32, b: u32, selectors: u32) -> u32 {
    let bytes = (b as u64) << 32 | a as u64;
    (0..4).fold(0, |set, i| {
        let selector = selectors >> (4 * i) & 15;
        let byte = (bytes >> (8 * (selector & 7))) as u8;
        let byte = if selector & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        set | (byte as u32) << (8 * i)
    })
}

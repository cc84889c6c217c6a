//! What the lanes of a warp tell each other. PTX ISA: shfl.sync, vote.sync, match.sync, redux.sync, activemask.

use super::frame::{Frame, step};
use super::opcode::{Opcode, Type};
use super::{Lowered, Refusal, refuse};
use crate::FaultKind::DivergentCollective;
use crate::machine::{Action, Class, LANES, Mask, Raw, Value, lanes, trouble};
use crate::ptx::Operand;

pub fn lower(frame: &mut Frame, mut op: Opcode, operands: &[Operand]) -> Result<Lowered, Refusal> {
    let sync = op.take("sync");
    let action = match op.head {
        "activemask" => activemask(frame, &mut op, operands)?,
        _ if !sync => return refuse(format!("{}: without .sync it is not supported", op.text)),
        "shfl" => shfl(frame, &mut op, operands)?,
        "vote" => vote(frame, &mut op, operands)?,
        "match" => matching(frame, &mut op, operands)?,
        "redux" => redux(frame, &mut op, operands)?,
        "elect" => elect(frame, operands)?,
        _ => return op.unsupported(),
    };
    op.end()?;
    Ok(Lowered::new(Class::Warp, action))
}

fn activemask(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    op.take("b32");
    f.expect(ops, 1..=1)?;
    let d = f.target::<u32>(&ops[0])?;
    Ok(step(move |core, mask| {
        core.warp.registers.write(d, mask, &[mask; LANES]);
        Ok(())
    }))
}

/// A destination and, after a bar, the predicate that comes with it.
fn with_predicate<'o>(f: &mut Frame, operand: &'o Operand) -> Result<(&'o Operand, Option<usize>), Refusal> {
    match operand {
        Operand::Pair(d, p) => Ok((d, Some(f.predicate_target(p)?))),
        other => Ok((other, None)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// The lane to read from, and whether it lies within the segment; the rule of the ISA manual.
fn source_lane(mode: Shuffle, lane: i32, b: u32, c: u32) -> (i32, bool) {
    let (b, clamp, segment) = ((b & 31) as i32, (c & 31) as i32, (c >> 8 & 31) as i32);
    let last = (lane & segment) | (clamp & !segment);
    let first = lane & segment;
    let (source, valid) = match mode {
        Shuffle::Up => (lane - b, lane - b >= last),
        Shuffle::Down => (lane + b, lane + b <= last),
        Shuffle::Butterfly => (lane ^ b, lane ^ b <= last),
        Shuffle::Index => (first | (b & !segment), first | (b & !segment) <= last),
    };
    if valid { (source, true) } else { (lane, false) }
}

fn shfl(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let mode = match op.one_of(&["up", "down", "bfly", "idx"]) {
        Some("up") => Shuffle::Up,
        Some("down") => Shuffle::Down,
        Some("bfly") => Shuffle::Butterfly,
        Some(_) => Shuffle::Index,
        None => return op.unsupported(),
    };
    if op.ty()? != Type::B32 {
        return op.unsupported();
    }
    f.expect(ops, 5..=5)?;
    let (d, p) = with_predicate(f, &ops[0])?;
    let d = f.target::<u32>(d)?;
    let a = if matches!(ops[1], Operand::Float32(_)) { f.source::<f32>(&ops[1])? } else { f.source::<u32>(&ops[1])? };
    let (b, c) = (f.source::<u32>(&ops[2])?, f.source::<u32>(&ops[3])?);
    let members = f.source::<u32>(&ops[4])?;
    Ok(step(move |core, mask| {
        let members = *core.warp.registers.view::<u32>(members);
        core.all_present(&members, mask)?;
        let registers = &mut core.warp.registers;
        let (values, b, c) = (registers.view::<u32>(a), registers.view::<u32>(b), registers.view::<u32>(c));
        let (mut out, mut valid) = (*values, 0);
        for lane in lanes(mask) {
            let (source, inside) = source_lane(mode, lane as i32, b[lane], c[lane]);
            if source > 31 || mask >> source & 1 == 0 {
                let detail = format!("takes the value of lane {source}, which does not take part");
                return trouble(DivergentCollective, Some(lane), detail);
            }
            out[lane] = values[source as usize];
            valid |= (inside as u32) << lane;
        }
        registers.write(d, mask, &out);
        if let Some(p) = p {
            let held = &mut registers.predicates[p];
            *held = *held & !mask | valid & mask;
        }
        Ok(())
    }))
}

/// For each lane of the mask, the lanes that its member mask names and that are here.
fn groups(members: &[u32; LANES], mask: Mask) -> impl Iterator<Item = (usize, Mask)> {
    lanes(mask).map(move |lane| (lane, members[lane] & mask))
}

fn vote(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let mode = op.one_of(&["all", "any", "uni", "ballot"]);
    op.ty()?;
    f.expect(ops, 3..=3)?;
    let p = f.predicate(&ops[1])?;
    let members = f.source::<u32>(&ops[2])?;
    if mode == Some("ballot") {
        let d = f.target::<u32>(&ops[0])?;
        return Ok(step(move |core, mask| {
            let members = *core.warp.registers.view::<u32>(members);
            core.all_present(&members, mask)?;
            let registers = &mut core.warp.registers;
            let votes = registers.predicates[p.predicate] ^ p.flip;
            let mut out = [0; LANES];
            groups(&members, mask).for_each(|(lane, group)| out[lane] = votes & group);
            registers.write(d, mask, &out);
            Ok(())
        }));
    }
    let d = f.predicate_target(&ops[0])?;
    let verdict: fn(Mask, Mask) -> bool = match mode {
        Some("all") => |votes, group| votes == group,
        Some("any") => |votes, _| votes != 0,
        Some("uni") => |votes, group| votes == group || votes == 0,
        _ => return op.unsupported(),
    };
    Ok(step(move |core, mask| {
        let members = *core.warp.registers.view::<u32>(members);
        core.all_present(&members, mask)?;
        let held = &mut core.warp.registers.predicates;
        let votes = held[p.predicate] ^ p.flip;
        let found =
            groups(&members, mask).fold(0, |set, (lane, group)| set | (verdict(votes & group, group) as u32) << lane);
        held[d] = held[d] & !mask | found & mask;
        Ok(())
    }))
}

fn matching(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let all = op.one_of(&["any", "all"]) == Some("all");
    match op.ty()? {
        Type::B32 => matching_of::<u32>(f, ops, all),
        Type::B64 => matching_of::<u64>(f, ops, all),
        _ => op.unsupported(),
    }
}

fn matching_of<T: Value<Raw = T> + Raw>(f: &mut Frame, ops: &[Operand], all: bool) -> Result<Action, Refusal> {
    f.expect(ops, 3..=3)?;
    let (d, p) = with_predicate(f, &ops[0])?;
    let (d, a) = (f.target::<u32>(d)?, f.source::<T>(&ops[1])?);
    let members = f.source::<u32>(&ops[2])?;
    Ok(step(move |core, mask| {
        let members = *core.warp.registers.view::<u32>(members);
        core.all_present(&members, mask)?;
        let registers = &mut core.warp.registers;
        let values = registers.view::<T>(a);
        let (mut out, mut agreed) = ([0; LANES], 0);
        for (lane, group) in groups(&members, mask) {
            let same =
                lanes(group).filter(|&other| values[other] == values[lane]).fold(0, |set, other| set | 1 << other);
            agreed |= ((same == group) as u32) << lane;
            out[lane] = if !all || same == group { same } else { 0 };
        }
        registers.write(d, mask, &out);
        if let Some(p) = p {
            let held = &mut registers.predicates[p];
            *held = *held & !mask | agreed & mask;
        }
        Ok(())
    }))
}

fn redux(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let operation = op.one_of(&["add", "min", "max", "and", "or", "xor"]);
    let ty = op.ty()?;
    let combine: fn(u32, u32) -> u32 = match (operation, ty) {
        (Some("add"), Type::U32 | Type::S32) => u32::wrapping_add,
        (Some("min"), Type::U32) => |a, b| a.min(b),
        (Some("max"), Type::U32) => |a, b| a.max(b),
        (Some("min"), Type::S32) => |a, b| (a as i32).min(b as i32) as u32,
        (Some("max"), Type::S32) => |a, b| (a as i32).max(b as i32) as u32,
        (Some("and"), Type::B32) => |a, b| a & b,
        (Some("or"), Type::B32) => |a, b| a | b,
        (Some("xor"), Type::B32) => |a, b| a ^ b,
        _ => return op.unsupported(),
    };
    f.expect(ops, 3..=3)?;
    let (d, a) = (f.target::<u32>(&ops[0])?, f.source::<u32>(&ops[1])?);
    let members = f.source::<u32>(&ops[2])?;
    Ok(step(move |core, mask| {
        let members = *core.warp.registers.view::<u32>(members);
        core.all_present(&members, mask)?;
        let registers = &mut core.warp.registers;
        let values = registers.view::<u32>(a);
        let mut out = [0; LANES];
        for (lane, group) in groups(&members, mask) {
            out[lane] = lanes(group).map(|other| values[other]).reduce(combine).unwrap_or(0);
        }
        registers.write(d, mask, &out);
        Ok(())
    }))
}

fn elect(f: &mut Frame, ops: &[Operand]) -> Result<Action, Refusal> {
    f.expect(ops, 2..=2)?;
    let (d, p) = with_predicate(f, &ops[0])?;
    let d = f.target::<u32>(d)?;
    let members = f.source::<u32>(&ops[1])?;
    Ok(step(move |core, mask| {
        let members = *core.warp.registers.view::<u32>(members);
        core.all_present(&members, mask)?;
        let leaders: [u32; LANES] = std::array::from_fn(|lane| (members[lane] & mask).trailing_zeros());
        core.warp.registers.write(d, mask, &leaders);
        if let Some(p) = p {
            let found = lanes(mask).filter(|&lane| leaders[lane] == lane as u32).fold(0, |set, lane| set | 1 << lane);
            let held = &mut core.warp.registers.predicates[p];
            *held = *held & !mask | found & mask;
        }
        Ok(())
    }))
}

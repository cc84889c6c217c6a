//! ld, st and cp.async. PTX ISA, sections "Data Movement and Conversion Instructions: ld, st, cp.async".

use super::frame::{Frame, step};
use super::opcode::{Opcode, Type};
use super::{Lowered, Refusal, refuse};
use crate::machine::{Action, Class, Core, LANES, Mask, Raw, Slot, Where};
use crate::ptx::{Operand, Space};

/// Modifiers about caches.
const CACHES: [&str; 26] = [
    "nc",
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::evict_normal",
    "L2::evict_first",
    "L2::evict_last",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "weak",
    "cta",
    "cluster",
    "gpu",
    "sys",
    "L2::cache_hint",
    "unified",
];
const STRONG: [&str; 5] = ["volatile", "relaxed", "acquire", "release", "mmio"];

pub fn lower(frame: &mut Frame, mut op: Opcode, operands: &[Operand]) -> Result<Lowered, Refusal> {
    let action = match op.head {
        "ld" | "ldu" => load(frame, &mut op, operands)?,
        "st" => store(frame, &mut op, operands)?,
        "cp" => copy(frame, &mut op, operands)?,
        // Only advice.
        _ => return Ok(Lowered::new(Class::LoadStore, step(|_, _| Ok(())))),
    };
    op.end()?;
    Ok(Lowered::new(Class::LoadStore, action))
}

/// How to find the addresses of an instruction's lanes.
#[derive(Clone, Copy)]
pub struct Address {
    slot: Slot,
    wide: bool,
    offset: u64,
}

impl Address {
    #[inline(always)]
    pub fn of(self, core: &Core) -> [u64; LANES] {
        let registers = &core.warp.registers;
        match self.wide {
            true => registers.view::<u64>(self.slot).map(|a| a.wrapping_add(self.offset)),
            false => registers.view::<u32>(self.slot).map(|a| (a as u64).wrapping_add(self.offset) & 0xFFFF_FFFF),
        }
    }
}

pub fn space(op: &mut Opcode) -> Where {
    let all = ["global", "const", "shared", "local", "param", "shared::cta", "param::entry", "param::func"];
    match op.one_of(&all) {
        Some("global") => Where::Global,
        Some("const") => Where::Const,
        Some("shared" | "shared::cta") => Where::Shared,
        Some("local") => Where::Local,
        Some(_) => Where::Param,
        None => Where::Generic,
    }
}

pub fn address(f: &mut Frame, operand: &Operand, space: Where) -> Result<(Address, Where), Refusal> {
    let Operand::Address(base, offset) = operand else { return refuse("an address in brackets is needed") };
    let wide = |f: &Frame, base: &Operand| f.target_is_wide(base) || !matches!(base, Operand::Register(_));
    match base.as_ref() {
        Operand::Variable(id, offset) => {
            let (home, at) = f.address(*id)?;
            let is_local_param = space == Where::Param && !f.is_kernel_param(*id);
            let fits = match space {
                Where::Param => home == Space::Param,
                Where::Shared => home == Space::Shared,
                Where::Local => home == Space::Local,
                Where::Global => home == Space::Global,
                Where::Const => home == Space::Const,
                Where::Generic => matches!(home, Space::Global | Space::Const),
            };
            if !fits {
                return refuse("the variable lies in another space");
            }
            let bits = at.wrapping_add(*offset as u64);
            let slot = f.slots.preset(crate::machine::Preset::Bits { bits, wide: true });
            let space = if is_local_param { Where::Local } else { space };
            Ok((Address { slot, wide: true, offset: 0 }, space))
        }
        base => {
            let wide = wide(f, base);
            if !wide && !matches!(space, Where::Shared | Where::Local | Where::Param | Where::Const) {
                return refuse("an address of 64 bits is needed");
            }
            let slot = if wide { f.source::<u64>(base)? } else { f.source::<u32>(base)? };
            // Parameters of a function lie in local memory.
            let space = if space == Where::Param && !f.function.entry { Where::Local } else { space };
            Ok((Address { slot, wide, offset: *offset as u64 }, space))
        }
    }
}

/// The registers of a value, or of the elements of a vector.
fn elements(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(parts) => parts,
        one => std::slice::from_ref(one),
    }
}

/// What a load or store says of itself.
struct Shape {
    space: Where,
    strong: bool,
    bytes: usize,
    count: usize,
    ty: Type,
}

fn shape(op: &mut Opcode, elements: usize) -> Result<Shape, Refusal> {
    let strong = op.one_of(&STRONG).is_some();
    let space = space(op);
    op.drop(&CACHES);
    let count = match op.one_of(&["v2", "v4", "v8"]) {
        Some("v2") => 2,
        Some("v4") => 4,
        Some(_) => return op.unsupported(),
        None => 1,
    };
    let ty = op.ty()?;
    if count != elements || count * ty.bytes() > 16 || matches!(ty, Type::Pred | Type::B128) {
        return refuse(format!("{}: {elements} elements of {} bytes", op.text, ty.bytes()));
    }
    Ok(Shape { space, strong, bytes: ty.bytes(), count, ty })
}

fn load(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let ops = without_policy(op, ops);
    f.expect(ops, 2..=2)?;
    let parts = elements(&ops[0]);
    let shape = shape(op, parts.len())?;
    let targets: Vec<(Slot, bool)> =
        parts.iter().map(|part| register_target(f, part, shape.bytes)).collect::<Result<_, _>>()?;
    let (address, space) = address(f, &ops[1], shape.space)?;
    Ok(match shape.bytes * shape.count {
        1 => load_of::<1>(address, space, shape, targets),
        2 => load_of::<2>(address, space, shape, targets),
        4 => load_of::<4>(address, space, shape, targets),
        8 => load_of::<8>(address, space, shape, targets),
        _ => load_of::<16>(address, space, shape, targets),
    })
}

/// A cache policy as the last operand only advises.
fn without_policy<'o>(op: &Opcode, ops: &'o [Operand]) -> &'o [Operand] {
    let hinted = op.rest().contains(&"L2::cache_hint") && !ops.is_empty();
    if hinted { &ops[..ops.len() - 1] } else { ops }
}

/// A register for an element: it may be wider than the element.
fn register_target(f: &mut Frame, part: &Operand, bytes: usize) -> Result<(Slot, bool), Refusal> {
    let wide = f.target_is_wide(part) || matches!(part, Operand::Sink) && bytes == 8;
    let slot = if wide { f.target::<u64>(part)? } else { f.target::<u32>(part)? };
    if !wide && bytes == 8 {
        return refuse("a destination of 64 bits is needed");
    }
    Ok((slot, wide))
}

fn load_of<const N: usize>(address: Address, space: Where, shape: Shape, targets: Vec<(Slot, bool)>) -> Action {
    let Shape { strong, bytes, ty, .. } = shape;
    step(move |core, mask| {
        let addresses = address.of(core);
        let loaded = core.load::<N>(space, mask, &addresses, strong)?;
        for (part, &(slot, wide)) in targets.iter().enumerate() {
            let registers = &mut core.warp.registers;
            if wide {
                let values: [u64; LANES] =
                    std::array::from_fn(|lane| extend(&loaded[lane][part * bytes..][..bytes], ty));
                registers.write(slot, mask, &values);
            } else {
                let values: [u32; LANES] = match bytes {
                    4 => std::array::from_fn(|lane| word(&loaded[lane], part)),
                    _ => std::array::from_fn(|lane| extend(&loaded[lane][part * bytes..][..bytes], ty) as u32),
                };
                registers.write(slot, mask, &values);
            }
        }
        Ok(())
    })
}

#[inline(always)]
fn word<const N: usize>(bytes: &[u8; N], part: usize) -> u32 {
    let at = part * 4;
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Little-endian bytes as 64 bits, extended by the type's sign.
fn extend(bytes: &[u8], ty: Type) -> u64 {
    let mut all = [0u8; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    let value = u64::from_le_bytes(all);
    let shift = 64 - 8 * bytes.len() as u32;
    if ty.signed() { ((value << shift) as i64 >> shift) as u64 } else { value }
}

fn store(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    let ops = without_policy(op, ops);
    f.expect(ops, 2..=2)?;
    let parts = elements(&ops[1]);
    let shape = shape(op, parts.len())?;
    let sources: Vec<(Slot, bool)> =
        parts.iter().map(|part| register_source(f, part, shape.ty)).collect::<Result<_, _>>()?;
    let (address, space) = address(f, &ops[0], shape.space)?;
    Ok(match shape.bytes * shape.count {
        1 => store_of::<1>(address, space, shape, sources),
        2 => store_of::<2>(address, space, shape, sources),
        4 => store_of::<4>(address, space, shape, sources),
        8 => store_of::<8>(address, space, shape, sources),
        _ => store_of::<16>(address, space, shape, sources),
    })
}

fn register_source(f: &mut Frame, part: &Operand, ty: Type) -> Result<(Slot, bool), Refusal> {
    Ok(match ty {
        Type::F32 => (f.source::<f32>(part)?, false),
        Type::F64 => (f.source::<f64>(part)?, true),
        ty if ty.bytes() == 8 => (f.source::<u64>(part)?, true),
        _ => (f.source::<u32>(part)?, false),
    })
}

fn store_of<const N: usize>(address: Address, space: Where, shape: Shape, sources: Vec<(Slot, bool)>) -> Action {
    let Shape { strong, bytes, .. } = shape;
    step(move |core, mask| {
        let addresses = address.of(core);
        let mut out = [[0u8; N]; LANES];
        for (part, &(slot, wide)) in sources.iter().enumerate() {
            let registers = &core.warp.registers;
            for (lane, out) in out.iter_mut().enumerate() {
                let value =
                    if wide { registers.view::<u64>(slot)[lane] } else { registers.view::<u32>(slot)[lane].bits() };
                out[part * bytes..][..bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
            }
        }
        core.store::<N>(space, mask, &addresses, &out, strong)
    })
}

/// cp.async and the instructions that wait for it.
fn copy(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    if !op.take("async") {
        return op.unsupported();
    }
    if op.take("commit_group") {
        f.expect(ops, 0..=0)?;
        return Ok(step(|core, mask| {
            core.warp.copies.commit(mask);
            Ok(())
        }));
    }
    if op.take("wait_all") {
        f.expect(ops, 0..=0)?;
        return Ok(wait(None));
    }
    if op.take("wait_group") {
        f.expect(ops, 1..=1)?;
        let Operand::Int(groups) = ops[0] else { return refuse("cp.async.wait_group takes a number") };
        return Ok(wait(Some(groups.clamp(0, u32::MAX as i128) as u32)));
    }
    let cached = op.one_of(&["ca", "cg"]);
    let to_shared = op.one_of(&["shared", "shared::cta"]).is_some();
    if cached.is_none() || !to_shared || !op.take("global") {
        return op.unsupported();
    }
    let ops = without_policy(op, ops);
    op.drop(&CACHES);
    f.expect(ops, 3..=4)?;
    let Operand::Int(bytes) = ops[2] else { return refuse("the size of cp.async must be a number") };
    if !(matches!(bytes, 4 | 8 | 16) && (cached == Some("ca") || bytes == 16)) {
        return refuse(format!("cp.async of {bytes} bytes"));
    }
    let (to, _) = address(f, &ops[0], Where::Shared)?;
    let (from, _) = address(f, &ops[1], Where::Global)?;
    let bytes = bytes as usize;
    match ops.get(3) {
        Some(p) if f.is_predicate(p) => {
            let ignore = f.predicate(p)?;
            Ok(step(move |core, mask| {
                let ignored = core.warp.registers.predicates[ignore.predicate] ^ ignore.flip;
                let taken = std::array::from_fn(|lane| if ignored >> lane & 1 == 1 { 0 } else { bytes as u32 });
                issue(core, mask, to, from, bytes, taken)
            }))
        }
        Some(size) => {
            let size = f.source::<u32>(size)?;
            Ok(step(move |core, mask| {
                let taken = *core.warp.registers.view::<u32>(size);
                issue(core, mask, to, from, bytes, taken)
            }))
        }
        None => Ok(step(move |core, mask| issue(core, mask, to, from, bytes, [bytes as u32; LANES]))),
    }
}

fn issue(
    core: &mut Core,
    mask: Mask,
    to: Address,
    from: Address,
    bytes: usize,
    taken: [u32; LANES],
) -> crate::machine::Done {
    let (to, from) = (to.of(core), from.of(core));
    core.copy_async(mask, &to, &from, bytes, &taken)
}

fn wait(pending: Option<u32>) -> Action {
    step(move |core, mask| {
        core.wait_copies(mask, pending);
        Ok(())
    })
}

//! atom and red. PTX ISA, section "Parallel Synchronization and Communication Instructions: atom, red".

use super::frame::{Frame, step};
use super::half::Format;
use super::memory::{Address, address, space};
use super::opcode::{Opcode, Rounding, Type};
use super::{Lowered, Refusal};
use crate::machine::{Action, Class, LANES, Slot, Where};
use crate::ptx::Operand;

/// What becomes of an old value, with the operands b and c.
type Combine = fn(u64, u64, u64) -> u64;

pub fn lower(frame: &mut Frame, mut op: Opcode, operands: &[Operand]) -> Result<Lowered, Refusal> {
    let returns = op.head == "atom";
    let order = op.one_of(&["release", "acq_rel", "acquire"]);
    let (releases, acquires) =
        (matches!(order, Some("release" | "acq_rel")), matches!(order, Some("acquire" | "acq_rel")));
    op.drop(&["relaxed", "cta", "cluster", "gpu", "sys", "noftz"]);
    let space = space(&mut op);
    let operation = op.one_of(&["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"]);
    let ty = op.ty()?;
    let Some(combine) = operation.and_then(|operation| combine(operation, ty)) else { return op.unsupported() };
    op.end()?;
    let others = 1 + (operation == Some("cas")) as usize;
    frame.expect(operands, others + 1 + returns as usize..=others + 1 + returns as usize)?;
    let wide = ty.bytes() == 8;
    let target = match (returns, wide) {
        (true, true) => Some(frame.target::<u64>(&operands[0])?),
        (true, false) => Some(frame.target::<u32>(&operands[0])?),
        (false, _) => None,
    };
    let rest = &operands[returns as usize..];
    let (address, space) = address(frame, &rest[0], space)?;
    let b = source(frame, &rest[1], ty)?;
    let c = rest.get(2).map(|c| source(frame, c, ty)).transpose()?;
    let update = AtomicUpdate { address, space, bytes: ty.bytes(), wide, target, b, c, combine, releases, acquires };
    Ok(Lowered::new(Class::LoadStore, update.action()))
}

fn source(f: &mut Frame, operand: &Operand, ty: Type) -> Result<Slot, Refusal> {
    match ty {
        Type::F32 => f.source::<f32>(operand),
        Type::F64 => f.source::<f64>(operand),
        ty if ty.bytes() == 8 => f.source::<u64>(operand),
        _ => f.source::<u32>(operand),
    }
}

struct AtomicUpdate {
    address: Address,
    space: Where,
    bytes: usize,
    wide: bool,
    target: Option<Slot>,
    b: Slot,
    c: Option<Slot>,
    combine: Combine,
    releases: bool,
    acquires: bool,
}

impl AtomicUpdate {
    fn action(self) -> Action {
        step(move |core, mask| {
            let addresses = self.address.of(core);
            let read = |core: &crate::machine::Core, slot: Slot| -> [u64; LANES] {
                let registers = &core.warp.registers;
                if self.wide { *registers.view::<u64>(slot) } else { registers.view::<u32>(slot).map(u64::from) }
            };
            let b = read(core, self.b);
            let c = self.c.map_or([0; LANES], |c| read(core, c));
            if self.releases {
                core.fence();
            }
            let old = core
                .update(self.space, mask, &addresses, self.bytes, &|lane, old| (self.combine)(old, b[lane], c[lane]))?;
            if self.acquires {
                core.fence();
            }
            match self.target {
                Some(d) if self.wide => core.warp.registers.write(d, mask, &old),
                Some(d) => core.warp.registers.write(d, mask, &old.map(|x| x as u32)),
                None => {}
            }
            Ok(())
        })
    }
}

fn combine(operation: &str, ty: Type) -> Option<Combine> {
    use Type::*;
    Some(match (operation, ty) {
        ("exch", B32 | B64) => |_, b, _| b,
        // cas: b is what is expected, c what replaces it.
        ("cas", B16) => |old, b, c| if old == b & 0xFFFF { c } else { old },
        ("cas", B32 | B64) => |old, b, c| if old == b { c } else { old },
        ("and", B32 | B64) => |old, b, _| old & b,
        ("or", B32 | B64) => |old, b, _| old | b,
        ("xor", B32 | B64) => |old, b, _| old ^ b,
        ("add", U32 | S32 | U64 | S64) => |old, b, _| old.wrapping_add(b),
        ("inc", U32) => |old, b, _| if old >= b { 0 } else { old + 1 },
        ("dec", U32) => |old, b, _| if old == 0 || old > b { b } else { old - 1 },
        ("min", U32 | U64) => |old, b, _| old.min(b),
        ("max", U32 | U64) => |old, b, _| old.max(b),
        ("min", S32) => |old, b, _| (old as i32).min(b as i32) as u32 as u64,
        ("max", S32) => |old, b, _| (old as i32).max(b as i32) as u32 as u64,
        ("min", S64) => |old, b, _| (old as i64).min(b as i64) as u64,
        ("max", S64) => |old, b, _| (old as i64).max(b as i64) as u64,
        ("add", F32) => {
            |old, b, _| super::round::canonical(f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits() as u64
        }
        ("add", F64) => |old, b, _| (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        ("add", F16) => |old, b, _| add_short(old, b, Format::Half),
        ("add", Bf16) => |old, b, _| add_short(old, b, Format::Brain),
        ("add", F16x2) => {
            |old, b, _| add_short(old, b, Format::Half) | add_short(old >> 16, b >> 16, Format::Half) << 16
        }
        ("add", Bf16x2) => {
            |old, b, _| add_short(old, b, Format::Brain) | add_short(old >> 16, b >> 16, Format::Brain) << 16
        }
        _ => return None,
    })
}

fn add_short(a: u64, b: u64, format: Format) -> u64 {
    format.round(format.read(a as u16) + format.read(b as u16), Rounding::Nearest) as u64
}

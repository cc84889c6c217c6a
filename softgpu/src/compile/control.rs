//! Branches, calls, barriers, fences. PTX ISA, sections "Control Flow Instructions" and "Parallel
//! Synchronization and Communication Instructions".

use super::frame::{Frame, step};
use super::opcode::Opcode;
use super::{Jump, Lowered, Refusal, refuse};
use crate::FaultKind::Trap;
use crate::machine::{Action, Barrier, Class, NOWHERE, Reduction, ReductionKind, trouble};
use crate::ptx::{Operand, VariableId};

/// bra, brx.idx, ret: `note` remembers where they go until labels are known.
pub fn jump(f: &mut Frame, mut op: Opcode, ops: &[Operand], note: &mut dyn FnMut(Jump)) -> Result<Lowered, Refusal> {
    op.take("uni");
    let unknown = Action::Branch { target: 0, rejoin: NOWHERE };
    let action = match (op.head, ops) {
        // A label may look like a special register.
        ("bra", [Operand::Name(label) | Operand::Special(label)]) => {
            note(Jump::To(label.clone()));
            unknown
        }
        // Threads of a kernel end here, so that barriers do not wait for them.
        ("ret", []) if f.function.entry => Action::Exit,
        ("ret", []) => {
            note(Jump::Return);
            unknown
        }
        ("brx", [index, Operand::Name(table)]) if op.take("idx") => {
            note(Jump::Table(table.clone()));
            Action::Table { index: f.source::<u32>(index)?, targets: Vec::new(), rejoin: NOWHERE }
        }
        _ => return refuse(format!("{}: a label is needed", op.text)),
    };
    op.end()?;
    Ok(Lowered::new(Class::Control, action))
}

pub fn lower(f: &mut Frame, mut op: Opcode, ops: &[Operand]) -> Result<Lowered, Refusal> {
    let action = match op.head {
        "exit" => Action::Exit,
        "trap" => step(|_, mask| trouble(Trap, Some(mask.trailing_zeros() as usize), "trap")),
        "brkpt" => step(|_, mask| trouble(Trap, Some(mask.trailing_zeros() as usize), "breakpoint")),
        "bar" | "barrier" => barrier(f, &mut op, ops)?,
        "membar" | "fence" => fence(&mut op),
        "call" => return super::call::lower(f, op, ops),
        "nanosleep" => Action::Yield,
        _ => step(|_, _| Ok(())),
    };
    if matches!(op.head, "nanosleep" | "pmevent" | "griddepcontrol") {
        return Ok(Lowered::new(Class::Control, action));
    }
    op.end()?;
    Ok(Lowered::new(Class::Control, action))
}

fn fence(op: &mut Opcode) -> Action {
    let device_wide = op.one_of(&["gl", "sys", "gpu", "cluster"]).is_some();
    op.drop(&["cta", "acq_rel", "sc", "acquire", "release", "proxy", "async", "alias"]);
    step(move |core, _| {
        if device_wide {
            core.fence();
        }
        Ok(())
    })
}

fn barrier(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    op.one_of(&["cta"]);
    op.take("aligned");
    if op.take("warp") {
        return match (op.take("sync"), ops) {
            (true, [members]) => Ok(Action::WarpBarrier(f.source::<u32>(members)?)),
            _ => op.unsupported(),
        };
    }
    let mut rest = ops;
    let mut reduction = None;
    let waits = match op.one_of(&["sync", "arrive", "red"]) {
        Some("sync") => true,
        Some("arrive") => false,
        Some(_) => {
            let [target, middle @ .., source] = ops else { return refuse("bar.red needs more operands") };
            let operation = op.one_of(&["popc", "and", "or"]);
            op.ty()?;
            let kind = match operation {
                Some("popc") => ReductionKind::Count(f.target::<u32>(target)?),
                Some("and") => ReductionKind::And(f.predicate_target(target)?),
                Some(_) => ReductionKind::Or(f.predicate_target(target)?),
                None => return op.unsupported(),
            };
            reduction = Some(Reduction { source: f.predicate(source)?, kind });
            rest = middle;
            true
        }
        None => return op.unsupported(),
    };
    f.expect(rest, 1..=2)?;
    let number = f.source::<u32>(&rest[0])?;
    let threads = rest.get(1).map(|threads| f.source::<u32>(threads)).transpose()?;
    if !waits && threads.is_none() {
        return refuse("bar.arrive needs the number of threads");
    }
    Ok(Action::Barrier(Barrier { number, threads, waits, reduction }))
}

/// The offset in local memory of a .param variable of this function.
pub fn param_offset(f: &Frame, operand: &Operand) -> Result<(u64, usize), Refusal> {
    match operand {
        Operand::Variable(VariableId::Function(number), 0) => {
            Ok((f.variables[*number], f.function.variables[*number].size))
        }
        _ => refuse("a call takes .param variables only"),
    }
}

//! Which registers share a slot. Compilers number registers without end; a thread needs few at a time,
//! and what is not kept apart stays in the cache.
//!
//! Liveness by data flow over the function's blocks, then a linear scan over intervals. Lanes of a warp
//! may be at different places: that is no danger, because each lane writes only its own lane of a slot.

use std::collections::HashMap;

use super::frame::Slots;
use crate::ptx::{Function, Instruction, Operand, Statement, Width};

/// A slot, or the number of a predicate, for each register of a function.
pub fn allocate(function: &Function, slots: &mut Slots) -> Vec<usize> {
    let intervals = intervals(function);
    let mut places = vec![0; function.registers.len()];
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|&register| intervals[register].0);
    let mut free: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut taken: Vec<(usize, usize, usize)> = Vec::new(); // end, width, slot
    for register in order {
        let (start, end) = intervals[register];
        let width = width_in_slots(function.registers[register]);
        if width == 0 {
            places[register] = slots.predicates;
            slots.predicates += 1;
            continue;
        }
        taken.retain(|&(end, width, slot)| {
            let over = end < start;
            if over {
                free.entry(width).or_default().push(slot);
            }
            !over
        });
        let reused = free.get_mut(&width).and_then(Vec::pop);
        places[register] = reused.unwrap_or_else(|| slots.fresh(width));
        taken.push((end, width, places[register]));
    }
    places
}

fn width_in_slots(width: Width) -> usize {
    match width {
        Width::Pred => 0,
        Width::Half | Width::Word => 1,
        Width::Double => 2,
        Width::Quad => 4,
    }
}

/// A set of registers.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn new(registers: usize) -> Set {
        Set(vec![0; registers.div_ceil(64)])
    }

    fn put(&mut self, register: usize) {
        self.0[register / 64] |= 1 << (register % 64);
    }

    fn remove(&mut self, register: usize) {
        self.0[register / 64] &= !(1 << (register % 64));
    }

    fn has(&self, register: usize) -> bool {
        self.0[register / 64] >> (register % 64) & 1 == 1
    }

    fn add(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }
}

struct Block<'a> {
    /// Position of the first instruction, and the instructions.
    start: usize,
    body: Vec<&'a Instruction>,
    next: Vec<usize>,
}

/// First and last position at which each register may hold something that is needed.
fn intervals(function: &Function) -> Vec<(usize, usize)> {
    let registers = function.registers.len();
    let blocks = blocks(function);
    let mut live_in = vec![Set::new(registers); blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for number in (0..blocks.len()).rev() {
            let mut live = live_out(&blocks[number], &live_in, registers);
            for instruction in blocks[number].body.iter().rev() {
                let (written, read) = registers_of(instruction);
                if instruction.guard.is_none() {
                    written.iter().for_each(|&register| live.remove(register));
                }
                read.iter().for_each(|&register| live.put(register));
            }
            changed |= live != live_in[number];
            live_in[number] = live;
        }
    }
    let mut intervals = vec![(usize::MAX, 0); registers];
    let mut cover = |register: usize, position: usize| {
        let (first, last) = intervals[register];
        intervals[register] = (first.min(position), last.max(position));
    };
    for (number, block) in blocks.iter().enumerate() {
        let end = block.start + block.body.len();
        let out = live_out(block, &live_in, registers);
        for register in 0..registers {
            if live_in[number].has(register) {
                cover(register, block.start);
            }
            if out.has(register) {
                cover(register, end);
            }
        }
        for (i, instruction) in block.body.iter().enumerate() {
            let (written, read) = registers_of(instruction);
            written.iter().chain(&read).for_each(|&register| cover(register, block.start + i));
        }
    }
    intervals
}

fn live_out(block: &Block, live_in: &[Set], registers: usize) -> Set {
    let mut live = Set::new(registers);
    block.next.iter().for_each(|&next| live.add(&live_in[next]));
    live
}

/// Blocks end at branches and begin at labels.
fn blocks(function: &Function) -> Vec<Block<'_>> {
    let mut blocks = vec![Block { start: 0, body: Vec::new(), next: Vec::new() }];
    let (mut labels, mut tables) = (HashMap::new(), HashMap::new());
    let mut position = 0;
    for statement in function.body.iter().flatten() {
        let ended = blocks.last().and_then(|block| block.body.last()).is_some_and(|last| is_jump(last));
        let at_label = matches!(statement, Statement::Label(..));
        if ended || at_label {
            blocks.push(Block { start: position, body: Vec::new(), next: Vec::new() });
        }
        match statement {
            Statement::Label(name, _) => _ = labels.insert(name.as_str(), blocks.len() - 1),
            Statement::Targets(name, targets) => _ = tables.insert(name.as_str(), targets),
            Statement::Instruction(instruction) => {
                blocks.last_mut().expect("there is a block").body.push(instruction);
                position += 1;
            }
        }
    }
    for number in 0..blocks.len() {
        let mut next = Vec::new();
        let last = blocks[number].body.last();
        if let Some(last) = last.filter(|last| is_jump(last)) {
            for name in last
                .operands
                .iter()
                .filter_map(|operand| if let Operand::Name(name) = operand { Some(name) } else { None })
            {
                next.extend(labels.get(name.as_str()));
                next.extend(
                    tables
                        .get(name.as_str())
                        .iter()
                        .flat_map(|names| names.iter())
                        .filter_map(|name| labels.get(name.as_str())),
                );
            }
        }
        let falls_through = last.is_none_or(|last| !is_jump(last) || last.guard.is_some());
        if falls_through && number + 1 < blocks.len() {
            next.push(number + 1);
        }
        blocks[number].next = next;
    }
    blocks
}

fn head(instruction: &Instruction) -> &str {
    instruction.opcode.split('.').next().unwrap_or("")
}

fn is_jump(instruction: &Instruction) -> bool {
    matches!(head(instruction), "bra" | "brx" | "ret" | "exit")
}

/// Written and read; in doubt, read.
fn registers_of(instruction: &Instruction) -> (Vec<usize>, Vec<usize>) {
    let (mut written, mut read) = (Vec::new(), Vec::new());
    let writes_first = match head(instruction) {
        "st" | "red" | "cp" | "call" | "membar" | "fence" | "prefetch" | "prefetchu" | "discard" | "nanosleep" => false,
        "bar" | "barrier" => instruction.opcode.contains(".red"),
        _ => !is_jump(instruction),
    };
    for (number, operand) in instruction.operands.iter().enumerate() {
        // An address is read, whoever comes first.
        let writes = number == 0 && writes_first && !matches!(operand, Operand::Address(..));
        collect(operand, if writes { &mut written } else { &mut read });
    }
    read.extend(instruction.guard.map(|(register, _)| register));
    (written, read)
}

fn collect(operand: &Operand, into: &mut Vec<usize>) {
    match operand {
        Operand::Register(register) | Operand::Not(register) => into.push(*register),
        Operand::Address(base, _) => collect(base, into),
        Operand::Vector(parts) | Operand::List(parts) => parts.iter().for_each(|part| collect(part, into)),
        Operand::Pair(a, b) => {
            collect(a, into);
            collect(b, into);
        }
        _ => {}
    }
}

//! From PTX as data to code that the machine runs: operands become slots, labels become numbers,
//! opcodes become closures, and every branch learns where its lanes meet again.

mod atomic;
mod call;
mod compare;
mod control;
mod convert;
mod float;
mod flow;
mod frame;
mod half;
mod integer;
mod memory;
mod moves;
mod opcode;
mod round;
mod slots;
mod tensor;
mod warp;

use std::collections::HashMap;
use std::sync::Arc;

use frame::{Frame, Slots};
use opcode::Opcode;

use crate::PtxError;
use crate::machine::{Action, Class, Code, FULL, Guard, Ins, Place};
use crate::ptx::{Function, Instruction, Operand, Source, Space, Statement, Variable, VariableId};

/// Generic addresses of shared and local memory: offsets in windows far from any host address.
pub const SHARED_WINDOW: u64 = 0x4000_0000_0000_0000;
pub const LOCAL_WINDOW: u64 = 0x6000_0000_0000_0000;
pub const WINDOW: u64 = 0x6000_0000_0000_0000;

/// Bytes between shared variables that belong to nobody; a multiple of what the banks hold, so that
/// the layout has the bank conflicts it would have without.
const GAP: usize = 128;
/// What a thread, a block and a launch may have on any device; a damaged text is not to ask for all memory.
const MOST_LOCAL: usize = 512 << 10;
const MOST_SHARED: usize = 1 << 20;
const MOST_PARAMS: u64 = 32_764;

/// Why an instruction cannot be lowered; the line is added by the caller.
pub struct Refusal(pub String);

pub fn refuse<T>(what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(what.into()))
}

/// A lowered instruction.
pub struct Lowered {
    action: Action,
    class: Class,
    flops: u32,
}

impl Lowered {
    pub fn new(class: Class, action: Action) -> Lowered {
        Lowered { action, class, flops: 0 }
    }
}

/// Where things lie that all functions of a kernel share.
pub struct Layout<'a> {
    pub source: &'a Source,
    /// Module variables: absolute address, or offset in shared memory.
    pub addresses: HashMap<usize, u64>,
    /// First instruction of each function, once it is lowered; and where its parameters lie.
    pub entries: HashMap<String, u32>,
    pub locals: HashMap<String, Vec<u64>>,
}

/// A kernel's code and what its shared memory needs.
pub struct Compiled {
    pub code: Code,
    /// Bytes of static shared memory, without gaps.
    pub static_shared: u32,
}

/// Lowers a kernel and the functions it calls. `globals`: addresses of the module's global and constant variables.
///
/// # Errors
/// The line of the first instruction that is unknown, or whose operands do not fit it.
pub fn compile(
    source: &Source,
    kernel: &Function,
    text: &Arc<str>,
    globals: &HashMap<usize, u64>,
) -> Result<Compiled, PtxError> {
    let functions = reachable(source, kernel)?;
    let mut code = Code { text: text.clone(), ..Code::default() };
    let layout = Layout { source, addresses: globals.clone(), entries: HashMap::new(), locals: HashMap::new() };
    let mut compiler =
        Compiler { layout, code: &mut code, slots: Slots { slots: 0, predicates: 2, ..Slots::default() } };
    let mut shared = SharedLayout::default();
    compiler.place_module_variables(&functions, &mut shared);
    let places: Vec<Vec<u64>> = functions.iter().map(|f| compiler.place_variables(f, &mut shared)).collect();
    compiler.place_dynamic(&mut shared, &functions);
    let params: u64 = kernel.params.iter().map(|&number| kernel.variables[number].size as u64).sum();
    let too_much = |what: String| Err(PtxError { line: kernel.line, what });
    if compiler.code.local > MOST_LOCAL {
        return too_much(format!("{} bytes of local memory", compiler.code.local));
    }
    if shared.bytes > MOST_SHARED {
        return too_much(format!("{} bytes of shared memory", shared.bytes));
    }
    if params > MOST_PARAMS {
        return too_much(format!("{params} bytes of parameters"));
    }
    // Callees first, so that a call knows where it goes; the kernel is the last.
    for (function, places) in functions.iter().zip(&places).rev() {
        compiler.layout.locals.insert(function.name.clone(), places.clone());
        let entry = compiler.function(function, compiler.resolved(function, places, &shared))?;
        compiler.layout.entries.insert(function.name.clone(), entry);
        compiler.code.entry = entry;
    }
    let slots = compiler.slots;
    code.slots = slots.slots;
    code.predicates = slots.predicates;
    code.presets = slots.presets.into_iter().map(|(preset, slot)| (slot, preset)).collect();
    code.shared = shared.end;
    code.gaps = shared.gaps;
    Ok(Compiled { code, static_shared: shared.bytes as u32 })
}

/// The kernel and what it calls, callers before callees.
fn reachable<'a>(source: &'a Source, kernel: &'a Function) -> Result<Vec<&'a Function>, PtxError> {
    let mut order = Vec::new();
    let mut open = Vec::new();
    visit(source, kernel, &mut open, &mut order)?;
    order.reverse();
    Ok(order)
}

fn visit<'a>(
    source: &'a Source,
    function: &'a Function,
    open: &mut Vec<&'a str>,
    order: &mut Vec<&'a Function>,
) -> Result<(), PtxError> {
    if order.iter().any(|f| f.name == function.name) {
        return Ok(());
    }
    if open.contains(&function.name.as_str()) || open.len() > 64 {
        let what = format!("{} calls itself: recursion is not supported", function.name);
        return Err(PtxError { line: function.line, what });
    }
    open.push(&function.name);
    for statement in function.body.iter().flatten() {
        let Statement::Instruction(instruction) = statement else { continue };
        if instruction.opcode.split('.').next() != Some("call") {
            continue;
        }
        for operand in &instruction.operands {
            let Operand::Name(name) = operand else { continue };
            let callee = source.functions.iter().find(|f| f.name == *name && f.body.is_some() && !f.entry);
            if let Some(callee) = callee {
                visit(source, callee, open, order)?;
            }
        }
    }
    open.pop();
    order.push(function);
    Ok(())
}

#[derive(Default)]
struct SharedLayout {
    end: usize,
    /// Without gaps.
    bytes: usize,
    gaps: Vec<(usize, usize)>,
    /// Where dynamic shared memory starts.
    dynamic: u64,
}

impl SharedLayout {
    fn place(&mut self, variable: &Variable) -> u64 {
        let at = self.end.next_multiple_of(variable.align.max(4) as usize);
        self.bytes = self.bytes.next_multiple_of(variable.align as usize) + variable.size;
        let end = at + variable.size;
        self.end = end.next_multiple_of(4) + GAP;
        self.gaps.push((end.next_multiple_of(4), self.end));
        at as u64
    }
}

struct Compiler<'a, 'c> {
    layout: Layout<'a>,
    code: &'c mut Code,
    slots: Slots,
}

impl<'a> Compiler<'a, '_> {
    /// Those that the functions name.
    fn place_module_variables(&mut self, functions: &[&Function], shared: &mut SharedLayout) {
        for (number, variable) in self.layout.source.variables.iter().enumerate() {
            let named = || functions.iter().any(|function| names(function, VariableId::Module(number)));
            if variable.space == Space::Shared && !is_dynamic(variable) && named() {
                self.layout.addresses.insert(number, shared.place(variable));
            }
        }
    }

    /// Addresses of a function's own variables; parameters of a kernel lie in the parameter block.
    fn place_variables(&mut self, function: &Function, shared: &mut SharedLayout) -> Vec<u64> {
        let mut params = 0u64;
        let mut place = |(number, variable): (usize, &Variable)| {
            let align = variable.align as u64;
            if function.entry && function.params.contains(&number) {
                let at = params.next_multiple_of(align);
                params = at + variable.size as u64;
                return at;
            }
            match variable.space {
                Space::Shared if variable.size > 0 => shared.place(variable),
                _ => {
                    let at = (self.code.local as u64).next_multiple_of(align.max(16));
                    self.code.local = at as usize + variable.size;
                    at
                }
            }
        };
        function.variables.iter().enumerate().map(&mut place).collect()
    }

    /// Dynamic shared memory follows the static variables; all its names mean the same place.
    fn place_dynamic(&mut self, shared: &mut SharedLayout, functions: &[&Function]) {
        let module = self.layout.source.variables.iter().enumerate();
        let dynamic: Vec<usize> = module.filter(|(_, v)| is_dynamic(v)).map(|(number, _)| number).collect();
        let own = functions.iter().flat_map(|f| &f.variables).filter(|v| is_dynamic(v));
        let of_module = dynamic.iter().map(|&number| &self.layout.source.variables[number]);
        let align = of_module.chain(own).map(|v| v.align as usize).max().unwrap_or(16).max(16);
        shared.end = shared.end.next_multiple_of(align);
        if let Some(gap) = shared.gaps.last_mut() {
            gap.1 = shared.end;
        }
        shared.dynamic = shared.end as u64;
        dynamic.iter().for_each(|&number| _ = self.layout.addresses.insert(number, shared.dynamic));
    }

    fn resolved(&self, function: &Function, places: &[u64], shared: &SharedLayout) -> Vec<u64> {
        let place = |(variable, &at): (&Variable, &u64)| if is_dynamic(variable) { shared.dynamic } else { at };
        function.variables.iter().zip(places).map(place).collect()
    }

    /// Lowers one function; the number of its first instruction.
    fn function(&mut self, function: &'a Function, variables: Vec<u64>) -> Result<u32, PtxError> {
        let start = self.code.instructions.len();
        let places = slots::allocate(function, &mut self.slots);
        let mut labels: HashMap<&str, u32> = HashMap::new();
        let mut tables: HashMap<&str, &[String]> = HashMap::new();
        let mut jumps = Vec::new();
        let mut frame = Frame {
            function,
            places,
            variables,
            slots: &mut self.slots,
            layout: &self.layout,
            prelude: Vec::new(),
            epilogue: Vec::new(),
        };
        for statement in function.body.iter().flatten() {
            let pc = self.code.instructions.len() as u32;
            match statement {
                Statement::Label(name, line) => {
                    if labels.insert(name, pc).is_some() {
                        return Err(PtxError { line: *line, what: format!("label {name} is defined twice") });
                    }
                }
                Statement::Targets(name, targets) => _ = tables.insert(name, targets),
                Statement::Instruction(instruction) => {
                    let fail = |refusal: Refusal| PtxError { line: instruction.line, what: refusal.0 };
                    let lowered = lower(&mut frame, instruction, &mut jumps, pc).map_err(fail)?;
                    emit(self.code, &mut frame, instruction, lowered, self.layout.source);
                    if let Some((at, _, _)) = jumps.last_mut().filter(|jump| jump.0 == pc) {
                        *at = self.code.instructions.len() as u32 - 1; // after the prelude
                    }
                }
            }
        }
        let leave = self.code.instructions.len() as u32;
        self.code.instructions.push(Ins { guard: ALWAYS, action: Action::Leave });
        let line = self.code.places.last().map_or(function.line, |place| place.line);
        self.code.places.push(Place { line, class: Class::Hidden, ..Place::default() });
        for (pc, jump, line) in jumps {
            let label = |name: &str| match labels.get(name) {
                Some(&target) => Ok(target),
                None => Err(PtxError { line, what: format!("label {name} is not defined") }),
            };
            match (&mut self.code.instructions[pc as usize].action, jump) {
                (Action::Branch { target, .. }, Jump::To(name)) => *target = label(&name)?,
                (Action::Branch { target, .. }, Jump::Return) => *target = leave,
                (Action::Table { targets, .. }, Jump::Table(name)) => {
                    let Some(names) = tables.get(name.as_str()) else {
                        return Err(PtxError { line, what: format!("table {name} is not defined") });
                    };
                    *targets = names.iter().map(|name| label(name)).collect::<Result<_, _>>()?;
                }
                _ => {}
            }
        }
        flow::find_rejoins(&mut self.code.instructions, start);
        Ok(start as u32)
    }
}

const ALWAYS: Guard = Guard { predicate: 0, flip: 0 };

/// Where a branch goes, until labels are known.
pub enum Jump {
    To(String),
    Table(String),
    Return,
}

/// Whether a function has an operand that is this variable.
fn names(function: &Function, id: VariableId) -> bool {
    fn within(operand: &Operand, id: VariableId) -> bool {
        match operand {
            Operand::Variable(other, _) => *other == id,
            Operand::Address(base, _) => within(base, id),
            Operand::Vector(parts) | Operand::List(parts) => parts.iter().any(|part| within(part, id)),
            _ => false,
        }
    }
    function.body.iter().flatten().any(|statement| match statement {
        Statement::Instruction(instruction) => instruction.operands.iter().any(|operand| within(operand, id)),
        _ => false,
    })
}

fn is_dynamic(variable: &Variable) -> bool {
    variable.space == Space::Shared && (variable.external || variable.size == 0)
}

fn emit(code: &mut Code, frame: &mut Frame, instruction: &Instruction, lowered: Lowered, source: &Source) {
    let guard = match instruction.guard {
        Some((register, negated)) => Guard { predicate: frame.places[register], flip: if negated { FULL } else { 0 } },
        None => ALWAYS,
    };
    let named = |(file, line): (u32, u32)| {
        let name = source.files.iter().find(|(number, _)| *number == file).map(|(_, name)| name.clone());
        (name.unwrap_or_default(), line)
    };
    code.orders |= ["atom", "red.", "memb", "fenc"].contains(&instruction.opcode.get(..4).unwrap_or(""));
    let place = Place {
        line: instruction.line,
        source: instruction.source.iter().copied().map(named).collect(),
        class: Class::Hidden,
        flops: 0,
    };
    for step in frame.prelude.drain(..) {
        code.instructions.push(Ins { guard, action: Action::Step(step) });
        code.places.push(place.clone());
    }
    code.instructions.push(Ins { guard, action: lowered.action });
    code.places.push(Place { class: lowered.class, flops: lowered.flops, ..place.clone() });
    for step in frame.epilogue.drain(..) {
        code.instructions.push(Ins { guard, action: Action::Step(step) });
        code.places.push(place.clone());
    }
}

fn lower(
    frame: &mut Frame,
    instruction: &Instruction,
    jumps: &mut Vec<(u32, Jump, u32)>,
    pc: u32,
) -> Result<Lowered, Refusal> {
    let opcode = Opcode::new(&instruction.opcode);
    let operands = &instruction.operands;
    match opcode.head {
        "add" | "sub" | "mul" | "fma" | "mad" | "min" | "max" | "abs" | "neg" | "div" | "rcp" | "sqrt" | "rsqrt"
        | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign" | "testp" | "rem" | "mul24" | "mad24" | "sad"
        | "addc" | "subc" | "madc" => arithmetic(frame, opcode, operands),
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "lop3" | "popc" | "clz" | "brev" | "bfind"
        | "fns" | "bfe" | "bfi" | "bmsk" | "szext" | "dp4a" | "dp2a" => integer::lower(frame, opcode, operands),
        "setp" | "set" | "selp" | "slct" => compare::lower(frame, opcode, operands),
        "cvt" => convert::lower(frame, opcode, operands),
        "mov" | "cvta" | "prmt" | "isspacep" => moves::lower(frame, opcode, operands),
        "ld" | "ldu" | "st" | "cp" | "prefetch" | "prefetchu" | "discard" | "applypriority" | "createpolicy" => {
            memory::lower(frame, opcode, operands)
        }
        "atom" | "red" => atomic::lower(frame, opcode, operands),
        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => warp::lower(frame, opcode, operands),
        "ldmatrix" | "mma" | "movmatrix" | "stmatrix" => tensor::lower(frame, opcode, operands),
        "bra" | "brx" | "ret" => {
            control::jump(frame, opcode, operands, &mut |jump| jumps.push((pc, jump, instruction.line)))
        }
        "exit" | "trap" | "brkpt" | "bar" | "barrier" | "membar" | "fence" | "call" | "nanosleep" | "pmevent"
        | "griddepcontrol" => control::lower(frame, opcode, operands),
        _ => refuse(format!("unknown opcode {}", instruction.opcode)),
    }
}

/// Instructions that exist for integers, floats and packed halves.
fn arithmetic(frame: &mut Frame, opcode: Opcode, operands: &[Operand]) -> Result<Lowered, Refusal> {
    use opcode::Type;
    let types: Vec<Type> = opcode.rest().iter().filter_map(|part| Type::parse(part)).collect();
    match types.first() {
        Some(Type::F32 | Type::F64) => float::lower(frame, opcode, operands),
        Some(Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2) => half::lower(frame, opcode, operands),
        _ => integer::lower(frame, opcode, operands),
    }
}

//! Modules, kernels and their launch.

use std::collections::HashMap;
use std::sync::Arc;

use crate::compile::{self, Compiled};
use crate::machine::{self, Code, Job, Order};
use crate::ptx::{self, Function, Init, Source, Space, Variable};
use crate::{Counters, Fault, Memory, Settings};

/// Why PTX text was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtxError {
    /// From 1.
    pub line: u32,
    pub what: String,
}

impl std::fmt::Display for PtxError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.what)
    }
}

/// One kernel parameter in the parameter block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    pub offset: u32,
    pub size: u32,
}

pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    /// Bytes.
    pub static_shared: u32,
    /// Stack and spills, bytes a thread.
    pub local: u32,
    /// .maxntid's product, or 1024.
    pub max_threads: u32,
    /// A rough upper estimate from the PTX: 32-bit registers that the machine gives a thread.
    pub live_registers: u32,
    code: Arc<Code>,
}

pub struct Module {
    pub kernels: Vec<Arc<Kernel>>,
    /// Module-scope .global and .const variables: name, device address, bytes.
    pub globals: Vec<(String, u64, usize)>,
}

impl Module {
    /// Parses and decodes PTX text, and places its global variables in `memory`.
    ///
    /// # Errors
    /// The first line that cannot be understood, or that asks for something this machine lacks.
    pub fn load(text: &str, memory: &Memory, _settings: &Settings) -> Result<Module, PtxError> {
        let source = ptx::parse(text)?;
        let mut module = Module { kernels: Vec::new(), globals: Vec::new() };
        let result = module.fill(&source, text, memory);
        if result.is_err() {
            module.unload(memory);
        }
        result.map(|()| module)
    }

    fn fill(&mut self, source: &Source, text: &str, memory: &Memory) -> Result<(), PtxError> {
        let addresses = self.place_globals(source, memory)?;
        let text: Arc<str> = text.into();
        for function in source.functions.iter().filter(|f| f.entry && f.body.is_some()) {
            let Compiled { code, static_shared } = compile::compile(source, function, &text, &addresses)?;
            self.kernels.push(Arc::new(kernel(function, code, static_shared)));
        }
        Ok(())
    }

    fn place_globals(&mut self, source: &Source, memory: &Memory) -> Result<HashMap<usize, u64>, PtxError> {
        let mut addresses = HashMap::new();
        let placed = |v: &Variable| matches!(v.space, Space::Global | Space::Const) && !v.external && v.size > 0;
        for (number, variable) in source.variables.iter().enumerate().filter(|(_, v)| placed(v)) {
            let fail = || PtxError { line: variable.line, what: format!("no memory for {}", variable.name) };
            let address = memory.alloc(variable.size).map_err(|_| fail())?;
            self.globals.push((variable.name.clone(), address, variable.size));
            addresses.insert(number, address);
        }
        for (&number, &address) in &addresses {
            let variable = &source.variables[number];
            let bytes = initial(variable, &self.globals)?;
            let what = format!("the initialiser of {} is too long", variable.name);
            memory.write(address, &bytes).map_err(|_| PtxError { line: variable.line, what })?;
        }
        Ok(addresses)
    }

    /// Gives the module's variables back.
    pub fn unload(&self, memory: &Memory) {
        for (_, address, _) in &self.globals {
            // A program may have freed it by mistake; then there is nothing to do.
            let _ = memory.free(*address);
        }
    }

    pub fn kernel(&self, name: &str) -> Option<&Arc<Kernel>> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }
}

/// A variable's bytes: its initialiser, then zeros.
fn initial(variable: &Variable, globals: &[(String, u64, usize)]) -> Result<Vec<u8>, PtxError> {
    let mut bytes = Vec::new();
    for piece in &variable.init {
        match piece {
            Init::Bytes(piece) => bytes.extend_from_slice(piece),
            Init::Address(name, offset) => {
                let Some((_, address, _)) = globals.iter().find(|global| global.0 == *name) else {
                    return Err(PtxError { line: variable.line, what: format!("{name} is not defined") });
                };
                bytes.extend_from_slice(&address.wrapping_add(*offset as u64).to_le_bytes());
            }
        }
    }
    bytes.resize(bytes.len().max(variable.size), 0);
    Ok(bytes)
}

fn kernel(function: &Function, code: Code, static_shared: u32) -> Kernel {
    let mut offset = 0;
    let place = |&number: &usize| {
        let variable = &function.variables[number];
        let start = offset_after(&mut offset, variable);
        Param { offset: start, size: variable.size as u32 }
    };
    Kernel {
        name: function.name.clone(),
        params: function.params.iter().map(place).collect(),
        static_shared,
        local: code.local as u32,
        max_threads: function.max_threads.unwrap_or(1024),
        live_registers: code.slots.saturating_sub(code.presets.len()) as u32,
        code: Arc::new(code),
    }
}

fn offset_after(end: &mut u32, variable: &Variable) -> u32 {
    let start = end.next_multiple_of(variable.align);
    *end = start + variable.size as u32;
    start
}

pub struct Launch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    /// The parameter block, laid out by `Kernel::params`.
    pub params: Vec<u8>,
}

pub struct Outcome {
    pub counters: Counters,
    pub fault: Option<Fault>,
}

/// Runs every block of the launch, or up to the first fault. The device's limits are the caller's to check.
pub fn launch(kernel: &Kernel, launch: &Launch, memory: &Memory, settings: &Settings) -> Outcome {
    let blocks: u64 = launch.grid.iter().map(|&n| n as u64).product();
    let threads: u64 = launch.block.iter().map(|&n| n as u64).product();
    if blocks == 0 || threads == 0 || threads > 1024 {
        return Outcome { counters: Counters::default(), fault: None };
    }
    let (number, first_block) = memory.begin_launch(blocks);
    let ordered = settings.checks && kernel.code.orders && blocks > 1 && first_block.is_some();
    let job = Job {
        kernel: &kernel.name,
        grid: launch.grid,
        block: launch.block,
        dynamic_shared: launch.dynamic_shared,
        params: &launch.params,
        memory,
        checks: settings.checks,
        seed: settings.seed,
        limit: settings.limit,
        multiprocessors: settings.profile.multiprocessors.max(1),
        cores: settings.threads,
        launch: number,
        first_block,
        order: Order::new(if ordered { blocks as usize } else { 0 }),
    };
    let (counters, fault) = machine::run(&job, &kernel.code);
    Outcome { counters, fault }
}

//! Runs one opcode in a small kernel of its own on many inputs, and compares every thread's result.
//!
//! With SOFTGPU_OPCODES_DUMP=<folder> nothing is run: every kernel is written there as a file, for an assembler to
//! check (`ptxas -arch=sm_80`).

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use softgpu::{Fault, Module};

pub use crate::common::{Machine, Shape};
use crate::common::{Random, params, settings};
use crate::numbers::{Answer, Kind, Lane, Want};

/// One opcode text and its test.
pub struct Form {
    pub opcode: String,
    check: Box<dyn Fn() -> Result<(), String>>,
}

impl Form {
    pub fn new(opcode: &str, check: impl Fn() -> Result<(), String> + 'static) -> Self {
        Self { opcode: opcode.into(), check: Box::new(check) }
    }
}

/// Runs every form and fails with the list of those that are wrong.
pub fn check(forms: Vec<Form>) {
    assert!(!forms.is_empty());
    let mut wrong = vec![];
    for form in &forms {
        let outcome = catch_unwind(AssertUnwindSafe(|| (form.check)()));
        match outcome.unwrap_or_else(|_| Err("panicked (the message is above)".into())) {
            Ok(()) => {}
            Err(what) => wrong.push(format!("{}: {what}", form.opcode)),
        }
    }
    assert!(wrong.is_empty(), "{} of {} forms are wrong:\n\n{}", wrong.len(), forms.len(), wrong.join("\n\n"));
}

fn dump_folder() -> Option<PathBuf> {
    std::env::var_os("SOFTGPU_OPCODES_DUMP").map(PathBuf::from)
}

fn dump(folder: &PathBuf, ptx: &str) {
    let mut hasher = DefaultHasher::new();
    ptx.hash(&mut hasher);
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(format!("{:016x}.ptx", hasher.finish())), ptx).unwrap();
}

/// A machine of some compute capability.
pub fn machine(target: u32) -> Machine {
    Machine::new(settings(target, 0, 10_000_000))
}

/// A refusal comes with the line that it is about.
pub fn load_text(machine: &Machine, ptx: &str) -> Result<Module, String> {
    machine.load(ptx).map_err(|error| {
        let line = ptx.lines().nth(error.line.saturating_sub(1) as usize).unwrap_or("");
        format!("refused: {error}\n    {}", line.trim())
    })
}

/// Loads and launches a whole text of one's own with 8-byte parameters, and expects no fault.
pub fn launch_text(machine: &Machine, ptx: &str, shape: &Shape, values: &[u64]) -> Result<(), String> {
    if let Some(folder) = dump_folder() {
        dump(&folder, ptx);
        return Ok(());
    }
    let module = load_text(machine, ptx)?;
    match machine.launch(&module, "probe", shape, &params(values)) {
        None => Ok(()),
        Some(fault) => Err(format!("fault: {fault}")),
    }
}

/// A form that is beyond the machine: its text is refused, by a message that has this word in it.
pub fn refused(opcode: &str, probe: Probe, word: &'static str) -> Form {
    Form::new(opcode, move || match probe.run(&[]) {
        Err(what) if what.starts_with("refused: ") && what.contains(word) => Ok(()),
        Ok(_) if dumping() => Ok(()),
        other => Err(format!("expected a refusal that names {word}, got {:?}", other.map(drop))),
    })
}

/// A kernel around `body`, which reads %i0, %i1 ... and writes %o0, %o1 ...
///
/// It may use %p0..7, %h0..15 (16 bits), %t0..31 (32 bits), %d0..15 (64 bits), and reads %thread (tid.x), %scratch
/// and %generic (the scratch buffer's global and generic address).
pub struct Probe {
    target: u32,
    module: String,
    body: String,
    inputs: Vec<Kind>,
    outputs: Vec<Kind>,
    scratch: Vec<u8>,
    threads: u32,
    dynamic_shared: u32,
}

/// What the threads wrote, and the scratch buffer after the launch (of the last block of cases).
pub struct Results {
    pub outputs: Vec<Vec<u64>>,
    pub scratch: Vec<u8>,
}

const REGISTERS: &str = "\t.reg .pred %p<8>;\n\t.reg .b16 %h<16>;\n\t.reg .b32 %t<32>;\n\t.reg .b64 %d<16>;\n\
    \t.reg .b32 %thread;\n\t.reg .b64 %in, %out, %generic, %scratch;\n";

const PROLOGUE: &str = "\tmov.u32 %thread, %tid.x;\n\tld.param.u64 %in, [probe_param_0];\n\
    \tcvta.to.global.u64 %in, %in;\n\tld.param.u64 %out, [probe_param_1];\n\tcvta.to.global.u64 %out, %out;\n\
    \tld.param.u64 %generic, [probe_param_2];\n\tcvta.to.global.u64 %scratch, %generic;\n";

impl Probe {
    pub fn new(body: &str, inputs: &str, outputs: &str) -> Self {
        Self::of(body, Kind::list(inputs), Kind::list(outputs))
    }

    pub fn of(body: &str, inputs: Vec<Kind>, outputs: Vec<Kind>) -> Self {
        let (module, scratch) = (String::new(), vec![0; 8]);
        let body = body.to_string();
        Self { target: 80, module, body, inputs, outputs, scratch, threads: 1024, dynamic_shared: 0 }
    }

    pub fn target(mut self, target: u32) -> Self {
        self.target = target;
        self
    }

    /// Declarations at module scope.
    pub fn module(mut self, text: &str) -> Self {
        self.module = text.into();
        self
    }

    pub fn scratch(mut self, bytes: Vec<u8>) -> Self {
        self.scratch = bytes;
        self
    }

    /// Threads of a block, each with a case of its own; more cases take more launches.
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = threads;
        self
    }

    pub fn dynamic_shared(mut self, bytes: u32) -> Self {
        self.dynamic_shared = bytes;
        self
    }

    pub fn text(&self) -> String {
        let mut text = format!(".version 9.0\n.target sm_{}\n.address_size 64\n\n{}\n", self.target, self.module);
        let param = |i| format!("\t.param .u64 probe_param_{i}");
        let header = [0, 1, 2].map(param).join(",\n");
        write!(text, ".visible .entry probe(\n{header}\n)\n{{\n{REGISTERS}").unwrap();
        let named = |letter, kinds: &[Kind]| -> String {
            let each = kinds.iter().enumerate();
            each.map(|(i, kind)| format!("\t.reg .{} %{letter}{i};\n", kind.register())).collect()
        };
        text += &named('i', &self.inputs);
        text += &named('o', &self.outputs);
        text += PROLOGUE;
        text += &self.addresses();
        for (i, kind) in self.inputs.iter().enumerate() {
            text += &load(i, *kind);
        }
        for line in self.body.lines() {
            writeln!(text, "\t{}", line.trim()).unwrap();
        }
        for (i, kind) in self.outputs.iter().enumerate() {
            text += &store(i, *kind);
        }
        text + "\tret;\n}\n"
    }

    fn addresses(&self) -> String {
        let each = [("in", self.inputs.len()), ("out", self.outputs.len())];
        let line =
            |(name, count)| format!("\tmul.wide.u32 %d0, %thread, {};\n\tadd.s64 %{name}, %{name}, %d0;\n", 8 * count);
        each.map(line).concat()
    }

    /// The outputs of each case. In a dump they are zeros.
    pub fn run(&self, cases: &[Vec<u64>]) -> Result<Results, String> {
        let text = self.text();
        if let Some(folder) = dump_folder() {
            dump(&folder, &text);
            let outputs = vec![vec![0; self.outputs.len()]; cases.len()];
            return Ok(Results { outputs, scratch: self.scratch.clone() });
        }
        let machine = machine(self.target);
        let module = load_text(&machine, &text)?;
        let mut results = Results { outputs: vec![], scratch: vec![] };
        for chunk in cases.chunks(self.threads as usize) {
            self.run_chunk(&machine, &module, chunk, &mut results)?;
        }
        Ok(results)
    }

    fn run_chunk(&self, m: &Machine, module: &Module, cases: &[Vec<u64>], to: &mut Results) -> Result<(), String> {
        let inputs: Vec<u64> = cases.concat();
        assert_eq!(inputs.len(), cases.len() * self.inputs.len(), "every case has every input");
        let bytes = 8 * cases.len() * self.outputs.len();
        let addresses = [m.buffer(&params(&inputs)), m.buffer(&vec![0; bytes]), m.buffer(&self.scratch)];
        let shape = Shape { dynamic_shared: self.dynamic_shared, ..Shape::line(cases.len() as u32) };
        if let Some(fault) = m.launch(module, "probe", &shape, &params(&addresses)) {
            return Err(format!("fault: {fault}"));
        }
        let outputs = m.bytes(addresses[1], bytes);
        let words: Vec<u64> = outputs.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        let each = self.outputs.len().max(1);
        to.outputs.extend(words.chunks(each).map(<[u64]>::to_vec));
        to.scratch = m.bytes(addresses[2], self.scratch.len());
        Ok(())
    }

    /// The fault of a launch that must have one.
    pub fn fault(&self, cases: &[Vec<u64>]) -> Result<Option<Fault>, String> {
        if let Some(folder) = dump_folder() {
            dump(&folder, &self.text());
            return Ok(None);
        }
        let machine = machine(self.target);
        let module = load_text(&machine, &self.text())?;
        let outputs = machine.buffer(&vec![0; 8 * cases.len() * self.outputs.len()]);
        let addresses = [machine.buffer(&params(&cases.concat())), outputs, machine.buffer(&self.scratch)];
        Ok(machine.launch(&module, "probe", &Shape::line(cases.len() as u32), &params(&addresses)))
    }

    /// Runs the cases and compares each output of each with what is wanted.
    pub fn expect(&self, cases: &[Vec<u64>], wants: &[Vec<Want>]) -> Result<Results, String> {
        let results = self.run(cases)?;
        if dump_folder().is_some() {
            return Ok(results);
        }
        assert_eq!(cases.len(), wants.len());
        assert_eq!(results.outputs.len(), wants.len());
        let mut wrong = vec![];
        for (i, (got, want)) in results.outputs.iter().zip(wants).enumerate() {
            assert_eq!(got.len(), want.len());
            for (k, (got, want)) in got.iter().zip(want).enumerate() {
                if !(want.accepts)(*got) {
                    wrong.push(format!("thread {i}, %o{k} of {:x?}: got {got:#x}, not {}", cases[i], want.text));
                }
            }
        }
        self.report(wrong)?;
        Ok(results)
    }

    fn report(&self, wrong: Vec<String>) -> Result<(), String> {
        if wrong.is_empty() {
            return Ok(());
        }
        let shown = wrong.iter().take(5).map(|line| format!("\n    {line}")).collect::<String>();
        let body = self.body.lines().map(|line| format!("\n    | {}", line.trim())).collect::<String>();
        Err(format!("{} results are wrong{body}{shown}", wrong.len()))
    }
}

fn load(i: usize, kind: Kind) -> String {
    match kind {
        Kind::Pred => format!("\tld.global.b32 %t0, [%in+{}];\n\tsetp.ne.s32 %i{i}, %t0, 0;\n", 8 * i),
        _ => format!("\tld.global.{} %i{i}, [%in+{}];\n", kind.register(), 8 * i),
    }
}

fn store(i: usize, kind: Kind) -> String {
    match kind {
        Kind::Pred => format!("\tselp.b32 %t0, 1, 0, %o{i};\n\tst.global.b32 [%out+{}], %t0;\n", 8 * i),
        _ => format!("\tst.global.{} [%out+{}], %o{i};\n", kind.register(), 8 * i),
    }
}

/// Writes a text that is no probe's.
pub fn dump_text(ptx: &str) {
    dump(&dump_folder().expect("a dump"), ptx);
}

/// True where nothing is run, so that there is nothing to compare.
pub fn dumping() -> bool {
    dump_folder().is_some()
}

/// What a thread's inputs must give.
pub type Model = Box<dyn Fn(&[u64]) -> Want>;

/// A form without memory whose threads do not touch each other, and its model.
pub struct Elementwise {
    pub opcode: String,
    /// The operands, "%o0, %i0, %i1" in most cases.
    pub operands: String,
    pub output: Kind,
    pub inputs: Vec<Kind>,
    pub target: u32,
    pub model: Model,
}

/// A form of `output <- inputs` with operands in that order.
pub fn form(opcode: &str, output: Kind, inputs: &[Kind], model: impl Fn(&[u64]) -> Want + 'static) -> Form {
    let sources: String = (0..inputs.len()).map(|i| format!(", %i{i}")).collect();
    Elementwise {
        opcode: opcode.into(),
        operands: format!("%o0{sources}"),
        output,
        inputs: inputs.to_vec(),
        target: 80,
        model: Box::new(model),
    }
    .form()
}

pub fn op1<A: Lane, R: Answer>(opcode: &str, model: impl Fn(A) -> R + 'static) -> Form {
    form(opcode, R::KIND, &[A::KIND], move |x| model(A::from_bits(x[0])).want())
}

pub fn op2<A: Lane, B: Lane, R: Answer>(opcode: &str, model: impl Fn(A, B) -> R + 'static) -> Form {
    form(opcode, R::KIND, &[A::KIND, B::KIND], move |x| model(A::from_bits(x[0]), B::from_bits(x[1])).want())
}

pub fn op3<A: Lane, B: Lane, C: Lane, R: Answer>(opcode: &str, model: impl Fn(A, B, C) -> R + 'static) -> Form {
    let model = move |x: &[u64]| model(A::from_bits(x[0]), B::from_bits(x[1]), C::from_bits(x[2])).want();
    form(opcode, R::KIND, &[A::KIND, B::KIND, C::KIND], model)
}

/// All combinations of the edges if they are few, else a choice of them; and random values.
pub fn cases(kinds: &[Kind], seed: u64) -> Vec<Vec<u64>> {
    let pools: Vec<Vec<u64>> = kinds.iter().map(|kind| kind.edges()).collect();
    let mut random = Random(seed);
    let mut cases = match pools.iter().map(Vec::len).product::<usize>() {
        0..=1600 => combinations(&pools),
        _ => (0..1400).map(|_| pools.iter().map(|pool| *random.of(pool)).collect()).collect(),
    };
    cases.extend((0..200).map(|_| kinds.iter().map(|kind| kind.random(&mut random)).collect::<Vec<_>>()));
    cases
}

fn combinations(pools: &[Vec<u64>]) -> Vec<Vec<u64>> {
    pools.iter().fold(vec![vec![]], |rows, pool| {
        let longer = |row: &Vec<u64>| pool.iter().map(|x| [&row[..], &[*x]].concat()).collect::<Vec<_>>();
        rows.iter().flat_map(longer).collect()
    })
}

const SENTINEL: u64 = 0x5a5a_c3c3_a5a5_3c3c;

impl Elementwise {
    pub fn form(self) -> Form {
        let opcode = self.opcode.clone();
        Form::new(&opcode, move || self.check())
    }

    fn check(&self) -> Result<(), String> {
        let cases = cases(&self.inputs, 1);
        self.plain(&cases)?;
        self.guarded(&cases[cases.len().saturating_sub(100)..])?;
        self.in_place(&cases[cases.len().saturating_sub(100)..])?;
        self.immediate()
    }

    fn instruction(&self) -> String {
        format!("{} {};", self.opcode, self.operands)
    }

    fn probe(&self, body: &str) -> Probe {
        Probe::of(body, self.inputs.clone(), vec![self.output]).target(self.target)
    }

    fn wants(&self, cases: &[Vec<u64>]) -> Vec<Vec<Want>> {
        cases.iter().map(|case| vec![(self.model)(case)]).collect()
    }

    fn plain(&self, cases: &[Vec<u64>]) -> Result<(), String> {
        self.probe(&self.instruction()).expect(cases, &self.wants(cases)).map(drop)
    }

    /// Threads whose guard is false keep what the register held.
    fn guarded(&self, cases: &[Vec<u64>]) -> Result<(), String> {
        if self.output == Kind::Pred {
            return Ok(());
        }
        let register = self.output.register();
        let kept = SENTINEL & self.output.mask();
        let body = format!(
            "and.b32 %t1, %thread, 5;\nsetp.eq.s32 %p1, %t1, 4;\nmov.{register} %o0, {kept:#x};\n@%p1 {}",
            self.instruction()
        );
        let want = |(i, case): (usize, &Vec<u64>)| match i & 5 {
            4 => vec![(self.model)(case)],
            _ => vec![Want::bits(kept)],
        };
        self.probe(&body).expect(cases, &cases.iter().enumerate().map(want).collect::<Vec<_>>()).map(drop)
    }

    /// The destination is the first source as well.
    fn in_place(&self, cases: &[Vec<u64>]) -> Result<(), String> {
        let register = self.output.register();
        if self.output == Kind::Pred || self.inputs.first().is_none_or(|kind| kind.register() != register) {
            return Ok(());
        }
        let operands = self.operands.replace("%i0", "%o0");
        let body = format!("mov.{register} %o0, %i0;\n{} {operands};", self.opcode);
        self.probe(&body).expect(cases, &self.wants(cases)).map(drop)
    }

    /// The last source written as a number.
    fn immediate(&self) -> Result<(), String> {
        let Some(last) = self.inputs.len().checked_sub(1).filter(|&last| last > 0) else { return Ok(()) };
        let kind = self.inputs[last];
        for bits in kind.edges().into_iter().step_by(5) {
            let Some(number) = kind.immediate(bits) else { return Ok(()) };
            let operands = self.operands.replace(&format!("%i{last}"), &number);
            let mut cases = cases(&self.inputs, 2);
            cases = cases.into_iter().rev().take(40).collect();
            cases.iter_mut().for_each(|case| case[last] = bits);
            self.probe(&format!("{} {operands};", self.opcode)).expect(&cases, &self.wants(&cases))?;
        }
        Ok(())
    }
}

/// A form with a body of its own, on some cases, each thread having one of them. The model answers for all of them.
pub fn together(
    opcode: &str,
    probe: Probe,
    cases: Vec<Vec<u64>>,
    model: impl Fn(&[Vec<u64>]) -> Vec<Vec<Want>> + 'static,
) -> Form {
    Form::new(opcode, move || probe.expect(&cases, &model(&cases)).map(drop))
}

/// The same with a model of one thread.
pub fn body(
    opcode: &str,
    probe: Probe,
    cases: Vec<Vec<u64>>,
    model: impl Fn(usize, &[u64]) -> Vec<u64> + 'static,
) -> Form {
    together(opcode, probe, cases, move |cases| {
        let each = cases.iter().enumerate().map(|(i, case)| model(i, case));
        each.map(|outputs| outputs.into_iter().map(Want::bits).collect()).collect()
    })
}

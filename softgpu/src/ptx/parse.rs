//! The grammar of PTX, as far as compilers use it.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::scan::{Number, Result, Scanner};
use super::{Function, Init, Instruction, Operand, Source, Space, Statement, Variable, VariableId, Width};
use crate::PtxError;

/// More than any compiler emits; keeps a damaged text from asking for all memory.
const MOST_REGISTERS: usize = 1 << 20;
const MOST_BYTES: usize = 1 << 30;
/// What the manual promises of constant memory.
const MOST_CONSTANT: usize = 64 << 10;
const DEEPEST_SCOPE: usize = 256;
const DEEPEST_INLINED: usize = 16;

/// Reads a whole module.
///
/// # Errors
/// The first line that is no PTX, or that names something unknown.
pub fn parse(text: &str) -> Result<Source> {
    let mut parser = Parser {
        scan: Scanner::new(text),
        source: Source::default(),
        names: HashMap::new(),
        loc: Rc::new([]),
        inlined: HashMap::new(),
    };
    parser.module()?;
    Ok(parser.source)
}

#[derive(Clone, Copy)]
enum Symbol {
    Register(usize),
    /// `.reg .b32 %r<count>`: registers are made when first used.
    Range(Width, u32),
    Variable(usize),
}

/// The function being read. Inner scopes shadow outer ones.
struct Body {
    function: Function,
    scopes: Vec<HashMap<String, Symbol>>,
    /// Where the statements of each inner scope start.
    starts: Vec<usize>,
    statements: Vec<Statement>,
}

impl Body {
    /// Labels and tables of an inner scope, which ends, get names that no other scope has.
    fn close_labels(&mut self) {
        let start = self.starts.pop().unwrap_or(0);
        let inner = &mut self.statements[start..];
        let own: HashSet<String> = inner
            .iter()
            .filter_map(|statement| match statement {
                Statement::Label(name, _) | Statement::Targets(name, _) => Some(name.clone()),
                Statement::Instruction(_) => None,
            })
            .collect();
        let rename = |name: &mut String| {
            if own.contains(name) {
                name.push_str(&format!("@{start}"));
            }
        };
        for statement in inner.iter_mut().filter(|_| !own.is_empty()) {
            match statement {
                Statement::Label(name, _) => rename(name),
                Statement::Targets(name, targets) => {
                    rename(name);
                    targets.iter_mut().for_each(rename);
                }
                Statement::Instruction(instruction)
                    if ["bra", "brx"].contains(&instruction.opcode.split('.').next().unwrap_or("")) =>
                {
                    for operand in &mut instruction.operands {
                        if let Operand::Name(name) | Operand::Special(name) = operand {
                            rename(name);
                        }
                    }
                }
                Statement::Instruction(_) => {}
            }
        }
    }
}

struct Parser<'a> {
    scan: Scanner<'a>,
    source: Source,
    /// Module variables by name.
    names: HashMap<String, usize>,
    loc: Rc<[(u32, u32)]>,
    /// Where the code of a place was inlined last: file, line and column of both.
    inlined: HashMap<[u32; 3], [u32; 3]>,
}

/// What may stand before a function or variable.
#[derive(Default)]
struct Linkage {
    external: bool,
}

impl Parser<'_> {
    fn module(&mut self) -> Result<()> {
        if self.scan.at_end()? {
            return self.scan.fail("an empty text, no PTX");
        }
        while !self.scan.at_end()? {
            let mut linkage = Linkage::default();
            let mut directive = self.scan.directive()?;
            while matches!(directive, "visible" | "extern" | "weak" | "common") {
                linkage.external |= directive == "extern";
                directive = self.scan.directive()?;
            }
            match directive {
                "version" => self.version()?,
                _ if self.source.version == (0, 0) => return self.scan.fail("no .version at first: this is no PTX"),
                "target" => self.list_of_names()?,
                "address_size" => self.address_size()?,
                "file" => self.file()?,
                "section" => self.section()?,
                "pragma" => self.pragma()?,
                "entry" | "func" => self.function(directive == "entry")?,
                "global" | "const" | "shared" => {
                    let line = self.scan.line;
                    let variable = self.variable(space_of(directive), linkage.external)?;
                    let number = self.source.variables.len();
                    if self.names.insert(variable.name.clone(), number).is_some() {
                        return Err(at(line, format!("{} is declared twice", variable.name)));
                    }
                    self.source.variables.push(variable);
                    self.scan.expect(b';')?;
                }
                "alias" => return self.scan.fail(".alias is not supported"),
                other => return self.scan.fail(format!(".{other} is not known here")),
            }
        }
        Ok(())
    }

    fn version(&mut self) -> Result<()> {
        let Number::Float64(bits) = self.scan.number()? else {
            return self.scan.fail("a version is written major.minor");
        };
        let version = f64::from_bits(bits);
        self.source.version = (version as u32, (version.fract() * 10.0).round() as u32);
        Ok(())
    }

    fn list_of_names(&mut self) -> Result<()> {
        self.scan.name()?;
        while self.scan.take(b',')? {
            self.scan.name()?;
        }
        Ok(())
    }

    fn address_size(&mut self) -> Result<()> {
        match self.int()? {
            64 => Ok(()),
            other => self.scan.fail(format!("addresses of {other} bits: only 64 are supported")),
        }
    }

    fn int(&mut self) -> Result<i128> {
        match self.scan.number()? {
            Number::Int(i) => Ok(i),
            _ => self.scan.fail("a whole number is needed here"),
        }
    }

    /// A count within bounds.
    fn count(&mut self, most: usize) -> Result<usize> {
        let count = self.int()?;
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => self.scan.fail(format!("{count} is out of bounds: at most {most}")),
        }
    }

    fn file(&mut self) -> Result<()> {
        let number = self.count(1 << 24)? as u32;
        let name = self.scan.string()?;
        while self.scan.take(b',')? {
            self.int()?; // time stamp and size
        }
        self.source.files.push((number, name));
        Ok(())
    }

    /// Debug data; nothing here needs it.
    fn section(&mut self) -> Result<()> {
        self.scan.expect(b'.')?;
        self.scan.name()?;
        self.scan.expect(b'{')?;
        while !self.scan.take(b'}')? {
            match self.scan.peek()? {
                b'.' => _ = self.scan.directive()?,
                sign @ (b',' | b':' | b'+' | b'-') => self.scan.expect(sign)?,
                b'0'..=b'9' => _ = self.scan.number()?,
                _ => _ = self.scan.name()?,
            }
        }
        Ok(())
    }

    fn pragma(&mut self) -> Result<()> {
        self.scan.string()?;
        self.scan.expect(b';')
    }

    /// After the state space: `.align 16 .b8 name[4] = {...}`.
    fn variable(&mut self, space: Space, external: bool) -> Result<Variable> {
        let (mut align, mut bytes, mut lanes) = (0, 0, 1);
        while self.scan.peek()? == b'.' {
            match self.scan.directive()? {
                "align" => align = self.count(1 << 16)? as u32,
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                "ptr" | "global" | "const" | "shared" | "local" | "attribute" => {} // facts about a pointer parameter
                kind => bytes = self.type_bytes(kind)?,
            }
        }
        let line = self.scan.line;
        let name = self.scan.name()?.to_string();
        let mut size = bytes * lanes;
        while self.scan.take(b'[')? {
            let count = if self.scan.peek()? == b']' { 0 } else { self.int()? };
            self.scan.expect(b']')?;
            size = size.saturating_mul(usize::try_from(count).unwrap_or(usize::MAX));
        }
        let most = if space == Space::Const { MOST_CONSTANT } else { MOST_BYTES };
        if size > most || bytes == 0 {
            return self.scan.fail(format!("{name} has no size that can be used: 1 to {most} bytes"));
        }
        let init = if self.scan.take(b'=')? { self.initialiser(bytes)? } else { Vec::new() };
        let align = if align == 0 { (bytes * lanes) as u32 } else { align };
        if !align.is_power_of_two() {
            return self.scan.fail(format!("{name} is aligned to {align}, which is no power of two"));
        }
        Ok(Variable { name, space, align, size, external, init, line })
    }

    fn type_bytes(&mut self, kind: &str) -> Result<usize> {
        Ok(match kind {
            "b8" | "u8" | "s8" | "pred" => 1,
            "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
            "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
            "b64" | "u64" | "s64" | "f64" => 8,
            "b128" => 16,
            other => return self.scan.fail(format!(".{other} is no known type")),
        })
    }

    fn initialiser(&mut self, bytes: usize) -> Result<Vec<Init>> {
        let mut pieces = Vec::new();
        if !self.scan.take(b'{')? {
            pieces.push(self.initial(bytes)?);
            return Ok(pieces);
        }
        let mut depth = 1;
        while depth > 0 {
            if self.scan.take(b'{')? {
                depth += 1;
            } else if self.scan.take(b'}')? {
                depth -= 1;
            } else if !self.scan.take(b',')? {
                pieces.push(self.initial(bytes)?);
            }
        }
        Ok(pieces)
    }

    fn initial(&mut self, bytes: usize) -> Result<Init> {
        if Scanner::starts_name(self.scan.peek()?) {
            let mut name = self.scan.name()?.to_string();
            if name == "generic" && self.scan.take(b'(')? {
                name = self.scan.name()?.to_string();
                self.scan.expect(b')')?;
            }
            let offset = if self.scan.take(b'+')? { self.int()? as i64 } else { 0 };
            return Ok(Init::Address(name, offset));
        }
        let bits = match self.scan.number()? {
            Number::Int(i) => i as u128,
            Number::Float32(bits) => bits as u128,
            Number::Float64(bits) if bytes == 4 => (f64::from_bits(bits) as f32).to_bits() as u128,
            Number::Float64(bits) => bits as u128,
        };
        Ok(Init::Bytes(bits.to_le_bytes()[..bytes].to_vec()))
    }

    fn function(&mut self, entry: bool) -> Result<()> {
        let line = self.scan.line;
        let function = Function {
            name: String::new(),
            entry,
            line,
            returns: Vec::new(),
            params: Vec::new(),
            variables: Vec::new(),
            registers: Vec::new(),
            max_threads: None,
            body: None,
        };
        let mut body = Body { function, scopes: vec![HashMap::new()], starts: Vec::new(), statements: Vec::new() };
        if self.scan.take(b'(')? {
            body.function.returns = self.parameters(&mut body)?;
        }
        body.function.name = self.scan.name()?.to_string();
        if self.scan.take(b'(')? {
            body.function.params = self.parameters(&mut body)?;
        }
        self.performance_directives(&mut body)?;
        if self.scan.take(b';')? {
            self.source.functions.push(body.function);
            return Ok(());
        }
        self.scan.expect(b'{')?;
        self.loc = Rc::new([]);
        self.statements(&mut body)?;
        body.function.body = Some(body.statements);
        if self.source.functions.iter().any(|f| f.name == body.function.name && f.body.is_some()) {
            return Err(at(line, format!("{} is defined twice", body.function.name)));
        }
        self.source.functions.push(body.function);
        Ok(())
    }

    /// Up to the closing parenthesis.
    fn parameters(&mut self, body: &mut Body) -> Result<Vec<usize>> {
        let mut params = Vec::new();
        while !self.scan.take(b')')? {
            match self.scan.directive()? {
                "param" => {
                    let variable = self.variable(Space::Param, false)?;
                    params.push(self.declare_variable(body, variable)?);
                }
                "reg" => return self.scan.fail("parameters in registers are not supported"),
                other => return self.scan.fail(format!(".{other} is no parameter")),
            }
            self.scan.take(b',')?;
        }
        Ok(params)
    }

    fn performance_directives(&mut self, body: &mut Body) -> Result<()> {
        while self.scan.peek()? == b'.' {
            let directive = self.scan.directive()?;
            let mut values = Vec::new();
            while self.scan.peek()?.is_ascii_digit() {
                values.push(self.count(u32::MAX as usize)?);
                self.scan.take(b',')?;
            }
            match directive {
                "maxntid" | "reqntid" => {
                    let threads = values.iter().fold(1usize, |product, &n| product.saturating_mul(n));
                    body.function.max_threads = Some(threads.min(1024) as u32);
                }
                "minnctapersm" | "maxnctapersm" | "maxnreg" | "noreturn" => {}
                "pragma" => self.pragma()?,
                other => return self.scan.fail(format!(".{other} is not known here")),
            }
        }
        Ok(())
    }

    fn declare(&mut self, body: &mut Body, name: &str, symbol: Symbol) -> Result<()> {
        let scope = body.scopes.last_mut().expect("a body has a scope");
        let numbered = match symbol {
            Symbol::Range(_, count) => scope.keys().any(|other| number_in(other, name).is_some_and(|n| n < count)),
            _ => in_range(scope, name).is_some(),
        };
        if numbered || scope.insert(name.to_string(), symbol).is_some() {
            return self.scan.fail(format!("{name} is declared twice"));
        }
        Ok(())
    }

    fn declare_variable(&mut self, body: &mut Body, variable: Variable) -> Result<usize> {
        let number = body.function.variables.len();
        self.declare(body, &variable.name, Symbol::Variable(number))?;
        body.function.variables.push(variable);
        Ok(number)
    }

    /// Up to the function's closing brace.
    fn statements(&mut self, body: &mut Body) -> Result<()> {
        loop {
            match self.scan.peek()? {
                b'{' => {
                    self.scan.expect(b'{')?;
                    body.scopes.push(HashMap::new());
                    body.starts.push(body.statements.len());
                    if body.scopes.len() > DEEPEST_SCOPE {
                        return self.scan.fail("scopes too deep");
                    }
                }
                b'}' => {
                    self.scan.expect(b'}')?;
                    body.scopes.pop();
                    if body.scopes.is_empty() {
                        return Ok(());
                    }
                    body.close_labels();
                }
                b'.' => self.body_directive(body)?,
                b';' => self.scan.expect(b';')?,
                _ => self.statement(body)?,
            }
        }
    }

    fn body_directive(&mut self, body: &mut Body) -> Result<()> {
        match self.scan.directive()? {
            "reg" => self.registers(body),
            "loc" => self.location(),
            "pragma" => self.pragma(),
            "file" => self.file(),
            space @ ("shared" | "local" | "param" | "global" | "const") => {
                let variable = self.variable(space_of(space), false)?;
                self.declare_variable(body, variable)?;
                if self.scan.take(b',')? {
                    return self.scan.fail("one variable a declaration, please");
                }
                self.scan.expect(b';')
            }
            other => self.scan.fail(format!(".{other} is not known here")),
        }
    }

    fn registers(&mut self, body: &mut Body) -> Result<()> {
        let kind = self.scan.directive()?;
        let width = match kind {
            "pred" => Width::Pred,
            _ => match self.type_bytes(kind)? {
                1 | 2 => Width::Half,
                4 => Width::Word,
                8 => Width::Double,
                _ => Width::Quad,
            },
        };
        loop {
            let name = self.scan.name()?.to_string();
            if self.scan.take(b'<')? {
                let named = |error: PtxError| PtxError { what: format!("{name}: {}", error.what), ..error };
                let count = self.count(MOST_REGISTERS).map_err(named)?;
                self.scan.expect(b'>')?;
                self.declare(body, &name, Symbol::Range(width, count as u32))?;
            } else {
                body.function.registers.push(width);
                self.declare(body, &name, Symbol::Register(body.function.registers.len() - 1))?;
            }
            if !self.scan.take(b',')? {
                return self.scan.expect(b';');
            }
        }
    }

    /// `.loc file line column [, function_name label [+ n], inlined_at file line column]`
    fn location(&mut self) -> Result<()> {
        let place = self.place()?;
        while self.scan.take(b',')? {
            match self.scan.name()? {
                "function_name" => {
                    self.scan.name()?;
                    if self.scan.take(b'+')? {
                        self.int()?;
                    }
                }
                "inlined_at" => {
                    let outer = self.place()?;
                    self.inlined.insert(place, outer);
                }
                other => return self.scan.fail(format!("{other} is not known in .loc")),
            }
        }
        let chain = std::iter::successors(Some(place), |place| self.inlined.get(place).copied());
        self.loc = chain.take(DEEPEST_INLINED).map(|[file, line, _]| (file, line)).collect();
        Ok(())
    }

    fn place(&mut self) -> Result<[u32; 3]> {
        let file = self.count(1 << 24)? as u32;
        Ok([file, self.count(u32::MAX as usize)? as u32, self.count(u32::MAX as usize)? as u32])
    }

    fn statement(&mut self, body: &mut Body) -> Result<()> {
        let line = self.scan.line;
        let guard = self.guard(body)?;
        let mut opcode = self.scan.name()?.to_string();
        let at_label = self.scan.peek()? == b':';
        if guard.is_none() && at_label && self.scan.scope_suffix().is_none() {
            self.scan.expect(b':')?;
            return self.label(body, opcode, line);
        }
        loop {
            if let Some(suffix) = self.scan.suffix() {
                opcode = format!("{opcode}.{suffix}");
            } else if let Some(suffix) = self.scan.scope_suffix() {
                opcode = format!("{opcode}::{suffix}");
            } else {
                break;
            }
        }
        let mut operands = Vec::new();
        while !self.scan.take(b';')? {
            operands.push(self.operand(body)?);
            if !self.scan.take(b',')? {
                self.scan.expect(b';')?;
                break;
            }
        }
        let instruction = Instruction { line, source: self.loc.clone(), guard, opcode, operands };
        body.statements.push(Statement::Instruction(instruction));
        Ok(())
    }

    /// A label; or the table `name: .branchtargets a, b;`.
    fn label(&mut self, body: &mut Body, name: String, line: u32) -> Result<()> {
        if self.scan.peek()? != b'.' {
            body.statements.push(Statement::Label(name, line));
            return Ok(());
        }
        match self.scan.directive()? {
            "branchtargets" => {
                let mut targets = vec![self.scan.name()?.to_string()];
                while self.scan.take(b',')? {
                    targets.push(self.scan.name()?.to_string());
                }
                body.statements.push(Statement::Targets(name, targets));
                self.scan.expect(b';')
            }
            kind @ ("callprototype" | "calltargets") => {
                self.scan.fail(format!("{name}: .{kind}: indirect calls are not supported"))
            }
            "pragma" => {
                body.statements.push(Statement::Label(name, line));
                self.pragma()
            }
            "loc" => {
                body.statements.push(Statement::Label(name, line));
                self.location()
            }
            other => self.scan.fail(format!(".{other} is not known after a label")),
        }
    }

    fn guard(&mut self, body: &mut Body) -> Result<Option<(usize, bool)>> {
        if !self.scan.take(b'@')? {
            return Ok(None);
        }
        let negated = self.scan.take(b'!')?;
        let name = self.scan.name()?;
        match self.lookup(body, name)? {
            Some(Operand::Register(register)) if body.function.registers[register] == Width::Pred => {
                Ok(Some((register, negated)))
            }
            _ => self.scan.fail(format!("{name} is no predicate")),
        }
    }

    fn operand(&mut self, body: &mut Body) -> Result<Operand> {
        let first = self.simple_operand(body)?;
        if self.scan.take(b'|')? {
            let second = self.simple_operand(body)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn simple_operand(&mut self, body: &mut Body) -> Result<Operand> {
        match self.scan.peek()? {
            b'[' => self.address(body),
            b'{' => {
                self.scan.expect(b'{')?;
                Ok(Operand::Vector(self.sequence(body, b'}')?))
            }
            b'(' => {
                self.scan.expect(b'(')?;
                Ok(Operand::List(self.sequence(body, b')')?))
            }
            b'!' => {
                self.scan.expect(b'!')?;
                let name = self.scan.name()?;
                match self.lookup(body, name)? {
                    Some(Operand::Register(register)) => Ok(Operand::Not(register)),
                    _ => self.scan.fail(format!("{name} is no predicate")),
                }
            }
            b'-' | b'0'..=b'9' => Ok(match self.scan.number()? {
                Number::Int(i) => Operand::Int(i),
                Number::Float32(bits) => Operand::Float32(bits),
                Number::Float64(bits) => Operand::Float64(bits),
            }),
            _ => self.named_operand(body),
        }
    }

    /// Vectors and lists hold no vectors, so this does not recurse without bound.
    fn sequence(&mut self, body: &mut Body, end: u8) -> Result<Vec<Operand>> {
        let mut items = Vec::new();
        while !self.scan.take(end)? {
            if matches!(self.scan.peek()?, b'{' | b'(' | b'[') {
                return self.scan.fail("nested operand lists");
            }
            items.push(self.simple_operand(body)?);
            if !self.scan.take(b',')? {
                self.scan.expect(end)?;
                break;
            }
        }
        Ok(items)
    }

    fn named_operand(&mut self, body: &mut Body) -> Result<Operand> {
        let name = self.scan.name()?;
        if name == "_" {
            return Ok(Operand::Sink);
        }
        if let Some(operand) = self.lookup(body, name)? {
            let Operand::Variable(id, _) = operand else { return Ok(operand) };
            let offset = self.offset()?;
            return Ok(Operand::Variable(id, offset));
        }
        if name.starts_with('%') {
            let mut special = name.to_string();
            if let Some(suffix) = self.scan.suffix() {
                special = format!("{special}.{suffix}");
            }
            return Ok(Operand::Special(special));
        }
        if name == "WARP_SZ" {
            return Ok(Operand::Int(32));
        }
        Ok(Operand::Name(name.to_string()))
    }

    fn offset(&mut self) -> Result<i64> {
        let plus = self.scan.take(b'+')?;
        if !plus && self.scan.peek()? != b'-' {
            return Ok(0);
        }
        let offset = self.int()?;
        match i64::try_from(offset) {
            Ok(offset) => Ok(offset),
            Err(_) => self.scan.fail(format!("an offset of {offset}")),
        }
    }

    fn address(&mut self, body: &mut Body) -> Result<Operand> {
        self.scan.expect(b'[')?;
        let base =
            if self.scan.peek()?.is_ascii_digit() { Operand::Int(self.int()?) } else { self.named_operand(body)? };
        let offset = self.offset()?;
        self.scan.expect(b']')?;
        match base {
            Operand::Variable(id, first) => {
                let base = Operand::Variable(id, first.wrapping_add(offset));
                Ok(Operand::Address(Box::new(base), 0))
            }
            base => Ok(Operand::Address(Box::new(base), offset)),
        }
    }

    /// What the name stands for, from the innermost scope outwards; registers of a range are made here.
    fn lookup(&mut self, body: &mut Body, name: &str) -> Result<Option<Operand>> {
        for scope in body.scopes.iter_mut().rev() {
            match scope.get(name) {
                Some(Symbol::Register(register)) => return Ok(Some(Operand::Register(*register))),
                Some(Symbol::Variable(number)) => {
                    return Ok(Some(Operand::Variable(VariableId::Function(*number), 0)));
                }
                Some(Symbol::Range(..)) | None => {}
            }
            if let Some(width) = in_range(scope, name) {
                body.function.registers.push(width);
                let register = body.function.registers.len() - 1;
                scope.insert(name.to_string(), Symbol::Register(register));
                return Ok(Some(Operand::Register(register)));
            }
        }
        Ok(self.names.get(name).map(|&number| Operand::Variable(VariableId::Module(number), 0)))
    }
}

/// The width of the register, if it is one of a range: %r12 may be number 12 of %r<..>, or number 2 of %r1<..>.
fn in_range(scope: &HashMap<String, Symbol>, name: &str) -> Option<Width> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    (name.len() - digits..name.len()).find_map(|split| match scope.get(&name[..split]) {
        Some(&Symbol::Range(width, count)) if number_in(name, &name[..split])? < count => Some(width),
        _ => None,
    })
}

/// What follows the range's name.
fn number_in(name: &str, range: &str) -> Option<u32> {
    let digits = name.strip_prefix(range)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn space_of(directive: &str) -> Space {
    match directive {
        "global" => Space::Global,
        "const" => Space::Const,
        "shared" => Space::Shared,
        "local" => Space::Local,
        _ => Space::Param,
    }
}

fn at(line: u32, what: String) -> PtxError {
    PtxError { line, what }
}

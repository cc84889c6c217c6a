//! Calls of device functions, and of the few that the system provides: vprintf, __assertfail.

use super::control::param_offset;
use super::frame::{Frame, step};
use super::opcode::Opcode;
use super::{Lowered, Refusal, refuse};
use crate::FaultKind::{Assert, OutOfBounds};
use crate::machine::{Action, Class, Core, Done, LANES, Mask, Step, Trouble, Where, lanes, trouble};
use crate::ptx::Operand;

/// call (results), function, (arguments); results and arguments are .param variables, which lie in local memory.
pub fn lower(f: &mut Frame, mut op: Opcode, ops: &[Operand]) -> Result<Lowered, Refusal> {
    op.take("uni");
    op.end()?;
    let (results, name, arguments): (&[Operand], &str, &[Operand]) = match ops {
        [Operand::List(results), Operand::Name(name), Operand::List(arguments)] => (results, name, arguments),
        [Operand::List(results), Operand::Name(name)] => (results, name, &[]),
        [Operand::Name(name), Operand::List(arguments)] => (&[], name, arguments),
        [Operand::Name(name)] => (&[], name, &[]),
        _ => return refuse("a call of something else than a named function"),
    };
    let places =
        |f: &Frame, operands: &[Operand]| operands.iter().map(|o| param_offset(f, o)).collect::<Result<Vec<_>, _>>();
    let (results, arguments) = (places(f, results)?, places(f, arguments)?);
    if let Some(action) = system(name, &arguments) {
        return Ok(Lowered::new(Class::Control, action));
    }
    let Some(callee) = f.layout.source.functions.iter().find(|g| g.name == name && g.body.is_some() && !g.entry) else {
        return refuse(format!("function {name} is not defined"));
    };
    let homes = &f.layout.locals[name];
    if callee.params.len() != arguments.len() || callee.returns.len() != results.len() {
        return refuse(format!("{name} takes {} arguments and returns {}", callee.params.len(), callee.returns.len()));
    }
    for (&param, &(from, bytes)) in callee.params.iter().zip(&arguments) {
        let size = bytes.min(callee.variables[param].size);
        f.prelude.push(copy(from, homes[param], size));
    }
    for (&result, &(to, bytes)) in callee.returns.iter().zip(&results) {
        let size = bytes.min(callee.variables[result].size);
        f.epilogue.push(copy(homes[result], to, size));
    }
    Ok(Lowered::new(Class::Control, Action::Call { entry: f.layout.entries[name] }))
}

/// Copies between places of each lane's local memory.
fn copy(from: u64, to: u64, bytes: usize) -> Step {
    Box::new(move |core, mask| {
        let size = core.code.local;
        for lane in lanes(mask) {
            let start = lane * size;
            core.warp.local.copy_within(start + from as usize..start + from as usize + bytes, start + to as usize);
        }
        Ok(())
    })
}

fn system(name: &str, arguments: &[(u64, usize)]) -> Option<Action> {
    let places: Vec<u64> = arguments.iter().map(|argument| argument.0).collect();
    match (name, places.as_slice()) {
        ("vprintf", &[format, values]) => Some(step(move |core, mask| print(core, mask, format, values))),
        ("__assertfail", &[message, file, line, function, ..]) => {
            Some(step(move |core, mask| assertion(core, mask, [message, file, line, function])))
        }
        _ => None,
    }
}

fn local_word(core: &Core, lane: usize, offset: u64) -> u64 {
    let at = lane * core.code.local + offset as usize;
    let bytes = core.warp.local.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    u64::from_le_bytes(bytes.unwrap_or([0; 8]))
}

/// A string in memory that ends with 0; at most 4096 bytes.
fn text(core: &mut Core, lane: usize, address: u64) -> Result<String, Box<Trouble>> {
    let mut bytes = Vec::new();
    while bytes.len() < 4096 {
        let addresses = [address.wrapping_add(bytes.len() as u64); LANES];
        let byte = core.load::<1>(Where::Generic, 1 << lane, &addresses, true)?[lane][0];
        if byte == 0 {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        bytes.push(byte);
    }
    trouble(OutOfBounds, Some(lane), "a string that does not end")
}

fn assertion(core: &mut Core, mask: Mask, [message, file, line, function]: [u64; 4]) -> Done {
    let lane = mask.trailing_zeros() as usize;
    let at = |core: &mut Core, offset| {
        let address = local_word(core, lane, offset);
        text(core, lane, address)
    };
    let (message, file, function) = (at(core, message)?, at(core, file)?, at(core, function)?);
    let line = local_word(core, lane, line) as u32;
    trouble(Assert, Some(lane), format!("{file}:{line}: {function}: assertion `{message}` failed"))
}

/// printf: each lane's line, in the order of lanes, on standard output.
fn print(core: &mut Core, mask: Mask, format: u64, values: u64) -> Done {
    for lane in lanes(mask) {
        let format = text(core, lane, local_word(core, lane, format))?;
        let line = formatted(core, lane, &format, local_word(core, lane, values))?;
        // Nobody listens where it fails.
        let _ = std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes());
    }
    Ok(())
}

/// The conversions of C that device code uses, with flags, width and precision.
fn formatted(core: &mut Core, lane: usize, format: &str, mut values: u64) -> Result<String, Box<Trouble>> {
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out += &rest[..at];
        rest = &rest[at + 1..];
        let Some(end) = rest.find(|c: char| "diuxXcsfFeEgGp%".contains(c)) else { break };
        let (spec, kind) = (&rest[..end], rest.as_bytes()[end] as char);
        rest = &rest[end + 1..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        let wide = spec.contains('l') || spec.contains('z') || "sfFeEgGp".contains(kind);
        let bytes = if wide { 8 } else { 4 };
        values = values.next_multiple_of(bytes);
        let value = match wide {
            true => u64::from_le_bytes(core.load::<8>(Where::Generic, 1 << lane, &[values; LANES], true)?[lane]),
            false => {
                u32::from_le_bytes(core.load::<4>(Where::Generic, 1 << lane, &[values; LANES], true)?[lane]) as u64
            }
        };
        values += bytes;
        let shown = match kind {
            'd' | 'i' if wide => format!("{}", value as i64),
            'd' | 'i' => format!("{}", value as i32),
            'u' => format!("{value}"),
            'x' => format!("{value:x}"),
            'X' => format!("{value:X}"),
            'p' => format!("{value:#x}"),
            'c' => ((value as u8) as char).to_string(),
            's' => text(core, lane, value)?,
            _ => float(f64::from_bits(value), spec, kind),
        };
        out += &padded(&shown, spec);
    }
    Ok(out + rest)
}

fn float(x: f64, spec: &str, kind: char) -> String {
    let digits = spec.split_once('.').and_then(|(_, digits)| digits.trim_end_matches('l').parse::<usize>().ok());
    let digits = digits.map(|digits| digits.min(4096));
    match kind {
        'f' | 'F' => format!("{x:.*}", digits.unwrap_or(6)),
        'e' | 'E' => format!("{x:.*e}", digits.unwrap_or(6)),
        _ => format!("{x}"),
    }
}

fn padded(shown: &str, spec: &str) -> String {
    let flags: String = spec.chars().take_while(|c| "-+ #0".contains(*c)).collect();
    let width: String = spec[flags.len()..].chars().take_while(char::is_ascii_digit).collect();
    let width = width.parse().unwrap_or(0).min(4096);
    match (flags.contains('-'), flags.contains('0')) {
        (true, _) => format!("{shown:<width$}"),
        (false, true) => format!("{shown:0>width$}"),
        _ => format!("{shown:>width$}"),
    }
}

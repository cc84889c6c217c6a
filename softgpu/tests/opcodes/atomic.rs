//! atom and red in every space, and under contention.

use crate::exact::Round;
use crate::harness::{Form, Probe, cases, check, together};
use crate::numbers::{Kind, Want};

#[test]
fn follows_the_manual() {
    check(forms());
}

#[derive(Clone, Copy, PartialEq)]
enum Op {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    Increment,
    Decrement,
    Compare,
}

use Op::{Add, And, Compare, Decrement, Exchange, Increment, Max, Min, Or, Xor};

const TABLE: [(Op, &str, &str); 10] = [
    (Add, "add", "u32 s32 u64 f32 f64"),
    (Add, "add.noftz", "f16 f16x2"),
    (Min, "min", "u32 s32 u64 s64"),
    (Max, "max", "u32 s32 u64 s64"),
    (And, "and", "b32 b64"),
    (Or, "or", "b32 b64"),
    (Xor, "xor", "b32 b64"),
    (Exchange, "exch", "b32 b64"),
    (Increment, "inc", "u32"),
    (Decrement, "dec", "u32"),
];

const SEMANTICS: [&str; 4] = ["relaxed", "acquire", "release", "acq_rel"];
const SCOPES: [&str; 3] = ["cta", "gpu", "sys"];

pub fn forms() -> Vec<Form> {
    let mut forms = vec![];
    let types = TABLE.iter().flat_map(|(op, name, types)| types.split(' ').map(move |kind| (*op, *name, kind)));
    for (op, name, kind) in types.chain(["b16", "b32", "b64"].map(|kind| (Compare, "cas", kind))) {
        for space in ["", ".global", ".shared"] {
            forms.extend(spelled(op, name, kind, space));
        }
    }
    for kind in ["bf16", "bf16x2"] {
        for space in ["", ".global"] {
            forms.push(single(&format!("atom{space}.add.noftz.{kind}"), Add, kind, space, 90));
            forms.push(single(&format!("red{space}.add.noftz.{kind}"), Add, kind, space, 90));
        }
    }
    forms.extend(contention());
    forms
}

/// As the manual orders the parts, and as nvcc does.
fn spelled(op: Op, name: &str, kind: &str, space: &str) -> Vec<Form> {
    let one = |opcode: String| single(&opcode, op, kind, space, 80);
    let mut forms = vec![one(format!("atom{space}.{name}.{kind}"))];
    for scope in SCOPES {
        forms.push(one(format!("atom{space}.{scope}.{name}.{kind}")));
        forms.push(one(format!("atom.{scope}{space}.{name}.{kind}")));
        for semantics in SEMANTICS {
            forms.push(one(format!("atom.{semantics}.{scope}{space}.{name}.{kind}")));
            forms.push(one(format!("atom{space}.{name}.{semantics}.{scope}.{kind}")));
        }
    }
    if !matches!(op, Compare | Exchange) {
        forms.push(one(format!("red{space}.{name}.{kind}")));
        forms.extend(SCOPES.map(|scope| one(format!("red.relaxed.{scope}{space}.{name}.{kind}"))));
        forms.extend(SCOPES.map(|scope| one(format!("red.release.{scope}{space}.{name}.{kind}"))));
    }
    let mut seen = std::collections::HashSet::new();
    forms.retain(|form| seen.insert(form.opcode.clone()));
    forms
}

/// The value after the operation: usually one, two where the manual describes a habit of today's hardware.
fn after(op: Op, kind: Kind, space: &str, old: u64, b: u64, c: u64) -> Vec<u64> {
    if let Some(format) = kind.format() {
        let add = |flush: bool, a: u64, b: u64| {
            let [x, y] = [a, b].map(|bits| format.value(if flush { format.flush(bits) } else { bits }));
            let sum = format.round(&x.add(&y, Round::Nearest), Round::Nearest);
            if flush { format.flush(sum) } else { sum }
        };
        if kind.packed() {
            return vec![add(false, old & 0xffff, b & 0xffff) | add(false, old >> 16, b >> 16) << 16];
        }
        let may_flush = kind == Kind::F32 && space != ".shared";
        return [false, true].into_iter().filter(|&flush| !flush || may_flush).map(|f| add(f, old, b)).collect();
    }
    let (x, y) = (kind.integer(old), kind.integer(b));
    vec![
        kind.mask()
            & match op {
                Add => (x + y) as u64,
                Min => x.min(y) as u64,
                Max => x.max(y) as u64,
                And => old & b,
                Or => old | b,
                Xor => old ^ b,
                Exchange => b,
                Increment => u64::from(old < b) * (old + 1),
                Decrement => {
                    if old == 0 || old > b {
                        b
                    } else {
                        old - 1
                    }
                }
                Compare => {
                    if old == b {
                        c
                    } else {
                        old
                    }
                }
            },
    ]
}

/// Every thread on a cell of its own: what was there, and what is there then.
fn single(opcode: &str, op: Op, kind: &str, space: &str, target: u32) -> Form {
    let value = Kind::of(kind);
    let (name, memory) = (value.register(), if space.is_empty() { ".global" } else { space });
    let setup = match space {
        ".shared" => "mov.u32 %t1, area;\nmad.lo.s32 %t1, %thread, 8, %t1;",
        _ => "mad.wide.u32 %d1, %thread, 8, %scratch;\nmad.wide.u32 %d2, %thread, 8, %generic;",
    };
    let address = if space == ".shared" { "%t1" } else { "%d1" };
    let target_address = if space.is_empty() { "%d2" } else { address };
    let (third, result) =
        (if op == Compare { ", %i2" } else { "" }, if opcode.starts_with("red") { "" } else { "%o0, " });
    let text = format!(
        "{setup}\nst{memory}.{name} [{address}], %i0;\nmov.{name} %o0, %i0;\n\
         {opcode} {result}[{target_address}], %i1{third};\nld{memory}.{name} %o1, [{address}];"
    );
    let probe = Probe::of(&text, vec![value; 3], vec![value; 2]).module(".shared .align 8 .b8 area[8192];");
    let probe = probe.scratch(vec![0; 8192]).target(target);
    let mut cases = cases(&[value; 3], 31);
    cases.truncate(if opcode.matches('.').count() < 4 { 500 } else { 64 });
    for case in cases.iter_mut().step_by(2).filter(|_| op == Compare) {
        case[1] = case[0];
    }
    let space = space.to_owned();
    together(opcode, probe, cases, move |cases| {
        let want = |x: &Vec<u64>| vec![Want::bits(x[0]), stored(value, &after(op, value, &space, x[0], x[1], x[2]))];
        cases.iter().map(want).collect()
    })
}

fn stored(kind: Kind, values: &[u64]) -> Want {
    let float = |bits: u64| match kind.format() {
        Some(format) if kind.packed() => {
            Want::halves(Want::float(format, bits & 0xffff), Want::float(format, bits >> 16))
        }
        Some(format) => Want::float(format, bits),
        None => Want::bits(bits),
    };
    values.iter().map(|&bits| float(bits)).reduce(Want::either).expect("a value")
}

/// All threads on one cell: every old value is handed out once, and nothing is lost.
fn contention() -> Vec<Form> {
    let table = [("u32", 1, "b32"), ("u64", 1, "b64"), ("f32", 0x3f80_0000, "b32"), ("f64", 0x3ff0 << 48, "b64")];
    let mut forms = vec![];
    for (kind, one, register) in table {
        for space in [".global", ".shared"] {
            let opcode = format!("atom{space}.add.{kind}");
            forms.push(Form::new(&opcode.clone(), move || contend(&opcode, kind, one, register, space)));
        }
    }
    forms
}

fn contend(opcode: &str, kind: &str, one: u64, register: &str, space: &str) -> Result<(), String> {
    let address = if space == ".shared" { "%t1" } else { "%scratch" };
    let text = format!(
        "mov.u32 %t1, cell;\nsetp.ne.s32 %p1, %thread, 0;\n@%p1 bra $ready;\nmov.b64 %d3, 0;\n\
         st{space}.b64 [{address}], %d3;\n$ready:\nbar.sync 0;\n{opcode} %o0, [{address}], %i0;\nbar.sync 0;\n\
         ld{space}.{register} %o1, [{address}];"
    );
    let probe = Probe::new(&text, kind, &format!("{kind} {kind}")).module(".shared .align 8 .b8 cell[8];");
    let results = probe.run(&vec![vec![one]; 200])?;
    let number = |bits: u64| match kind {
        "f32" => f32::from_bits(bits as u32).into(),
        "f64" => f64::from_bits(bits),
        _ => bits as f64,
    };
    let mut old: Vec<f64> = results.outputs.iter().map(|outputs| number(outputs[0])).collect();
    old.sort_by(f64::total_cmp);
    let lost = results.outputs.iter().any(|outputs| number(outputs[1]) != 200.0);
    let expected = (0..200).map(f64::from);
    if crate::harness::dumping() || (!lost && old.into_iter().eq(expected)) {
        return Ok(());
    }
    Err("200 threads adding one each to a cell: a value was lost or handed out twice".into())
}

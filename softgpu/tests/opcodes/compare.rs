//! setp, set, selp and slct.

use crate::exact::Value;
use crate::harness::{Elementwise, Form, Probe, body, cases, check, form};
use crate::numbers::{Kind, Want};

#[test]
fn follows_the_manual() {
    check(forms());
}

pub fn forms() -> Vec<Form> {
    [setp(), combined(), both(), set(), set_half(), selp(), slct()].into_iter().flatten().collect()
}

const ORDERED: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];
const UNORDERED: [&str; 8] = ["equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

/// Whether `a op b`, for numbers of any kind; a NaN makes every ordered comparison false, and every unordered true.
fn holds(op: &str, kind: Kind, ftz: bool, a: u64, b: u64) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = match kind.format() {
        None => Some(kind.integer(a).cmp(&kind.integer(b))),
        Some(format) => {
            let flush = |bits| if ftz { format.flush(bits) } else { bits };
            // The sign of the exact difference.
            let order = |a: u64, b: u64| match format.value(a).add(&format.value(b).negate(), crate::exact::Round::Zero)
            {
                Value::Nan if a == b && !format.is_nan(a) => Some(Equal),
                Value::Nan => None,
                difference if difference.is_zero() => Some(Equal),
                difference => Some(if difference.negative() { Less } else { Greater }),
            };
            order(flush(a), flush(b))
        }
    };
    let Some(order) = order else { return op == "nan" || (op.len() == 3 && op.ends_with('u')) };
    match op {
        "eq" | "equ" => order == Equal,
        "ne" | "neu" => order != Equal,
        "lt" | "ltu" | "lo" => order == Less,
        "le" | "leu" | "ls" => order != Greater,
        "gt" | "gtu" | "hi" => order == Greater,
        "ge" | "geu" | "hs" => order != Less,
        "num" => true,
        "nan" => false,
        _ => panic!("no comparison {op}"),
    }
}

/// Every comparison there is of a type.
fn comparisons(name: &str) -> Vec<&'static str> {
    match name.as_bytes()[0] {
        b'b' if name != "bf16" => vec!["eq", "ne"],
        b's' => ORDERED.to_vec(),
        b'u' => ORDERED.into_iter().chain(["lo", "ls", "hi", "hs"]).collect(),
        _ => ORDERED.into_iter().chain(UNORDERED).collect(),
    }
}

const TYPES: [&str; 14] =
    ["b16", "b32", "b64", "s16", "u16", "s32", "u32", "s64", "u64", "f32", "ftz.f32", "f64", "f16", "bf16"];

/// The kind and whether it flushes, of "ftz.f32".
fn typed(name: &str) -> (Kind, bool) {
    let bare = name.strip_prefix("ftz.");
    (Kind::of(bare.unwrap_or(name)), bare.is_some())
}

fn setp() -> Vec<Form> {
    let mut forms = vec![];
    for name in TYPES {
        let (kind, ftz) = typed(name);
        for op in comparisons(name.trim_start_matches("ftz.")) {
            forms.push(
                Elementwise {
                    opcode: format!("setp.{op}.{name}"),
                    operands: "%o0, %i0, %i1".into(),
                    output: Kind::Pred,
                    inputs: vec![kind, kind],
                    target: if kind == Kind::Bf16 { 90 } else { 80 },
                    model: Box::new(move |x| Want::bits(holds(op, kind, ftz, x[0], x[1]).into())),
                }
                .form(),
            );
        }
    }
    forms
}

fn join(op: &str, a: bool, b: bool) -> bool {
    match op {
        "and" => a && b,
        "or" => a || b,
        _ => a != b,
    }
}

/// p|q with a third operand: q takes the negated comparison. Both the operand and its negation.
fn combined() -> Vec<Form> {
    let mut forms = vec![];
    for name in ["s32", "u32", "s64", "u64", "s16", "u16", "b32", "f32", "ftz.f32", "f64", "f16"] {
        for op in comparisons(name.trim_start_matches("ftz.")) {
            forms.extend(["and", "or", "xor"].map(|bool_op| third(op, bool_op, name)));
        }
    }
    forms
}

fn third(op: &'static str, bool_op: &'static str, name: &str) -> Form {
    let (kind, ftz) = typed(name);
    let opcode = format!("setp.{op}.{bool_op}.{name}");
    // f16 has no second destination.
    let (both, count) = if kind == Kind::F16 { ("%o0", 2) } else { ("%o0|%o2", 3) };
    let text = format!("{opcode} {both}, %i0, %i1, %i2;\n{opcode} %o1, %i0, %i1, !%i2;");
    let kinds = [kind, kind, Kind::Pred];
    let probe = Probe::of(&text, kinds.to_vec(), vec![Kind::Pred; count]);
    body(&opcode, probe, cases(&kinds, 7), move |_, x| {
        let (t, c) = (holds(op, kind, ftz, x[0], x[1]), x[2] != 0);
        [join(bool_op, t, c), join(bool_op, t, !c), join(bool_op, !t, c)][..count].iter().map(|&x| x.into()).collect()
    })
}

/// Pairs: p of the lower half, q of the upper.
fn both() -> Vec<Form> {
    let mut forms = vec![];
    for (name, half, target) in [("f16x2", Kind::F16, 80), ("bf16x2", Kind::Bf16, 90)] {
        let kind = Kind::of(name);
        for op in ORDERED.into_iter().chain(UNORDERED) {
            let opcode = format!("setp.{op}.{name}");
            let text = format!("{opcode} %o0|%o1, %i0, %i1;");
            let probe = Probe::of(&text, vec![kind; 2], vec![Kind::Pred; 2]).target(target);
            forms.push(body(&opcode, probe, cases(&[kind; 2], 8), move |_, x| {
                let at = |shift: u32| holds(op, half, false, x[0] >> shift & 0xffff, x[1] >> shift & 0xffff);
                [at(0), at(16)].map(u64::from).into()
            }));
        }
    }
    forms
}

/// All ones or 1.0 where it holds.
fn set() -> Vec<Form> {
    let mut forms = vec![];
    for (to, yes) in [("u32", 0xffff_ffff), ("s32", 0xffff_ffff), ("f32", 0x3f80_0000)] {
        for from in ["s32", "u32", "f32", "f64", "s64", "u16", "b32"] {
            let kind = Kind::of(from);
            for op in comparisons(from) {
                let model = move |x: &[u64]| Want::bits(if holds(op, kind, false, x[0], x[1]) { yes } else { 0 });
                forms.push(form(&format!("set.{op}.{to}.{from}"), Kind::of(to), &[kind, kind], model));
            }
        }
        for op in ORDERED.into_iter().chain(UNORDERED) {
            let model = move |x: &[u64]| Want::bits(if holds(op, Kind::F32, true, x[0], x[1]) { yes } else { 0 });
            forms.push(form(&format!("set.{op}.ftz.{to}.f32"), Kind::of(to), &[Kind::F32; 2], model));
        }
    }
    for bool_op in ["and", "or", "xor"] {
        let model = move |x: &[u64]| {
            let holds = holds("lt", Kind::S32, false, x[0], x[1]);
            Want::bits(if join(bool_op, holds, x[2] != 0) { 0xffff_ffff } else { 0 })
        };
        forms.push(form(&format!("set.lt.{bool_op}.u32.s32"), Kind::U32, &[Kind::S32, Kind::S32, Kind::Pred], model));
    }
    forms
}

fn set_half() -> Vec<Form> {
    let mut forms = vec![];
    // Destination, source, what stands for true.
    let table = [
        ("f16", "f16", 0x3c00),
        ("u16", "f16", 0xffff),
        ("u32", "f16", 0xffff_ffff),
        ("f16x2", "f16x2", 0x3c00),
        ("u32", "f16x2", 0xffff),
        ("bf16", "bf16", 0x3f80),
        ("bf16x2", "bf16x2", 0x3f80),
        ("u32", "bf16x2", 0xffff),
    ];
    for (to, from, yes) in table {
        let kind = Kind::of(from);
        for op in ORDERED.into_iter().chain(UNORDERED) {
            forms.push(
                Elementwise {
                    opcode: format!("set.{op}.{to}.{from}"),
                    operands: "%o0, %i0, %i1".into(),
                    output: Kind::of(to),
                    inputs: vec![kind, kind],
                    target: if from.starts_with('b') { 90 } else { 80 },
                    model: Box::new(move |x| Want::bits(halves(op, kind, x, yes))),
                }
                .form(),
            );
        }
    }
    forms
}

fn halves(op: &str, kind: Kind, x: &[u64], yes: u64) -> u64 {
    if !kind.packed() {
        return if holds(op, kind, false, x[0], x[1]) { yes } else { 0 };
    }
    let at = |shift: u32| holds(op, kind.half(), false, x[0] >> shift & 0xffff, x[1] >> shift & 0xffff);
    (u64::from(at(0)) * yes) | ((u64::from(at(16)) * yes) << 16)
}

fn selp() -> Vec<Form> {
    let one = |name: &str| {
        let kind = Kind::of(name);
        let model = |x: &[u64]| Want::bits(if x[2] != 0 { x[0] } else { x[1] });
        form(&format!("selp.{name}"), kind, &[kind, kind, Kind::Pred], model)
    };
    ["b16", "b32", "b64", "s16", "u16", "s32", "u32", "s64", "u64", "f32", "f64"].map(one).into()
}

/// a where c >= 0; -0 is, a NaN is not, and .ftz makes a subnormal zero.
fn slct() -> Vec<Form> {
    let mut forms = vec![];
    for name in ["b16", "b32", "b64", "s32", "u32", "s64", "u64", "f32", "f64"] {
        let kind = Kind::of(name);
        for (by, zero) in [("s32", false), ("f32", false), ("ftz.f32", true)] {
            let of = typed(by).0;
            let modifier = if zero { "ftz." } else { "" };
            let model = move |x: &[u64]| Want::bits(if holds("ge", of, zero, x[2], 0) { x[0] } else { x[1] });
            let opcode = format!("slct.{modifier}{name}.{}", by.trim_start_matches("ftz."));
            forms.push(form(&opcode, kind, &[kind, kind, of], model));
        }
    }
    forms
}

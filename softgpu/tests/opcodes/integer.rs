//! Integer arithmetic, bit counting, bit fields, dot products and carry chains.

use crate::harness::{Elementwise, Form, Model, Probe, body, cases, check, form, op1, op2, op3, refused};
use crate::numbers::{Kind, Want};

#[test]
fn follows_the_manual() {
    check(forms());
}

pub fn forms() -> Vec<Form> {
    let tables =
        [basic(), wide(), signed(), divisions(), extremes(), counting(), fields(), dots(), carries(), packed()];
    tables.into_iter().flatten().collect()
}

const ALL: [&str; 6] = ["s16", "u16", "s32", "u32", "s64", "u64"];

/// The low bits of a result, in the register of the kind.
fn wrap(kind: Kind, value: i128) -> Want {
    Want::bits(value as u64 & kind.mask())
}

/// A form of some integer kind whose model works on the integers themselves.
fn of_kind(opcode: &str, name: &str, sources: usize, model: impl Fn(Kind, &[i128]) -> i128 + 'static) -> Form {
    let kind = Kind::of(name);
    let kinds = vec![kind; sources];
    form(&format!("{opcode}.{name}"), kind, &kinds, move |bits| {
        let values: Vec<i128> = bits.iter().map(|&bits| kind.integer(bits)).collect();
        wrap(kind, model(kind, &values))
    })
}

fn high(kind: Kind, a: i128, b: i128) -> i128 {
    (a.wrapping_mul(b) as u128 >> kind.bits()) as i128
}

fn basic() -> Vec<Form> {
    let mut forms = vec![];
    for name in ALL {
        forms.push(of_kind("add", name, 2, |_, x| x[0] + x[1]));
        forms.push(of_kind("sub", name, 2, |_, x| x[0] - x[1]));
        forms.push(of_kind("mul.lo", name, 2, |_, x| x[0].wrapping_mul(x[1])));
        forms.push(of_kind("mul.hi", name, 2, |kind, x| high(kind, x[0], x[1])));
        forms.push(of_kind("mad.lo", name, 3, |_, x| x[0].wrapping_mul(x[1]).wrapping_add(x[2])));
        forms.push(of_kind("mad.hi", name, 3, |kind, x| high(kind, x[0], x[1]).wrapping_add(x[2])));
        forms.push(of_kind("sad", name, 3, |_, x| x[2] + (x[0] - x[1]).abs()));
    }
    forms.push(of_kind("add.sat", "s32", 2, |kind, x| saturate(kind, x[0] + x[1])));
    forms.push(of_kind("sub.sat", "s32", 2, |kind, x| saturate(kind, x[0] - x[1])));
    forms.push(of_kind("mad.hi.sat", "s32", 3, |kind, x| saturate(kind, ((x[0] * x[1]) >> 32) + x[2])));
    forms
}

fn saturate(kind: Kind, value: i128) -> i128 {
    value.clamp(kind.range().0, kind.range().1)
}

fn wide() -> Vec<Form> {
    vec![
        op2("mul.wide.s16", |a: i16, b: i16| i32::from(a) * i32::from(b)),
        op2("mul.wide.u16", |a: u16, b: u16| u32::from(a) * u32::from(b)),
        op2("mul.wide.s32", |a: i32, b: i32| i64::from(a) * i64::from(b)),
        op2("mul.wide.u32", |a: u32, b: u32| u64::from(a) * u64::from(b)),
        op3("mad.wide.s16", |a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c)),
        op3("mad.wide.u16", |a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c)),
        op3("mad.wide.s32", |a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c)),
        op3("mad.wide.u32", |a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c)),
        // 24-bit products: the low 32 bits of 48, or bits 47 to 16.
        op2("mul24.lo.s32", |a: i32, b: i32| product24(a, b) as i32),
        op2("mul24.hi.s32", |a: i32, b: i32| (product24(a, b) >> 16) as i32),
        op2("mul24.lo.u32", |a: u32, b: u32| unsigned24(a, b) as u32),
        op2("mul24.hi.u32", |a: u32, b: u32| (unsigned24(a, b) >> 16) as u32),
        op3("mad24.lo.s32", |a: i32, b: i32, c: i32| (product24(a, b) as i32).wrapping_add(c)),
        op3("mad24.lo.u32", |a: u32, b: u32, c: u32| (unsigned24(a, b) as u32).wrapping_add(c)),
    ]
}

fn product24(a: i32, b: i32) -> i64 {
    i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)
}

fn unsigned24(a: u32, b: u32) -> u64 {
    u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)
}

fn signed() -> Vec<Form> {
    let mut forms = vec![];
    for name in ["s16", "s32", "s64"] {
        forms.push(of_kind("neg", name, 1, |_, x| -x[0]));
        forms.push(of_kind("abs", name, 1, |_, x| x[0].abs()));
    }
    forms
}

/// By zero, and the one quotient that does not fit, the result is unspecified.
fn divisions() -> Vec<Form> {
    let mut forms = vec![];
    for name in ALL {
        let kind = Kind::of(name);
        for (opcode, remainder) in [("div", false), ("rem", true)] {
            let model = move |bits: &[u64]| {
                let (a, b) = (kind.integer(bits[0]), kind.integer(bits[1]));
                match b == 0 || (a == kind.range().0 && b == -1) {
                    true => Want::any(),
                    false => wrap(kind, if remainder { a % b } else { a / b }),
                }
            };
            forms.push(form(&format!("{opcode}.{name}"), kind, &[kind, kind], model));
        }
    }
    forms
}

fn extremes() -> Vec<Form> {
    let mut forms = vec![];
    for name in ALL {
        forms.push(of_kind("min", name, 2, |_, x| x[0].min(x[1])));
        forms.push(of_kind("max", name, 2, |_, x| x[0].max(x[1])));
    }
    forms
}

/// Two 16-bit operations in a register; these and .relu need sm_90.
fn packed() -> Vec<Form> {
    type Half = fn(i128, i128) -> i128;
    let table: [(&str, &str, Half); 9] = [
        ("add.u16x2", "u16x2", |a, b| a + b),
        ("add.s16x2", "s16x2", |a, b| a + b),
        ("min.u16x2", "u16x2", |a, b| a.min(b)),
        ("min.s16x2", "s16x2", |a, b| a.min(b)),
        ("max.u16x2", "u16x2", |a, b| a.max(b)),
        ("max.s16x2", "s16x2", |a, b| a.max(b)),
        ("min.relu.s16x2", "s16x2", |a, b| a.min(b).max(0)),
        ("max.relu.s16x2", "s16x2", |a, b| a.max(b).max(0)),
        ("max.s16x2.relu", "s16x2", |a, b| a.max(b).max(0)),
    ];
    let mut forms: Vec<Form> = table.into_iter().map(|(opcode, kind, model)| pair(opcode, kind, model)).collect();
    for (opcode, greater) in [("min.relu.s32", false), ("max.relu.s32", true), ("max.s32.relu", true)] {
        let kinds = vec![Kind::S32; 2];
        let model = move |x: &[u64]| {
            let (a, b) = (x[0] as u32 as i32, x[1] as u32 as i32);
            Want::bits((if greater { a.max(b) } else { a.min(b) }).max(0) as u64)
        };
        forms.push(hopper(opcode, Kind::S32, kinds, Box::new(model)));
    }
    forms
}

fn hopper(opcode: &str, output: Kind, inputs: Vec<Kind>, model: Model) -> Form {
    let operands = "%o0, %i0, %i1".into();
    Elementwise { opcode: opcode.into(), operands, output, inputs, target: 90, model }.form()
}

fn pair(opcode: &str, kind: &str, model: fn(i128, i128) -> i128) -> Form {
    let kind = Kind::of(kind);
    let half = kind.half();
    let each = move |a: u64, b: u64| model(half.integer(a & 0xffff), half.integer(b & 0xffff)) as u64 & 0xffff;
    let both = move |x: &[u64]| Want::bits(each(x[0], x[1]) | each(x[0] >> 16, x[1] >> 16) << 16);
    hopper(opcode, kind, vec![kind; 2], Box::new(both))
}

fn counting() -> Vec<Form> {
    let mut forms = vec![
        op1("popc.b32", |a: u32| (0..32).filter(|i| a >> i & 1 == 1).count() as u32),
        op1("popc.b64", |a: u64| (0..64).filter(|i| a >> i & 1 == 1).count() as u32),
        op1("clz.b32", |a: u32| (0..32).rev().take_while(|i| a >> i & 1 == 0).count() as u32),
        op1("clz.b64", |a: u64| (0..64).rev().take_while(|i| a >> i & 1 == 0).count() as u32),
        op1("brev.b32", |a: u32| (0..32).fold(0, |d: u32, i| d << 1 | (a >> i & 1))),
        op1("brev.b64", |a: u64| (0..64).fold(0, |d: u64, i| d << 1 | (a >> i & 1))),
    ];
    for name in ["u32", "s32", "u64", "s64"] {
        for (modifier, shift) in [("", false), (".shiftamt", true)] {
            let kind = Kind::of(name);
            let model = move |x: &[u64]| Want::bits(find_top(kind, x[0], shift).into());
            forms.push(form(&format!("bfind{modifier}.{name}"), Kind::U32, &[kind], model));
        }
    }
    forms
}

/// The highest bit that differs from the sign; ~0 if there is none.
fn find_top(kind: Kind, bits: u64, shift: bool) -> u32 {
    let msb = kind.bits() - 1;
    let value = if kind.integer(bits) < 0 { !bits & kind.mask() } else { bits };
    match (0..=msb).rev().find(|i| value >> i & 1 == 1) {
        None => u32::MAX,
        Some(at) => {
            if shift {
                msb - at
            } else {
                at
            }
        }
    }
}

fn fields() -> Vec<Form> {
    let mut forms = vec![];
    for name in ["u32", "s32", "u64", "s64"] {
        let kind = Kind::of(name);
        let model = move |x: &[u64]| Want::bits(extract(kind, x[0], x[1] & 0xff, x[2] & 0xff));
        forms.push(restricted("bfe", name, &[kind, Kind::U32, Kind::U32], model));
    }
    for name in ["b32", "b64"] {
        let kind = Kind::of(name);
        let model = move |x: &[u64]| Want::bits(insert(kind, x[0], x[1], x[2] & 0xff, x[3] & 0xff));
        forms.push(restricted("bfi", name, &[kind, kind, Kind::U32, Kind::U32], model));
    }
    forms.extend([
        op2("bmsk.clamp.b32", |a: u32, b: u32| mask(a, b, true)),
        op2("bmsk.wrap.b32", |a: u32, b: u32| mask(a, b, false)),
        op2("szext.clamp.u32", |a: u32, b: u32| extend(a, b, true, false)),
        op2("szext.wrap.u32", |a: u32, b: u32| extend(a, b, false, false)),
        op2("szext.clamp.s32", |a: i32, b: u32| extend(a as u32, b, true, true) as i32),
        op2("szext.wrap.s32", |a: i32, b: u32| extend(a as u32, b, false, true) as i32),
    ]);
    forms
}

/// Positions and lengths must lie in 0..=255: two operands at the end.
fn restricted(opcode: &str, name: &str, kinds: &[Kind], model: impl Fn(&[u64]) -> Want + 'static) -> Form {
    let mut cases = cases(kinds, 3);
    for case in &mut cases {
        let n = case.len();
        case[n - 2] &= 0xff;
        case[n - 1] &= 0xff;
    }
    let kinds = kinds.to_vec();
    let opcode = format!("{opcode}.{name}");
    let sources: String = (0..kinds.len()).map(|i| format!(", %i{i}")).collect();
    let probe = Probe::of(&format!("{opcode} %o0{sources};"), kinds.clone(), vec![kinds[0]]);
    Form::new(&opcode, move || {
        let wants: Vec<Vec<Want>> = cases.iter().map(|case| vec![model(case)]).collect();
        probe.expect(&cases, &wants).map(drop)
    })
}

fn extract(kind: Kind, a: u64, pos: u64, len: u64) -> u64 {
    let msb = u64::from(kind.bits()) - 1;
    let bit = |i: u64| a >> i & 1;
    let sign = if kind.signed() && len > 0 { bit((pos + len - 1).min(msb)) } else { 0 };
    let at = |i: u64| if i < len && pos + i <= msb { bit(pos + i) } else { sign };
    (0..=msb).fold(0, |d, i| d | at(i) << i)
}

fn insert(kind: Kind, a: u64, b: u64, pos: u64, len: u64) -> u64 {
    let msb = u64::from(kind.bits()) - 1;
    let inside = |i: u64| i >= pos && i - pos < len;
    (0..=msb).fold(0, |d, i| d | (if inside(i) { a >> (i - pos) } else { b >> i } & 1) << i)
}

/// Bits a to a + b - 1, as far as there are such.
fn mask(a: u32, b: u32, clamp: bool) -> u32 {
    let (a, b) = if clamp { (a.min(32), b.min(32)) } else { (a & 31, b & 31) };
    (a..(a + b).min(32)).fold(0, |d, i| d | 1 << i)
}

/// The low b bits of a, extended.
fn extend(a: u32, b: u32, clamp: bool, signed: bool) -> u32 {
    let width = if clamp { b.min(32) } else { b & 31 };
    if width == 0 {
        return 0;
    }
    let sign = signed && a >> (width - 1) & 1 == 1;
    (0..32).fold(0, |d, i| d | (if i < width { a >> i & 1 } else { sign.into() }) << i)
}

fn dots() -> Vec<Form> {
    let mut forms = vec![];
    for (a, b) in [("s32", "s32"), ("u32", "u32"), ("s32", "u32"), ("u32", "s32")] {
        let (x, y) = (a == "s32", b == "s32");
        let dot4 = move |p: u32, q: u32, c: u32| {
            (0..4).fold(c, |sum, i| sum.wrapping_add((byte(p, i, x) * byte(q, i, y)) as u32))
        };
        forms.push(op3(&format!("dp4a.{a}.{b}"), dot4));
        for (mode, first) in [("lo", 0), ("hi", 2)] {
            let dot2 = move |p: u32, q: u32, c: u32| {
                (0..2).fold(c, |sum, i| sum.wrapping_add((short(p, i, x) * byte(q, i + first, y)) as u32))
            };
            forms.push(op3(&format!("dp2a.{mode}.{a}.{b}"), dot2));
        }
    }
    forms.extend(distances());
    forms
}

/// Video instructions are refused by their name: GPUs since Maxwell emulate them.
fn distances() -> Vec<Form> {
    let mut forms = vec![];
    for types in ["u32.u32.u32", "u32.s32.s32"] {
        for modifier in ["", ".add"] {
            let opcode = format!("vabsdiff4.{types}{modifier}");
            let probe = Probe::new(&format!("{opcode} %o0, %i0, %i1, %i2;"), "u32 u32 u32", "u32");
            forms.push(refused(&opcode, probe, "vabsdiff4"));
        }
    }
    forms
}

fn byte(word: u32, i: u32, signed: bool) -> i32 {
    let byte = (word >> (8 * i)) as u8;
    if signed { i32::from(byte as i8) } else { i32::from(byte) }
}

fn short(word: u32, i: u32, signed: bool) -> i32 {
    let short = (word >> (16 * i)) as u16;
    if signed { i32::from(short as i16) } else { i32::from(short) }
}

/// Long sums, differences and products over the carry flag; the last output is the flag itself.
fn carries() -> Vec<Form> {
    let mut forms = vec![];
    for name in ["u32", "s32", "u64", "s64"] {
        let bits = Kind::of(name).bits();
        for (first, last, sign) in [("add.cc", "addc", 1), ("sub.cc", "subc", -1)] {
            let middle = format!("{last}.cc");
            for opcode in [first, last, &middle] {
                forms.push(chain(opcode, name, &[first, &middle, last], move |a, b| long_sum(a, b, bits, sign)));
            }
        }
    }
    for name in ["u32", "s32", "u64", "s64"] {
        for opcode in ["mad.lo.cc", "mad.hi.cc", "madc.lo", "madc.hi", "madc.lo.cc", "madc.hi.cc"] {
            forms.push(product_chain(opcode, name));
        }
    }
    forms
}

/// Three words each; the flag after the middle word shows in the last.
fn chain(opcode: &str, name: &str, steps: &[&str; 3], model: impl Fn(&[u64], &[u64]) -> Vec<u64> + 'static) -> Form {
    let step = |i: usize| format!("{}.{name} %o{i}, %i{i}, %i{};\n", steps[i], i + 3);
    let kinds = [name; 6].join(" ");
    let probe = Probe::new(&[step(0), step(1), step(2)].concat(), &kinds, &[name; 3].join(" "));
    let cases = cases(&[Kind::of(name); 6], 4);
    body(&format!("{opcode}.{name}"), probe, cases, move |_, x| model(&x[..3], &x[3..]))
}

fn long_sum(a: &[u64], b: &[u64], bits: u32, sign: i128) -> Vec<u64> {
    let mut carry = 0;
    let mut words = vec![];
    for (&a, &b) in a.iter().zip(b) {
        let sum = i128::from(a) + sign * i128::from(b) + carry;
        words.push(sum as u64 & (u64::MAX >> (64 - bits)));
        carry = sum >> bits;
    }
    words
}

/// `opcode` with the flag set or not before it, and the flag after it.
fn product_chain(opcode: &str, name: &str) -> Form {
    let kind = Kind::of(name);
    let (with_carry, sets) = (opcode.starts_with("madc"), opcode.ends_with(".cc"));
    let ones = if kind.bits() == 64 { "%d1, -1" } else { "%t1, -1" };
    let register = &ones[..3];
    let read = if sets { format!("addc.{name} %o1, 0, 0;") } else { "mov.b32 %t2, 0;".into() };
    // -1 + %i3 sets the flag unless %i3 is 0.
    let text = format!(
        "mov.{} {ones};\nadd.cc.{name} {register}, {register}, %i3;\n{opcode}.{name} %o0, %i0, %i1, %i2;\n{read}",
        kind.register()
    );
    let outputs = if sets { format!("{name} {name}") } else { name.into() };
    let probe = Probe::new(&text, &[name; 4].join(" "), &outputs);
    let mut cases = cases(&[kind; 4], 5);
    cases.iter_mut().for_each(|case| case[3] &= 1);
    let is_high = opcode.contains(".hi");
    body(&format!("{opcode}.{name}"), probe, cases, move |_, x| {
        let (a, b) = (kind.integer(x[0]), kind.integer(x[1]));
        let product = if is_high { high(kind, a, b) } else { a.wrapping_mul(b) };
        let carry = u128::from(with_carry && x[3] != 0);
        let sum = u128::from(product as u64 & kind.mask()) + u128::from(x[2]) + carry;
        let mut outputs = vec![sum as u64 & kind.mask()];
        outputs.extend(sets.then_some((sum >> kind.bits()) as u64));
        outputs
    })
}

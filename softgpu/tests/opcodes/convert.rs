//! cvt and cvt.pack: integers, floating point, and between them.

use crate::exact::{Format, Round, SINGLE, TENSOR, Value};
use crate::harness::{Elementwise, Form, Probe, body, cases, check, form, op2, op3};
use crate::numbers::{Kind, Want};

#[test]
fn follows_the_manual() {
    check(forms());
}

pub fn forms() -> Vec<Form> {
    let tables = [integers(), wider(), to_float(), to_integer(), between(), pairs(), packed()];
    tables.into_iter().flatten().collect()
}

const INTEGERS: [&str; 8] = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"];

/// The result in the register: sign-extended for signed kinds.
fn register(kind: Kind, value: i128) -> u64 {
    kind.integer(value as u64) as u64 & kind.mask()
}

/// Without .sat the upper bits are lost.
fn integers() -> Vec<Form> {
    let mut forms = vec![];
    for (to, from) in INTEGERS.iter().flat_map(|to| INTEGERS.iter().map(move |from| (to, from))) {
        let (d, a) = (Kind::of(to), Kind::of(from));
        if to == from {
            continue;
        }
        let cut = move |x: &[u64]| Want::bits(register(d, a.integer(x[0])));
        forms.push(form(&format!("cvt.{to}.{from}"), d, &[a], cut));
        let (low, high) = d.range();
        if low > a.range().0 || high < a.range().1 {
            let clamp = move |x: &[u64]| Want::bits(register(d, a.integer(x[0]).clamp(low, high)));
            forms.push(form(&format!("cvt.sat.{to}.{from}"), d, &[a], clamp));
        }
    }
    forms
}

/// Registers wider than the type: the source's low bits count, the result is extended to the whole register.
fn wider() -> Vec<Form> {
    let mut forms = vec![];
    for (to, from) in [("s32", "s8"), ("u32", "u8"), ("s32", "s16"), ("u32", "u16"), ("s64", "s8"), ("s64", "s16")] {
        let (d, a) = (Kind::of(to), Kind::of(from));
        let cut = move |x: &[u64]| Want::bits(register(d, a.integer(x[0])));
        forms.push(form(&format!("cvt.{to}.{from}"), d, &[Kind::U32], cut));
    }
    for (to, from) in [("s8", "s32"), ("u8", "s32"), ("s8", "u32"), ("u8", "u32"), ("s16", "s32"), ("u16", "u32")] {
        let d = Kind::of(to);
        let extended = move |x: &[u64]| Want::bits(d.integer(x[0]) as u64 & 0xffff_ffff);
        forms.push(form(&format!("cvt.{to}.{from}"), Kind::U32, &[Kind::U32], extended));
    }
    forms
}

const DIRECTIONS: [(&str, Round); 4] =
    [("rn", Round::Nearest), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)];

fn target(to: &str, from: &str) -> u32 {
    if to == "bf16" || from == "bf16" { 90 } else { 80 }
}

/// A form that may need sm_90.
fn convert(opcode: &str, target: u32, to: Kind, from: Kind, model: impl Fn(u64) -> Want + 'static) -> Form {
    Elementwise {
        opcode: opcode.into(),
        operands: "%o0, %i0".into(),
        output: to,
        inputs: vec![from],
        target,
        model: Box::new(move |x| model(x[0])),
    }
    .form()
}

fn to_float() -> Vec<Form> {
    let mut forms = vec![];
    for (to, from) in ["f32", "f64", "f16", "bf16"].iter().flat_map(|to| INTEGERS.iter().map(move |from| (*to, *from)))
    {
        let (d, a) = (Kind::of(to), Kind::of(from));
        let format = d.format().unwrap();
        if to == "bf16" && a.bits() == 8 {
            continue;
        }
        for (name, round) in DIRECTIONS {
            let model = move |bits| Want::bits(format.round(&Value::integer(a.integer(bits)), round));
            forms.push(convert(&format!("cvt.{name}.{to}.{from}"), target(to, from), d, a, model));
        }
    }
    forms
}

/// Clamped to the range. A NaN is 0, or the highest bit if 64-bit types take part.
fn to_integer() -> Vec<Form> {
    let mut forms = vec![];
    let froms = ["f32", "ftz.f32", "f64", "f16", "bf16"];
    for (to, from) in INTEGERS.iter().flat_map(|to| froms.iter().map(move |from| (*to, *from))) {
        let (ftz, bare) = (from.starts_with("ftz."), from.trim_start_matches("ftz."));
        let (d, a) = (Kind::of(to), Kind::of(bare));
        if from == "bf16" && d.bits() == 8 {
            continue;
        }
        for (name, round) in DIRECTIONS {
            let modifier = if ftz { ".ftz" } else { "" };
            let opcode = format!("cvt.{name}i{modifier}.{to}.{bare}");
            forms.push(convert(&opcode, target(to, bare), d, a, move |bits| whole(d, a, ftz, round, bits)));
        }
    }
    forms
}

fn whole(d: Kind, a: Kind, ftz: bool, round: Round, bits: u64) -> Want {
    let format = a.format().unwrap();
    let bits = if ftz { format.flush(bits) } else { bits };
    let (low, high) = d.range();
    match format.value(bits).whole(round).clamped(low, high) {
        Some(value) => Want::bits(register(d, value)),
        // The manual's rule for narrow results of doubles is not what one would expect: left open.
        None if a == Kind::F64 && d.bits() < 32 => Want::any(),
        None if a == Kind::F64 || d.bits() == 64 => Want::bits(1 << (d.bits() - 1)),
        None => Want::bits(0),
    }
}

/// Floating point to floating point.
struct Rule {
    from: Format,
    to: Format,
    round: Round,
    ftz: bool,
    sat: bool,
    relu: bool,
    integral: bool,
}

impl Rule {
    fn of(opcode: &str, to: Format, from: Format) -> Self {
        let has = |word: &str| opcode.split('.').any(|part| part == word);
        let integral = DIRECTIONS.iter().any(|(name, _)| has(&format!("{name}i")));
        let direction = DIRECTIONS.iter().find(|(name, _)| has(name) || has(&format!("{name}i")));
        let round = direction.map_or(Round::Nearest, |(_, round)| *round);
        let round = if has("rna") { Round::Away } else { round };
        Self { from, to, round, ftz: has("ftz"), sat: has("sat"), relu: has("relu"), integral }
    }

    /// .ftz acts on f32 operands and results alone.
    fn flush(&self, format: Format, bits: u64) -> u64 {
        if self.ftz && format == SINGLE { format.flush(bits) } else { bits }
    }

    fn apply(&self, bits: u64) -> Want {
        let mut value = self.from.value(self.flush(self.from, bits));
        if self.integral {
            value = value.whole(self.round);
        }
        let rounded = self.to.round(&value, self.round);
        let flushed = self.flush(self.to, rounded);
        let tiny = self.to.is_subnormal(self.to.round(&value, Round::Zero));
        if self.ftz && self.to == SINGLE && tiny && !self.to.is_subnormal(rounded) {
            return Want::either(Want::bits(rounded), Want::bits(rounded & self.to.sign_bit()));
        }
        self.clamp(flushed)
    }

    fn clamp(&self, bits: u64) -> Want {
        let nan = self.to.is_nan(bits);
        let low = self.to.is_negative(bits) || self.to.is_zero(bits);
        if !nan && low && (self.sat || self.relu) {
            let zero = if self.to.is_zero(bits) { bits } else { 0 };
            return Want::either(Want::bits(0), Want::bits(zero));
        }
        match (self.sat, self.relu) {
            (true, _) => Want::bits(if nan { 0 } else { bits.min(self.to.one()) }),
            (_, true) if nan => Want::bits(self.to.canonical_nan()),
            _ => Want::float(self.to, bits),
        }
    }
}

/// Destination, source and modifiers before them.
const BETWEEN: [(u32, &str); 3] = [
    (
        80,
        "cvt.f64.f32 cvt.ftz.f64.f32 cvt.f32.f16 cvt.ftz.f32.f16 cvt.f64.f16 cvt.ftz.f32.f32 cvt.sat.f32.f32 \
         cvt.ftz.sat.f32.f32 cvt.sat.f64.f64 cvt.rn.f32.f64 cvt.rz.f32.f64 cvt.rm.f32.f64 cvt.rp.f32.f64 \
         cvt.rn.ftz.f32.f64 cvt.rz.ftz.f32.f64 cvt.rn.sat.f32.f64 cvt.rn.f16.f32 cvt.rz.f16.f32 cvt.rm.f16.f32 \
         cvt.rp.f16.f32 cvt.rn.ftz.f16.f32 cvt.rn.sat.f16.f32 cvt.rn.f16.f64 cvt.rz.f16.f64 cvt.rn.relu.f16.f32 \
         cvt.rn.bf16.f32 cvt.rz.bf16.f32 cvt.rn.relu.bf16.f32 cvt.rz.relu.bf16.f32 cvt.sat.f32.f16",
    ),
    (
        80,
        "cvt.rni.f32.f32 cvt.rzi.f32.f32 cvt.rmi.f32.f32 cvt.rpi.f32.f32 cvt.rni.ftz.f32.f32 cvt.rzi.ftz.f32.f32 \
         cvt.rmi.ftz.f32.f32 cvt.rpi.ftz.f32.f32 cvt.rni.f64.f64 cvt.rzi.f64.f64 cvt.rmi.f64.f64 cvt.rpi.f64.f64 \
         cvt.rni.f16.f16 cvt.rzi.f16.f16 cvt.rmi.f16.f16 cvt.rpi.f16.f16",
    ),
    (
        90,
        "cvt.f32.bf16 cvt.f64.bf16 cvt.rn.bf16.f64 cvt.rn.bf16.f16 cvt.rm.bf16.f32 cvt.rp.bf16.f32 cvt.rn.f16.bf16 \
         cvt.rni.bf16.bf16 cvt.rzi.bf16.bf16 cvt.rmi.bf16.bf16 cvt.rpi.bf16.bf16",
    ),
];

fn between() -> Vec<Form> {
    let mut forms = vec![];
    for (target, opcodes) in BETWEEN {
        for opcode in opcodes.split_whitespace() {
            let words: Vec<&str> = opcode.rsplit('.').collect();
            let (to, from) = (Kind::of(words[1]), Kind::of(words[0]));
            let rule = Rule::of(opcode, to.format().unwrap(), from.format().unwrap());
            forms.push(convert(opcode, target, to, from, move |bits| rule.apply(bits)));
        }
    }
    for (opcode, target) in [("cvt.rna.tf32.f32", 80), ("cvt.rn.tf32.f32", 90), ("cvt.rz.tf32.f32", 90)] {
        let rule = Rule::of(opcode, TENSOR, SINGLE);
        forms.push(convert(opcode, target, Kind::U32, Kind::F32, move |bits| upper(rule.apply(bits))));
    }
    forms
}

/// tf32 lies in the upper 19 bits; what the others hold is not said.
fn upper(want: Want) -> Want {
    Want::new(format!("{} << 13", want.text), move |bits| (want.accepts)(bits >> 13))
}

/// The first operand goes to the upper half.
fn pairs() -> Vec<Form> {
    let mut forms = vec![];
    for to in ["f16x2", "bf16x2"] {
        for modifier in ["rn", "rz", "rn.relu", "rz.relu"] {
            let opcode = format!("cvt.{modifier}.{to}.f32");
            let kind = Kind::of(to);
            let rule = Rule::of(&opcode, kind.format().unwrap(), SINGLE);
            let model = move |x: &[u64]| Want::halves(rule.apply(x[1]), rule.apply(x[0]));
            forms.push(form(&opcode, kind, &[Kind::F32, Kind::F32], model));
        }
    }
    forms
}

/// cvt.pack clamps a and b; a lies above b, and what is left of c above both.
fn packed() -> Vec<Form> {
    let mut forms = vec![
        op2("cvt.pack.sat.u16.s32", |a: i32, b: i32| (a.clamp(0, 65535) as u32) << 16 | b.clamp(0, 65535) as u32),
        op2("cvt.pack.sat.s16.s32", |a: i32, b: i32| {
            let short = |x: i32| x.clamp(-32768, 32767) as u32 & 0xffff;
            short(a) << 16 | short(b)
        }),
    ];
    for (name, low, high) in [("u8", 0, 255), ("s8", -128, 127)] {
        let byte = move |x: i32| x.clamp(low, high) as u32 & 0xff;
        let model = move |a: i32, b: i32, c: u32| c << 16 | byte(a) << 8 | byte(b);
        forms.push(op3(&format!("cvt.pack.sat.{name}.s32.b32"), model));
    }
    forms.push(vector());
    forms
}

/// The conversion as kernels write bf16 pairs, unpack and widen them: a round trip through mov.
fn vector() -> Form {
    let text = "cvt.rn.bf16x2.f32 %t1, %i0, %i1;\nmov.b32 {%h0, %h1}, %t1;\n\
        mov.b16 %h2, 0;\nmov.b32 %o0, {%h2, %h0};\nmov.b32 %o1, {%h2, %h1};";
    let probe = Probe::new(text, "f32 f32", "f32 f32");
    let mut cases = cases(&[Kind::F32; 2], 9);
    cases.retain(|case| case.iter().all(|&bits| !SINGLE.is_nan(bits)));
    body("cvt.rn.bf16x2.f32", probe, cases, |_, x| {
        let short = |bits: u64| crate::exact::BRAIN.round(&SINGLE.value(bits), Round::Nearest) << 16;
        vec![short(x[1]), short(x[0])]
    })
}

//! Single and double precision: rounded exactly, or approximate within the manual's bounds.

use crate::exact::{Format, Round, SINGLE, Value};
use crate::harness::{Elementwise, Form, check, form};
use crate::numbers::{Kind, Want};

#[test]
fn follows_the_manual() {
    check(forms());
}

pub fn forms() -> Vec<Form> {
    let rounded = ROUNDED.iter().flat_map(|names| names.split_whitespace()).map(arithmetic);
    let extremes = EXTREMES.split_whitespace().map(extreme);
    rounded.chain(extremes).chain(signs()).chain(tests()).chain(approximate()).chain(approximate_double()).collect()
}

const ROUNDED: [&str; 8] = [
    "add.f32 add.rn.f32 add.rz.f32 add.rm.f32 add.rp.f32 add.ftz.f32 add.rn.ftz.f32 add.rz.ftz.f32 add.sat.f32 \
     add.ftz.sat.f32 add.rn.ftz.sat.f32 add.f64 add.rn.f64 add.rz.f64 add.rm.f64 add.rp.f64",
    "sub.f32 sub.rn.f32 sub.rz.f32 sub.rm.f32 sub.rp.f32 sub.ftz.f32 sub.rn.ftz.f32 sub.rz.ftz.f32 sub.sat.f32 \
     sub.ftz.sat.f32 sub.f64 sub.rn.f64 sub.rz.f64 sub.rm.f64 sub.rp.f64",
    "mul.f32 mul.rn.f32 mul.rz.f32 mul.rm.f32 mul.rp.f32 mul.ftz.f32 mul.rn.ftz.f32 mul.rp.ftz.f32 mul.sat.f32 \
     mul.ftz.sat.f32 mul.f64 mul.rn.f64 mul.rz.f64 mul.rm.f64 mul.rp.f64",
    "fma.rn.f32 fma.rz.f32 fma.rm.f32 fma.rp.f32 fma.rn.ftz.f32 fma.rz.ftz.f32 fma.rm.ftz.f32 fma.rp.ftz.f32 \
     fma.rn.sat.f32 fma.rn.ftz.sat.f32 fma.rn.f64 fma.rz.f64 fma.rm.f64 fma.rp.f64 mad.rn.f32 mad.rn.ftz.f32 mad.rn.f64",
    "div.rn.f32 div.rz.f32 div.rm.f32 div.rp.f32 div.rn.ftz.f32 div.rz.ftz.f32 div.rn.f64 div.rz.f64 div.rm.f64 \
     div.rp.f64",
    "rcp.rn.f32 rcp.rz.f32 rcp.rm.f32 rcp.rp.f32 rcp.rn.ftz.f32 rcp.rn.f64 rcp.rz.f64 rcp.rm.f64 rcp.rp.f64",
    "sqrt.rn.f32 sqrt.rz.f32 sqrt.rm.f32 sqrt.rp.f32 sqrt.rn.ftz.f32 sqrt.rn.f64 sqrt.rz.f64 sqrt.rm.f64 sqrt.rp.f64",
    "neg.f32 neg.ftz.f32 neg.f64 abs.f32 abs.ftz.f32 abs.f64",
];

const EXTREMES: &str = "min.f32 min.ftz.f32 min.NaN.f32 min.ftz.NaN.f32 min.f64 max.f32 max.ftz.f32 max.NaN.f32 \
    max.ftz.NaN.f32 max.f64 min.xorsign.abs.f32 max.xorsign.abs.f32";

/// The parts of an opcode like fma.rn.ftz.relu.bf16x2.
pub struct Parts {
    pub base: String,
    pub round: Round,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
    pub nan: bool,
    pub xorsign: bool,
    pub kind: Kind,
    pub format: Format,
}

pub fn parts(opcode: &str) -> Parts {
    let words: Vec<&str> = opcode.split('.').collect();
    let has = |word: &str| words.contains(&word);
    let kind = Kind::of(words[words.len() - 1]);
    let round = [("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)];
    let round = round.into_iter().find(|(word, _)| has(word)).map_or(Round::Nearest, |(_, round)| round);
    Parts {
        base: words[0].into(),
        round,
        ftz: has("ftz"),
        sat: has("sat"),
        relu: has("relu"),
        nan: has("NaN"),
        xorsign: has("xorsign"),
        kind,
        format: kind.format().expect("a floating-point kind"),
    }
}

impl Parts {
    /// Both halves of a packed register, or the one value.
    pub fn each(&self, inputs: &[u64], one: impl Fn(&[u64]) -> Want) -> Want {
        if !self.kind.packed() {
            return one(inputs);
        }
        let half = |shift: u32| one(&inputs.iter().map(|x| x >> shift & 0xffff).collect::<Vec<_>>());
        Want::halves(half(0), half(16))
    }

    fn flush(&self, bits: u64) -> u64 {
        if self.ftz { self.format.flush(bits) } else { bits }
    }

    /// The result, rounded, flushed and clamped.
    fn finish(&self, value: &Value) -> Want {
        let bits = self.format.round(value, self.round);
        let tiny = self.format.is_subnormal(self.format.round(value, Round::Zero));
        let flushed = self.clamp(self.flush(bits));
        // Rounding up to the smallest normal number: before or after the flush is not said.
        if self.ftz && tiny && !self.format.is_subnormal(bits) {
            return Want::either(self.clamp(bits), self.clamp(bits & self.format.sign_bit()));
        }
        flushed
    }

    /// .sat: to 0..1, NaN becomes 0. .relu: negative becomes 0, NaN canonical. A zero's sign is then open.
    fn clamp(&self, bits: u64) -> Want {
        let format = self.format;
        let nan = format.is_nan(bits);
        if (self.sat || self.relu) && !nan && (format.is_negative(bits) || format.is_zero(bits)) {
            let zero = if format.is_zero(bits) { bits } else { 0 };
            return Want::either(Want::bits(0), Want::bits(zero));
        }
        match (self.sat, self.relu) {
            (true, _) if nan => Want::bits(0),
            (true, _) => Want::bits(bits.min(format.one())),
            (_, true) if nan => Want::bits(format.canonical_nan()),
            _ => Want::float(format, bits),
        }
    }
}

/// A form that is rounded once from the exact result; bf16 sums and products need sm_90.
pub fn arithmetic(opcode: &str) -> Form {
    arithmetic_on(80, opcode)
}

pub fn arithmetic_on(target: u32, opcode: &str) -> Form {
    let parts = parts(opcode);
    let sources = match parts.base.as_str() {
        "fma" | "mad" => 3,
        "add" | "sub" | "mul" | "div" => 2,
        _ => 1,
    };
    let model = move |inputs: &[u64]| parts.each(inputs, |x| compute(&parts, x));
    on_target(target, opcode, sources, model)
}

fn on_target(target: u32, opcode: &str, sources: usize, model: impl Fn(&[u64]) -> Want + 'static) -> Form {
    let kind = parts(opcode).kind;
    let operands = ["%o0", "%o0, %i0", "%o0, %i0, %i1", "%o0, %i0, %i1, %i2"][sources];
    Elementwise {
        opcode: opcode.into(),
        operands: operands.into(),
        output: kind,
        inputs: vec![kind; sources],
        target,
        model: Box::new(model),
    }
    .form()
}

fn compute(parts: &Parts, inputs: &[u64]) -> Want {
    let format = parts.format;
    let bits: Vec<u64> = inputs.iter().map(|&x| parts.flush(x)).collect();
    let x: Vec<Value> = bits.iter().map(|&bits| format.value(bits)).collect();
    match parts.base.as_str() {
        "neg" => return Want::float(format, bits[0] ^ format.sign_bit()),
        "abs" => return Want::float(format, bits[0] & !format.sign_bit()),
        _ => {}
    }
    parts.finish(&match parts.base.as_str() {
        "add" => x[0].add(&x[1], parts.round),
        "sub" => x[0].add(&x[1].negate(), parts.round),
        "mul" => x[0].mul(&x[1]),
        "fma" | "mad" => x[0].mul(&x[1]).add(&x[2], parts.round),
        "div" => x[0].div(&x[1]),
        "rcp" => format.value(format.one()).div(&x[0]),
        "sqrt" => x[0].sqrt(),
        base => panic!("no model of {base}"),
    })
}

/// min and max: -0 is less than +0, and a NaN loses unless .NaN is written.
pub fn extreme(opcode: &str) -> Form {
    let parts = parts(opcode);
    let target = if parts.xorsign { 86 } else { 80 };
    let model = move |inputs: &[u64]| parts.each(inputs, |x| choose(&parts, x[0], x[1]));
    on_target(target, opcode, 2, model)
}

fn choose(parts: &Parts, a: u64, b: u64) -> Want {
    let format = parts.format;
    let sign = (a ^ b) & format.sign_bit();
    let [a, b] = [a, b].map(|x| parts.flush(if parts.xorsign { x & !format.sign_bit() } else { x }));
    if parts.nan && (format.is_nan(a) || format.is_nan(b)) {
        return Want::bits(format.canonical_nan());
    }
    // Negative values run downwards from -0 = -1.
    let order = |x: u64| {
        let magnitude = (x & !format.sign_bit()) as i128;
        if format.is_negative(x) { -1 - magnitude } else { magnitude }
    };
    let first = if parts.base == "min" { order(a) < order(b) } else { order(a) > order(b) };
    let chosen = match (format.is_nan(a), format.is_nan(b)) {
        (true, false) => b,
        (false, true) => a,
        _ => [b, a][usize::from(first)],
    };
    if parts.xorsign && !format.is_nan(chosen) { Want::bits(chosen | sign) } else { Want::float(format, chosen) }
}

/// d has the sign of a and the rest of b.
fn signs() -> Vec<Form> {
    let copy = |name: &str| {
        let kind = Kind::of(name);
        let sign = kind.format().unwrap().sign_bit();
        let model = move |x: &[u64]| Want::bits((x[0] & sign) | (x[1] & !sign));
        form(&format!("copysign.{name}"), kind, &[kind, kind], model)
    };
    ["f32", "f64"].map(copy).into()
}

/// Zeros count as normal.
fn tests() -> Vec<Form> {
    let mut forms = vec![];
    for name in ["f32", "f64"] {
        let kind = Kind::of(name);
        let format = kind.format().unwrap();
        for test in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
            let model = move |x: &[u64]| {
                let (nan, infinite, subnormal) =
                    (format.is_nan(x[0]), format.is_infinite(x[0]), format.is_subnormal(x[0]));
                Want::bits(u64::from(match test {
                    "finite" => !nan && !infinite,
                    "infinite" => infinite,
                    "number" => !nan,
                    "notanumber" => nan,
                    "normal" => !nan && !infinite && !subnormal,
                    _ => subnormal,
                }))
            };
            forms.push(form(&format!("testp.{test}.{name}"), Kind::Pred, &[kind], model));
        }
    }
    forms
}

/// The value of some bits; every format here fits a double.
pub fn to_double(format: Format, bits: u64) -> f64 {
    f64::from_bits(crate::exact::DOUBLE.round(&format.value(bits), Round::Nearest))
}

/// The distance between two values of the format near x.
pub fn place(format: Format, x: f64) -> f64 {
    let bias = (1 << (format.exponent_bits - 1)) - 1;
    let exponent = (x.abs().log2().floor() as i32).max(1 - bias);
    2f64.powi(exponent - format.mantissa_bits as i32)
}

/// Within the tolerance of the exact result; NaN, infinities and zeros as they are.
pub fn near(format: Format, ftz: bool, exact: f64, tolerance: f64) -> Want {
    let least = to_double(format, format.smallest_normal());
    let most = to_double(format, format.largest());
    let text = format!("{exact:e} ± {tolerance:e}");
    Want::new(text, move |bits| {
        let got = to_double(format, bits);
        let same_sign = got.is_sign_negative() == exact.is_sign_negative();
        if exact.is_nan() || exact.is_infinite() || exact == 0.0 {
            return got.is_nan() && exact.is_nan() || got == exact && same_sign;
        }
        if got.is_infinite() || (ftz && got == 0.0) {
            let far = if got.is_infinite() { exact.abs() + tolerance > most } else { exact.abs() - tolerance < least };
            return same_sign && far;
        }
        (got - exact).abs() <= tolerance && !(ftz && format.is_subnormal(bits))
    })
}

/// How far an approximation may be off.
#[derive(Clone, Copy)]
pub enum Bound {
    /// Units in the last place, beyond the rounding of the exact value.
    Places(f64),
    Relative(f64),
    Absolute(f64),
    /// lg2: absolute between 0.5 and 2, relative elsewhere.
    Logarithm,
    /// sin and cos: two ranges of the argument.
    Wave,
}

impl Bound {
    pub fn tolerance(self, format: Format, x: f64, exact: f64) -> Option<f64> {
        use std::f64::consts::PI;
        Some(match self {
            Self::Places(places) => (places + 0.5) * place(format, exact),
            // A subnormal result cannot be that near.
            Self::Relative(log) => (exact.abs() * log.exp2()).max(place(format, 0.0)),
            Self::Absolute(log) => log.exp2(),
            Self::Logarithm if x > 0.5 && x < 2.0 => (-22f64).exp2(),
            Self::Logarithm => exact.abs() * (-22f64).exp2(),
            Self::Wave if x.abs() <= 2.0 * PI => (-20.5f64).exp2(),
            Self::Wave if x.abs() <= 100.0 * PI => (-14.7f64).exp2(),
            Self::Wave if x.is_finite() => return None,
            Self::Wave => 0.0,
        })
    }
}

/// A function of one operand, in any format.
pub fn approximation(opcode: &str, target: u32, function: Function, bound: Bound) -> Form {
    let parts = parts(opcode);
    let model = move |inputs: &[u64]| parts.each(inputs, |x| approximate_one(&parts, x[0], function, bound));
    on_target(target, opcode, 1, model)
}

fn approximate_one(parts: &Parts, bits: u64, function: Function, bound: Bound) -> Want {
    let x = to_double(parts.format, parts.flush(bits));
    let exact = function(x);
    match bound.tolerance(parts.format, x, exact) {
        Some(tolerance) => near(parts.format, parts.ftz, exact, tolerance),
        None => Want::any(),
    }
}

type Function = fn(f64) -> f64;

fn approximate() -> Vec<Form> {
    let table: [(&str, Function, Bound); 7] = [
        ("ex2", f64::exp2, Bound::Places(2.0)),
        ("lg2", log2, Bound::Logarithm),
        ("rcp", f64::recip, Bound::Places(1.0)),
        ("rsqrt", rsqrt, Bound::Relative(-22.9)),
        ("sqrt", f64::sqrt, Bound::Relative(-23.0)),
        ("sin", f64::sin, Bound::Wave),
        ("cos", f64::cos, Bound::Wave),
    ];
    let mut forms = vec![approximation("tanh.approx.f32", 80, f64::tanh, Bound::Relative(-11.0))];
    for (name, function, bound) in table {
        forms.push(approximation(&format!("{name}.approx.f32"), 80, function, bound));
        forms.push(approximation(&format!("{name}.approx.ftz.f32"), 80, function, bound));
    }
    for opcode in ["div.approx.f32", "div.approx.ftz.f32", "div.full.f32", "div.full.ftz.f32"] {
        forms.push(quotient(opcode));
    }
    forms
}

fn log2(x: f64) -> f64 {
    if x == 0.0 { f64::NEG_INFINITY } else { x.log2() }
}

fn rsqrt(x: f64) -> f64 {
    if x == 0.0 { x.recip() } else { x.sqrt().recip() }
}

/// Two places; div.approx multiplies by 1/b, which is promised only for 2^-126 <= |b| <= 2^126.
fn quotient(opcode: &str) -> Form {
    let (rule, full) = (parts(opcode), opcode.contains("full"));
    on_target(80, opcode, 2, move |x: &[u64]| {
        let [a, b] = [x[0], x[1]].map(|bits| to_double(SINGLE, rule.flush(bits)));
        let exact = a / b;
        let two = near(SINGLE, rule.ftz, exact, 2.5 * place(SINGLE, exact));
        if full || b == 0.0 || b.is_infinite() || b.is_nan() {
            return two;
        }
        match b.abs() {
            size if size < (-126f64).exp2() => Want::any(),
            size if size <= 126f64.exp2() => two,
            _ if a.is_nan() || a.is_infinite() => Want::float(SINGLE, SINGLE.canonical_nan()),
            _ => Want::either(two, Want::bits(SINGLE.sign_bit() * u64::from((a < 0.0) != (b < 0.0)))),
        }
    })
}

/// Only the upper half of the operand is read and of the result written, but by rsqrt.approx.f64.
fn approximate_double() -> Vec<Form> {
    let upper = |opcode: &str, function: Function| {
        let rule = parts(opcode);
        on_target(80, opcode, 1, move |x: &[u64]| {
            let a = f64::from_bits(rule.flush(x[0] & !0xffff_ffff));
            let whole = f64::from_bits(rule.flush(x[0]));
            let exact = function(a);
            // A NaN whose upper half is an infinity.
            if whole.is_nan() && !a.is_nan() {
                return Want::any();
            }
            if exact.is_nan() {
                return Want::float(rule.format, rule.format.canonical_nan());
            }
            let tolerance = exact.abs() * (-20f64).exp2();
            let near = near(rule.format, true, exact, tolerance);
            Want::new(near.text, move |bits| bits & 0xffff_ffff == 0 && (near.accepts)(bits))
        })
    };
    let whole = approximation("rsqrt.approx.f64", 80, rsqrt, Bound::Relative(-22.0));
    vec![upper("rcp.approx.ftz.f64", f64::recip), upper("rsqrt.approx.ftz.f64", rsqrt), whole]
}

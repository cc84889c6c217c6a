//! Single and double precision. PTX ISA, section "Floating-Point Instructions".

use super::frame::Frame;
use super::opcode::{Opcode, Rounding, Type};
use super::round::{NAN32, canonical, directed, flush, missing, saturate, to_f32, two_sum};
use super::{Lowered, Refusal};
use crate::machine::{Action, Class};
use crate::ptx::Operand;

/// What every single-precision instruction may ask for.
#[derive(Clone, Copy)]
struct Style {
    rounding: Rounding,
    ftz: bool,
    sat: bool,
}

impl Style {
    fn plain(self) -> bool {
        self.rounding == Rounding::Nearest && !self.ftz && !self.sat
    }

    #[inline(always)]
    fn input(self, x: f32) -> f32 {
        if self.ftz { flush(x) } else { x }
    }

    #[inline(always)]
    fn output(self, x: f32) -> f32 {
        let x = if self.ftz { flush(x) } else { x };
        if self.sat { saturate(x) } else { canonical(x) }
    }
}

pub fn lower(frame: &mut Frame, mut op: Opcode, operands: &[Operand]) -> Result<Lowered, Refusal> {
    let style = Style { rounding: op.rounding(), ftz: op.take("ftz"), sat: op.take("sat") };
    let approx = op.take("approx");
    op.take("full");
    let special =
        matches!(op.head, "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh") || op.head == "div";
    let flops = match op.head {
        "fma" | "mad" => 2,
        "add" | "sub" | "mul" | "div" | "min" | "max" => 1,
        _ => 0,
    };
    let action = match op.head {
        "testp" => testp(frame, &mut op, operands)?,
        _ => match op.ty()? {
            Type::F32 => single(frame, &mut op, operands, style, approx)?,
            Type::F64 => double(frame, &mut op, operands, style, approx)?,
            _ => return op.unsupported(),
        },
    };
    op.end()?;
    Ok(Lowered { action, class: if special { Class::Special } else { Class::Float }, flops })
}

fn single(f: &mut Frame, op: &mut Opcode, ops: &[Operand], s: Style, approx: bool) -> Result<Action, Refusal> {
    let r = s.rounding;
    match op.head {
        "add" if s.plain() => f.map2(ops, |a: f32, b: f32| canonical(a + b)),
        "sub" if s.plain() => f.map2(ops, |a: f32, b: f32| canonical(a - b)),
        "mul" if s.plain() => f.map2(ops, |a: f32, b: f32| canonical(a * b)),
        "fma" | "mad" if s.plain() => f.map3(ops, |a: f32, b: f32, c: f32| canonical(a.mul_add(b, c))),
        "add" => f.map2(ops, move |a: f32, b: f32| s.output(add(s.input(a), s.input(b), r))),
        "sub" => f.map2(ops, move |a: f32, b: f32| s.output(add(s.input(a), -s.input(b), r))),
        "mul" => f.map2(ops, move |a: f32, b: f32| {
            let (a, b) = (s.input(a), s.input(b));
            s.output(to_f32(a as f64 * b as f64, 0.0, r))
        }),
        "fma" | "mad" => {
            f.map3(ops, move |a: f32, b: f32, c: f32| s.output(fma(s.input(a), s.input(b), s.input(c), r)))
        }
        "div" if approx => f.map2(ops, move |a: f32, b: f32| s.output(quotient(s.input(a), s.input(b)))),
        "div" => f.map2(ops, move |a: f32, b: f32| s.output(divide(s.input(a), s.input(b), r))),
        "rcp" => f.map1(ops, move |a: f32| s.output(divide(1.0, s.input(a), r))),
        "sqrt" => f.map1(ops, move |a: f32| s.output(root(s.input(a), r))),
        "rsqrt" if approx => f.map1(ops, move |a: f32| s.output((1.0 / (s.input(a) as f64).sqrt()) as f32)),
        "ex2" if approx => f.map1(ops, move |a: f32| s.output((s.input(a) as f64).exp2() as f32)),
        "lg2" if approx => f.map1(ops, move |a: f32| s.output((s.input(a) as f64).log2() as f32)),
        "sin" if approx => f.map1(ops, move |a: f32| s.output((s.input(a) as f64).sin() as f32)),
        "cos" if approx => f.map1(ops, move |a: f32| s.output((s.input(a) as f64).cos() as f32)),
        "tanh" if approx => f.map1(ops, move |a: f32| s.output((s.input(a) as f64).tanh() as f32)),
        "abs" => f.map1(ops, move |a: f32| s.input(a).abs()),
        "neg" => f.map1(ops, move |a: f32| -s.input(a)),
        "copysign" => f.map2(ops, |a: f32, b: f32| b.copysign(a)),
        "min" | "max" => extremum(f, op, ops, s),
        _ => op.unsupported(),
    }
}

fn add(a: f32, b: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::Nearest {
        return a + b;
    }
    let (sum, rest) = two_sum(a as f64, b as f64);
    // An exact zero of unlike signs is -0 when rounding down.
    if rounding == Rounding::Down && sum == 0.0 && a.is_sign_negative() != b.is_sign_negative() {
        return -0.0;
    }
    to_f32(sum, rest, rounding)
}

fn fma(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    if rounding == Rounding::Nearest {
        return a.mul_add(b, c);
    }
    let product = a as f64 * b as f64; // exact
    let (sum, rest) = two_sum(product, c as f64);
    if rounding == Rounding::Down && sum == 0.0 && product.is_sign_negative() != c.is_sign_negative() {
        return -0.0;
    }
    to_f32(sum, rest, rounding)
}

fn divide(a: f32, b: f32, rounding: Rounding) -> f32 {
    let quotient = a as f64 / b as f64;
    if rounding == Rounding::Nearest || !quotient.is_finite() {
        return a / b;
    }
    // The sign of what is missing: a - q b, exact in a fused step, seen from b's side.
    let rest = (-quotient).mul_add(b as f64, a as f64);
    to_f32(quotient, rest * (b as f64).signum(), rounding)
}

/// div.approx multiplies by 1/b, which is flushed to 0 where |b| is above 2^126.
fn quotient(a: f32, b: f32) -> f32 {
    if b.is_finite() && b.abs() > 2f32.powi(126) { a * 0f32.copysign(b) } else { a / b }
}

fn root(a: f32, rounding: Rounding) -> f32 {
    let root = (a as f64).sqrt();
    if rounding == Rounding::Nearest || !root.is_finite() {
        return a.sqrt();
    }
    to_f32(root, (-root).mul_add(root, a as f64), rounding)
}

/// min and max return the number where one operand is NaN, unless .NaN asks for NaN; -0 lies below +0.
fn extremum(f: &mut Frame, op: &mut Opcode, ops: &[Operand], s: Style) -> Result<Action, Refusal> {
    let (nan, xor, abs) = (op.take("NaN"), op.take("xorsign"), op.take("abs"));
    if xor != abs || xor && ops.len() != 3 {
        return op.unsupported();
    }
    let max = op.head == "max";
    let pick = move |a: f32, b: f32| {
        let (a, b) = (s.input(a), s.input(b));
        if a.is_nan() || b.is_nan() {
            let number = if a.is_nan() { b } else { a };
            return if nan { f32::from_bits(NAN32) } else { canonical(number) };
        }
        let first_wins = if a == b { a.is_sign_positive() == max } else { (a > b) == max };
        if first_wins { a } else { b }
    };
    match ops.len() {
        4 => f.map3(ops, move |a, b, c| pick(pick(a, b), c)),
        _ if xor => f.map2(ops, move |a: f32, b: f32| {
            let chosen = pick(a.abs(), b.abs());
            if chosen.is_nan() { chosen } else { chosen.copysign(a) * 1f32.copysign(b) }
        }),
        _ => f.map2(ops, pick),
    }
}

fn double(f: &mut Frame, op: &mut Opcode, ops: &[Operand], s: Style, approx: bool) -> Result<Action, Refusal> {
    let r = s.rounding;
    let nearest = r == Rounding::Nearest;
    let nan = op.take("NaN");
    match op.head {
        "add" if nearest => f.map2(ops, |a: f64, b: f64| a + b),
        "sub" if nearest => f.map2(ops, |a: f64, b: f64| a - b),
        "mul" if nearest => f.map2(ops, |a: f64, b: f64| a * b),
        "fma" | "mad" if nearest => f.map3(ops, |a: f64, b: f64, c: f64| a.mul_add(b, c)),
        "div" if nearest => f.map2(ops, |a: f64, b: f64| a / b),
        "rcp" if approx => f.map1(ops, |a: f64| gross(a, |a| 1.0 / a)),
        "rsqrt" if approx && s.ftz => f.map1(ops, |a: f64| gross(a, |a| 1.0 / a.sqrt())),
        "rcp" if nearest => f.map1(ops, |a: f64| 1.0 / a),
        "sqrt" if nearest => f.map1(ops, |a: f64| a.sqrt()),
        "rsqrt" => f.map1(ops, |a: f64| 1.0 / a.sqrt()),
        "add" => f.map2(ops, move |a: f64, b: f64| fused(a, 1.0, b, r)),
        "sub" => f.map2(ops, move |a: f64, b: f64| fused(a, 1.0, -b, r)),
        "mul" => f.map2(ops, move |a: f64, b: f64| directed(a * b, missing(a, b, 0.0, a * b), r)),
        "fma" | "mad" => f.map3(ops, move |a: f64, b: f64, c: f64| fused(a, b, c, r)),
        "div" => f.map2(ops, move |a: f64, b: f64| ratio(a, b, r)),
        "rcp" => f.map1(ops, move |a: f64| ratio(1.0, a, r)),
        "sqrt" => f.map1(ops, move |a: f64| directed(a.sqrt(), missing(-a.sqrt(), a.sqrt(), a, 0.0), r)),
        "abs" => f.map1(ops, |a: f64| a.abs()),
        "neg" => f.map1(ops, |a: f64| -a),
        "copysign" => f.map2(ops, |a: f64, b: f64| b.copysign(a)),
        "min" if !nan => f.map2(ops, |a: f64, b: f64| if a == b && a.is_sign_negative() { a } else { b.min(a) }),
        "max" if !nan => f.map2(ops, |a: f64, b: f64| if a == b && a.is_sign_positive() { a } else { b.max(a) }),
        _ => op.unsupported(),
    }
}

fn fused(a: f64, b: f64, c: f64, rounding: Rounding) -> f64 {
    // Negated twice, an exact zero of unlike signs is -0, as it is when rounding down.
    let nearest = if rounding == Rounding::Down { -(-a).mul_add(b, -c) } else { a.mul_add(b, c) };
    directed(nearest, missing(a, b, c, nearest), rounding)
}

fn ratio(a: f64, b: f64, rounding: Rounding) -> f64 {
    let nearest = a / b;
    directed(nearest, missing(-nearest, b, a, 0.0) * b.signum(), rounding)
}

/// The approximations that read and write only the upper halves, and flush.
fn gross(a: f64, function: fn(f64) -> f64) -> f64 {
    let cut = |x: f64| if x.is_subnormal() { 0f64.copysign(x) } else { f64::from_bits(x.to_bits() & !0xFFFF_FFFF) };
    cut(function(if a.is_nan() { a } else { cut(a) }))
}

fn testp(f: &mut Frame, op: &mut Opcode, ops: &[Operand]) -> Result<Action, Refusal> {
    use std::num::FpCategory::*;
    let test = op.one_of(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"]);
    let passes = move |class: std::num::FpCategory| match test {
        Some("finite") => !matches!(class, Infinite | Nan),
        Some("infinite") => class == Infinite,
        Some("number") => class != Nan,
        Some("notanumber") => class == Nan,
        Some("normal") => matches!(class, Normal | Zero),
        _ => class == Subnormal,
    };
    f.expect(ops, 2..=2)?;
    match op.ty()? {
        Type::F32 => super::compare::test1(f, ops, move |a: f32| passes(a.classify())),
        Type::F64 => super::compare::test1(f, ops, move |a: f64| passes(a.classify())),
        _ => op.unsupported(),
    }
}

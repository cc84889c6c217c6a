//! Rounding that Rust's own arithmetic does not do: towards zero, down and up, and to short formats.

use super::opcode::Rounding;

/// The NaN that GPUs return.
pub const NAN32: u32 = 0x7FFF_FFFF;

pub fn canonical(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(NAN32) } else { x }
}

/// Denormals become zeros of their sign.
pub fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
}

/// Clamped to [0, 1]; NaN becomes 0.
pub fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// `x`, exact or not: `rest` is what is missing, of which only the sign matters.
pub fn to_f32(x: f64, rest: f64, rounding: Rounding) -> f32 {
    if x.is_nan() {
        return f32::from_bits(NAN32);
    }
    if x.is_infinite() {
        return x as f32;
    }
    let nearest = x as f32;
    // Where the value lies, seen from `nearest`: below 0, at 0, above 0.
    let gap = (x - nearest as f64, rest);
    let side = if gap.0 != 0.0 { gap.0 } else { gap.1 };
    match rounding {
        Rounding::Nearest => nearest_f32(x, rest),
        Rounding::Down => {
            if side < 0.0 || overflowed(nearest, x, 1.0) {
                nearest.next_down()
            } else {
                nearest
            }
        }
        Rounding::Up => {
            if side > 0.0 || overflowed(nearest, x, -1.0) {
                nearest.next_up()
            } else {
                nearest
            }
        }
        Rounding::Zero if x > 0.0 || x == 0.0 && rest > 0.0 => to_f32(x, rest, Rounding::Down),
        Rounding::Zero => to_f32(x, rest, Rounding::Up),
    }
}

/// The nearest single is an infinity that the value does not reach.
fn overflowed(nearest: f32, x: f64, sign: f64) -> bool {
    nearest.is_infinite() && x * sign > 0.0
}

/// Rounding twice errs only on ties: if `x` lies halfway between two singles, the rest decides.
fn nearest_f32(x: f64, rest: f64) -> f32 {
    let nearest = x as f32;
    if rest == 0.0 || nearest.is_infinite() && nearest as f64 == x {
        return nearest;
    }
    let up = if nearest as f64 >= x { nearest } else { nearest.next_up() };
    let down = if nearest as f64 <= x { nearest } else { nearest.next_down() };
    let halfway = up != down && x - down as f64 == up as f64 - x;
    match (halfway, rest > 0.0) {
        (false, _) => nearest,
        (true, true) => up,
        (true, false) => down,
    }
}

/// a + b as a double, and what is missing (Knuth's two-sum).
pub fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let shadow = sum - a;
    let rest = (a - (sum - shadow)) + (b - shadow);
    (sum, if sum.is_finite() { rest } else { 0.0 })
}

/// A nearest result and what it misses, of which only the sign matters, rounded otherwise.
pub fn directed(nearest: f64, rest: f64, rounding: Rounding) -> f64 {
    let down = rounding == Rounding::Down || rounding == Rounding::Zero && nearest > 0.0;
    let up = rounding == Rounding::Up || rounding == Rounding::Zero && nearest < 0.0;
    match (down && rest < 0.0, up && rest > 0.0) {
        (true, _) => nearest.next_down(),
        (_, true) => nearest.next_up(),
        _ => nearest,
    }
}

/// a b + c - r, of which only the sign is right; `r` is the nearest double to a b + c, or 0. An `r` that overflowed
/// misses the opposite infinity, one that is infinite for other reasons misses NaN: nothing.
pub fn missing(a: f64, b: f64, c: f64, r: f64) -> f64 {
    if ![a, b, c, r].iter().all(|x| x.is_finite()) {
        return a.mul_add(b, c - r);
    }
    // The product of the mantissas lies near 1, so nothing here underflows. What lies far below it still counts
    // by its sign; where c lies far above it, r is c.
    let [(a, a_power), (b, b_power), (c, c_power), (r, r_power)] = [a, b, c, r].map(mantissa);
    let scaled = |x: f64, power: i32| x * 2f64.powi((power - a_power - b_power).clamp(-500, 500));
    let product = a * b;
    sign_of_sum([product, a.mul_add(b, -product), scaled(c, c_power), -scaled(r, r_power)])
}

/// A finite value as one of ±[1, 2), or 0, times a power of two.
fn mantissa(x: f64) -> (f64, i32) {
    if x == 0.0 {
        return (x, 0);
    }
    let (normal, shift) = if x.is_subnormal() { (x * 2f64.powi(54), -54) } else { (x, 0) };
    let exponent = (normal.to_bits() >> 52 & 0x7FF) as i32 - 1023;
    let bits = normal.to_bits() & !(0x7FF << 52) | 1023 << 52;
    (f64::from_bits(bits), exponent + shift)
}

/// A number of the sign of the exact sum (Shewchuk: Adaptive Precision Floating-Point Arithmetic, grow-expansion).
fn sign_of_sum(terms: [f64; 4]) -> f64 {
    let mut parts = [0.0; 4];
    for (count, term) in terms.into_iter().enumerate() {
        let mut carry = term;
        for part in &mut parts[..count] {
            (carry, *part) = two_sum(carry, *part);
        }
        parts[count] = carry;
    }
    parts.into_iter().rev().find(|part| *part != 0.0).unwrap_or(0.0)
}

/// A finite or infinite value in a format of so many fraction bits and exponents from `least` (of the
/// smallest normal) to `most`, as sign, exponent and fraction bits put together. NaN is the caller's.
pub fn to_short(x: f64, fraction: u32, exponent_bits: u32, rounding: Rounding) -> u32 {
    let bias = (1i32 << (exponent_bits - 1)) - 1;
    let sign = (x.is_sign_negative() as u32) << (fraction + exponent_bits);
    let infinity = ((1u32 << exponent_bits) - 1) << fraction;
    let magnitude = x.abs();
    if magnitude.is_infinite() {
        return sign | infinity;
    }
    if magnitude == 0.0 {
        return sign;
    }
    let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(1 - bias);
    // Counted in units of the last place.
    let scaled = magnitude * 2f64.powi(fraction as i32 - exponent);
    let (whole, rest) = (scaled.floor(), scaled - scaled.floor());
    let away = match rounding {
        Rounding::Nearest => rest > 0.5 || rest == 0.5 && whole % 2.0 == 1.0,
        Rounding::Zero => false,
        Rounding::Down => rest > 0.0 && sign != 0,
        Rounding::Up => rest > 0.0 && sign == 0,
    };
    let units = whole as u32 + away as u32;
    let biased = (exponent + bias - 1) as u32;
    // The leading one of a normal number carries into the exponent.
    let bits = (biased << fraction) + units;
    let overflows = bits >= infinity;
    let toward_zero = match rounding {
        Rounding::Zero => true,
        Rounding::Down => sign == 0,
        Rounding::Up => sign != 0,
        Rounding::Nearest => false,
    };
    sign | if overflows { infinity - toward_zero as u32 } else { bits }
}

//! Exact arithmetic on binary floating-point values, rounded once, in any format and direction.
//!
//! A finite value is a sign, a natural number of any length and a power of two. Sums and products are exact;
//! quotients and roots carry enough bits and a sticky one. Nothing here uses the host's floating point.

use std::cmp::Ordering;

/// A natural number, least significant limb first, without leading zero limbs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Natural(Vec<u32>);

impl Natural {
    pub fn new(value: u128) -> Self {
        Self((0..4).map(|i| (value >> (32 * i)) as u32).collect()).trim()
    }

    fn trim(mut self) -> Self {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    pub fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn limb(&self, i: usize) -> u64 {
        u64::from(self.0.get(i).copied().unwrap_or(0))
    }

    pub fn bits(&self) -> u32 {
        self.0.last().map_or(0, |top| 32 * self.0.len() as u32 - top.leading_zeros())
    }

    fn bit(&self, i: u32) -> bool {
        self.limb(i as usize / 32) >> (i % 32) & 1 == 1
    }

    fn any_below(&self, i: u32) -> bool {
        (0..i.min(self.bits())).any(|k| self.bit(k))
    }

    fn shl(&self, n: u32) -> Self {
        let mut out = vec![0; n as usize / 32];
        let mut carry = 0;
        for &limb in &self.0 {
            let wide = u64::from(limb) << (n % 32) | carry;
            out.push(wide as u32);
            carry = wide >> 32;
        }
        out.push(carry as u32);
        Self(out).trim()
    }

    /// The bits from `i` up; at most 64 of them may be there.
    fn above(&self, i: u32) -> u64 {
        (i..self.bits()).rev().fold(0, |value, k| value << 1 | u64::from(self.bit(k)))
    }

    fn add(&self, other: &Self) -> Self {
        let mut carry = 0;
        let mut out = vec![];
        for i in 0..self.0.len().max(other.0.len()) + 1 {
            let sum = self.limb(i) + other.limb(i) + carry;
            out.push(sum as u32);
            carry = sum >> 32;
        }
        Self(out).trim()
    }

    /// `other` must not be larger.
    fn sub(&self, other: &Self) -> Self {
        let mut borrow = 0;
        let mut out = vec![];
        for i in 0..self.0.len() {
            let difference = (1 << 32) + self.limb(i) - other.limb(i) - borrow;
            out.push(difference as u32);
            borrow = 1 - (difference >> 32);
        }
        Self(out).trim()
    }

    fn mul(&self, other: &Self) -> Self {
        let mut out = Self(vec![]);
        for (i, &limb) in other.0.iter().enumerate() {
            let mut row = vec![0; i];
            let mut carry = 0;
            for &mine in &self.0 {
                let wide = u64::from(mine) * u64::from(limb) + carry;
                row.push(wide as u32);
                carry = wide >> 32;
            }
            row.push(carry as u32);
            out = out.add(&Self(row).trim());
        }
        out
    }

    fn compare(&self, other: &Self) -> Ordering {
        let by_length = self.0.len().cmp(&other.0.len());
        by_length.then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finite {
    pub negative: bool,
    pub magnitude: Natural,
    /// The value is ± magnitude · 2^exponent.
    pub exponent: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Nan,
    Infinite { negative: bool },
    Finite(Finite),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Nearest,
    /// Ties away from zero.
    Away,
    Zero,
    Down,
    Up,
}

impl Round {
    fn up(self, negative: bool, odd: bool, half: bool, rest: bool) -> bool {
        match self {
            Self::Nearest => half && (rest || odd),
            Self::Away => half,
            Self::Zero => false,
            Self::Down => negative && (half || rest),
            Self::Up => !negative && (half || rest),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub exponent_bits: u32,
    pub mantissa_bits: u32,
}

pub const HALF: Format = Format { exponent_bits: 5, mantissa_bits: 10 };
pub const BRAIN: Format = Format { exponent_bits: 8, mantissa_bits: 7 };
pub const TENSOR: Format = Format { exponent_bits: 8, mantissa_bits: 10 };
pub const SINGLE: Format = Format { exponent_bits: 8, mantissa_bits: 23 };
pub const DOUBLE: Format = Format { exponent_bits: 11, mantissa_bits: 52 };

impl Format {
    pub fn bits(self) -> u32 {
        1 + self.exponent_bits + self.mantissa_bits
    }

    pub fn sign_bit(self) -> u64 {
        1 << (self.bits() - 1)
    }

    pub fn infinity(self) -> u64 {
        ((1 << self.exponent_bits) - 1) << self.mantissa_bits
    }

    pub fn largest(self) -> u64 {
        self.infinity() - 1
    }

    pub fn smallest_normal(self) -> u64 {
        1 << self.mantissa_bits
    }

    pub fn one(self) -> u64 {
        ((1 << (self.exponent_bits - 1)) - 1) << self.mantissa_bits
    }

    /// All ones except for the sign, as the hardware makes it.
    pub fn canonical_nan(self) -> u64 {
        self.sign_bit() - 1
    }

    /// Exponent of the last place of subnormals.
    fn lowest(self) -> i32 {
        2 - (1 << (self.exponent_bits - 1)) - self.mantissa_bits as i32
    }

    fn magnitude(self, bits: u64) -> u64 {
        bits & (self.sign_bit() - 1)
    }

    pub fn is_nan(self, bits: u64) -> bool {
        self.magnitude(bits) > self.infinity()
    }

    pub fn is_infinite(self, bits: u64) -> bool {
        self.magnitude(bits) == self.infinity()
    }

    pub fn is_zero(self, bits: u64) -> bool {
        self.magnitude(bits) == 0
    }

    pub fn is_subnormal(self, bits: u64) -> bool {
        !self.is_zero(bits) && self.magnitude(bits) < self.smallest_normal()
    }

    pub fn is_negative(self, bits: u64) -> bool {
        bits & self.sign_bit() != 0
    }

    /// A subnormal becomes zero of the same sign.
    pub fn flush(self, bits: u64) -> u64 {
        if self.is_subnormal(bits) { bits & self.sign_bit() } else { bits }
    }

    pub fn value(self, bits: u64) -> Value {
        let negative = self.is_negative(bits);
        let field = self.magnitude(bits) >> self.mantissa_bits;
        let fraction = bits & (self.smallest_normal() - 1);
        if self.is_nan(bits) {
            return Value::Nan;
        }
        if self.is_infinite(bits) {
            return Value::Infinite { negative };
        }
        let hidden = if field == 0 { 0 } else { self.smallest_normal() };
        let exponent = self.lowest() + field.saturating_sub(1) as i32;
        Value::Finite(Finite { negative, magnitude: Natural::new((hidden | fraction).into()), exponent })
    }

    /// The bits of the value, rounded; NaN is canonical.
    pub fn round(self, value: &Value, mode: Round) -> u64 {
        let sign = |negative: bool| if negative { self.sign_bit() } else { 0 };
        match value {
            Value::Nan => self.canonical_nan(),
            Value::Infinite { negative } => sign(*negative) | self.infinity(),
            Value::Finite(finite) => sign(finite.negative) | self.round_magnitude(finite, mode),
        }
    }

    fn round_magnitude(self, finite: &Finite, mode: Round) -> u64 {
        if finite.magnitude.is_zero() {
            return 0;
        }
        let top = finite.exponent + finite.magnitude.bits() as i32 - 1;
        let place = (top - self.mantissa_bits as i32).max(self.lowest());
        if top > 1 << self.exponent_bits {
            return self.overflow(finite.negative, mode);
        }
        let bits = ((place - self.lowest()) as u64) << self.mantissa_bits;
        let bits = bits + finite.quotient(place, mode);
        if bits >= self.infinity() { self.overflow(finite.negative, mode) } else { bits }
    }

    fn overflow(self, negative: bool, mode: Round) -> u64 {
        let to_infinity = match mode {
            Round::Nearest | Round::Away => true,
            Round::Zero => false,
            Round::Down => negative,
            Round::Up => !negative,
        };
        if to_infinity { self.infinity() } else { self.largest() }
    }
}

impl Finite {
    pub fn zero(negative: bool) -> Self {
        Self { negative, magnitude: Natural::new(0), exponent: 0 }
    }

    pub fn integer(value: i128) -> Self {
        Self { negative: value < 0, magnitude: Natural::new(value.unsigned_abs()), exponent: 0 }
    }

    pub fn is_zero(&self) -> bool {
        self.magnitude.is_zero()
    }

    /// The magnitude over 2^place, rounded to a whole number that must fit 64 bits.
    pub fn quotient(&self, place: i32, mode: Round) -> u64 {
        if self.exponent >= place {
            return self.magnitude.shl((self.exponent - place) as u32).above(0);
        }
        let cut = (place - self.exponent) as u32;
        let whole = self.magnitude.above(cut);
        let (half, rest) = (self.magnitude.bit(cut - 1), self.magnitude.any_below(cut - 1));
        whole + u64::from(mode.up(self.negative, whole & 1 == 1, half, rest))
    }

    fn aligned(&self, place: i32) -> Natural {
        self.magnitude.shl((self.exponent - place) as u32)
    }

    fn sum(&self, other: &Self, mode: Round) -> Self {
        let exponent = self.exponent.min(other.exponent);
        let (a, b) = (self.aligned(exponent), other.aligned(exponent));
        if self.negative == other.negative {
            return Self { negative: self.negative, magnitude: a.add(&b), exponent };
        }
        match a.compare(&b) {
            Ordering::Equal => Self::zero(mode == Round::Down),
            Ordering::Greater => Self { negative: self.negative, magnitude: a.sub(&b), exponent },
            Ordering::Less => Self { negative: other.negative, magnitude: b.sub(&a), exponent },
        }
    }

    fn product(&self, other: &Self) -> Self {
        Self {
            negative: self.negative != other.negative,
            magnitude: self.magnitude.mul(&other.magnitude),
            exponent: self.exponent + other.exponent,
        }
    }

    /// The magnitude in exactly 60 bits, for division; it has at most 53.
    fn sixty(&self) -> (u128, i32) {
        let shift = 60 - self.magnitude.bits();
        (self.magnitude.shl(shift).above(0).into(), self.exponent - shift as i32)
    }

    /// 63 bits or more of the quotient, and a sticky bit.
    fn over(&self, other: &Self) -> Self {
        let ((a, a_exponent), (b, b_exponent)) = (self.sixty(), other.sixty());
        let (whole, rest) = ((a << 64) / b, (a << 64) % b);
        let magnitude = Natural::new(whole << 1 | u128::from(rest != 0));
        Self { negative: self.negative != other.negative, magnitude, exponent: a_exponent - b_exponent - 65 }
    }

    /// 62 bits of the root, and a sticky bit.
    fn root(&self) -> Self {
        let (mut value, mut exponent) = self.sixty();
        (value, exponent) = (value << 63, exponent - 63);
        if exponent % 2 != 0 {
            (value, exponent) = (value << 1, exponent - 1);
        }
        let whole = value.isqrt();
        let magnitude = Natural::new(whole << 1 | u128::from(whole * whole != value));
        Self { negative: false, magnitude, exponent: exponent / 2 - 1 }
    }
}

impl Value {
    pub fn integer(value: i128) -> Self {
        Self::Finite(Finite::integer(value))
    }

    pub fn negate(&self) -> Self {
        match self {
            Self::Nan => Self::Nan,
            Self::Infinite { negative } => Self::Infinite { negative: !negative },
            Self::Finite(finite) => Self::Finite(Finite { negative: !finite.negative, ..finite.clone() }),
        }
    }

    pub fn negative(&self) -> bool {
        match self {
            Self::Nan => false,
            Self::Infinite { negative } => *negative,
            Self::Finite(finite) => finite.negative,
        }
    }

    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Finite(finite) if finite.is_zero())
    }

    /// The sign of a zero depends on the direction of rounding.
    pub fn add(&self, other: &Self, mode: Round) -> Self {
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => Self::Finite(a.sum(b, mode)),
            (Self::Nan, _) | (_, Self::Nan) => Self::Nan,
            (Self::Infinite { negative: a }, Self::Infinite { negative: b }) if a != b => Self::Nan,
            (Self::Infinite { .. }, _) => self.clone(),
            _ => other.clone(),
        }
    }

    pub fn mul(&self, other: &Self) -> Self {
        let negative = self.negative() != other.negative();
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => Self::Finite(a.product(b)),
            (Self::Nan, _) | (_, Self::Nan) => Self::Nan,
            _ if self.is_zero() || other.is_zero() => Self::Nan,
            _ => Self::Infinite { negative },
        }
    }

    pub fn div(&self, other: &Self) -> Self {
        let negative = self.negative() != other.negative();
        match (self, other) {
            (Self::Nan, _) | (_, Self::Nan) => Self::Nan,
            (Self::Infinite { .. }, Self::Infinite { .. }) => Self::Nan,
            (Self::Infinite { .. }, _) => Self::Infinite { negative },
            (_, Self::Infinite { .. }) => Self::Finite(Finite::zero(negative)),
            (Self::Finite(a), Self::Finite(b)) => match (a.is_zero(), b.is_zero()) {
                (true, true) => Self::Nan,
                (true, false) => Self::Finite(Finite::zero(negative)),
                (false, true) => Self::Infinite { negative },
                (false, false) => Self::Finite(a.over(b)),
            },
        }
    }

    pub fn sqrt(&self) -> Self {
        match self {
            Self::Finite(a) if a.is_zero() => self.clone(),
            Self::Finite(a) if !a.negative => Self::Finite(a.root()),
            Self::Infinite { negative: false } => self.clone(),
            _ => Self::Nan,
        }
    }

    /// Rounded to a whole number; a zero keeps the sign.
    pub fn whole(&self, mode: Round) -> Self {
        match self {
            Self::Finite(a) if a.exponent < 0 => {
                let magnitude = Natural::new(a.quotient(0, mode).into());
                Self::Finite(Finite { negative: a.negative, magnitude, exponent: 0 })
            }
            _ => self.clone(),
        }
    }

    /// Clamped to the range; None for NaN.
    pub fn clamped(&self, low: i128, high: i128) -> Option<i128> {
        match self {
            Self::Nan => None,
            Self::Infinite { negative } => Some(if *negative { low } else { high }),
            Self::Finite(a) if a.exponent >= 0 && a.exponent + a.magnitude.bits() as i32 > 100 => {
                Some(if a.negative && !a.is_zero() { low } else { high })
            }
            Self::Finite(a) => {
                let magnitude = a.aligned(a.exponent.min(0));
                assert!(a.exponent >= 0, "a whole number");
                let value = magnitude.0.iter().rev().fold(0i128, |value, &limb| value << 32 | i128::from(limb));
                Some(if a.negative { -value } else { value }.clamp(low, high))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [Round; 4] = [Round::Nearest, Round::Zero, Round::Down, Round::Up];

    fn single(value: f32) -> Value {
        SINGLE.value(value.to_bits().into())
    }

    fn double(value: f64) -> Value {
        DOUBLE.value(value.to_bits())
    }

    /// The host rounds to nearest: equal there, and the other directions bracket it.
    #[test]
    fn agrees_with_the_host_in_single_precision() {
        let pool = [0.0, -0.0, 1.0, -1.5, 3.0, 1e-45, -1e-40, f32::MIN_POSITIVE, f32::MAX, 0.1, -7e22, f32::INFINITY];
        for (a, b) in pool.iter().flat_map(|a| pool.iter().map(move |b| (*a, *b))) {
            let (x, y) = (single(a), single(b));
            let near = |value: Value| f32::from_bits(SINGLE.round(&value, Round::Nearest) as u32);
            let same =
                |mine: f32, host: f32| assert!(mine.to_bits() == host.to_bits() || mine.is_nan() && host.is_nan());
            same(near(x.add(&y, Round::Nearest)), a + b);
            same(near(x.mul(&y)), a * b);
            same(near(x.div(&y)), a / b);
            same(near(x.sqrt()), a.sqrt());
        }
    }

    #[test]
    fn agrees_with_the_host_in_double_precision() {
        let pool = [0.0, -0.0, 1.0, -1.5, 3.0, 5e-324, -1e-310, f64::MIN_POSITIVE, f64::MAX, 0.1, -7e222, f64::NAN];
        for (a, b) in pool.iter().flat_map(|a| pool.iter().map(move |b| (*a, *b))) {
            let (x, y) = (double(a), double(b));
            let near = |value: Value| f64::from_bits(DOUBLE.round(&value, Round::Nearest));
            let same =
                |mine: f64, host: f64| assert!(mine.to_bits() == host.to_bits() || mine.is_nan() && host.is_nan());
            same(near(x.add(&y, Round::Nearest)), a + b);
            same(near(x.mul(&y).add(&x, Round::Nearest)), a.mul_add(b, a));
            same(near(x.div(&y)), a / b);
            same(near(y.sqrt()), b.sqrt());
        }
    }

    #[test]
    fn directions_differ_by_one_place() {
        let third = single(1.0).div(&single(3.0));
        let bits = MODES.map(|mode| SINGLE.round(&third, mode));
        assert_eq!(bits, [0x3eaa_aaab, 0x3eaa_aaaa, 0x3eaa_aaaa, 0x3eaa_aaab]);
        let minus = third.negate();
        assert_eq!(MODES.map(|mode| SINGLE.round(&minus, mode) as u32 & 3), [3, 2, 3, 2]);
        let huge = single(f32::MAX).add(&single(f32::MAX), Round::Zero);
        let bits = MODES.map(|mode| SINGLE.round(&huge, mode));
        assert_eq!(bits, [0x7f80_0000, 0x7f7f_ffff, 0x7f7f_ffff, 0x7f80_0000]);
    }

    #[test]
    fn rounds_to_short_formats() {
        assert_eq!(HALF.round(&single(65519.0), Round::Nearest), 0x7bff);
        assert_eq!(HALF.round(&single(65520.0), Round::Nearest), 0x7c00);
        assert_eq!(HALF.round(&single(5.96e-8), Round::Nearest), 1);
        assert_eq!(BRAIN.round(&single(1.0 + 1.0 / 256.0), Round::Nearest), 0x3f80);
        assert_eq!(BRAIN.round(&single(1.0 + 3.0 / 256.0), Round::Nearest), 0x3f82);
        assert_eq!(TENSOR.round(&single(1.0 + 0.5 / 1024.0), Round::Away), 0x1fc01);
    }

    #[test]
    fn whole_numbers() {
        for (value, expected) in [(0.5, 0), (1.5, 2), (-2.5, -2), (-0.4, 0), (7.0, 7), (3e9, 127)] {
            assert_eq!(single(value).whole(Round::Nearest).clamped(-128, 127), Some(expected));
        }
        assert_eq!(single(-1.1).whole(Round::Down).clamped(-128, 127), Some(-2));
        assert_eq!(double(-1e300).whole(Round::Zero).clamped(-5, 5), Some(-5));
    }
}

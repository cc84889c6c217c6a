//! The kinds of operands, the values that each is tried with, and what a result is compared with.

pub use crate::common::Random;
use crate::exact::{BRAIN, DOUBLE, Format, HALF, SINGLE};

/// What a register of the machine holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes live in 16-bit registers, whose upper half is not looked at.
    S8,
    U8,
    S16,
    U16,
    S32,
    U32,
    S64,
    U64,
    F16,
    Bf16,
    F32,
    F64,
    F16x2,
    Bf16x2,
    U16x2,
    S16x2,
    Pred,
}

impl Kind {
    pub fn of(name: &str) -> Self {
        match name {
            "s8" => Self::S8,
            "u8" | "b8" => Self::U8,
            "s16" => Self::S16,
            "u16" | "b16" => Self::U16,
            "s32" => Self::S32,
            "u32" | "b32" | "tf32" => Self::U32,
            "s64" => Self::S64,
            "u64" | "b64" => Self::U64,
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "f16x2" => Self::F16x2,
            "bf16x2" => Self::Bf16x2,
            "u16x2" => Self::U16x2,
            "s16x2" => Self::S16x2,
            "pred" => Self::Pred,
            _ => panic!("no kind is called {name}"),
        }
    }

    /// Several, from "s32 b64 pred".
    pub fn list(names: &str) -> Vec<Self> {
        names.split_whitespace().map(Self::of).collect()
    }

    /// The type of the register.
    pub fn register(self) -> &'static str {
        match self {
            Self::S8 | Self::U8 | Self::S16 | Self::U16 | Self::F16 | Self::Bf16 => "b16",
            Self::S64 | Self::U64 | Self::F64 => "b64",
            Self::Pred => "pred",
            _ => "b32",
        }
    }

    pub fn register_bits(self) -> u32 {
        match self.register() {
            "b16" => 16,
            "b64" => 64,
            _ => 32,
        }
    }

    pub fn mask(self) -> u64 {
        u64::MAX >> (64 - self.register_bits())
    }

    pub fn signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// Bits of the value itself.
    pub fn bits(self) -> u32 {
        if matches!(self, Self::S8 | Self::U8) { 8 } else { self.register_bits() }
    }

    pub fn format(self) -> Option<Format> {
        match self {
            Self::F16 | Self::F16x2 => Some(HALF),
            Self::Bf16 | Self::Bf16x2 => Some(BRAIN),
            Self::F32 => Some(SINGLE),
            Self::F64 => Some(DOUBLE),
            _ => None,
        }
    }

    pub fn packed(self) -> bool {
        matches!(self, Self::F16x2 | Self::Bf16x2 | Self::U16x2 | Self::S16x2)
    }

    /// The integer that these bits are.
    pub fn integer(self, bits: u64) -> i128 {
        let cut = 64 - self.bits();
        if self.signed() { i128::from((bits << cut) as i64 >> cut) } else { i128::from(bits << cut >> cut) }
    }

    /// Least and greatest value of an integer kind.
    pub fn range(self) -> (i128, i128) {
        match self.signed() {
            true => (-(1 << (self.bits() - 1)), (1 << (self.bits() - 1)) - 1),
            false => (0, (1 << self.bits()) - 1),
        }
    }

    pub fn edges(self) -> Vec<u64> {
        let values = match self {
            Self::Pred => vec![0, 1],
            Self::F16x2 | Self::Bf16x2 | Self::U16x2 | Self::S16x2 => self.pairs(),
            Self::S8 | Self::U8 => vec![0, 1, 0x7f, 0x80, 0x81, 0xff, 0xff00, 0x127f, 0x3480],
            _ => self.format().map_or_else(|| self.integer_edges(), float_edges),
        };
        values.into_iter().map(|value| value & self.mask()).collect()
    }

    fn integer_edges(self) -> Vec<u64> {
        let high = 1u64 << (self.register_bits() - 1);
        let mut values = vec![high, high - 1, high + 1, u64::MAX, u64::MAX - 1, high >> 1, 0xffff_8000];
        values.extend([0, 1, 2, 3, 7, 16, 31, 32, 33, 63, 64, 65, 100, 255, 256, 0x7fff, 0x8000, 0xffff, 0x1_0000]);
        values.extend([0x1234_5678, 0xdead_beef]);
        if self.register_bits() == 64 {
            values.extend([1 << 31, 1 << 32, 0xffff_ffff, 0x1234_5678_9abc_def0, !0 << 32]);
        }
        values
    }

    fn pairs(self) -> Vec<u64> {
        let halves = self.half().edges();
        let shifted = halves.iter().cycle().skip(5);
        halves.iter().zip(shifted).map(|(low, high)| low | high << 16).collect()
    }

    /// One half of a packed kind.
    pub fn half(self) -> Self {
        match self {
            Self::F16x2 => Self::F16,
            Self::Bf16x2 => Self::Bf16,
            Self::S16x2 => Self::S16,
            _ => Self::U16,
        }
    }

    /// Any bits, and for floating point mostly values whose sums and products are finite.
    pub fn random(self, random: &mut Random) -> u64 {
        let bits = random.next();
        let Some(format) = self.format() else { return bits & self.mask() };
        let one = |bits: u64| match bits >> 62 {
            0 => bits,
            _ => (bits & !format.infinity()) | (format.one() + ((bits >> 58 & 7) << format.mantissa_bits)),
        };
        match self.packed() {
            true => one(bits) & 0xffff | (one(random.next()) & 0xffff) << 16,
            false => one(bits) & self.mask(),
        }
    }

    /// How these bits are written in the place of a register, if they can be.
    pub fn immediate(self, bits: u64) -> Option<String> {
        match self {
            Self::F32 => Some(format!("0f{bits:08X}")),
            Self::F64 => Some(format!("0d{bits:016X}")),
            Self::S16 | Self::S32 | Self::S64 => Some(self.integer(bits).to_string()),
            Self::U16 | Self::U32 | Self::U64 => Some(format!("{bits:#x}")),
            _ => None,
        }
    }
}

fn float_edges(format: Format) -> Vec<u64> {
    let (one, place) = (format.one(), format.smallest_normal());
    let mut values = vec![0, 1, place - 1, place, place + 1, one - 1, one, one + 1, one + place, one - place];
    values.extend([one + place / 2, one + 2 * place + place / 2, format.largest(), format.infinity()]);
    values.extend([format.canonical_nan(), format.infinity() + 1, format.infinity() | (place / 2), place / 4 * 3]);
    values.extend([one + 3 * place + 1, format.largest() - place + 1]);
    let negative: Vec<u64> = values.iter().map(|value| value | format.sign_bit()).collect();
    values.extend(negative);
    values
}

/// What a result must be.
pub struct Want {
    pub text: String,
    pub accepts: Box<dyn Fn(u64) -> bool>,
}

impl Want {
    pub fn new(text: String, accepts: impl Fn(u64) -> bool + 'static) -> Self {
        Self { text, accepts: Box::new(accepts) }
    }

    pub fn bits(bits: u64) -> Self {
        Self::new(format!("{bits:#x}"), move |got| got == bits)
    }

    /// The manual leaves the result open.
    pub fn any() -> Self {
        Self::new("anything".into(), |_| true)
    }

    pub fn either(a: Self, b: Self) -> Self {
        Self::new(format!("{} or {}", a.text, b.text), move |got| (a.accepts)(got) || (b.accepts)(got))
    }

    /// These bits, or any NaN for a NaN.
    pub fn float(format: Format, bits: u64) -> Self {
        match format.is_nan(bits) {
            true => Self::new("NaN".into(), move |got| format.is_nan(got)),
            false => Self::bits(bits),
        }
    }

    /// Both halves of a packed register.
    pub fn halves(low: Self, high: Self) -> Self {
        let text = format!("{} | {} << 16", low.text, high.text);
        Self::new(text, move |got| (low.accepts)(got & 0xffff) && (high.accepts)(got >> 16 & 0xffff))
    }
}

/// A host type that stands for a kind.
pub trait Lane: Copy + 'static {
    const KIND: Kind;
    fn from_bits(bits: u64) -> Self;
}

/// A host type that a model may answer with.
pub trait Answer {
    const KIND: Kind;
    fn want(self) -> Want;
}

macro_rules! integer_lanes {
    ($($type:ty, $unsigned:ty, $register:ty, $kind:ident;)*) => {$(
        impl Lane for $type {
            const KIND: Kind = Kind::$kind;
            fn from_bits(bits: u64) -> Self {
                bits as $unsigned as $type
            }
        }

        impl Answer for $type {
            const KIND: Kind = Kind::$kind;
            fn want(self) -> Want {
                Want::bits(self as $register as u64)
            }
        }
    )*};
}

integer_lanes! {
    i8, u8, u16, S8;
    u8, u8, u16, U8;
    i16, u16, u16, S16;
    u16, u16, u16, U16;
    i32, u32, u32, S32;
    u32, u32, u32, U32;
    i64, u64, u64, S64;
    u64, u64, u64, U64;
}

impl Lane for bool {
    const KIND: Kind = Kind::Pred;
    fn from_bits(bits: u64) -> Self {
        bits != 0
    }
}

impl Answer for bool {
    const KIND: Kind = Kind::Pred;
    fn want(self) -> Want {
        Want::bits(self.into())
    }
}

impl Lane for f32 {
    const KIND: Kind = Kind::F32;
    fn from_bits(bits: u64) -> Self {
        f32::from_bits(bits as u32)
    }
}

impl Lane for f64 {
    const KIND: Kind = Kind::F64;
    fn from_bits(bits: u64) -> Self {
        f64::from_bits(bits)
    }
}

impl<T: Answer> Answer for Option<T> {
    const KIND: Kind = T::KIND;
    fn want(self) -> Want {
        self.map_or_else(Want::any, T::want)
    }
}

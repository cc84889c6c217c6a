//! The registers of a warp: 32 lanes side by side, so that one instruction is one short loop.

use crate::ptx::Operand;

/// One bit a lane.
pub type Mask = u32;
pub const FULL: Mask = u32::MAX;
pub const LANES: usize = 32;

/// Where a register starts, counted in 32-bit registers; a 64-bit one takes two.
pub type Slot = usize;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Lanes([u32; LANES]);

/// How a register is stored: 32 or 64 bits.
pub trait Raw: Copy + Default + PartialEq + Send + Sync + 'static {
    const SLOTS: usize;
    fn from_bits(bits: u64) -> Self;
    fn bits(self) -> u64;
}

impl Raw for u32 {
    const SLOTS: usize = 1;
    #[inline(always)]
    fn from_bits(bits: u64) -> u32 {
        bits as u32
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        self as u64
    }
}

impl Raw for u64 {
    const SLOTS: usize = 2;
    #[inline(always)]
    fn from_bits(bits: u64) -> u64 {
        bits
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        self
    }
}

/// A type that instructions compute with, and how it lies in a register.
pub trait Value: Copy + Send + Sync + 'static {
    type Raw: Raw;
    /// The bits of a literal of this type; None: the literal is of another.
    fn literal(operand: &Operand) -> Option<u64>;
    fn get(raw: Self::Raw) -> Self;
    fn put(self) -> Self::Raw;
}

macro_rules! value {
    ($($kind:ty, $raw:ty, $literal:ident, $raw_name:ident, $get:expr, $put:expr;)*) => {$(
        impl Value for $kind {
            type Raw = $raw;
            fn literal(operand: &Operand) -> Option<u64> {
                $literal(operand)
            }
            #[inline(always)]
            fn get($raw_name: $raw) -> $kind {
                $get
            }
            #[inline(always)]
            fn put(self) -> $raw {
                let $raw_name = self;
                $put
            }
        }
    )*};
}

value! {
    u8, u32, whole, x, x as u8, x as u32;
    i8, u32, whole, x, x as i8, x as u8 as u32;
    u16, u32, whole, x, x as u16, x as u32;
    i16, u32, whole, x, x as i16, x as u16 as u32;
    u32, u32, whole, x, x, x;
    i32, u32, whole, x, x as i32, x as u32;
    u64, u64, whole, x, x, x;
    i64, u64, whole, x, x as i64, x as u64;
    f32, u32, single, x, f32::from_bits(x), x.to_bits();
    f64, u64, double, x, f64::from_bits(x), x.to_bits();
    half::f16, u32, whole, x, half::f16::from_bits(x as u16), x.to_bits() as u32;
    half::bf16, u32, whole, x, half::bf16::from_bits(x as u16), x.to_bits() as u32;
}

fn whole(operand: &Operand) -> Option<u64> {
    match operand {
        Operand::Int(i) => Some(*i as u64),
        // Registers have no type but their width.
        Operand::Float32(bits) => Some(*bits as u64),
        Operand::Float64(bits) => Some(*bits),
        _ => None,
    }
}

fn single(operand: &Operand) -> Option<u64> {
    match operand {
        Operand::Float32(bits) => Some(*bits as u64),
        Operand::Float64(bits) => Some((f64::from_bits(*bits) as f32).to_bits() as u64),
        _ => None,
    }
}

fn double(operand: &Operand) -> Option<u64> {
    match operand {
        Operand::Float32(bits) => Some((f32::from_bits(*bits) as f64).to_bits()),
        Operand::Float64(bits) => Some(*bits),
        _ => None,
    }
}

pub struct Registers {
    lanes: Vec<Lanes>,
    pub predicates: Vec<Mask>,
}

impl Registers {
    /// Registers that nobody wrote hold ones everywhere: NaN.
    pub fn new(slots: usize, predicates: usize) -> Registers {
        Registers { lanes: vec![Lanes([u32::MAX; LANES]); slots], predicates: vec![0; predicates] }
    }

    pub fn poison(&mut self) {
        self.lanes.fill(Lanes([u32::MAX; LANES]));
    }

    #[inline(always)]
    pub fn view<R: Raw>(&self, slot: Slot) -> &[R; LANES] {
        assert!(slot + R::SLOTS <= self.lanes.len());
        // SAFETY: inside of the vector, by the line above; lanes are plain bits, contiguous and
        // aligned to 64 bytes, and `Raw` is u32 or u64.
        unsafe { &*self.lanes.as_ptr().add(slot).cast() }
    }

    #[inline(always)]
    pub fn view_mut<R: Raw>(&mut self, slot: Slot) -> &mut [R; LANES] {
        assert!(slot + R::SLOTS <= self.lanes.len());
        // SAFETY: as in `view`.
        unsafe { &mut *self.lanes.as_mut_ptr().add(slot).cast() }
    }

    /// Writes the lanes of the mask.
    #[inline(always)]
    pub fn write<R: Raw>(&mut self, slot: Slot, mask: Mask, values: &[R; LANES]) {
        let target = self.view_mut::<R>(slot);
        if mask == FULL {
            *target = *values;
        } else {
            for lane in 0..LANES {
                target[lane] = if mask >> lane & 1 == 1 { values[lane] } else { target[lane] };
            }
        }
    }

    pub fn broadcast(&mut self, slot: Slot, wide: bool, bits: u64) {
        if wide {
            *self.view_mut::<u64>(slot) = [bits; LANES];
        } else {
            *self.view_mut::<u32>(slot) = [bits as u32; LANES];
        }
    }
}

/// The lanes of a mask, lowest first.
pub fn lanes(mask: Mask) -> impl Iterator<Item = usize> + Clone {
    let mut left = mask;
    std::iter::from_fn(move || {
        (left != 0).then(|| {
            let lane = left.trailing_zeros() as usize;
            left &= left - 1;
            lane
        })
    })
}

//! Tensor cores: ldmatrix, movmatrix, mma.sync. PTX ISA, section "Warp Level Matrix Multiply-Accumulate Instructions".
//!
//! Fragment layouts are the manual's; lane = 4 group + member. Products of the short formats are exact in
//! single precision; they are added to the accumulator one after another, each sum rounded. Real tensor
//! cores add in an order and a width of their own.

use ::half::f16;

use super::frame::{Frame, step};
use super::half::{high, join, low};
use super::memory::address;
use super::opcode::{Opcode, Type};
use super::round::canonical;
use super::{Lowered, Refusal, SHARED_WINDOW, refuse};
use crate::machine::{Action, Class, Core, LANES, Slot, Where};
use crate::ptx::Operand;

const M: usize = 16;
const N: usize = 8;

pub fn lower(frame: &mut Frame, mut op: Opcode, operands: &[Operand]) -> Result<Lowered, Refusal> {
    if !(op.take("sync") && op.take("aligned")) {
        return op.unsupported();
    }
    match op.head {
        "ldmatrix" => ldmatrix(frame, op, operands),
        "movmatrix" => movmatrix(frame, op, operands),
        "mma" => mma(frame, op, operands),
        _ => op.unsupported(),
    }
}

fn registers(operand: &Operand, count: usize) -> Result<&[Operand], Refusal> {
    let parts = match operand {
        Operand::Vector(parts) => parts.as_slice(),
        one => std::slice::from_ref(one),
    };
    if parts.len() != count {
        return refuse(format!("{} registers, expected {count}", parts.len()));
    }
    Ok(parts)
}

fn targets(f: &mut Frame, operand: &Operand, count: usize) -> Result<Vec<Slot>, Refusal> {
    registers(operand, count)?.iter().map(|part| f.target::<u32>(part)).collect()
}

fn sources(f: &mut Frame, operand: &Operand, count: usize, ty: Type) -> Result<Vec<Slot>, Refusal> {
    let source = |part: &Operand| if ty == Type::F32 { f.source::<f32>(part) } else { f.source::<u32>(part) };
    registers(operand, count)?.iter().map(source).collect()
}

/// Lanes 8m to 8m+7 point to the rows of matrix m; each lane receives two neighbours of row `group`.
fn ldmatrix(f: &mut Frame, mut op: Opcode, ops: &[Operand]) -> Result<Lowered, Refusal> {
    let shape = op.take("m8n8");
    let matrices = match op.one_of(&["x1", "x2", "x4"]) {
        Some("x1") => 1,
        Some("x2") => 2,
        Some(_) => 4,
        None => return op.unsupported(),
    };
    let trans = op.take("trans");
    let generic = op.one_of(&["shared", "shared::cta"]).is_none();
    if !shape || op.ty()? != Type::B16 {
        return op.unsupported();
    }
    op.end()?;
    f.expect(ops, 2..=2)?;
    let d = targets(f, &ops[0], matrices)?;
    let (address, _) = address(f, &ops[1], Where::Shared)?;
    let action = step(move |core, mask| {
        core.whole_warp(mask)?;
        let offsets = address.of(core).map(|at| if generic { at.wrapping_sub(SHARED_WINDOW) } else { at });
        let rows = core.matrix_rows(&offsets, d.len())?;
        for (rows, &slot) in rows.chunks_exact(8).zip(&d) {
            let mut out = [0u32; LANES];
            for (lane, out) in out.iter_mut().enumerate() {
                let (group, member) = (lane / 4, lane % 4);
                let half =
                    |row: usize, column: usize| u16::from_le_bytes([rows[row][2 * column], rows[row][2 * column + 1]]);
                *out = match trans {
                    false => join(half(group, 2 * member), half(group, 2 * member + 1)),
                    true => join(half(2 * member, group), half(2 * member + 1, group)),
                };
            }
            core.warp.registers.write(slot, mask, &out);
        }
        Ok(())
    });
    Ok(Lowered::new(Class::LoadStore, action))
}

fn movmatrix(f: &mut Frame, mut op: Opcode, ops: &[Operand]) -> Result<Lowered, Refusal> {
    if !(op.take("m8n8") && op.take("trans")) || op.ty()? != Type::B16 {
        return op.unsupported();
    }
    op.end()?;
    f.expect(ops, 2..=2)?;
    let (d, a) = (f.target::<u32>(&ops[0])?, f.source::<u32>(&ops[1])?);
    let action = step(move |core, mask| {
        core.whole_warp(mask)?;
        let registers = &mut core.warp.registers;
        let values = *registers.view::<u32>(a);
        let element = |row: usize, column: usize| {
            let pair = values[row * 4 + column / 2];
            if column.is_multiple_of(2) { low(pair) } else { high(pair) }
        };
        let out =
            std::array::from_fn(|lane| join(element(2 * (lane % 4), lane / 4), element(2 * (lane % 4) + 1, lane / 4)));
        registers.write(d, mask, &out);
        Ok(())
    });
    Ok(Lowered::new(Class::Tensor, action))
}

/// How elements lie in the registers of a fragment: so many in 32 bits.
#[derive(Clone, Copy)]
struct Fragments {
    /// Elements of one register, next to each other along k.
    packed: usize,
    /// Registers of A and of B.
    a: usize,
    b: usize,
}

fn mma(f: &mut Frame, mut op: Opcode, ops: &[Operand]) -> Result<Lowered, Refusal> {
    let (m, k) = match op.one_of(&["m8n8k16", "m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32"]) {
        Some("m8n8k16") => (8, 16),
        Some("m16n8k4") => (M, 4),
        Some("m16n8k8") => (M, 8),
        Some("m16n8k16") => (M, 16),
        Some("m16n8k32") => (M, 32),
        _ => return op.unsupported(),
    };
    if !(op.take("row") && op.take("col")) {
        return op.unsupported();
    }
    let (d, a, b, c) = (op.ty()?, op.ty()?, op.ty()?, op.ty()?);
    let saturates = op.take("satfinite");
    op.end()?;
    f.expect(ops, 4..=4)?;
    let packed = match a {
        Type::Bf16 | Type::F16 => 2,
        Type::Tf32 => 1,
        Type::S8 | Type::U8 => 4,
        _ => return op.unsupported(),
    };
    let registers = |elements: usize| elements / packed / LANES;
    let fragments = Fragments { packed, a: registers(m * k), b: registers(k * N) };
    if !matches!((m, packed, fragments.a), (M, _, 2 | 4) | (8, 4, 1)) {
        return op.unsupported();
    }
    let registers = |ty: Type| if ty == Type::F16 { m / 8 } else { m / 4 };
    let target = targets(f, &ops[0], registers(d))?;
    let left = sources(f, &ops[1], fragments.a, a)?;
    let right = sources(f, &ops[2], fragments.b, b)?;
    let start = sources(f, &ops[3], registers(c), c)?;
    let part = Parts { target, left, right, start };
    let action = match (d, a, b, c, k) {
        (Type::F32, Type::Bf16, Type::Bf16, Type::F32, 16) => {
            part.singles::<16>(fragments, |bits| f32::from_bits(bits << 16))
        }
        (Type::F32, Type::Bf16, Type::Bf16, Type::F32, 8) => {
            part.singles::<8>(fragments, |bits| f32::from_bits(bits << 16))
        }
        (Type::F32, Type::F16, Type::F16, Type::F32, 16) => {
            part.singles::<16>(fragments, |bits| f16::from_bits(bits as u16).to_f32())
        }
        (Type::F32, Type::F16, Type::F16, Type::F32, 8) => {
            part.singles::<8>(fragments, |bits| f16::from_bits(bits as u16).to_f32())
        }
        (Type::F32, Type::Tf32, Type::Tf32, Type::F32, 8) => {
            part.singles::<8>(fragments, |bits| f32::from_bits(bits & !0x1FFF))
        }
        (Type::F32, Type::Tf32, Type::Tf32, Type::F32, 4) => {
            part.singles::<4>(fragments, |bits| f32::from_bits(bits & !0x1FFF))
        }
        (Type::F16, Type::F16, Type::F16, Type::F16, 16) => part.halves::<16>(fragments),
        (Type::F16, Type::F16, Type::F16, Type::F16, 8) => part.halves::<8>(fragments),
        (Type::S32, Type::S8 | Type::U8, Type::S8 | Type::U8, Type::S32, 16 | 32) => {
            part.integers(fragments, k, a == Type::S8, b == Type::S8, saturates)
        }
        _ => return op.unsupported(),
    };
    Ok(Lowered { action, class: Class::Tensor, flops: (2 * m * N * k) as u32 })
}

struct Parts {
    target: Vec<Slot>,
    left: Vec<Slot>,
    right: Vec<Slot>,
    start: Vec<Slot>,
}

/// Sums; the even columns of a row come first, as the registers have them.
type Tile<T> = [[T; N]; M];

/// Where a tile's row has the column.
fn place(column: usize) -> usize {
    column / 2 + column % 2 * 4
}

#[inline(always)]
fn transposed(m: [[u32; 4]; 4]) -> [[u32; 4]; 4] {
    let row = |i: usize| [m[0][i], m[1][i], m[2][i], m[3][i]];
    [row(0), row(1), row(2), row(3)]
}

impl Parts {
    /// Calls `left(row, k, bits)` for A and `right(k, place of the column, bits)` for B.
    #[inline(always)]
    fn gather(
        &self,
        core: &Core,
        f: Fragments,
        mut left: impl FnMut(usize, usize, u32),
        mut right: impl FnMut(usize, usize, u32),
    ) {
        let width = 32 / f.packed as u32;
        let element =
            |bits: u32, i: usize| if width == 32 { bits } else { bits >> (i as u32 * width) & ((1 << width) - 1) };
        for (number, &slot) in self.left.iter().enumerate() {
            let values = core.warp.registers.view::<u32>(slot);
            for lane in 0..LANES {
                for i in 0..f.packed {
                    let column = f.packed * (lane % 4) + i + number / 2 * 4 * f.packed;
                    left(lane / 4 + number % 2 * 8, column, element(values[lane], i));
                }
            }
        }
        for (number, &slot) in self.right.iter().enumerate() {
            let values = core.warp.registers.view::<u32>(slot);
            for lane in 0..LANES {
                for i in 0..f.packed {
                    let k = f.packed * (lane % 4) + i + number * 4 * f.packed;
                    right(k, place(lane / 4), element(values[lane], i));
                }
            }
        }
    }

    /// Accumulators of 32 bits: two registers hold the even and the odd columns of eight rows.
    #[inline(always)]
    fn read_tile<T: Copy + Default>(&self, core: &Core, get: impl Fn(u32) -> T) -> Tile<T> {
        let mut tile = [[T::default(); N]; M];
        for (number, &slot) in self.start.iter().enumerate() {
            let values = core.warp.registers.view::<u32>(slot);
            for (row, four) in tile[number / 2 * 8..].iter_mut().zip(values.chunks_exact(4)) {
                for member in 0..4 {
                    row[number % 2 * 4 + member] = get(four[member]);
                }
            }
        }
        tile
    }

    #[inline(always)]
    fn write_tile<T: Copy>(&self, core: &mut Core, tile: &Tile<T>, put: impl Fn(T) -> u32) {
        for (number, &slot) in self.target.iter().enumerate() {
            let out = core.warp.registers.view_mut::<u32>(slot);
            for (row, four) in tile[number / 2 * 8..].iter().zip(out.chunks_exact_mut(4)) {
                for member in 0..4 {
                    four[member] = put(row[number % 2 * 4 + member]);
                }
            }
        }
    }

    /// Operands of 16 bits, two in a word. Along k, the lower halves of four lanes come first, then the upper
    /// halves: A and B in the same order.
    #[inline(always)]
    fn gather_halves<const K: usize>(&self, core: &Core, get: impl Fn(u32) -> f32) -> ([[f32; K]; M], [[f32; N]; K]) {
        let (mut a, mut b) = ([[0f32; K]; M], [[0f32; N]; K]);
        for (number, &slot) in self.left.iter().enumerate() {
            let values = core.warp.registers.view::<u32>(slot);
            for (row, four) in a[number % 2 * 8..].iter_mut().zip(values.chunks_exact(4)) {
                let row = &mut row[number / 2 * 8..][..8];
                for member in 0..4 {
                    row[member] = get(four[member] & 0xFFFF);
                    row[4 + member] = get(four[member] >> 16);
                }
            }
        }
        for (number, &slot) in self.right.iter().enumerate() {
            let values = core.warp.registers.view::<u32>(slot);
            let column = |column: usize| [0, 1, 2, 3].map(|member| values[column * 4 + member]);
            let even = transposed([column(0), column(2), column(4), column(6)]);
            let odd = transposed([column(1), column(3), column(5), column(7)]);
            for member in 0..4 {
                for place in 0..4 {
                    let (even, odd) = (even[member][place], odd[member][place]);
                    let (low, high) = (number * 8 + member, number * 8 + 4 + member);
                    (b[low][place], b[low][4 + place]) = (get(even & 0xFFFF), get(odd & 0xFFFF));
                    (b[high][place], b[high][4 + place]) = (get(even >> 16), get(odd >> 16));
                }
            }
        }
        (a, b)
    }

    fn singles<const K: usize>(self, f: Fragments, get: impl Fn(u32) -> f32 + Copy + Send + Sync + 'static) -> Action {
        step(move |core, mask| {
            core.whole_warp(mask)?;
            let (a, b) = if f.packed == 2 {
                self.gather_halves::<K>(core, get)
            } else {
                let (mut a, mut b) = ([[0f32; K]; M], [[0f32; N]; K]);
                self.gather(core, f, |row, k, bits| a[row][k] = get(bits), |k, column, bits| b[k][column] = get(bits));
                (a, b)
            };
            let mut tile = self.read_tile(core, f32::from_bits);
            multiply(&a, &b, &mut tile);
            self.write_tile(core, &tile, |x| canonical(x).to_bits());
            Ok(())
        })
    }

    /// Accumulators in half precision, two in a register.
    fn halves<const K: usize>(self, f: Fragments) -> Action {
        step(move |core, mask| {
            core.whole_warp(mask)?;
            let get = |bits: u32| f16::from_bits(bits as u16).to_f32();
            let (mut a, mut b) = ([[0f32; K]; M], [[0f32; N]; K]);
            self.gather(core, f, |row, k, bits| a[row][k] = get(bits), |k, column, bits| b[k][column] = get(bits));
            let mut tile = [[0f32; N]; M];
            for (number, &slot) in self.start.iter().enumerate() {
                let values = core.warp.registers.view::<u32>(slot);
                for lane in 0..LANES {
                    let row = &mut tile[lane / 4 + number * 8];
                    (row[lane % 4], row[4 + lane % 4]) = (get(values[lane] & 0xFFFF), get(values[lane] >> 16));
                }
            }
            multiply(&a, &b, &mut tile);
            let put = |x: f32| if x.is_nan() { super::half::NAN16 } else { f16::from_f32(x).to_bits() };
            for (number, &slot) in self.target.iter().enumerate() {
                let row = |lane: usize| &tile[lane / 4 + number * 8];
                let out = std::array::from_fn(|lane| join(put(row(lane)[lane % 4]), put(row(lane)[4 + lane % 4])));
                core.warp.registers.write(slot, mask, &out);
            }
            Ok(())
        })
    }

    fn integers(self, f: Fragments, k: usize, a_signed: bool, b_signed: bool, saturates: bool) -> Action {
        let get = |bits: u32, signed: bool| if signed { bits as u8 as i8 as i64 } else { bits as u8 as i64 };
        step(move |core, mask| {
            core.whole_warp(mask)?;
            let (mut a, mut b) = ([[0i64; 32]; M], [[0i64; N]; 32]);
            self.gather(
                core,
                f,
                |row, k, bits| a[row][k] = get(bits, a_signed),
                |k, column, bits| b[k][column] = get(bits, b_signed),
            );
            let mut tile = self.read_tile(core, |bits| bits as i32 as i64);
            for (row, sums) in a.iter().zip(&mut tile) {
                for (left, right) in row.iter().zip(&b).take(k) {
                    (0..N).for_each(|column| sums[column] += left * right[column]);
                }
            }
            let fit = |x: i64| if saturates { x.clamp(i32::MIN as i64, i32::MAX as i64) } else { x };
            self.write_tile(core, &tile, |x| fit(x) as u32);
            Ok(())
        })
    }
}

#[inline(always)]
fn multiply<const K: usize>(a: &[[f32; K]; M], b: &[[f32; N]; K], tile: &mut Tile<f32>) {
    for (row, sums) in a.iter().zip(tile) {
        let mut acc = *sums;
        for (&left, right) in row.iter().zip(b) {
            for column in 0..N {
                acc[column] += left * right[column];
            }
        }
        *sums = acc;
    }
}

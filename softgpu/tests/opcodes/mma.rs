//! mma.sync and ldmatrix: which lane holds which element, and the products.

use crate::exact::{BRAIN, Format, HALF, Round, SINGLE, Value};
use crate::float::{near, to_double};
use crate::harness::{Form, Probe, check, refused, together};
use crate::numbers::{Random, Want};

#[test]
fn follows_the_manual() {
    check(forms());
}

pub fn forms() -> Vec<Form> {
    let products = FLOATS.iter().flat_map(|shape| [float(shape, true), float(shape, false)]);
    let integers = INTEGERS.iter().map(|(shape, a, b, saturate)| integer(shape, a, b, *saturate));
    products.chain([double()]).chain(integers).chain(matrices()).collect()
}

const LANES: usize = 32;

/// Element i of a lane's fragment: its row and column.
type Layout = fn(usize, usize) -> (usize, usize);

/// Sizes, then the fragments of a, b and c with their elements per lane.
struct Shape {
    name: &'static str,
    m: usize,
    k: usize,
    types: &'static str,
    a: (usize, Layout),
    b: (usize, Layout),
    c: (usize, Layout),
}

fn group(lane: usize) -> usize {
    lane / 4
}

fn within(lane: usize) -> usize {
    lane % 4
}

/// 16 x 8 and 8 x 8 accumulators: two neighbours in row lane / 4, two more eight rows below.
const C: (usize, Layout) = (4, |lane, i| (group(lane) + i / 2 * 8, 2 * within(lane) + i % 2));
const C8: (usize, Layout) = (2, |lane, i| (group(lane), 2 * within(lane) + i));

// 16-bit elements: pairs along k; 8 rows below; 8 columns on.
const A16: (usize, Layout) = (8, |lane, i| (group(lane) + i / 2 % 2 * 8, 2 * within(lane) + i % 2 + i / 4 * 8));
const B16: (usize, Layout) = (4, |lane, i| (2 * within(lane) + i % 2 + i / 2 * 8, group(lane)));
const A16_K8: (usize, Layout) = (4, |lane, i| (group(lane) + i / 2 * 8, 2 * within(lane) + i % 2));
const B16_K8: (usize, Layout) = (2, |lane, i| (2 * within(lane) + i, group(lane)));

// 32-bit elements, one a register.
const A32: (usize, Layout) = (4, |lane, i| (group(lane) + i % 2 * 8, within(lane) + i / 2 * 4));
const B32: (usize, Layout) = (2, |lane, i| (within(lane) + i * 4, group(lane)));
const A32_K4: (usize, Layout) = (2, |lane, i| (group(lane) + i * 8, within(lane)));
const B32_K4: (usize, Layout) = (1, |lane, _| (within(lane), group(lane)));

// 8-bit elements, four a register.
const A8: (usize, Layout) = (16, |lane, i| (group(lane) + i / 4 % 2 * 8, 4 * within(lane) + i % 4 + i / 8 * 16));
const B8: (usize, Layout) = (8, |lane, i| (4 * within(lane) + i % 4 + i / 4 * 16, group(lane)));
const A8_K16: (usize, Layout) = (8, |lane, i| (group(lane) + i / 4 * 8, 4 * within(lane) + i % 4));
const B8_K16: (usize, Layout) = (4, |lane, i| (4 * within(lane) + i, group(lane)));
const A8_M8: (usize, Layout) = (4, |lane, i| (group(lane), 4 * within(lane) + i));

const fn shape(
    name: &'static str,
    m: usize,
    k: usize,
    types: &'static str,
    a: (usize, Layout),
    b: (usize, Layout),
) -> Shape {
    Shape { name, m, k, types, a, b, c: if m == 8 { C8 } else { C } }
}

static FLOATS: [Shape; 8] = [
    shape("m16n8k16", 16, 16, "f32.bf16.bf16.f32", A16, B16),
    shape("m16n8k16", 16, 16, "f32.f16.f16.f32", A16, B16),
    shape("m16n8k16", 16, 16, "f16.f16.f16.f16", A16, B16),
    shape("m16n8k8", 16, 8, "f32.bf16.bf16.f32", A16_K8, B16_K8),
    shape("m16n8k8", 16, 8, "f32.f16.f16.f32", A16_K8, B16_K8),
    shape("m16n8k8", 16, 8, "f16.f16.f16.f16", A16_K8, B16_K8),
    shape("m16n8k8", 16, 8, "f32.tf32.tf32.f32", A32, B32),
    shape("m16n8k4", 16, 4, "f32.tf32.tf32.f32", A32_K4, B32_K4),
];

static INTEGERS: [(Shape, &str, &str, bool); 10] = [
    (shape("m16n8k32", 16, 32, "", A8, B8), "s8", "s8", false),
    (shape("m16n8k32", 16, 32, "", A8, B8), "u8", "u8", false),
    (shape("m16n8k32", 16, 32, "", A8, B8), "s8", "u8", false),
    (shape("m16n8k32", 16, 32, "", A8, B8), "u8", "s8", false),
    (shape("m16n8k32", 16, 32, "", A8, B8), "s8", "s8", true),
    (shape("m16n8k16", 16, 16, "", A8_K16, B8_K16), "s8", "s8", false),
    (shape("m16n8k16", 16, 16, "", A8_K16, B8_K16), "u8", "s8", false),
    (shape("m16n8k16", 16, 16, "", A8_K16, B8_K16), "u8", "u8", true),
    (shape("m8n8k16", 8, 16, "", A8_M8, B8_K16), "s8", "s8", false),
    (shape("m8n8k16", 8, 16, "", A8_M8, B8_K16), "u8", "s8", false),
];

/// A matrix of bit patterns, row by row.
struct Matrix {
    columns: usize,
    values: Vec<u64>,
}

impl Matrix {
    fn new(rows: usize, columns: usize, value: impl FnMut(usize) -> u64) -> Self {
        Self { columns, values: (0..rows * columns).map(value).collect() }
    }

    fn at(&self, (row, column): (usize, usize)) -> u64 {
        self.values[row * self.columns + column]
    }

    /// The lane's registers, elements of `bits` bits packed into them, the first one lowest.
    fn registers(&self, lane: usize, (count, layout): (usize, Layout), bits: usize) -> Vec<u64> {
        let elements: Vec<u64> = (0..count).map(|i| self.at(layout(lane, i))).collect();
        let each = (32 / bits).max(1);
        let pack = |part: &[u64]| part.iter().rev().fold(0, |word, element| word << (bits % 64) | element);
        elements.chunks(each).map(pack).collect()
    }
}

/// The registers of d <- a, b, c, all of one type.
fn instruction(opcode: &str, counts: [usize; 4]) -> String {
    let mut next = 0;
    let mut list = |letter: char, count: usize, restart: bool| {
        if restart {
            next = 0;
        }
        let names: Vec<String> = (next..next + count).map(|i| format!("%{letter}{i}")).collect();
        next += count;
        format!("{{{}}}", names.join(", "))
    };
    let d = list('o', counts[0], true);
    let (a, b, c) = (list('i', counts[1], true), list('i', counts[2], false), list('i', counts[3], false));
    format!("{opcode} {d}, {a}, {b}, {c};")
}

fn registers((count, _): (usize, Layout), bits: usize) -> usize {
    (count * bits).div_ceil(32.max(bits))
}

struct Types {
    d: Format,
    ab: Format,
    c: Format,
    tensor: bool,
}

fn types(names: &str) -> Types {
    let of = |name: &str| match name {
        "f16" => HALF,
        "bf16" => BRAIN,
        _ => SINGLE,
    };
    let words: Vec<&str> = names.split('.').collect();
    Types { d: of(words[0]), ab: of(words[1]), c: of(words[3]), tensor: words[1] == "tf32" }
}

/// Small whole numbers, whose sums are exact in any order; or values of all sizes, within a tolerance.
fn value(random: &mut Random, format: Format, tensor: bool, exact: bool) -> u64 {
    let whole = (random.next() % 17) as i128 - 8;
    if exact {
        return format.round(&Value::integer(whole), Round::Nearest);
    }
    let bits = random.next();
    let spread = format.one() - (bits >> 60 << format.mantissa_bits);
    let fraction = bits & (format.smallest_normal() - 1);
    let value = (spread + fraction) | ((bits >> 32 & 1) << (format.bits() - 1));
    if tensor { value & !0x1fff } else { value }
}

fn float(shape: &'static Shape, exact: bool) -> Form {
    let opcode = format!("mma.sync.aligned.{}.row.col.{}", shape.name, shape.types);
    let types = types(shape.types);
    let mut random = Random(41);
    let a = Matrix::new(shape.m, shape.k, |_| value(&mut random, types.ab, types.tensor, exact));
    let b = Matrix::new(shape.k, 8, |_| value(&mut random, types.ab, types.tensor, exact));
    let c = Matrix::new(shape.m, 8, |_| value(&mut random, types.c, false, exact));
    let bits = [types.d, types.ab, types.c].map(|format| format.bits() as usize);
    let counts = [
        registers(shape.c, bits[0]),
        registers(shape.a, bits[1]),
        registers(shape.b, bits[1]),
        registers(shape.c, bits[2]),
    ];
    let cases: Vec<Vec<u64>> = (0..LANES)
        .map(|lane| {
            let parts = [a.registers(lane, shape.a, bits[1]), b.registers(lane, shape.b, bits[1])];
            [parts.concat(), c.registers(lane, shape.c, bits[2])].concat()
        })
        .collect();
    let names = ["b32"; 16];
    let inputs = names[..counts[1] + counts[2] + counts[3]].join(" ");
    let probe = Probe::new(&instruction(&opcode, counts), &inputs, &names[..counts[0]].join(" ")).threads(32);
    together(&opcode, probe, cases, move |_| (0..LANES).map(|lane| wanted(shape, &types, lane, [&a, &b, &c])).collect())
}

fn wanted(shape: &Shape, types: &Types, lane: usize, [a, b, c]: [&Matrix; 3]) -> Vec<Want> {
    let element = |i: usize| {
        let (row, column) = (shape.c.1)(lane, i);
        let terms = (0..shape.k).map(|k| to_double(types.ab, a.at((row, k))) * to_double(types.ab, b.at((k, column))));
        let start = to_double(types.c, c.at((row, column)));
        let (sum, size) = terms.fold((start, start.abs()), |(sum, size), term| (sum + term, size + term.abs()));
        // Whole numbers come out exactly; else the accumulator's order and rounding are open.
        let rounding = if sum.fract() == 0.0 { 0.0 } else { size * 2f64.powi(-20) };
        let half = if types.d == HALF && rounding != 0.0 { size * 2f64.powi(-10) } else { 0.0 };
        match sum == 0.0 {
            true => Want::new("0".into(), |bits| bits.trailing_zeros() >= 15),
            false => near(types.d, false, sum, rounding + half),
        }
    };
    let elements: Vec<Want> = (0..shape.c.0).map(element).collect();
    if types.d != HALF {
        return elements;
    }
    let mut elements = elements.into_iter();
    std::iter::from_fn(|| Some(Want::halves(elements.next()?, elements.next()?))).collect()
}

/// Tensor cores in double precision are refused by name.
fn double() -> Form {
    let opcode = "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64";
    let text = format!("{opcode} {{%o0, %o1}}, {{%i0}}, {{%i1}}, {{%i2, %i3}};");
    refused(opcode, Probe::new(&text, "f64 f64 f64 f64", "f64 f64").threads(32), opcode)
}

fn byte(bits: u64, name: &str) -> i64 {
    if name == "s8" { (bits as i8).into() } else { (bits as u8).into() }
}

fn integer(shape: &'static Shape, a_type: &'static str, b_type: &'static str, saturate: bool) -> Form {
    let modifier = if saturate { ".satfinite" } else { "" };
    let opcode = format!("mma.sync.aligned.{}.row.col{modifier}.s32.{a_type}.{b_type}.s32", shape.name);
    let mut random = Random(43);
    let a = Matrix::new(shape.m, shape.k, |_| random.next() & 0xff);
    let b = Matrix::new(shape.k, 8, |_| random.next() & 0xff);
    // Near both ends, so that sums wrap or saturate.
    let c = Matrix::new(shape.m, 8, |i| [0, 0x7fff_fff0, 0x8000_0010, 0xffff_0000][i % 4]);
    let cases: Vec<Vec<u64>> = (0..LANES)
        .map(|lane| {
            [a.registers(lane, shape.a, 8), b.registers(lane, shape.b, 8), c.registers(lane, shape.c, 32)].concat()
        })
        .collect();
    let counts = [shape.c.0, registers(shape.a, 8), registers(shape.b, 8), shape.c.0];
    let names = ["b32"; 16];
    let inputs = names[..counts[1..].iter().sum()].join(" ");
    let probe = Probe::new(&instruction(&opcode, counts), &inputs, &names[..counts[0]].join(" ")).threads(32);
    together(&opcode, probe, cases, move |_| {
        let element = |lane: usize, i: usize| {
            let (row, column) = (shape.c.1)(lane, i);
            let product = |k: usize| byte(a.at((row, k)), a_type) * byte(b.at((k, column)), b_type);
            let sum = i64::from(c.at((row, column)) as u32 as i32) + (0..shape.k).map(product).sum::<i64>();
            let sum = if saturate { sum.clamp(i32::MIN.into(), i32::MAX.into()) } else { sum };
            Want::bits(sum as u32 as u64)
        };
        (0..LANES).map(|lane| (0..shape.c.0).map(|i| element(lane, i)).collect()).collect()
    })
}

/// Eight rows of 16 bytes each from addresses that lanes 0-7, 8-15 ... give; two elements a lane.
fn matrices() -> Vec<Form> {
    let mut forms = vec![];
    for count in [1, 2, 4] {
        for trans in [false, true] {
            for space in [".shared", ".shared::cta", ""] {
                forms.push(load_matrix(count, trans, space));
            }
        }
    }
    forms
}

/// Where in the area the row of a lane lies: neither in order nor next to each other.
fn row(lane: usize) -> usize {
    (lane * 11 + 3) % 32
}

fn load_matrix(count: usize, trans: bool, space: &str) -> Form {
    let modifier = if trans { ".trans" } else { "" };
    let opcode = format!("ldmatrix.sync.aligned.m8n8.x{count}{modifier}{space}.b16");
    let names: Vec<String> = (0..count).map(|i| format!("%o{i}")).collect();
    let address = if space.is_empty() { "%d1" } else { "%t2" };
    let text = format!(
        "mov.u32 %t1, area;\nmad.lo.s32 %t2, %thread, 16, %t1;\nst.shared.v4.b32 [%t2], {{%i0, %i1, %i2, %i3}};\n\
         bar.sync 0;\nmad.lo.s32 %t2, %thread, 11, 3;\nand.b32 %t2, %t2, 31;\nmad.lo.s32 %t2, %t2, 16, %t1;\n\
         cvt.u64.u32 %d1, %t2;\ncvta.shared.u64 %d1, %d1;\n{opcode} {{{}}}, [{address}];",
        names.join(", ")
    );
    let probe = Probe::new(&text, "b32 b32 b32 b32", &["b32"; 4][..count].join(" "));
    let probe = probe.module(".shared .align 16 .b8 area[512];").threads(32);
    let mut random = Random(44);
    let cases: Vec<Vec<u64>> = (0..LANES).map(|_| (0..4).map(|_| random.next() & 0xffff_ffff).collect()).collect();
    together(&opcode, probe, cases, move |cases| {
        let element = |matrix: usize, r: usize, c: usize| cases[row(8 * matrix + r)][c / 2] >> (16 * (c % 2)) & 0xffff;
        let word = |lane: usize, matrix: usize| {
            let (r, c) = (group(lane), 2 * within(lane));
            match trans {
                false => element(matrix, r, c) | element(matrix, r, c + 1) << 16,
                true => element(matrix, c, r) | element(matrix, c + 1, r) << 16,
            }
        };
        let lane = |lane: usize| (0..count).map(|matrix| Want::bits(word(lane, matrix))).collect();
        (0..LANES).map(lane).collect()
    })
}

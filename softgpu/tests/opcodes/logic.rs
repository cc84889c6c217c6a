//! Bitwise logic, shifts, byte permutation.

use crate::harness::{Form, check, form, op1, op2, op3};
use crate::numbers::{Kind, Want};

#[test]
fn follows_the_manual() {
    check(forms());
}

pub fn forms() -> Vec<Form> {
    [bitwise(), predicates(), shifts(), funnels(), permutes(), vec![lop3()]].into_iter().flatten().collect()
}

fn bitwise() -> Vec<Form> {
    type Model = fn(u64, u64) -> u64;
    let table: [(&str, Model); 3] = [("and", |a, b| a & b), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)];
    let mut forms = vec![];
    for name in ["b16", "b32", "b64"] {
        let kind = Kind::of(name);
        for (opcode, model) in table {
            forms.push(form(&format!("{opcode}.{name}"), kind, &[kind, kind], move |x| Want::bits(model(x[0], x[1]))));
        }
        forms.push(form(&format!("not.{name}"), kind, &[kind], move |x| Want::bits(!x[0] & kind.mask())));
        forms.push(form(&format!("cnot.{name}"), kind, &[kind], |x| Want::bits((x[0] == 0).into())));
    }
    forms
}

fn predicates() -> Vec<Form> {
    vec![
        op2("and.pred", |a: bool, b: bool| a && b),
        op2("or.pred", |a: bool, b: bool| a || b),
        op2("xor.pred", |a: bool, b: bool| a != b),
        op1("not.pred", |a: bool| !a),
        op1("mov.pred", |a: bool| a),
    ]
}

/// A shift by the width or more gives zeros, or the sign.
fn shifts() -> Vec<Form> {
    let mut forms = vec![];
    for name in ["b16", "b32", "b64"] {
        let kind = Kind::of(name);
        let left = move |x: &[u64]| Want::bits(x[0].checked_shl(x[1] as u32).unwrap_or(0) & kind.mask());
        forms.push(form(&format!("shl.{name}"), kind, &[kind, Kind::U32], left));
    }
    for name in ["b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64"] {
        let kind = Kind::of(name);
        let right = move |x: &[u64]| Want::bits((kind.integer(x[0]) >> x[1].min(64)) as u64 & kind.mask());
        forms.push(form(&format!("shr.{name}"), kind, &[kind, Kind::U32], right));
    }
    forms
}

/// The pair b:a shifted; the upper word of a left shift, the lower of a right one.
fn funnels() -> Vec<Form> {
    let pair = |a: u32, b: u32| u64::from(b) << 32 | u64::from(a);
    let left = move |a, b, n: u32| (pair(a, b) << n >> 32) as u32;
    let right = move |a, b, n: u32| (pair(a, b) >> n) as u32;
    vec![
        op3("shf.l.wrap.b32", move |a: u32, b: u32, c: u32| left(a, b, c & 31)),
        op3("shf.l.clamp.b32", move |a: u32, b: u32, c: u32| left(a, b, c.min(32))),
        op3("shf.r.wrap.b32", move |a: u32, b: u32, c: u32| right(a, b, c & 31)),
        op3("shf.r.clamp.b32", move |a: u32, b: u32, c: u32| right(a, b, c.min(32))),
    ]
}

fn permutes() -> Vec<Form> {
    let bytes = |a: u32, b: u32| (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let pick = move |a: u32, b: u32, chosen: [u32; 4]| u32::from_le_bytes(chosen.map(|i| bytes(a, b)[i as usize]));
    let generic = move |a: u32, b: u32, c: u32| {
        u32::from_le_bytes([0, 4, 8, 12].map(|shift| {
            let byte = bytes(a, b)[(c >> shift & 7) as usize];
            // The top bit of a selector spreads the byte's sign.
            if c >> shift & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 }
        }))
    };
    // Four bytes for each value of the two lowest bits of c, lowest byte first.
    let modes = [
        ("f4e", [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),
        ("b4e", [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]]),
        ("rc8", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecl", [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
        ("rc16", [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]),
    ];
    let mut forms = vec![op3("prmt.b32", generic)];
    for (mode, table) in modes {
        let model = move |a: u32, b: u32, c: u32| pick(a, b, table[(c & 3) as usize]);
        forms.push(op3(&format!("prmt.b32.{mode}"), model));
    }
    forms
}

/// All 256 truth tables in one kernel; the index of an entry is 4a + 2b + c.
fn lop3() -> Form {
    use crate::harness::{Probe, cases};
    let line = |table| format!("lop3.b32 %t1, %i0, %i1, %i2, {table:#x};\nxor.b32 %t1, %t1, {table};\n");
    // A running product keeps every table's result in the output.
    let step = |table| line(table) + "mad.lo.u32 %o0, %o0, 0x01000193, %t1;\n";
    let text = "mov.b32 %o0, 1;\n".to_string() + &(0..256u32).map(step).collect::<String>();
    let plain = (0..4).map(|i| format!("lop3.b32 %o{}, %i0, %i1, %i2, {};\n", i + 1, PLAIN[i])).collect::<String>();
    let probe = Probe::new(&(text + &plain), "b32 b32 b32", "b32 b32 b32 b32 b32");
    let mut cases = cases(&[Kind::U32; 3], 6);
    cases.truncate(300);
    cases.push(vec![0xf0f0_f0f0, 0xcccc_cccc, 0xaaaa_aaaa]);
    crate::harness::body("lop3.b32", probe, cases, |_, x| {
        let each = |table: u32| truth(table, x[0] as u32, x[1] as u32, x[2] as u32);
        let all = (0..256).fold(1u32, |hash, table| hash.wrapping_mul(0x0100_0193).wrapping_add(each(table) ^ table));
        [all].into_iter().chain(PLAIN.map(each)).map(u64::from).collect()
    })
}

/// a, b ^ c, the majority and a ? b : c.
const PLAIN: [u32; 4] = [0xf0, 0x66, 0xe8, 0xca];

fn truth(table: u32, a: u32, b: u32, c: u32) -> u32 {
    let index = |i: u32| (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
    (0..32).fold(0, |d, i| d | (table >> index(i) & 1) << i)
}

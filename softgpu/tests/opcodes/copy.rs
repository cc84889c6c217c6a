//! cp.async and its groups.

use softgpu::FaultKind;

use crate::harness::{Form, Probe, body, check, dumping};
use crate::numbers::Random;

#[test]
fn follows_the_manual() {
    check(forms());
}

const MODULE: &str = ".shared .align 16 .b8 area[2048];";

/// The thread's 32 bytes of shared memory in %t1, of global memory in %d1; the shared ones are filled with ones.
const SETUP: &str = "mad.wide.u32 %d1, %thread, 32, %scratch;\nmov.u32 %t1, area;\nmad.lo.s32 %t1, %thread, 32, %t1;\n\
    mov.b64 %d2, -1;\nst.shared.v2.b64 [%t1], {%d2, %d2};\nst.shared.v2.b64 [%t1+16], {%d2, %d2};\n";

const READ: &str = "ld.shared.v2.b64 {%o0, %o1}, [%t1];\nld.shared.v2.b64 {%o2, %o3}, [%t1+16];";

const THREADS: usize = 40;

pub fn forms() -> Vec<Form> {
    let mut forms = vec![];
    for (cache, size) in [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)] {
        for space in ["shared", "shared::cta"] {
            for hint in ["", ".L2::64B", ".L2::128B", ".L2::256B"] {
                forms.push(copy(&format!("cp.async.{cache}.{space}.global{hint}"), size));
            }
            let opcode = format!("cp.async.{cache}.{space}.global");
            forms.push(part(&opcode, size));
            forms.push(ignored(&opcode, size));
        }
    }
    for opcode in ["cp.async.commit_group", "cp.async.wait_group", "cp.async.wait_all"] {
        forms.push(groups(opcode));
    }
    forms
}

fn data() -> Vec<u8> {
    let mut random = Random(51);
    (0..32 * THREADS).map(|_| random.next() as u8).collect()
}

fn probe(text: &str, inputs: &str) -> Probe {
    Probe::new(&format!("{SETUP}{text}\n{READ}"), inputs, "b64 b64 b64 b64").module(MODULE).scratch(data())
}

/// The area after `taken` bytes were copied to its byte 16 and zeros up to `size`.
fn area(thread: usize, size: usize, taken: usize) -> Vec<u64> {
    let mut bytes = [0xff; 32];
    bytes[16..16 + size].fill(0);
    bytes[16..16 + taken].copy_from_slice(&data()[32 * thread + 16..][..taken]);
    bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

const FINISH: &str = "cp.async.commit_group;\ncp.async.wait_group 0;";

fn copy(opcode: &str, size: usize) -> Form {
    let text = format!("{opcode} [%t1+16], [%d1+16], {size};\n{FINISH}");
    body(opcode, probe(&text, ""), vec![vec![]; THREADS], move |thread, _| area(thread, size, size))
}

/// With a source size; what is left of the destination becomes zero. Nothing is read at size 0.
fn part(opcode: &str, size: usize) -> Form {
    let text = format!("{opcode} [%t1+16], [%d1+16], {size}, %i0;\n{FINISH}");
    let cases: Vec<Vec<u64>> = (0..THREADS).map(|thread| vec![(thread % (size + 1)) as u64]).collect();
    body(opcode, probe(&text, "b32"), cases, move |thread, x| area(thread, size, x[0] as usize))
}

/// With a predicate that says whether to ignore the source.
fn ignored(opcode: &str, size: usize) -> Form {
    let text = format!("{opcode} [%t1+16], [%d1+16], {size}, %i0;\n{FINISH}");
    let cases: Vec<Vec<u64>> = (0..THREADS).map(|thread| vec![thread as u64 & 1]).collect();
    body(opcode, probe(&text, "pred"), cases, move |thread, x| area(thread, size, if x[0] != 0 { 0 } else { size }))
}

/// Two groups: the older one is complete after wait_group 1, both after wait_group 0 or wait_all.
fn groups(opcode: &str) -> Form {
    let wait = if opcode.ends_with("wait_all") { "cp.async.wait_all;" } else { "cp.async.wait_group 0;" };
    let text = format!(
        "{SETUP}cp.async.ca.shared.global [%t1], [%d1], 8;\ncp.async.commit_group;\n\
         cp.async.cg.shared.global [%t1+16], [%d1+16], 16;\ncp.async.commit_group;\ncp.async.wait_group 1;\n\
         ld.shared.b64 %o4, [%t1];\n{wait}\n{READ}"
    );
    let probe = Probe::new(&text, "", "b64 b64 b64 b64 b64").module(MODULE).scratch(data());
    body(opcode, probe, vec![vec![]; THREADS], |thread, _| {
        let word = |at: usize| u64::from_le_bytes(data()[32 * thread + at..][..8].try_into().unwrap());
        vec![word(0), u64::MAX, word(16), word(24), word(0)]
    })
}

/// Other threads see the copy after the wait and a barrier.
#[test]
fn a_barrier_hands_the_copy_over() {
    let text = format!(
        "{SETUP}bar.sync 0;\ncp.async.cg.shared.global [%t1+16], [%d1+16], 16;\n{FINISH}\nbar.sync 0;\n\
         xor.b32 %t2, %thread, 1;\nmov.u32 %t1, area;\nmad.lo.s32 %t1, %t2, 32, %t1;\n{READ}"
    );
    let probe = Probe::new(&text, "", "b64 b64 b64 b64").module(MODULE).scratch(data());
    let model = |thread: usize, _: &[u64]| area(thread ^ 1, 16, 16);
    check(vec![body("cp.async.cg.shared.global", probe, vec![vec![]; THREADS], model)]);
}

fn fault(text: &str) -> Option<FaultKind> {
    let probe = Probe::new(&format!("{SETUP}{text}"), "", "b64 b64 b64 b64").module(MODULE).scratch(data());
    probe.fault(&vec![vec![]; THREADS]).unwrap().map(|fault| fault.kind)
}

#[test]
fn reading_before_the_wait_is_a_fault() {
    if dumping() {
        return;
    }
    let copy = "cp.async.cg.shared.global [%t1+16], [%d1+16], 16;\n";
    let unfinished = Some(FaultKind::AsyncCopyUnfinished);
    assert_eq!(fault(&format!("{copy}cp.async.commit_group;\n{READ}")), unfinished);
    assert_eq!(fault(&format!("{copy}cp.async.commit_group;\ncp.async.wait_group 1;\n{READ}")), unfinished);
    // A copy in no group is not waited for by wait_group.
    assert_eq!(fault(&format!("{copy}cp.async.wait_group 0;\n{READ}")), unfinished);
    assert_eq!(fault(&format!("{copy}cp.async.wait_all;\n{READ}")), None);
}

#[test]
fn a_misaligned_copy_is_a_fault() {
    if !dumping() {
        let text = format!("cp.async.cg.shared.global [%t1+8], [%d1+16], 16;\n{FINISH}\n{READ}");
        assert_eq!(fault(&text), Some(FaultKind::Misaligned));
    }
}

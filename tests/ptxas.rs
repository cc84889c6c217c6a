//! The build script's reader of what ptxas reports, on reports of nvcc 12 and 13.

#[path = "../build/ptxas.rs"]
mod ptxas;

use ptxas::{Usage, parse};

const REPORT: &str = "\
ptxas info    : 89 bytes gmem, 56 bytes cmem[4]
ptxas info    : Compiling entry function 'attention_forward' for 'sm_80'
ptxas info    : Function properties for attention_forward
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 184 registers, used 1 barriers, 40960 bytes smem, 396 bytes cmem[0]
ptxas info    : Compile time = 122.285 ms
ptxas info    : Compiling entry function '_Z9axial_sumILi64EEvPKf' for 'sm_90a'
ptxas info    : Function properties for _Z9axial_sumILi64EEvPKf
    272 bytes stack frame, 216 bytes spill stores, 208 bytes spill loads
ptxas info    : Used 255 registers, 272 bytes cumulative stack size, 380 bytes cmem[0]
ptxas info    : Function properties for _Z3gcdjj
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
";

#[test]
fn reads_registers_spills_and_shared_memory() {
    let first = Usage {
        kernel: "attention_forward".into(),
        arch: "sm_80".into(),
        registers: 184,
        shared: 40960,
        ..Usage::default()
    };
    let second = Usage {
        kernel: "_Z9axial_sumILi64EEvPKf".into(),
        arch: "sm_90a".into(),
        registers: 255,
        stack: 288,
        spill_stores: 224,
        spill_loads: 212,
        shared: 0,
    };
    assert_eq!(parse(REPORT), [first, second]);
}

#[test]
fn finds_nothing_in_other_text() {
    assert_eq!(parse(""), []);
    assert_eq!(parse("nvcc warning : 12 registers\nptxas info    : Used 4 registers"), []);
}

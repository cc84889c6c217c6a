//! Less usual PTX, and PTX that asks for too much.

#[path = "common/machine.rs"]
mod machine;
use machine::{Machine, params, settings};
use softgpu::{Counters, Fault, Launch};

fn run(ptx: &str, threads: usize, grid: u32, block: u32) -> (Vec<u8>, Counters, Option<Fault>) {
    let mut settings = settings(80, 0, 50_000_000);
    settings.threads = threads;
    let machine = Machine::new(settings);
    let data = machine.buffer(&[0; 4096]);
    let module = machine.load(ptx).expect("PTX");
    let launch = Launch { grid: [grid, 1, 1], block: [block, 1, 1], dynamic_shared: 0, params: params(&[data]) };
    let out = softgpu::launch(module.kernel("k").unwrap(), &launch, &machine.memory, &machine.settings);
    (machine.bytes(data, 4096), out.counters, out.fault)
}
const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 data) {
.reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %d<32>; ld.param.u64 %d1, [data]; mov.u32 %r1, %ctaid.x; mov.u32 %r20, %tid.x;\n";
fn k(body: &str) -> String {
    format!("{HEAD}{body}\nret;\n}}\n")
}

#[test]
fn a_table_branch_of_some_lanes() {
    let body = "mov.u32 %r3, 0; mov.u32 %r4, 9; setp.lt.u32 %p1, %r20, 16; @%p1 mov.u32 %r3, 1; setp.lt.u32 %p2, %r20, 24; T: .branchtargets A, B; @%p2 brx.idx %r3, T; mov.u32 %r4, 7; bra E; A: mov.u32 %r4, 1; bra E; B: mov.u32 %r4, 2;
    E: mul.wide.u32 %d2, %r20, 4; add.s64 %d2, %d1, %d2; st.global.u32 [%d2], %r4;";
    let (b, _, f) = run(&k(body), 1, 1, 32);
    assert!(f.is_none(), "{f:?}");
    assert_eq!((b[0], b[64], b[96]), (2, 1, 7));
}
#[test]
fn labels_of_two_scopes() {
    let body = "{ .reg .pred p; setp.eq.u32 p, %r20, 0; @p bra DONE; add.s32 %r20, %r20, 0; DONE: }\n { .reg .pred p; setp.eq.u32 p, %r20, 0; @p bra DONE; add.s32 %r20, %r20, 0; DONE: }";
    let (_, _, f) = run(&k(body), 1, 1, 32);
    assert!(f.is_none(), "{f:?}");
}

//! Less usual PTX, PTX that asks for too much, and what must not depend on the number of cores.

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
#[test]
fn printf_with_an_absurd_precision() {
    let s = ".version 8.0\n.target sm_80\n.address_size 64\n.global .align 1 .b8 f[10] = {37,46,57,57,57,57,57,102,10,0};\n.extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);\n.visible .entry k(.param .u64 data) { .reg .b64 %d<4>; .local .align 8 .b8 s[8]; .param .b64 p0; .param .b64 p1; .param .b32 rv; mov.u64 %d1, f; cvta.global.u64 %d1, %d1; mov.u64 %d2, s; cvta.local.u64 %d3, %d2; mov.u64 %d0, 0; st.local.u64 [%d2], %d0; st.param.b64 [p0], %d1; st.param.b64 [p1], %d3; call.uni (rv), vprintf, (p0, p1); ret; }\n";
    let (_, _, f) = run(s, 1, 1, 1);
    assert!(f.is_none(), "{f:?}");
}
#[test]
fn an_address_of_advice_is_only_read() {
    // The register lives around the loop, and is mentioned there first as an address.
    let body = "mov.u32 %r5, 0; mov.u64 %d3, %d1; L: applypriority.global.L2::evict_normal [%d3], 128; st.global.u32 [%d3], %r5; mul.wide.u32 %d5, %r5, 12345; mul.lo.s64 %d6, %d5, %d5; add.s32 %r5, %r5, 1; st.global.u64 [%d1+64], %d6; setp.lt.u32 %p1, %r5, 3; @%p1 bra L;";
    let (_, _, f) = run(&k(body), 1, 1, 1);
    assert!(f.is_none(), "{f:?}");
}
fn load(s: &str) -> bool {
    Machine::new(settings(80, 0, 1000)).load(s).is_ok()
}

#[test]
fn more_than_any_device_has() {
    let h = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let many =
        |p: &str, n: usize, sep: &str| (0..n).map(|i| p.replace('#', &i.to_string())).collect::<Vec<_>>().join(sep);
    assert!(!load(&format!(
        "{h}.visible .entry k({}) {{ ret; }}\n",
        many(".param .align 8 .b8 a#[1073741824]", 5, ",")
    )));
    assert!(!load(&format!(
        "{h}.visible .entry k() {{ {} ret; }}\n",
        many(".shared .align 8 .b8 a#[1073741824];", 4, " ")
    )));
    assert!(!load(&format!("{h}.visible .entry k() {{ .local .b8 a[1048576]; ret; }}\n")));
}

#[test]
fn a_strong_load_sees_whole_words() {
    let body = "mov.u32 %r5, 0; setp.eq.u32 %p1, %r1, 0; @%p1 bra W;
 R: ld.volatile.global.u32 %r3, [%d1]; add.s32 %r4, %r3, 1; setp.gt.u32 %p2, %r4, 1; @%p2 st.global.u32 [%d1+64], %r3; add.s32 %r5, %r5, 1; setp.lt.u32 %p3, %r5, 200000; @%p3 bra R; ret;
 W: not.b32 %r6, %r6; atom.global.exch.b32 %r7, [%d1], %r6; add.s32 %r5, %r5, 1; setp.lt.u32 %p3, %r5, 200000; mov.u32 %r6, 0; and.b32 %r8, %r5, 1; setp.eq.u32 %p4, %r8, 0; @%p4 not.b32 %r6, %r6; @%p3 bra W;";
    let (bytes, _, fault) = run(&k(body), 2, 2, 1);
    assert!(fault.is_none(), "{fault:?}");
    assert_eq!(bytes[64..68], [0; 4]);
}

#[test]
fn a_sector_that_is_stored_and_updated_counts_for_both() {
    let body = "mul.wide.u32 %d2, %r1, 4; add.s64 %d2, %d1, %d2; and.b32 %r3, %r1, 1; setp.eq.u32 %p1, %r3, 0; @%p1 st.global.u32 [%d2], 1; @!%p1 red.global.add.u32 [%d2], 1;";
    let ways: std::collections::HashSet<_> = (0..40)
        .map(|_| {
            let (_, c, f) = run(&k(body), 2, 512, 1);
            assert!(f.is_none());
            (c.global_store.distinct_sectors, c.global_atomics.distinct_sectors)
        })
        .collect();
    assert_eq!(ways.len(), 1, "{ways:?}");
}
#[test]
fn the_clock_is_of_the_block() {
    let body = "mov.u32 %r3, %clock; mul.wide.u32 %d2, %r1, 4; add.s64 %d2, %d1, %d2; st.global.u32 [%d2], %r3;";
    assert_eq!(run(&k(body), 1, 512, 1).0, run(&k(body), 2, 512, 1).0);
}

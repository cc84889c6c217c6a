//! Results and counters do not depend on the number of cores.

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

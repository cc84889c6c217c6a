//! Every check finds what it is for, says where, and leaves right kernels alone; whatever the order of warps and the
//! number of cores.

#[path = "common/machine.rs"]
mod machine;

use FaultKind::*;
use machine::{Machine, Shape, params, settings};
use softgpu::FaultKind;

/// A kernel's text for `blocks` x `threads`, and what must come of it.
struct Case {
    name: &'static str,
    blocks: u32,
    threads: u32,
    expect: Option<FaultKind>,
    body: &'static str,
}

const fn case(name: &'static str, blocks: u32, threads: u32, expect: Option<FaultKind>, body: &'static str) -> Case {
    Case { name, blocks, threads, expect, body }
}

/// %data: 4096 bytes of zeros; %raw: 256 bytes that nobody wrote; %t, %b: indices of thread and block; %at: shared
/// address of the thread's 4 bytes in `area` (1024 bytes); %mine: global address of the thread's 4 bytes in %data.
const HEAD: &str = "
.version 8.0
.target sm_80
.address_size 64
.func leave_or_meet() { .reg .pred %p; .reg .b32 %t; mov.u32 %t, %tid.x; setp.lt.u32 %p, %t, 2; @%p bra M; exit; M: bar.sync 0; ret; }
.visible .entry k(.param .u64 data, .param .u64 raw) {
.reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<32>; .reg .b64 %d<32>; .reg .b32 %t, %b, %at; .reg .b64 %data, %raw, %mine;
.shared .align 16 .b8 area[1024];
.shared .align 16 .b8 second[64];
.local .align 16 .b8 stack[64];
ld.param.u64 %data, [data];
ld.param.u64 %raw, [raw];
mov.u32 %t, %tid.x;
mov.u32 %b, %ctaid.x;
mov.u32 %at, area;
mad.lo.s32 %at, %t, 4, %at;
mad.wide.u32 %mine, %t, 4, %data;
setp.eq.u32 %p1, %t, 0;
setp.lt.u32 %p2, %t, 16;
setp.eq.u32 %p3, %b, 0;
add.s32 %r1, %t, 1;
";

const GLOBAL: &[Case] = &[
    case("the last bytes of an allocation", 1, 32, None, "ld.global.u32 %r2, [%data+4092];"),
    case("one past the end", 1, 32, Some(OutOfBounds), "ld.global.u32 %r2, [%data+4096];"),
    case("across the end", 1, 32, Some(OutOfBounds), "@%p1 st.global.v4.u32 [%raw+256], {%r1, %r1, %r1, %r1};"),
    case("a null pointer", 1, 1, Some(OutOfBounds), "mov.u64 %d1, 0; ld.global.u32 %r2, [%d1];"),
    case("not a multiple of the size", 1, 1, Some(Misaligned), "ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%data+8];"),
    case("never written", 1, 1, Some(GlobalUninitialised), "ld.global.u32 %r2, [%raw];"),
    case("half written", 1, 1, Some(GlobalUninitialised), "st.global.u16 [%raw], %h1; ld.global.u32 %r2, [%raw];"),
    case("written, then read", 1, 1, None, "st.global.u32 [%raw], %r1; ld.global.u32 %r2, [%raw];"),
    case("an atomic on what was never written", 1, 1, Some(GlobalUninitialised), "red.global.add.u32 [%raw], 1;"),
    case("a store to constants", 1, 1, Some(OutOfBounds), "mov.u64 %d1, 4096; st.global.u32 [%d1], %r1;"),
];

const BETWEEN_BLOCKS: &[Case] = &[
    case("two blocks write", 4, 32, Some(GlobalRace), "st.global.u32 [%mine], %r1;"),
    case("each block its own", 4, 32, None, "mad.wide.u32 %d1, %b, 128, %mine; st.global.u32 [%d1], %r1;"),
    case("halves of one word", 2, 1, None, "mad.wide.u32 %d1, %b, 2, %data; mov.u16 %h1, 7; st.global.u16 [%d1], %h1;"),
    case("all read", 4, 32, None, "ld.global.u32 %r2, [%mine];"),
    case(
        "one writes, others read",
        4,
        32,
        Some(GlobalRace),
        "@%p3 st.global.u32 [%data], %r1; @!%p3 ld.global.u32 %r2, [%data];",
    ),
    case(
        "the last reads, others write",
        4,
        1,
        Some(GlobalRace),
        "ld.global.u32 %r2, [%data]; setp.eq.u32 %p4, %b, 3; @%p4 st.global.u32 [%data], %r1;",
    ),
    case("atomics among themselves", 4, 32, None, "red.global.add.u32 [%data], 1;"),
    case(
        "the last block reads what others released",
        4,
        1,
        None,
        "mad.wide.u32 %d1, %b, 4, %data; st.global.u32 [%d1+16], %r1; membar.gl; atom.global.add.u32 %r2, [%data], 1;
         setp.ne.u32 %p4, %r2, 3; @%p4 ret; membar.gl; ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%data+16];",
    ),
    case(
        "without the writer's fence",
        4,
        1,
        Some(GlobalRace),
        "mad.wide.u32 %d1, %b, 4, %data; st.global.u32 [%d1+16], %r1; atom.global.add.u32 %r2, [%data], 1;
         setp.ne.u32 %p4, %r2, 3; @%p4 ret; membar.gl; ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%data+16];",
    ),
    case(
        "without the reader's fence",
        4,
        1,
        Some(GlobalRace),
        "mad.wide.u32 %d1, %b, 4, %data; st.global.u32 [%d1+16], %r1; membar.gl; atom.global.add.u32 %r2, [%data], 1;
         setp.ne.u32 %p4, %r2, 3; @%p4 ret; ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%data+16];",
    ),
];

/// Seen only in this order, which one core keeps: an atomic leaves no note that a later plain store would find.
const IN_ORDER: &[Case] = &[case(
    "a plain store, then an atomic",
    2,
    1,
    Some(GlobalRace),
    "@%p3 st.global.u32 [%data], %r1; @!%p3 red.global.add.u32 [%data], 1;",
)];

const SHARED: &[Case] = &[
    case("a thread's own bytes", 1, 64, None, "st.shared.u32 [%at], %r1; ld.shared.u32 %r2, [%at];"),
    case("never written", 1, 1, Some(SharedUninitialised), "ld.shared.u32 %r2, [%at];"),
    case("past all variables", 1, 1, Some(SharedOutOfBounds), "st.shared.u32 [%at+65536], %r1;"),
    case("past the end of one variable", 1, 1, Some(SharedOutOfBounds), "st.shared.u32 [%at+1024], %r1;"),
    case("not a multiple of the size", 1, 1, Some(Misaligned), "st.shared.u64 [%at+4], %d1;"),
    case("a neighbour's, after a barrier", 1, 64, None, "st.shared.u32 [%at], %r1; bar.sync 0; xor.b32 %r2, %at, 128; ld.shared.u32 %r3, [%r2];"),
    case("a neighbour's, without", 1, 64, Some(SharedRace), "st.shared.u32 [%at], %r1; xor.b32 %r2, %at, 128; bar.warp.sync -1; mov.u32 %r4, 0; st.shared.u32 [%r2], %r4;"),
    case("a lane's, after bar.warp.sync", 1, 32, None, "st.shared.u32 [%at], %r1; bar.warp.sync -1; xor.b32 %r2, %at, 4; ld.shared.u32 %r3, [%r2];"),
    case("a lane's, without", 1, 32, Some(SharedRace), "st.shared.u32 [%at], %r1; xor.b32 %r2, %at, 4; ld.shared.u32 %r3, [%r2];"),
    case(
        "all read, and after bar.warp.sync one reads and overwrites",
        1,
        32,
        None,
        "mov.u32 %r2, area; @%p1 st.shared.u32 [%r2], 1; bar.warp.sync -1; ld.shared.u32 %r3, [%r2]; bar.warp.sync -1;
         @%p1 ld.shared.u32 %r3, [%r2]; @%p1 st.shared.u32 [%r2], %r1;",
    ),
    case(
        "all of two warps read, and after a barrier of the two one reads and overwrites",
        1,
        96,
        None,
        "setp.gt.u32 %p4, %t, 63; mov.u32 %r2, area; @%p1 st.shared.u32 [%r2], 1; bar.sync 0; @%p4 ret;
         ld.shared.u32 %r3, [%r2]; bar.sync 1, 64; @%p1 ld.shared.u32 %r3, [%r2]; @%p1 st.shared.u32 [%r2], 7;",
    ),
    case(
        "two warps read, and one of them overwrites after bar.warp.sync",
        1,
        64,
        Some(SharedRace),
        "mov.u32 %r2, area; @%p1 st.shared.u32 [%r2], 1; bar.sync 0; ld.shared.u32 %r3, [%r2]; bar.warp.sync -1;
         @%p1 ld.shared.u32 %r3, [%r2]; setp.eq.u32 %p4, %t, 40; @%p4 st.shared.u32 [%r2], 3; @%p1 st.shared.u32 [%r2], %r1;",
    ),
    case("atomics, then a plain read", 1, 64, Some(SharedRace), "mov.u32 %r2, area; @%p1 st.shared.u32 [%r2], 0; bar.sync 0; atom.shared.add.u32 %r3, [%r2], 1; @%p1 ld.shared.u32 %r4, [%r2];"),
    case("atomics, then a plain read of a later thread", 1, 64, Some(SharedRace), "mov.u32 %r2, area; @%p1 st.shared.u32 [%r2], 0; bar.sync 0; setp.gt.u32 %p4, %t, 31; @!%p4 red.shared.add.u32 [%r2], 1; @%p4 ld.shared.u32 %r4, [%r2]; @!%p4 ld.shared.u32 %r4, [%r2];"),
    case("atomics, then a plain write", 1, 64, Some(SharedRace), "mov.u32 %r2, area; @%p1 st.shared.u32 [%r2], 0; bar.sync 0; red.shared.add.u32 [%r2], 1; @%p1 st.shared.u32 [%r2], 0;"),
    case("atomics, a barrier, a plain read", 1, 64, None, "mov.u32 %r2, area; @%p1 st.shared.u32 [%r2], 0; bar.sync 0; red.shared.add.u32 [%r2], 1; bar.sync 0; ld.shared.u32 %r4, [%r2]; bar.sync 0; @%p1 st.shared.u32 [%r2], 0; bar.sync 0; red.shared.add.u32 [%r2], 1;"),
    case("a thread's own atomic, then its read", 1, 64, None, "st.shared.u32 [%at], 0; atom.shared.add.u32 %r3, [%at], 1; ld.shared.u32 %r4, [%at]; st.shared.u32 [%at], 0;"),
    case("all write the same", 1, 64, None, "mov.u32 %r2, area; mov.u32 %r3, 5; st.shared.u32 [%r2], %r3;"),
    case("all write something", 1, 64, Some(SharedRace), "mov.u32 %r2, area; st.shared.u32 [%r2], %t;"),
    case(
        "overwritten while others read",
        1,
        64,
        Some(SharedRace),
        "st.shared.u32 [%at], %r1; bar.sync 0; mov.u32 %r2, area; ld.shared.u32 %r3, [%r2]; st.shared.u32 [%at], %t;",
    ),
    case(
        "overwritten after another barrier",
        1,
        64,
        None,
        "st.shared.u32 [%at], %r1; bar.sync 0; mov.u32 %r2, area; ld.shared.u32 %r3, [%r2]; bar.sync 0; st.shared.u32 [%at], %t;",
    ),
    case("atomics among themselves", 1, 64, None, "mov.u32 %r2, area; @%p1 st.shared.u32 [%r2], 0; bar.sync 0; atom.shared.add.u32 %r3, [%r2], 1;"),
    case(
        "a barrier of two warps orders these two",
        1,
        96,
        None,
        "setp.gt.u32 %p4, %t, 63; @%p4 ret; st.shared.u32 [%at], %r1; bar.sync 1, 64; xor.b32 %r2, %at, 128; ld.shared.u32 %r3, [%r2];",
    ),
    case(
        "but not the third",
        1,
        96,
        Some(SharedRace),
        "setp.gt.u32 %p4, %t, 63; st.shared.u32 [%at], %r1; @!%p4 bar.sync 1, 64; and.b32 %r2, %at, 127; mov.u32 %r4, area;
         add.s32 %r4, %r4, %r2; @%p4 st.shared.u32 [%r4], 9; @!%p4 ld.shared.u32 %r3, [%r4];",
    ),
];

const COPIES: &[Case] = &[
    case(
        "waited for",
        1,
        32,
        None,
        "cp.async.ca.shared.global [%at], [%mine], 4; cp.async.wait_all; ld.shared.u32 %r2, [%at];",
    ),
    case(
        "read before the wait",
        1,
        32,
        Some(AsyncCopyUnfinished),
        "cp.async.ca.shared.global [%at], [%mine], 4; ld.shared.u32 %r2, [%at];",
    ),
    case(
        "the wait leaves one group",
        1,
        32,
        Some(AsyncCopyUnfinished),
        "cp.async.ca.shared.global [%at], [%mine], 4; cp.async.commit_group; cp.async.wait_group 1; ld.shared.u32 %r2, [%at];",
    ),
    case(
        "another's copy without a barrier",
        1,
        64,
        Some(SharedRace),
        "cp.async.ca.shared.global [%at], [%mine], 4; cp.async.wait_all; xor.b32 %r2, %at, 128; bar.warp.sync -1; mov.u32 %r4, 1; ld.shared.u32 %r3, [%at]; st.shared.u32 [%r2], %r4;",
    ),
    case(
        "bytes past the source are not read",
        1,
        1,
        None,
        "mov.u32 %r2, 4; cp.async.cg.shared.global [%at], [%data+4080], 16, %r2; cp.async.wait_all;",
    ),
];

const WARPS: &[Case] = &[
    case("a barrier for half a warp", 1, 64, Some(DivergentBarrier), "@%p2 bar.sync 0;"),
    case("a barrier after some have left", 1, 64, None, "setp.gt.u32 %p4, %t, 31; @%p4 ret; bar.sync 0;"),
    case("two places", 1, 64, Some(DivergentBarrier), "setp.gt.u32 %p4, %t, 31; @%p4 bar.sync 0; @!%p4 bar.sync 0;"),
    case(
        "different barriers",
        1,
        64,
        Some(Deadlock),
        "setp.gt.u32 %p4, %t, 31; @%p4 bar.sync 1, 64; @!%p4 bar.sync 2, 64;",
    ),
    case(
        "a barrier after some have left, by a branch and with work of their own",
        1,
        64,
        None,
        "@%p2 bra L1; st.global.u32 [%mine], %r1; ret; L1: bar.sync 0;",
    ),
    case(
        "they leave from three places, one of them in a function",
        1,
        64,
        None,
        "setp.lt.u32 %p4, %t, 8; setp.lt.u32 %p5, %t, 4; @%p2 bra L1; st.global.u32 [%mine], %r1; ret;
         L1: @%p4 bra L2; st.global.u32 [%mine], %r1; setp.eq.u32 %p6, %t, 9; @%p6 exit; bra L3;
         L2: @%p5 bra L4; bra L5; L5: exit;
         L4: call leave_or_meet; shfl.sync.idx.b32 %r2, %r1, 0, 31, -1; bar.sync 0; ret;
         L3: st.global.u32 [%mine], %r1; ret;",
    ),
    case(
        "they do not leave but come to another barrier",
        1,
        32,
        Some(DivergentBarrier),
        "@%p2 bra L1; st.global.u32 [%mine], %r1; bar.sync 0; bra L2; L1: bar.sync 0; L2:",
    ),
    case(
        "they wait where the two ways meet",
        1,
        32,
        Some(DivergentBarrier),
        "@%p2 bra L1; st.global.u32 [%mine], %r1; bra L2; L1: bar.sync 0; L2: add.s32 %r2, %r1, 1;",
    ),
    case(
        "a shuffle that names those who have left by a branch",
        1,
        32,
        None,
        "@%p2 bra L1; st.global.u32 [%mine], %r1; ret; L1: shfl.sync.idx.b32 %r2, %r1, 0, 31, -1;",
    ),
    case("an endless loop", 1, 32, Some(InstructionLimit), "L1: bra L1;"),
    case(
        "one lane waits for another",
        1,
        32,
        Some(InstructionLimit),
        "L1: ld.volatile.global.u32 %r2, [%data]; @%p1 bra L2; setp.eq.u32 %p4, %r2, 0; @%p4 bra L1; L2: st.volatile.global.u32 [%data], 1;",
    ),
    case("a shuffle of all", 1, 32, None, "shfl.sync.idx.b32 %r2, %r1, 0, 31, -1;"),
    case(
        "a shuffle of half names all",
        1,
        32,
        Some(DivergentCollective),
        "@%p2 shfl.sync.idx.b32 %r2, %r1, 0, 31, -1;",
    ),
    case("a shuffle of half names half", 1, 32, None, "@%p2 shfl.sync.idx.b32 %r2, %r1, 0, 31, 0xffff;"),
    case(
        "it reads from the other half",
        1,
        32,
        Some(DivergentCollective),
        "@%p2 shfl.sync.idx.b32 %r2, %r1, 20, 31, 0xffff;",
    ),
    case(
        "mma in half a warp",
        1,
        32,
        Some(DivergentCollective),
        "@%p2 mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%r2, %r3, %r4, %r5}, {%r6, %r7}, {%r8}, {%r2, %r3, %r4, %r5};",
    ),
];

const OTHERS: &[Case] = &[
    case("past the stack", 1, 1, Some(LocalOutOfBounds), "mov.u64 %d1, stack; ld.local.u32 %r2, [%d1+64];"),
    case("trap", 1, 1, Some(Trap), "trap;"),
    case("an unknown address space", 1, 1, Some(OutOfBounds), "mov.u64 %d1, -1; ld.u32 %r2, [%d1+1];"),
];

fn run(case: &Case, seed: u64, threads: usize) -> Option<softgpu::Fault> {
    let mut settings = settings(80, seed, 20_000);
    settings.threads = threads;
    let machine = Machine::new(settings);
    let data = machine.buffer(&[0; 4096]);
    let raw = machine.memory.alloc(256).expect("memory");
    let text = format!("{HEAD}{}\nret;\n}}\n", case.body);
    let module = machine.load(&text).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let shape = Shape { grid: [case.blocks, 1, 1], ..Shape::line(case.threads) };
    machine.launch(&module, "k", &shape, &params(&[data, raw]))
}

fn check(cases: &[Case]) {
    check_on(cases, &[(0, 1), (1, 1), (2, 2), (3, 1)]);
}

fn check_on(cases: &[Case], runs: &[(u64, usize)]) {
    for case in cases {
        for &(seed, threads) in runs {
            let fault = run(case, seed, threads);
            let found = fault.as_ref().map(|fault| fault.kind);
            assert_eq!(found, case.expect, "{} (seed {seed}, {threads} threads): {fault:?}", case.name);
            let Some(fault) = fault else { continue };
            assert!(fault.ptx_line > HEAD.lines().count() as u32 - 1, "{}: {fault}", case.name);
            let head = |text: &str| text.trim().split([' ', ';']).next().unwrap_or("").to_string();
            assert!(case.body.contains(&head(&fault.instruction)), "{}: {fault}", case.name);
            assert!(!fault.detail.is_empty());
        }
    }
}

#[test]
fn global_memory() {
    check(GLOBAL);
}

#[test]
fn blocks_of_one_launch() {
    check(BETWEEN_BLOCKS);
}

/// On several cores the order of two atomics and the order of their notes could differ.
#[test]
fn ordered_blocks_do_not_race_on_several_cores() {
    for case in BETWEEN_BLOCKS.iter().filter(|case| case.expect.is_none()) {
        for seed in 0..2000 {
            let fault = run(case, seed, 4);
            assert!(fault.is_none(), "{} (seed {seed}): {fault:?}", case.name);
        }
    }
}

#[test]
fn blocks_one_after_the_other() {
    check_on(IN_ORDER, &[(0, 1), (1, 1), (3, 1)]);
}

#[test]
fn shared_memory() {
    check(SHARED);
}

#[test]
fn asynchronous_copies() {
    check(COPIES);
}

#[test]
fn warps() {
    check(WARPS);
}

#[test]
fn other_faults() {
    check(OTHERS);
}

#[test]
fn a_freed_allocation_is_known() {
    let machine = Machine::new(settings(80, 0, 20_000));
    let module = machine.load(&format!("{HEAD} ld.global.u32 %r2, [%data+8]; ret;\n}}\n")).expect("PTX");
    let data = machine.buffer(&[0; 4096]);
    machine.memory.free(data).expect("freed");
    let fault = machine.launch(&module, "k", &Shape::line(1), &params(&[data, data])).expect("a fault");
    assert_eq!((fault.kind, fault.address), (UseAfterFree, Some(data + 8)));
    assert_eq!(fault.thread, Some([0, 0, 0]));
}

#[test]
fn the_first_block_is_reported_on_any_number_of_cores() {
    let body = "setp.gt.u32 %p4, %b, 4; @%p4 ld.global.u32 %r2, [%data+5000];";
    for threads in [1, 2, 4] {
        let fault = run(&case("late blocks", 64, 32, None, body), 0, threads).expect("a fault");
        assert_eq!(fault.block, [5, 0, 0]);
    }
}

#[test]
fn without_checks_only_bounds_are_looked_at() {
    let mut settings = settings(80, 0, 20_000);
    settings.checks = false;
    let machine = Machine::new(settings);
    let text = |body: &str| format!("{HEAD}{body}\nret;\n}}\n");
    let raw = machine.memory.alloc(256).expect("memory");
    for (body, expect) in [("ld.global.u32 %r2, [%raw];", None), ("ld.global.u32 %r2, [%raw+256];", Some(OutOfBounds))]
    {
        let module = machine.load(&text(body)).expect("PTX");
        let fault = machine.launch(&module, "k", &Shape::line(1), &params(&[raw, raw]));
        assert_eq!(fault.map(|fault| fault.kind), expect);
    }
}

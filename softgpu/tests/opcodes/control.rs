//! Branches, calls, barriers, fences, special registers and how a kernel ends.

use softgpu::FaultKind;

use crate::harness::{Form, Probe, Shape, body, check, dumping, launch_text, machine, refused};

#[test]
fn follows_the_manual() {
    check(forms());
}

pub fn forms() -> Vec<Form> {
    let tables = [branches(), calls(), barriers(), joined(), fences(), special(), ends()];
    tables.into_iter().flatten().collect()
}

fn numbers(count: u64) -> Vec<Vec<u64>> {
    (0..count).map(|i| vec![i * 7 % 23]).collect()
}

/// Loops and branches of different length in every lane, nested, and back together.
fn branches() -> Vec<Form> {
    let collatz = |branch: &str| {
        format!(
            "mov.b32 %o0, 0;\nadd.s32 %t1, %i0, 1;\n$loop:\nsetp.eq.s32 %p1, %t1, 1;\n@%p1 bra $done;\n\
             and.b32 %t2, %t1, 1;\nsetp.eq.b32 %p2, %t2, 1;\n@!%p2 bra $even;\nmad.lo.s32 %t1, %t1, 3, 1;\n\
             bra $next;\n$even:\nshr.u32 %t1, %t1, 1;\n$next:\nadd.s32 %o0, %o0, 1;\n{branch} $loop;\n$done:\n\
             bar.warp.sync 0xffffffff;"
        )
    };
    let steps = |mut n: u64| {
        let mut count = 0;
        while n != 1 {
            n = if n % 2 == 1 { 3 * n + 1 } else { n / 2 };
            count += 1;
        }
        count
    };
    let one = |branch: &str| {
        let probe = Probe::new(&collatz(branch), "b32", "b32");
        body(branch, probe, numbers(128), move |_, x| vec![steps(x[0] + 1)])
    };
    vec![one("bra"), one("bra.uni"), indexed(), guards()]
}

fn indexed() -> Form {
    let text = "$targets: .branchtargets $a, $b, $c;\nand.b32 %t1, %i0, 3;\nmin.u32 %t1, %t1, 2;\nmov.b32 %o0, 0;\n\
        brx.idx %t1, $targets;\n$a:\nadd.s32 %o0, %o0, 1;\nbra $end;\n$b:\nadd.s32 %o0, %o0, 20;\n\
        $c:\nadd.s32 %o0, %o0, 300;\n$end:";
    let probe = Probe::new(text, "b32", "b32");
    body("brx.idx", probe, numbers(64), |_, x| vec![[1, 320, 300, 300][x[0] as usize & 3]])
}

/// A guard on every kind of instruction: load, store, arithmetic, branch.
fn guards() -> Form {
    let text = "setp.gt.s32 %p1, %i0, 10;\nmov.b32 %o0, 5;\n@%p1 add.s32 %o0, %i0, 100;\n@!%p1 mul.lo.s32 %o0, %i0, 2;\n\
        mad.wide.u32 %d1, %thread, 4, %scratch;\n@%p1 st.global.b32 [%d1], %o0;\n@!%p1 ld.global.b32 %o1, [%d1];\n\
        @%p1 mov.b32 %o1, 1;\n@!%p1 mov.b64 %d1, 0;\n@%p1 ld.global.b32 %o1, [%d1];";
    let probe = Probe::new(text, "b32", "b32 b32").scratch(vec![9; 512]);
    body("bra", probe, numbers(128), |_, x| match x[0] > 10 {
        true => vec![x[0] + 100; 2],
        false => vec![x[0] * 2, 0x0909_0909],
    })
}

const FUNCTIONS: &str = "\
.func (.param .b32 result) scale(.param .b32 scale_0, .param .b64 scale_1)
{
	.reg .b32 %r<5>;
	.reg .b64 %rd<3>;
	ld.param.u32 %r1, [scale_0];
	ld.param.u64 %rd1, [scale_1];
	cvt.u32.u64 %r2, %rd1;
	mul.lo.s32 %r3, %r1, %r2;
	setp_or_skip
	st.param.b32 [result+0], %r3;
	ret;
}
.func (.param .align 16 .b8 pair[16]) swap(.param .align 16 .b8 swap_0[16])
{
	.reg .b32 %r<5>;
	ld.param.v4.b32 {%r1, %r2, %r3, %r4}, [swap_0];
	st.param.v4.b32 [pair+0], {%r3, %r4, %r1, %r2};
	ret;
}
.func (.param .b32 factorial_out) factorial(.param .b32 factorial_0)
{
	.reg .pred %p<2>;
	.reg .b32 %r<6>;
	ld.param.b32 %r1, [factorial_0];
	mov.b32 %r2, 1;
	setp.lt.u32 %p1, %r1, 2;
	@%p1 bra $out;
	add.s32 %r3, %r1, -1;
	{
	.param .b32 n;
	.param .b32 value;
	st.param.b32 [n+0], %r3;
	call.uni (value), factorial, (n);
	ld.param.b32 %r4, [value+0];
	}
	mul.lo.s32 %r2, %r1, %r4;
$out:
	st.param.b32 [factorial_out+0], %r2;
	ret;
}
.func nothing()
{
	ret;
}
";

fn functions() -> String {
    FUNCTIONS.replace("setp_or_skip", "add.s32 %r3, %r3, 1;")
}

/// Functions in divergent code, with vectors, no arguments and a guard. Those that call themselves, and calls through
/// a pointer, are refused.
fn calls() -> Vec<Form> {
    let scale = |call: &str| {
        format!(
            "mov.b32 %o0, 8;\nsetp.gt.s32 %p1, %i0, 9;\n@%p1 bra $end;\n{{\n.param .b32 param0;\n.param .b64 param1;\n\
             .param .b32 retval0;\nst.param.b32 [param0+0], %i0;\nmov.b64 %d1, 11;\nst.param.b64 [param1+0], %d1;\n\
             {call}\nld.param.b32 %o0, [retval0+0];\n}}\n$end:"
        )
    };
    let direct = |opcode: &str| {
        let text = scale(&format!("{opcode} (retval0),\nscale,\n(\nparam0,\nparam1\n);"));
        let probe = Probe::new(&text, "b32", "b32").module(&functions());
        body(opcode, probe, numbers(100), |_, x| vec![if x[0] > 9 { 8 } else { 11 * x[0] + 1 }])
    };
    let text = scale(
        "mov.u64 %d2, scale;\nprototype : .callprototype (.param .b32 _) _ (.param .b32 _, .param .b64 _);\n\
         call (retval0), %d2, (param0, param1), prototype;",
    );
    let probe = Probe::new(&text, "b32", "b32").module(&functions());
    let indirect = refused("call", probe, "prototype");
    let mut forms = vec![direct("call.uni"), direct("call"), indirect, recursion(), nothing(), guarded_call()];
    forms.extend(["st.param.b32", "st.param.b64", "st.param.f32", "st.param.f64", "st.param.u32"].map(passed));
    forms.extend(
        ["st.param.v2.b32", "st.param.v2.f32", "st.param.v4.b32", "st.param.v4.f32", "st.param.v2.f64"].map(passed),
    );
    forms.extend(["st.param.b8", "st.param.b16", "st.param.v4.b8", "st.param.v4.b16", "st.param.v2.b64"].map(passed));
    forms
}

fn recursion() -> Form {
    let text = "rem.u32 %t1, %i0, 9;\n{\n.param .b32 n;\n.param .b32 value;\nst.param.b32 [n+0], %t1;\n\
        call.uni (value), factorial, (n);\nld.param.b32 %o0, [value+0];\n}";
    let probe = Probe::new(text, "b32", "b32").module(&functions());
    refused("call.uni", probe, "factorial")
}

fn nothing() -> Form {
    let probe = Probe::new("call.uni nothing, ();\ncall.uni nothing;\nmov.b32 %o0, %i0;", "b32", "b32");
    body("call.uni", probe.module(&functions()), numbers(40), |_, x| vec![x[0]])
}

fn guarded_call() -> Form {
    let text = "mov.b32 %o0, 3;\nsetp.lt.s32 %p1, %i0, 8;\n{\n.param .b32 n;\n.param .b64 by;\n.param .b32 value;\n\
        mov.b64 %d1, 5;\nst.param.b32 [n+0], %i0;\nst.param.b64 [by+0], %d1;\n@%p1 call (value), scale, (n, by);\n\
        ld.param.b32 %t1, [value+0];\n}\n@%p1 mov.b32 %o0, %t1;";
    let probe = Probe::new(text, "b32", "b32").module(&functions());
    body("call", probe, numbers(64), |_, x| vec![if x[0] < 8 { 5 * x[0] + 1 } else { 3 }])
}

/// 16 bytes through a function that swaps their halves, stored by the opcode at their beginning.
fn passed(opcode: &str) -> Form {
    let kind = opcode.rsplit('.').next().unwrap();
    let (size, register) = match kind {
        "b8" => (1, "h"),
        "b16" => (2, "h"),
        "b64" | "f64" => (8, "d"),
        _ => (4, "t"),
    };
    let count: usize = if opcode.contains(".v4") { 4 } else { 1 + usize::from(opcode.contains(".v2")) };
    let take = |i: usize| format!("cvt.u{}.u64 %{register}{}, %d{};\n", 8 * size.max(2), i + 1, i + 9);
    let word = |i: usize| format!("shr.u64 %d{}, %i{}, {};\n", i + 9, i * size / 8, i * size % 8 * 8);
    let names: Vec<String> = (1..=count).map(|i| format!("%{register}{i}")).collect();
    let list = if count == 1 { names[0].clone() } else { format!("{{{}}}", names.join(", ")) };
    let words: String = (0..count).map(|i| word(i) + &take(i)).collect();
    let words = words.replace("cvt.u64.u64", "mov.b64");
    let text = format!(
        "{words}{{\n.param .align 16 .b8 given[16];\n.param .align 16 .b8 taken[16];\nst.param.b64 [given+0], %i0;\n\
         st.param.b64 [given+8], %i1;\n{opcode} [given+0], {list};\ncall.uni (taken), swap, (given);\n\
         ld.param.b64 %o0, [taken+0];\nld.param.b64 %o1, [taken+8];\n}}"
    );
    let probe = Probe::new(&text, "b64 b64", "b64 b64").module(&functions());
    let cases = (0..40u64).map(|i| vec![0x0123_4567_89ab_cdef_u64.rotate_left(i as u32), !i << 32 | i]).collect();
    body(opcode, probe, cases, |_, x| vec![x[1], x[0]])
}

/// Threads of a block swap values over a barrier; all spellings, and barriers of a part of the block.
fn barriers() -> Vec<Form> {
    let swap = |opcode: &str, barrier: &str| {
        let text = format!(
            "mov.u32 %t1, area;\nmad.lo.s32 %t2, %thread, 4, %t1;\nst.shared.b32 [%t2], %i0;\n{barrier};\n\
             xor.b32 %t3, %thread, 0x21;\nmad.lo.s32 %t3, %t3, 4, %t1;\nld.shared.b32 %o0, [%t3];\n{barrier};\n\
             st.shared.b32 [%t2], %thread;\n{barrier};\nld.shared.b32 %o1, [%t3];"
        );
        let probe = Probe::new(&text, "b32", "b32 b32").module(".shared .align 4 .b8 area[512];");
        body(opcode, probe, numbers(128), |thread, _| {
            let other = thread as u64 ^ 0x21;
            vec![other * 7 % 23, other]
        })
    };
    let mut forms: Vec<Form> = [
        ("bar.sync", "bar.sync 0"),
        ("bar.sync", "bar.sync 3, 128"),
        ("bar.cta.sync", "bar.cta.sync 0"),
        ("barrier.sync", "barrier.sync 0"),
        ("barrier.sync.aligned", "barrier.sync.aligned 1, 128"),
        ("barrier.cta.sync", "barrier.cta.sync 0"),
        ("barrier.cta.sync.aligned", "barrier.cta.sync.aligned 0"),
    ]
    .map(|(opcode, barrier)| swap(opcode, barrier))
    .into();
    for arrive in ["bar.arrive", "barrier.arrive", "barrier.cta.arrive", "bar.cta.arrive"] {
        forms.push(produce(arrive));
    }
    forms
}

/// The second warp produces and arrives, the first one waits.
fn produce(arrive: &str) -> Form {
    let text = format!(
        "mov.u32 %t1, area;\nmov.b32 %o0, 1;\nsetp.lt.u32 %p1, %thread, 32;\n@%p1 bra $wait;\n\
         mad.lo.s32 %t2, %thread, 4, %t1;\nst.shared.b32 [%t2+-128], %i0;\n{arrive} 1, 64;\nbra $end;\n$wait:\n\
         bar.sync 1, 64;\nmad.lo.s32 %t2, %thread, 4, %t1;\nld.shared.b32 %o0, [%t2];\n$end:"
    );
    let probe = Probe::new(&text, "b32", "b32").module(".shared .align 4 .b8 area[128];").threads(64);
    body(arrive, probe, numbers(64), |thread, _| vec![if thread < 32 { (thread as u64 + 32) * 7 % 23 } else { 1 }])
}

/// Barriers that count or join predicates.
fn joined() -> Vec<Form> {
    let prefixes = ["bar.red", "bar.cta.red", "barrier.red", "barrier.cta.red"];
    let mut forms = vec![];
    for (prefix, (op, kind)) in prefixes.iter().flat_map(|prefix| JOINS.map(|join| (prefix, join))) {
        forms.push(join(&format!("{prefix}.{op}.{kind}")));
        if prefix.starts_with("barrier") {
            forms.push(join(&format!("{prefix}.{op}.aligned.{kind}")));
        }
    }
    forms
}

const JOINS: [(&str, &str); 3] = [("popc", "u32"), ("and", "pred"), ("or", "pred")];

fn join(opcode: &str) -> Form {
    let kind = if opcode.contains("popc") { "b32" } else { "pred" };
    let text = format!(
        "setp.gt.s32 %p1, %i0, 11;\nsetp.ge.s32 %p2, %i0, 0;\nsetp.lt.s32 %p3, %i0, 0;\n{opcode} %o0, 0, %p1;\n\
         {opcode} %o1, 0, !%p2;\n{opcode} %o2, 0, %p2;\n{opcode} %o3, 1, 96, !%p1;"
    );
    let probe = Probe::new(&text, "b32", &[kind; 4].join(" "));
    let (count, all) = (opcode.contains("popc"), opcode.contains("and"));
    body(opcode, probe, numbers(96), move |_, _| {
        let over = (0..96u64).filter(|i| i * 7 % 23 > 11).count() as u64;
        let value = |votes: u64| match (count, all) {
            (true, _) => votes,
            (_, true) => u64::from(votes == 96),
            _ => u64::from(votes > 0),
        };
        vec![value(over), value(0), value(96), value(96 - over)]
    })
}

/// Nothing to see in one thread but that the program goes on.
fn fences() -> Vec<Form> {
    let mut opcodes: Vec<String> = ["membar.cta", "membar.gl", "membar.sys"].map(String::from).into();
    for semantics in ["acq_rel", "sc"] {
        opcodes.extend(["cta", "gpu", "sys"].map(|scope| format!("fence.{semantics}.{scope}")));
    }
    let one = |opcode: &String| {
        let text = format!(
            "mad.wide.u32 %d1, %thread, 4, %scratch;\nst.global.b32 [%d1], %i0;\n{opcode};\nld.global.b32 %o0, [%d1];"
        );
        body(opcode, Probe::new(&text, "b32", "b32").scratch(vec![0; 256]), numbers(64), |_, x| vec![x[0]])
    };
    let mut forms: Vec<Form> = opcodes.iter().map(one).collect();
    let text = "mov.b32 %t1, 20;\nnanosleep.u32 %t1;\nnanosleep.u32 100;\nmov.b32 %o0, %i0;";
    forms.push(body("nanosleep.u32", Probe::new(text, "b32", "b32"), numbers(40), |_, x| vec![x[0]]));
    forms
}

/// Registers whose value follows from the place of the thread; and of the others, what can be said.
const GRID: &str = "\
.version 9.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 more[];
.visible .entry probe(.param .u64 probe_param_0)
.maxntid 64, 4, 2
{
	.reg .pred %p<4>;
	.reg .b32 %r<40>;
	.reg .b64 %rd<8>;
	ld.param.u64 %rd1, [probe_param_0];
	cvta.to.global.u64 %rd1, %rd1;
	mov.u32 %r1, %tid.x;
	mov.u32 %r2, %tid.y;
	mov.u32 %r3, %tid.z;
	mov.u32 %r4, %ntid.x;
	mov.u32 %r5, %ntid.y;
	mov.u32 %r6, %ntid.z;
	mov.u32 %r7, %ctaid.x;
	mov.u32 %r8, %ctaid.y;
	mov.u32 %r9, %ctaid.z;
	mov.u32 %r10, %nctaid.x;
	mov.u32 %r11, %nctaid.y;
	mov.u32 %r12, %nctaid.z;
	mov.u32 %r13, %laneid;
	mov.u32 %r14, %lanemask_eq;
	mov.u32 %r15, %lanemask_lt;
	mov.u32 %r16, %lanemask_le;
	mov.u32 %r17, %lanemask_gt;
	mov.u32 %r18, %lanemask_ge;
	mov.u32 %r19, WARP_SZ;
	mov.u32 %r20, %dynamic_smem_size;
	mov.u32 %r21, %warpid;
	mov.u32 %r22, %smid;
	mov.u32 %r23, %nsmid;
	mov.u32 %r24, %clock;
	mov.u64 %rd2, %clock64;
	mov.u64 %rd3, %globaltimer;
	setp.lt.u32 %p1, %r22, %r23;
	selp.b32 %r22, 1, 0, %p1;
	mad.lo.s32 %r30, %r3, %r5, %r2;
	mad.lo.s32 %r30, %r30, %r4, %r1;
	mad.lo.s32 %r31, %r9, %r11, %r8;
	mad.lo.s32 %r31, %r31, %r10, %r7;
	mul.lo.s32 %r32, %r4, %r5;
	mul.lo.s32 %r32, %r32, %r6;
	mad.lo.s32 %r31, %r31, %r32, %r30;
	mul.wide.u32 %rd4, %r31, 96;
	add.s64 %rd1, %rd1, %rd4;
	st.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r4};
	st.global.v4.u32 [%rd1+16], {%r5, %r6, %r7, %r8};
	st.global.v4.u32 [%rd1+32], {%r9, %r10, %r11, %r12};
	st.global.v4.u32 [%rd1+48], {%r13, %r14, %r15, %r16};
	st.global.v4.u32 [%rd1+64], {%r17, %r18, %r19, %r20};
	st.global.v4.u32 [%rd1+80], {%r21, %r22, %r30, %r31};
	ret;
}
";

fn special() -> Vec<Form> {
    ["mov.u32", "mov.u64"].map(|opcode| Form::new(opcode, places)).into()
}

fn places() -> Result<(), String> {
    let shape = Shape { grid: [3, 2, 2], block: [10, 3, 2], dynamic_shared: 80 };
    if dumping() {
        crate::harness::dump_text(GRID);
        return Ok(());
    }
    let machine = machine(80);
    let threads: usize = 12 * 60;
    let out = machine.buffer(&vec![0; 96 * threads]);
    launch_text(&machine, GRID, &shape, &[out])?;
    let bytes = machine.bytes(out, 96 * threads);
    for (i, row) in bytes.chunks(96).enumerate() {
        let got: Vec<u32> = row.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        let want = place(i as u32, &shape);
        if got != want {
            return Err(format!("thread {i}: got {got:?}, not {want:?}"));
        }
    }
    Ok(())
}

fn place(i: u32, shape: &Shape) -> Vec<u32> {
    let unfold = |n: u32, sizes: [u32; 3]| [n % sizes[0], n / sizes[0] % sizes[1], n / sizes[0] / sizes[1]];
    let (thread, block) = (i % 60, i / 60);
    let lane = thread % 32;
    let eq = 1u32 << lane;
    let lanes = [lane, eq, eq - 1, eq | (eq - 1), !(eq | (eq - 1)), !(eq - 1)];
    let coordinates = [unfold(thread, shape.block), shape.block, unfold(block, shape.grid), shape.grid].concat();
    [coordinates, lanes.to_vec(), vec![32, 80, thread / 32, 1, thread, i]].concat()
}

/// Some lanes end, by ret, exit or a branch to the end, while others meet at a barrier; and the two ways to fail.
fn ends() -> Vec<Form> {
    let leave = |opcode: &str| {
        let text = format!(
            "mad.wide.u32 %d1, %thread, 4, %scratch;\nst.global.b32 [%d1], %i0;\nsetp.lt.s32 %p1, %i0, 9;\n\
             @%p1 {opcode};\nadd.s32 %t1, %i0, 50;\nst.global.b32 [%d1], %t1;\nbar.sync 0;\n$end:"
        );
        let probe = Probe::new(&text, "b32", "").scratch(vec![0; 512]);
        let cases = numbers(128);
        Form::new(opcode.split(' ').next().unwrap(), move || {
            let results = probe.run(&cases)?;
            let got = results.scratch.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
            let want = cases.iter().map(|case| case[0] as u32).map(|x| if x < 9 { x } else { x + 50 });
            if dumping() || got.eq(want) { Ok(()) } else { Err("some lanes ended early or went on".into()) }
        })
    };
    let mut forms = vec![leave("ret"), leave("exit"), leave("bra $end")];
    forms.push(failing("trap", "setp.eq.s32 %p1, %thread, 5;\n@%p1 trap;", "", FaultKind::Trap));
    forms.push(assertion());
    forms.push(print());
    forms
}

fn failing(opcode: &str, text: &str, module: &str, kind: FaultKind) -> Form {
    let probe = Probe::new(text, "", "").module(module);
    Form::new(opcode, move || match probe.fault(&vec![vec![]; 40])? {
        Some(fault) if fault.kind == kind => Ok(()),
        None if dumping() => Ok(()),
        other => Err(format!("expected {kind:?}, got {other:?}")),
    })
}

/// What assert() becomes.
fn assertion() -> Form {
    let module = ".extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);\n\
        .global .align 1 .b8 words[6] = {120, 32, 60, 32, 51, 0};";
    let text = "mov.u64 %d1, words;\ncvta.global.u64 %d2, %d1;\nmov.b32 %t1, 77;\nmov.b64 %d3, 1;\n\
        setp.ne.s32 %p1, %thread, 3;\n@%p1 bra $fine;\n{\n.param .b64 param0;\n.param .b64 param1;\n.param .b32 param2;\n\
        .param .b64 param3;\n.param .b64 param4;\nst.param.b64 [param0+0], %d2;\nst.param.b64 [param1+0], %d2;\n\
        st.param.b32 [param2+0], %t1;\nst.param.b64 [param3+0], %d2;\nst.param.b64 [param4+0], %d3;\n\
        call.uni __assertfail, (param0, param1, param2, param3, param4);\n}\n$fine:";
    failing("call.uni", text, module, FaultKind::Assert)
}

/// What printf() becomes; it may print or not, but must go on.
fn print() -> Form {
    let module = ".extern .func (.param .b32 func_retval0) vprintf(.param .b64 a, .param .b64 b);\n\
        .global .align 1 .b8 words[7] = {120, 32, 37, 100, 32, 10, 0};";
    let text = "setp.ne.s32 %p1, %thread, 0;\n@%p1 bra $quiet;\n{\n.local .align 8 .b8 stack[8];\nmov.u64 %d1, stack;\n\
        st.local.u32 [%d1], %i0;\ncvta.local.u64 %d1, %d1;\nmov.u64 %d2, words;\ncvta.global.u64 %d2, %d2;\n\
        .param .b64 param0;\n.param .b64 param1;\n.param .b32 retval0;\nst.param.b64 [param0+0], %d2;\n\
        st.param.b64 [param1+0], %d1;\ncall.uni (retval0), vprintf, (param0, param1);\nld.param.b32 %t1, [retval0+0];\n}\n\
        $quiet:\nmov.b32 %o0, %i0;";
    body("call.uni", Probe::new(text, "b32", "b32").module(module), numbers(40), |_, x| vec![x[0]])
}

//! What PTX text is refused, with which line, and how what is accepted is read.

#[path = "common/machine.rs"]
mod common;

use common::{Machine, Shape, settings};
use softgpu::{FaultKind, PtxError};

const HEADER: &str = ".version 9.0\n.target sm_80\n.address_size 64\n";

fn machine() -> Machine {
    Machine::new(settings(80, 0, 1_000_000))
}

/// A kernel with a few registers around a body; the body begins in line 10.
fn kernel(body: &str) -> String {
    format!(
        "{HEADER}.visible .entry probe(.param .u64 out)\n{{\n.reg .pred %p<4>;\n.reg .b16 %h<4>;\n.reg .b32 %r<10>;\n\
         .reg .b64 %rd<6>;\n{body}\nret;\n}}\n"
    )
}

const FIRST: u32 = 10;

fn refusal(text: &str) -> PtxError {
    match machine().load(text) {
        Err(error) => error,
        Ok(_) => panic!("accepted:\n{text}"),
    }
}

/// Refused with this line and a message that has this word in it.
fn refused(text: &str, line: u32, word: &str) {
    let error = refusal(text);
    assert_eq!(error.line, line, "{error}\n{text}");
    assert!(error.what.contains(word), "'{word}' is not in: {error}");
    assert!(error.to_string().starts_with(&format!("PTX line {line}: ")));
}

/// A body of one bad line behind two good ones.
fn bad_line(line: &str, word: &str) {
    refused(&kernel(&format!("mov.u32 %r1, 1; // fine\n/* so\nis this */ mov.u32 %r2, 2;\n{line}")), FIRST + 3, word);
}

/// Whether this is refused at all, with a line that exists.
fn refused_somewhere(text: &str) {
    let error = refusal(text);
    let lines = text.lines().count().max(1) as u32;
    assert!((1..=lines + 1).contains(&error.line), "{error}, of {lines} lines");
    assert!(!error.what.is_empty());
}

#[test]
fn unknown_opcodes_are_named() {
    bad_line("frobnicate.s32 %r1, %r2;", "frobnicate.s32");
    bad_line("add.wrong.s32 %r1, %r2, %r3;", "add.wrong.s32");
    bad_line("@%p1 add.u128 %r1, %r2, %r3;", "add.u128");
    bad_line("here: mma.sync.aligned.m15n7k16.row.col.f32.bf16.bf16.f32 %r1, %r2, %r3, %r4;", "m15n7k16");
}

#[test]
fn missing_names_are_named() {
    bad_line("add.s32 %r1, %r2, %r99;", "%r99");
    bad_line("add.s32 %r1, %r2, %r10;", "%r10");
    bad_line("@%q1 add.s32 %r1, %r2, %r3;", "%q1");
    bad_line("ld.param.u64 %rd1, [nope];", "nope");
    bad_line("ld.global.u32 %r1, [nope+4];", "nope");
    bad_line("mov.u64 %rd1, nope;", "nope");
    bad_line("mov.u32 %r1, %nope.x;", "%nope");
    bad_line("call.uni nope, ();", "nope");
    bad_line("bra $nowhere;", "$nowhere");
    bad_line("@%p1 bra.uni $L__BB0_9;", "$L__BB0_9");
}

#[test]
fn wrong_operands_are_refused() {
    for line in [
        "add.s32 %r1, %r2;",
        "add.s32 %r1, %r2, %r3, %r4;",
        "mov.u32 %r1;",
        "neg.s32 %r1, %r2, %r3;",
        "fma.rn.f32 %r1, %r2, %r3;",
        "setp.lt.s32 %p1, %r1;",
        "selp.b32 %r1, %r2, %r3;",
        "shfl.sync.idx.b32 %r1, %r2, 0, 31;",
        "bra;",
        "bar.sync;",
        "ld.global.u32 %r1, %rd1;",
        "ld.global.u32 %r1;",
        "st.global.u32 [%rd1];",
        "ld.global.v4.u32 {%r1, %r2, %r3}, [%rd1];",
        "ld.global.v2.u32 %r1, [%rd1];",
        "add.s32 5, %r1, %r2;",
        "add.s32 %r1, %r2, ;",
        "add.s32 %r1 %r2, %r3;",
        "add.s32 %r1, %p1, %r3;",
        "add.s32 %rd1, %r2, %r3;",
        "add.s64 %rd1, %rd2, %r3;",
        "@%r1 mov.u32 %r1, 1;",
        "@ mov.u32 %r1, 1;",
        "cp.async.cg.shared.global [%r1], [%rd1], 12;",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r1,%r2}, {%r1,%r2}, {%r1,%r2}, {%r1,%r2};",
    ] {
        bad_line(line, "");
    }
}

#[test]
fn bad_numbers_are_refused() {
    for number in ["0x", "0xZZ", "12ab", "0f12", "0f3F8000001", "0d3FF0", "99999999999999999999999", "0b12", "08", "-"]
    {
        bad_line(&format!("mov.u32 %r1, {number};"), "");
    }
}

#[test]
fn unterminated_strings_and_comments() {
    refused(&kernel("mov.u32 %r1, 1;\n.pragma \"nounroll;\nmov.u32 %r1, 2;"), FIRST + 1, "string");
    refused(&kernel("mov.u32 %r1, 1;\n/* here\nmov.u32 %r1, 2;"), FIRST + 1, "comment");
    refused(&format!("{HEADER}/*/\n"), 4, "comment");
}

#[test]
fn names_given_twice() {
    bad_line(".reg .b32 %r<3>;", "%r");
    bad_line(".reg .b64 %r4;", "%r4");
    refused(&kernel("here:\nmov.u32 %r1, 1;\nhere:"), FIRST + 2, "here");
    refused(&kernel(".shared .b8 a[4];\n.shared .b8 a[8];"), FIRST + 1, "a");
    let entry = ".entry again() { ret; }\n";
    refused(&format!("{HEADER}{entry}{entry}"), 5, "again");
    refused(&format!("{HEADER}.global .b32 x;\n.const .b32 x;\n"), 5, "x");
    refused(&format!("{HEADER}.entry f(.param .u32 a,\n.param .u32 a) {{ ret; }}\n"), 5, "a");
}

/// Labels belong to their function.
#[test]
fn labels_of_other_functions() {
    let text = format!("{HEADER}.entry f() {{\n$here: ret;\n}}\n.entry g() {{\nbra $here;\nret;\n}}\n");
    refused(&text, 8, "$here");
}

#[test]
fn too_large() {
    for space in ["shared", "local"] {
        bad_line(&format!(".{space} .align 4 .b8 huge[99999999999];"), "huge");
        bad_line(&format!(".{space} .b64 huge[4611686018427387904];"), "huge");
    }
    for size in ["18446744073709551615", "99999999999999", "4294967296][4294967296"] {
        refused(&format!("{HEADER}.global .align 4 .b32 huge[{size}];\n"), 4, "huge");
    }
    refused(&format!("{HEADER}.const .b8 huge[65537];\n"), 4, "huge");
    bad_line(".reg .b32 %many<4294967295>;", "%many");
    refused(&format!("{HEADER}\n.entry f(.param .align 4 .b8 huge[99999999999]) {{ ret; }}\n"), 5, "huge");
    refused(&format!("{HEADER}.global .align 3 .b8 odd[4];\n"), 4, "");
    refused(&format!("{HEADER}.global .b8 many[2] = {{1, 2, 3}};\n"), 4, "many");
}

#[test]
fn directives_and_types_that_do_not_exist() {
    bad_line(".nonsense 4;", ".nonsense");
    bad_line(".reg .b31 %x;", ".b31");
    bad_line(".reg %x;", "");
    refused(&format!("{HEADER}\n\n.somewhere .b32 x;\n"), 6, ".somewhere");
}

#[test]
fn no_module_at_all() {
    for text in
        ["", "\n\n", "// nothing\n", "\u{0}\u{1}\u{2}\u{fffd}", "MZ\u{90}\u{0}", "{", "}", ";;;", "\"", "@", "%"]
    {
        refused_somewhere(text);
    }
    refused_somewhere(&".visible ".repeat(100_000));
    refused_somewhere(&"{".repeat(100_000));
    refused_somewhere(&kernel(&"{".repeat(50_000)));
    refused_somewhere(".target sm_80\n.version 9.0\n.entry f() { ret; }\n");
    refused_somewhere(&format!("{HEADER}.entry f() {{ ret;\n"));
    refused_somewhere(&format!("{HEADER}.entry f() ret;\n"));
    refused_somewhere(&format!("{HEADER}.entry f( {{ ret; }}\n"));
    refused_somewhere(&format!("{HEADER}.entry () {{ ret; }}\n"));
    refused_somewhere(&kernel("add.s32 %r1, %r2, %r3"));
    refused_somewhere(&kernel("}"));
    refused_somewhere(&format!("{HEADER}\u{7f}\u{1}"));
}

/// Every prefix of a good text is refused or accepted, without a panic; the whole is accepted.
#[test]
fn prefixes() {
    let text = kernel("mov.b64 {%r1, %r2}, %rd1; /* x */\n@!%p1 bra $end;\n.pragma \"nounroll\";\n$end:");
    assert!(text.is_ascii());
    for end in 0..text.len() {
        if let Err(error) = machine().load(&text[..end]) {
            assert!(error.line as usize <= text.lines().count() + 1);
        }
    }
    assert!(machine().load(&text).is_ok());
}

/// Runs the kernel `probe` in one thread, and gives the first words that it wrote.
fn words(text: &str, count: usize) -> Vec<u32> {
    let machine = machine();
    let module = machine.load(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let out = machine.buffer(&vec![0; 4 * count]);
    let fault = machine.launch(&module, "probe", &Shape::line(1), &out.to_le_bytes());
    assert!(fault.is_none(), "{}\n{text}", fault.unwrap());
    machine.bytes(out, 4 * count).chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// The registers %r1, %r2, ... after a body.
fn registers<const N: usize>(body: &str) -> [u32; N] {
    registers_of(&kernel(&stored(body, N)))
}

fn stored(body: &str, count: usize) -> String {
    let stores: String = (0..count).map(|i| format!("st.global.b32 [%rd5+{}], %r{};\n", 4 * i, i + 1)).collect();
    format!("{body}\nld.param.u64 %rd5, [out];\ncvta.to.global.u64 %rd5, %rd5;\n{stores}")
}

fn registers_of<const N: usize>(text: &str) -> [u32; N] {
    words(text, N).try_into().unwrap()
}

#[test]
fn comments() {
    let body = "mov.u32 %r1, 1; // mov.u32 %r1, 2; \"\nmov.u32 /* a\n * b \" ; */ %r2 /**/, // c\n 7 /***/ ;/* // */\n\
        mov.u32 %r3,3;// /* \nmov.u32 %r4,4;//";
    assert_eq!(registers(body), [1, 7, 3, 4]);
}

#[test]
fn white_space() {
    let body = "mov.u32\t%r1\t,1;mov.u32 %r2,2;\n\n\n  mov.u32\n%r3\n,\n3\n;";
    assert_eq!(registers(body), [1, 2, 3]);
    let text = kernel(&stored(body, 3)).replace('\n', "\r\n");
    assert_eq!(registers_of(&text), [1, 2, 3]);
    let text = kernel(&stored(body, 3));
    assert_eq!(registers_of(text.trim_end()), [1, 2, 3]);
}

#[test]
fn labels() {
    let body = "mov.u32 %r1, 0;\nbra $b;\n$a: _c: mov.u32 %r1, 9;\nbra %x;\n$b:\n$L__BB0_1: add.s32 %r1, %r1, 4;\n\
        setp.lt.u32 %p1, %r1, 20;\n@%p1 bra $L__BB0_1;\n%x :\nbra last;\n_d:\nlast:";
    assert_eq!(registers(body), [20]);
    assert!(machine().load(&format!("{HEADER}.entry f() {{ ret;\n$end:\n}}\n")).is_ok());
}

/// An inner scope's register hides the outer one of the same name, and only there.
#[test]
fn scopes() {
    let body = "mov.u32 %r1, 1;\nmov.u32 %r2, 2;\n{\n.reg .b32 %r1;\nmov.u32 %r1, 50;\nadd.s32 %r2, %r1, %r2;\n{\n\
        .reg .b64 %r1;\nmov.u64 %r1, 7;\ncvt.u32.u64 %r3, %r1;\n}\nadd.s32 %r4, %r1, 0;\n}\n{ .reg .b32 t; mov.u32 t, 6;\n\
        mov.u32 %r5, t; }\n{ .reg .b32 t; mov.u32 t, 8; mov.u32 %r6, t; }";
    assert_eq!(registers(body), [1, 52, 7, 50, 6, 8]);
    bad_line("{ .reg .b32 t; } mov.u32 %r1, t;", "t");
}

#[test]
fn declarations_of_registers() {
    let body = ".reg .b32 %a<3>, b, $c, _d;\n.reg .f32 %f<2>;\n.reg .s32 x;\nmov.u32 %a0, 1;\nmov.u32 %a2, 2;\nmov.u32 b, 3;\n\
        mov.u32 $c, 4;\nmov.u32 _d, 5;\nmov.f32 %f1, 0f40000000;\nadd.s32 x, %a0, %a2;\nmov.b32 %r1, x;\nmov.b32 %r2, b;\n\
        mov.b32 %r3, $c;\nmov.b32 %r4, _d;\nmov.b32 %r5, %f1;";
    assert_eq!(registers(body), [3, 3, 4, 5, 0x4000_0000]);
}

#[test]
fn numbers() {
    let body = "mov.u32 %r1, 0x1F;\nmov.u32 %r2, 0XfFU;\nmov.u32 %r3, 017;\nmov.u32 %r4, 0b1011;\nmov.u32 %r5, -3;\n\
        mov.f32 %r6, 0f3F800000;\nmov.f32 %r7, 0Fbf000000;\nmov.f64 %rd1, 0d4000000000000000;\nmov.b64 {%r8, %r9}, %rd1;";
    let expected = [31, 255, 15, 11, 0xffff_fffd, 0x3f80_0000, 0xbf00_0000, 0, 0x4000_0000];
    assert_eq!(registers(body), expected);
    let body = "mov.u64 %rd1, 0x123456789abcdef0;\nmov.b64 {%r1, %r2}, %rd1;\nmov.s64 %rd2, -9223372036854775808;\n\
        mov.b64 {%r3, %r4}, %rd2;\nmov.u32 %r5, 4294967295;\nmov.u32 %r6, 0;\nmov.u64 %rd3, 18446744073709551615;\n\
        mov.b64 {%r7, %r8}, %rd3;\nadd.s32 %r9, %r5, 2U;";
    assert_eq!(registers(body), [0x9abc_def0, 0x1234_5678, 0, 0x8000_0000, u32::MAX, 0, u32::MAX, u32::MAX, 1]);
}

#[test]
fn vectors_and_sinks() {
    let body = "mov.u32 %r1, 5;\nmov.u32 %r2, 6;\nmov.b64 %rd1, {%r1,%r2};\n\
        mov.b64 { %r3 , _ }, %rd1;\nmov.b64 {_, %r4}, %rd1;\nmov.b32 {%h1, %h2}, %r1;\nmov.b32 %r5, {%h2, %h1};\n\
        setp.eq.s32 _|%p1, %r1, 5;\nselp.b32 %r6, 1, 0, %p1;\nshfl.sync.idx.b32 _|%p2, %r1, 0, 31, 1;\n\
        selp.b32 %r7, 1, 0, %p2;";
    assert_eq!(registers(body), [5, 6, 5, 6, 5 << 16, 0, 1]);
}

#[test]
fn guards() {
    let body = "mov.u32 %r1, 1;\nmov.u32 %r2, 2;\nsetp.eq.s32 %p1, %r1, 1;\n@%p1 mov.u32 %r1, 10;\n@!%p1 mov.u32 %r2, 20;\n\
        setp.eq.and.s32 %p2|%p3, %r1, 10, !%p1;\nselp.b32 %r3, 1, 0, %p2;\nselp.b32 %r4, 1, 0, %p3;";
    assert_eq!(registers(body), [10, 2, 0, 0]);
}

/// All that nvcc writes around the code.
#[test]
fn surroundings() {
    let before = format!(
        "//\n// Generated by NVIDIA NVVM Compiler\n//\n\n{HEADER}\n\t// .globl\tprobe\n\
         .extern .func  (.param .b32 func_retval0) vprintf\n(\n\t.param .b64 vprintf_param_0,\n\t.param .b64 vprintf_param_1\n)\n;\n\
         .extern .func __assertfail\n(\n\t.param .b64 a,\n\t.param .b32 b\n)\n.noreturn;\n\
         .visible .const .align 4 .f32 scale = 0f40000000;\n.weak .global .align 4 .u32 weak = 3;\n\
         .extern .shared .align 16 .b8 dynamic[];\n.global .align 1 .b8 $str[4] = {{97, 98, 99}};\n\
         .file\t1 \"/a;b/c.cu\"\n.file\t2 \"d.h\", 1700000000, 1234\n\
         .func (.param .b32 func_retval0) later(.param .b32 later_param_0)\n;\n\
         .visible .entry probe(\n\t.param .u64 .ptr .global .align 4 out\n)\n.maxntid 128, 1, 1\n.minnctapersm 2\n.maxnreg 64\n{{\n\
         .reg .pred %p<4>;\n.reg .b16 %h<4>;\n.reg .b32 %r<10>;\n.reg .b64 %rd<6>;\n\t.loc\t1 12 0\n"
    );
    let body = stored(
        ".pragma \"nounroll\";\n\t.loc\t1 14 9\nld.const.u32 %r1, [scale];\n\t.loc\t2 3 5, function_name $L__info_string0, inlined_at 1 14 9\n\
         ld.global.u32 %r2, [weak];\n$L__tmp0:\nld.global.u8 %r3, [$str+2];\n{\n.param .b32 param0;\n.param .b32 retval0;\n\
         st.param.b32 [param0+0], %r3;\ncall.uni (retval0), later, (param0);\nld.param.b32 %r4, [retval0+0];\n}",
        4,
    );
    let after = "ret;\n$L__func_end0:\n}\n.func (.param .b32 func_retval0) later(.param .b32 later_param_0)\n{\n.reg .b32 %r<3>;\n\
        ld.param.u32 %r1, [later_param_0];\nadd.s32 %r2, %r1, 1;\nst.param.b32 [func_retval0+0], %r2;\nret;\n}\n\
        \t.section\t.debug_abbrev\n\t{\n.b8 1\n.b8 17,1\n.b8 0\n\n\t}\n\t.section\t.debug_info\n\t{\n.b32 77\n.b8 2,0\n\
        .b64 .debug_abbrev\n.b64 $L__func_end0\n.b64 probe\n.b32 $L__x-$L__y\n\t}\n\t.section\t.debug_str\n\t{\n\
        $L__info_string0:\n.b8 95,90,0\n\t}\n\t.section\t.debug_loc\t{\t}\n";
    assert_eq!(registers_of(&format!("{before}{body}{after}")), [0x4000_0000, 3, 99, 100]);
}

#[test]
fn initialised_variables() {
    let module = ".global .align 4 .u32 list[5] = {1, 0x2, 03};\n.global .b16 grid[2][2] = {{1, 2}, {3, 4}};\n\
        .const .align 8 .f64 constant[2] = {0d3FF0000000000000, 2.0};\n.global .s32 minus = -5;\n\
        .global .align 8 .u64 addresses[3] = {list, generic(list), list+8};\n.const .s8 bytes[3] = {-1, 127, 255};\n";
    let body = stored(
        "ld.global.u32 %r1, [list+8];\nld.global.u32 %r2, [list+16];\nld.global.u32 %r3, [grid+4];\n\
         ld.const.u32 %r4, [constant+4];\nld.const.u32 %r5, [constant+12];\nld.global.u32 %r6, [minus];\n\
         ld.global.u64 %rd1, [addresses+8];\nld.u32 %r7, [%rd1+4];\nld.global.u64 %rd2, [addresses+16];\n\
         ld.global.u32 %r8, [%rd2];\nld.const.s8 %r9, [bytes];",
        9,
    );
    let text = kernel(&body).replace(".visible .entry", &format!("{module}.visible .entry"));
    let expected = [3, 0, 3 | 4 << 16, 0x3ff0_0000, 0x4000_0000, -5i32 as u32, 2, 3, u32::MAX];
    assert_eq!(registers_of(&text), expected);
}

#[test]
fn alignment_of_shared_variables() {
    let body = ".shared .align 1 .b8 one[3];\n.shared .align 64 .b8 wide[4];\n.shared .align 8 .b64 eight;\n\
        mov.u32 %r1, wide;\nand.b32 %r1, %r1, 63;\nmov.u32 %r2, eight;\nand.b32 %r2, %r2, 7;\nmov.u32 %r3, one;\n\
        mov.u32 %r4, wide;\nsetp.ne.s32 %p1, %r3, %r4;\nselp.b32 %r3, 1, 0, %p1;";
    assert_eq!(registers(body), [0, 0, 1]);
}

/// Where a kernel's parameters lie: each aligned to its own size, or to what .align says.
#[test]
fn facts_about_kernels() {
    let text = format!(
        "{HEADER}.extern .shared .align 16 .b8 more[];\n.visible .entry probe(.param .u8 a, .param .u64 b, .param .align 16 .b8 c[20],\n\
         .param .f32 d, .param .u16 e)\n.maxntid 32, 4\n{{\n.shared .align 4 .b8 x[100];\n.local .align 8 .b8 y[40];\n\
         .reg .b32 %r<3>;\nld.param.u8 %r1, [a];\nst.shared.b32 [x], %r1;\nst.local.b32 [y], %r1;\nret;\n}}\n\
         .entry second() {{ ret; }}\n.entry third() .reqntid 8, 8, 2 {{ ret; }}\n"
    );
    let module = machine().load(&text).unwrap();
    let probe = module.kernel("probe").unwrap();
    let places: Vec<(u32, u32)> = probe.params.iter().map(|param| (param.offset, param.size)).collect();
    assert_eq!(places, [(0, 1), (8, 8), (16, 20), (36, 4), (40, 2)]);
    assert_eq!((probe.name.as_str(), probe.static_shared, probe.max_threads), ("probe", 100, 128));
    assert!((40..=64).contains(&probe.local), "{}", probe.local);
    let second = module.kernel("second").unwrap();
    assert_eq!((second.params.len(), second.static_shared, second.local, second.max_threads), (0, 0, 0, 1024));
    assert_eq!(module.kernel("third").unwrap().max_threads, 128);
    assert_eq!(module.kernels.len(), 3);
    assert!(module.kernel("more").is_none());
}

#[test]
fn globals_are_listed() {
    let text =
        format!("{HEADER}.visible .global .align 4 .b8 table[12];\n.const .f64 pi = 3.25;\n.entry f() {{ ret; }}\n");
    let machine = machine();
    let module = machine.load(&text).unwrap();
    let find = |name: &str| module.globals.iter().find(|global| global.0 == name).unwrap();
    assert_eq!((find("table").2, find("pi").2), (12, 8));
    assert_eq!(machine.bytes(find("pi").1, 8), 3.25f64.to_le_bytes());
    assert_eq!(machine.bytes(find("table").1, 12), [0; 12]);
}

/// A fault names the PTX line, the instruction as written, and the source line.
#[test]
fn faults_are_located() {
    let body = "\t.loc\t1 41 3\nmov.u32 %r1, 1;\n\t.loc\t1 42 7\n@%p0 trap;\nsetp.eq.s32 %p1, %r1, 1;\n\t@%p1   trap ;";
    let text = kernel(body).replace(".visible .entry", ".file 1 \"/x/y.cu\"\n.visible .entry");
    let text = text.replace("@%p0 trap", "setp.eq.s32 %p0, %r1, 2;\n@%p0 trap");
    let machine = machine();
    let module = machine.load(&text).unwrap();
    let out = machine.buffer(&[0; 8]);
    let fault = machine.launch(&module, "probe", &Shape::line(1), &out.to_le_bytes()).expect("a trap");
    let line = 1 + text.lines().position(|line| line == "\t@%p1   trap ;").unwrap() as u32;
    assert_eq!((fault.kind, fault.ptx_line, fault.kernel.as_str()), (FaultKind::Trap, line, "probe"));
    assert!(fault.instruction.contains("trap"), "{}", fault.instruction);
    assert_eq!(fault.source, [("/x/y.cu".to_string(), 42)]);
    assert_eq!((fault.block, fault.thread), ([0; 3], Some([0; 3])));
}

/// The line inside of an inlined function, then that of the call.
#[test]
fn faults_in_inlined_code() {
    let body =
        "\t.loc\t1 41 3\nmov.u32 %r1, 1;\n\t.loc\t2 5 7, function_name $L__info_string0, inlined_at 1 41 3\ntrap;";
    let text = kernel(body).replace(".visible .entry", ".file 1 \"a.cu\"\n.file 2 \"b.h\"\n.visible .entry");
    let text = text + "\t.section\t.debug_str\n\t{\n$L__info_string0:\n.b8 95,0\n\t}\n";
    let machine = machine();
    let module = machine.load(&text).unwrap();
    let out = machine.buffer(&[0; 8]);
    let fault = machine.launch(&module, "probe", &Shape::line(1), &out.to_le_bytes()).expect("a trap");
    assert_eq!(fault.source, [("b.h".to_string(), 5), ("a.cu".to_string(), 41)]);
}

/// A loop without end stops at the limit.
#[test]
fn the_instruction_limit() {
    let text = kernel("$loop:\nbra $loop;");
    let machine = Machine::new(settings(80, 0, 10_000));
    let module = machine.load(&text).unwrap();
    let out = machine.buffer(&[0; 8]);
    let fault = machine.launch(&module, "probe", &Shape::line(64), &out.to_le_bytes()).expect("a limit");
    assert_eq!(fault.kind, FaultKind::InstructionLimit);
}

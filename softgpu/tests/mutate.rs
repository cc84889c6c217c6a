//! Damaged PTX: each text is refused with a line, or runs to an end or a fault. Never does the process die.
//!
//! SOFTGPU_MUTATIONS says how many (default 200) of the text below, and of each file in target/softgpu-samples at the
//! workspace's root. The text under trial lies in mutation.ptx of cargo's folder for tests' files.

#[path = "common/machine.rs"]
mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use common::{Machine, Random, Shape, settings};
use softgpu::{Kernel, Module};

const TEXT: &str = r#".version 9.0
.target sm_80
.address_size 64

.extern .shared .align 16 .b8 more[];
.const .align 4 .f32 factors[2] = {0f3F800000, 0f40000000};
.global .align 4 .u32 total = 0;
.file 1 "kernel.cu"

.func (.param .b32 result) twice(.param .b32 twice_0)
{
	.reg .b32 %r<4>;
	ld.param.u32 %r1, [twice_0];
	shl.b32 %r2, %r1, 1;
	st.param.b32 [result+0], %r2;
	ret;
}

.visible .entry probe(
	.param .u64 probe_param_0,
	.param .u64 probe_param_1,
	.param .u32 probe_param_2
)
.maxntid 128, 1, 1
{
	.reg .pred %p<6>;
	.reg .b16 %rs<4>;
	.reg .b32 %r<40>;
	.reg .b64 %rd<12>;
	.shared .align 16 .b8 tile[2048];
	.shared .align 4 .u32 count;
	.local .align 8 .b8 stack[32];

	.loc 1 10 0
	ld.param.u64 %rd1, [probe_param_0];
	ld.param.u64 %rd2, [probe_param_1];
	ld.param.u32 %r1, [probe_param_2];
	cvta.to.global.u64 %rd3, %rd1;
	cvta.to.global.u64 %rd4, %rd2;
	mov.u32 %r2, %tid.x;
	mul.wide.u32 %rd5, %r2, 16;
	add.s64 %rd6, %rd4, %rd5;
	mov.u32 %r3, tile;
	mad.lo.s32 %r4, %r2, 16, %r3;
	.loc 1 14 3
	cp.async.cg.shared.global [%r4], [%rd6], 16;
	cp.async.commit_group;
	setp.ne.s32 %p1, %r2, 0;
	@%p1 bra $L__ready;
	st.shared.u32 [count], 0;
$L__ready:
	cp.async.wait_group 0;
	bar.sync 0;
	ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r4];
	ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r9, %r10}, [%r4];
	mov.f32 %r11, 0f00000000;
	mov.b32 %r12, %r11;
	mov.b32 %r13, %r11;
	mov.b32 %r14, %r11;
	mov.u32 %r15, 0;
	.pragma "nounroll";
$L__loop:
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r11, %r12, %r13, %r14}, {%r5, %r6, %r7, %r8}, {%r9, %r10}, {%r11, %r12, %r13, %r14};
	add.s32 %r15, %r15, 1;
	setp.lt.u32 %p2, %r15, %r1;
	@%p2 bra $L__loop;
	/* counting, with a call */
	atom.shared.add.u32 %r16, [count], 1;
	shfl.sync.bfly.b32 %r17|%p3, %r2, 1, 31, -1;
	{
	.param .b32 param0;
	.param .b32 retval0;
	st.param.b32 [param0+0], %r17;
	call.uni (retval0), twice, (param0);
	ld.param.b32 %r18, [retval0+0];
	}
	mov.u64 %rd7, stack;
	st.local.v2.u32 [%rd7+8], {%r17, %r18};
	ld.local.u64 %rd8, [%rd7+8];
	mov.b64 {%r19, %r20}, %rd8;
	and.b32 %r21, %r2, 1;
	setp.eq.b32 %p4, %r21, 1;
	@!%p4 bra $L__even;
	ld.const.f32 %r22, [factors+4];
	mul.f32 %r11, %r11, %r22;
	bra.uni $L__join;
$L__even:
	fma.rn.f32 %r12, %r12, 0f40000000, 0f00000000;
$L__join:
	bar.sync 0;
	ld.shared.u32 %r23, [count];
	vote.sync.ballot.b32 %r24, %p4, -1;
	popc.b32 %r25, %r24;
	atom.global.add.u32 %r26, [total], 1;
	cvt.rn.bf16x2.f32 %r27, %r11, %r12;
	mad.lo.s32 %r28, %r23, 100, %r25;
	mov.u32 %r29, %ctaid.x;
	mov.u32 %r30, %ntid.x;
	mad.lo.s32 %r31, %r29, %r30, %r2;
	mul.wide.u32 %rd9, %r31, 16;
	add.s64 %rd10, %rd3, %rd9;
	st.global.v4.b32 [%rd10], {%r27, %r28, %r19, %r20};
	ret;
}
"#;

/// One in bf16, everywhere.
fn ones() -> Vec<u8> {
    [0x80, 0x3f].repeat(32 << 10)
}

/// The text itself runs, and computes what it should; else its mutants show little.
#[test]
fn the_text_is_right() {
    let machine = Machine::new(settings(80, 0, 100_000));
    let module = machine.load(TEXT).unwrap_or_else(|error| panic!("{error}"));
    let (out, ones) = (machine.buffer(&[0; 512]), machine.buffer(&ones()));
    let params = [out.to_le_bytes().to_vec(), ones.to_le_bytes().to_vec(), 3u32.to_le_bytes().to_vec()].concat();
    let fault = machine.launch(&module, "probe", &Shape::line(32), &params);
    assert!(fault.is_none(), "{}", fault.unwrap());
    let bytes = machine.bytes(out, 512);
    for (thread, row) in bytes.chunks(16).enumerate() {
        let words: Vec<u32> = row.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        // 48 and 96 in bf16; 96 lies in the upper half in odd threads.
        let pair = if thread % 2 == 1 { 0x42c0_4240 } else { 0x4240_42c0 };
        let neighbour = thread as u32 ^ 1;
        assert_eq!(words, [pair, 3216, neighbour, 2 * neighbour], "thread {thread}");
    }
}

#[test]
fn mutants_are_refused_or_run() {
    let count = std::env::var("SOFTGPU_MUTATIONS").map_or(200, |count| count.parse().expect("a number"));
    let mut texts = vec![("the text".to_string(), TEXT.to_string())];
    texts.extend(samples());
    for (name, text) in &texts {
        let tally = soak(name, text, count);
        println!("{name}: of {count} mutants {} were refused, {} faulted, {} ran", tally[0], tally[1], tally[2]);
    }
}

fn samples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/softgpu-samples");
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "ptx"));
    paths.sort();
    paths.iter().map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap())).collect()
}

/// How many were refused, ended in a fault, and ran to their end.
fn soak(name: &str, text: &str, count: u64) -> [u32; 3] {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutation.ptx");
    let mut tally = [0; 3];
    for seed in 0..count {
        let mutant = mutate(text, seed);
        std::fs::write(&file, &mutant).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| attempt(&mutant)));
        match outcome {
            Ok(Ok(outcome)) => tally[outcome] += 1,
            Ok(Err(what)) => panic!("mutant {seed} of {name}, kept in {}: {what}", file.display()),
            Err(_) => panic!("mutant {seed} of {name}, kept in {}, panicked (see above)", file.display()),
        }
    }
    tally
}

fn attempt(text: &str) -> Result<usize, String> {
    let machine = Machine::new(settings(80, 0, 20_000));
    let module = match machine.load(text) {
        Ok(module) => module,
        Err(error) => return refusal(text, error.line, &error.what).map(|()| 0),
    };
    let mut worst = 2;
    for kernel in module.kernels.iter().take(3).filter(|kernel| fits(kernel)) {
        worst = worst.min(run(&machine, &module, kernel)?);
    }
    Ok(worst)
}

fn refusal(text: &str, line: u32, what: &str) -> Result<(), String> {
    let lines = text.lines().count() as u32 + 1;
    match (1..=lines).contains(&line) && !what.is_empty() {
        true => Ok(()),
        false => Err(format!("refused in line {line} of {lines}: {what:?}")),
    }
}

/// What a driver would let through.
fn fits(kernel: &Kernel) -> bool {
    let bytes: u64 = kernel.params.iter().map(|param| u64::from(param.size)).sum();
    kernel.static_shared <= 48 << 10 && kernel.local <= 512 << 10 && kernel.max_threads > 0 && bytes <= 4 << 10
}

/// Two blocks; 8-byte parameters are buffers, shorter ones small numbers.
fn run(machine: &Machine, module: &Module, kernel: &Kernel) -> Result<usize, String> {
    let end = kernel.params.iter().map(|param| (param.offset + param.size) as usize).max().unwrap_or(0);
    let mut params = vec![0; end];
    for param in &kernel.params {
        let value = if param.size == 8 { machine.buffer(&ones()) } else { 3 };
        let size = (param.size as usize).min(8);
        params[param.offset as usize..][..size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
    let shape = Shape { grid: [2, 1, 1], block: [kernel.max_threads.min(64), 1, 1], dynamic_shared: 4096 };
    match machine.launch(module, &kernel.name, &shape, &params) {
        None => Ok(2),
        Some(fault) if fault.to_string().is_empty() => Err("a fault that says nothing".into()),
        Some(fault) => refusal(&"\n".repeat(1 << 20), fault.ptx_line, "a fault").map(|()| 1),
    }
}

/// One to three changes.
fn mutate(text: &str, seed: u64) -> String {
    let mut random = Random(seed.wrapping_mul(0x5851_f42d_4c95_7f2d) + 1);
    let changes = 1 + random.below(3);
    (0..changes).fold(text.to_string(), |text, _| change(&text, &mut random))
}

fn change(text: &str, random: &mut Random) -> String {
    match random.below(9) {
        0 => lines(text, random),
        1..=4 => tokens(text, random),
        5 => insert(text, random),
        6 | 7 => flip(text, random),
        _ => truncate(text, random),
    }
}

/// Removes, repeats or exchanges lines.
fn lines(text: &str, random: &mut Random) -> String {
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    rearrange(&mut lines, random);
    lines.concat()
}

fn rearrange(parts: &mut Vec<&str>, random: &mut Random) {
    let (a, b) = (random.below(parts.len()), random.below(parts.len()));
    match random.below(4) {
        _ if parts.is_empty() => {}
        0 => drop(parts.remove(a)),
        1 => parts.insert(b, parts[a]),
        2 => parts[b] = parts[a],
        _ => parts.swap(a, b),
    }
}

/// Names, numbers, single signs, and what is between them.
fn split(text: &str) -> Vec<&str> {
    let part = |c: char| c.is_alphanumeric() || "_$%.".contains(c);
    let mut tokens = vec![];
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| !part(c)).filter(|&end| end > 0);
        let end = if part(first) { end.unwrap_or(rest.len()) } else { first.len_utf8() };
        tokens.push(&rest[..end]);
        rest = &rest[end..];
    }
    tokens
}

const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "-1",
    "2",
    "7",
    "31",
    "32",
    "33",
    "0xffffffff",
    "2147483648",
    "18446744073709551615",
    "0f7FC00000",
    "99999999999999999999",
    "0x",
];

fn tokens(text: &str, random: &mut Random) -> String {
    let mut tokens = split(text);
    let numbers: Vec<usize> =
        (0..tokens.len()).filter(|&i| tokens[i].starts_with(|c: char| c.is_ascii_digit())).collect();
    let registers: Vec<usize> = (0..tokens.len()).filter(|&i| tokens[i].starts_with('%')).collect();
    match random.below(4) {
        0 if !numbers.is_empty() => tokens[*random.of(&numbers)] = *random.of::<&str>(&NUMBERS),
        1 | 2 if !registers.is_empty() => tokens[*random.of(&registers)] = tokens[*random.of(&registers)],
        _ => rearrange(&mut tokens, random),
    }
    tokens.concat()
}

fn place(text: &str, random: &mut Random) -> usize {
    let mut at = random.below(text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn insert(text: &str, random: &mut Random) -> String {
    let pieces =
        ["{", "}", ";", "[", "]", "(", ")", ",", "@", "!", "\"", "/*", "//", "|", ":", "\u{0}", "é", "-", "%", "."];
    let at = place(text, random);
    [&text[..at], *random.of::<&str>(&pieces), &text[at..]].concat()
}

/// One bit of one byte; what is then no UTF-8 any more becomes a replacement character.
fn flip(text: &str, random: &mut Random) -> String {
    let mut bytes = text.as_bytes().to_vec();
    if let Some(byte) = bytes.len().checked_sub(1).map(|last| random.below(last + 1)) {
        bytes[byte] ^= 1 << random.below(8);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn truncate(text: &str, random: &mut Random) -> String {
    let at = place(text, random);
    text[..at].to_string()
}

#[test]
fn mutants_differ_and_come_again() {
    let all: Vec<String> = (0..50).map(|seed| mutate(TEXT, seed)).collect();
    assert!(all.iter().filter(|mutant| *mutant != TEXT).count() >= 45);
    assert_eq!(all[7], mutate(TEXT, 7));
    assert_eq!(split(TEXT).concat(), TEXT);
    for text in ["", "\n", "é", "a"] {
        for seed in 0..50 {
            drop(mutate(text, seed));
        }
    }
}

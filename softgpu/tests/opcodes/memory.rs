//! Loads and stores of every width in every space, address conversions, and mov.

use crate::harness::{Form, Probe, Shape, body, cases, check, dump_text, dumping, form, load_text, machine};
use crate::numbers::{Kind, Random, Want};

#[test]
fn follows_the_manual() {
    check(forms());
}

pub fn forms() -> Vec<Form> {
    let tables = [loads(), stores(), read_only(), constants(), parameters(), addresses(), spaces(), moves(), hints()];
    tables.into_iter().flatten().collect()
}

/// 32 bytes of each thread in some space.
#[derive(Clone, Copy)]
struct Area {
    /// As in an opcode: ".global", or "" for a generic address.
    space: &'static str,
    setup: &'static str,
    address: &'static str,
}

const MODULE: &str = ".shared .align 16 .b8 area[2048];";

const GLOBAL: Area = Area { space: ".global", setup: "mad.wide.u32 %d1, %thread, 32, %scratch;", address: "%d1" };

const SHARED: Area =
    Area { space: ".shared", setup: "mov.u32 %t1, area;\nmad.lo.s32 %t1, %thread, 32, %t1;", address: "%t1" };

const LOCAL: Area = Area {
    space: ".local",
    setup: ".local .align 16 .b8 stack[48];\nmov.u64 %d1, stack;\nadd.s64 %d1, %d1, 16;",
    address: "%d1",
};

const GENERIC: [Area; 3] = [
    Area { space: "", setup: "mad.wide.u32 %d1, %thread, 32, %generic;", address: "%d1" },
    Area {
        space: "",
        setup: "mov.u64 %d1, area;\ncvta.shared.u64 %d1, %d1;\nmad.wide.u32 %d1, %thread, 32, %d1;",
        address: "%d1",
    },
    Area {
        space: "",
        setup: ".local .align 16 .b8 stack[32];\nmov.u64 %d1, stack;\ncvta.local.u64 %d1, %d1;",
        address: "%d1",
    },
];

const THREADS: usize = 40;

impl Area {
    /// The four words of the area, stored from the inputs.
    fn fill(self) -> String {
        (0..4).map(|i| format!("st{}.b64 [{}+{}], %i{i};\n", self.space, self.address, 8 * i)).collect()
    }

    fn all() -> Vec<Self> {
        [GLOBAL, SHARED, LOCAL].into_iter().chain(GENERIC).collect()
    }
}

fn words(random: &mut Random, count: usize) -> Vec<Vec<u64>> {
    (0..THREADS).map(|_| (0..count).map(|_| random.next()).collect()).collect()
}

fn to_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

const TYPES: [&str; 14] =
    ["b8", "u8", "s8", "b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"];

/// Type, how many, and where in the area, on a multiple of the whole access's size.
fn accesses() -> Vec<(&'static str, usize, usize)> {
    let mut all = vec![];
    for name in TYPES {
        let size = Kind::of(name).bits() as usize / 8;
        for count in [1, 2, 4].into_iter().filter(|count| count * size <= 16) {
            all.push((name, count, if count * size == 16 { 16 } else { 3 * count * size }));
        }
    }
    all.retain(|&(name, count, at)| at + count * Kind::of(name).bits() as usize / 8 <= 32);
    all
}

fn vector(count: usize) -> String {
    if count == 1 { String::new() } else { format!(".v{count}") }
}

fn list(letter: char, count: usize) -> String {
    let names: Vec<String> = (0..count).map(|i| format!("%{letter}{i}")).collect();
    if count == 1 { names[0].clone() } else { format!("{{{}}}", names.join(", ")) }
}

/// What a load of these bytes puts into a register of `register_bits`.
fn loaded(kind: Kind, bytes: &[u8], register_bits: u32) -> u64 {
    let bits = bytes.iter().rev().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
    kind.integer(bits) as u64 & (u64::MAX >> (64 - register_bits))
}

/// A floating-point kind's bits are looked at as an unsigned integer's.
fn plain(name: &str) -> Kind {
    match name {
        "f32" => Kind::U32,
        "f64" => Kind::U64,
        name => Kind::of(name),
    }
}

fn load(opcode: &str, area: Area, name: &str, count: usize, at: usize, outputs: Kind) -> Form {
    let kind = plain(name);
    let text =
        format!("{{\n{}\n{}{opcode} {}, [{}+{at}];\n}}", area.setup, area.fill(), list('o', count), area.address);
    let probe = Probe::of(&text, vec![Kind::U64; 4], vec![outputs; count]);
    let probe = probe.module(MODULE).scratch(vec![0; 32 * THREADS]);
    let size = kind.bits() as usize / 8;
    body(opcode, probe, words(&mut Random(at as u64), 4), move |_, words| {
        let bytes = to_bytes(words);
        let each = |i: usize| loaded(kind, &bytes[at + i * size..at + (i + 1) * size], outputs.register_bits());
        (0..count).map(each).collect()
    })
}

fn loads() -> Vec<Form> {
    let mut forms = vec![];
    for area in Area::all() {
        for (name, count, at) in accesses() {
            let opcode = |modifier: &str| format!("ld{modifier}{}{}.{name}", area.space, vector(count));
            forms.push(load(&opcode(""), area, name, count, at, plain(name)));
            if Kind::of(name).bits() < 32 {
                forms.push(load(&opcode(""), area, name, count, at, Kind::U32));
            }
            if area.space != ".local" {
                forms.push(load(&opcode(".volatile"), area, name, count, at, plain(name)));
            }
        }
        if area.space == ".global" {
            forms.extend(cached_loads(area));
        }
        if area.space != ".local" && !area.setup.contains(".local") {
            forms.extend(ordered_loads(area));
        }
    }
    forms
}

fn cached_loads(area: Area) -> Vec<Form> {
    let mut forms = vec![];
    for (name, count, at) in accesses() {
        for cache in ["ca", "cg", "cs", "lu", "cv"] {
            let opcode = format!("ld.global.{cache}{}.{name}", vector(count));
            forms.push(load(&opcode, area, name, count, at, plain(name)));
        }
    }
    forms
}

fn ordered_loads(area: Area) -> Vec<Form> {
    let mut forms = vec![];
    for (name, _, at) in accesses().into_iter().filter(|(_, count, _)| *count == 1) {
        for order in ["relaxed.cta", "relaxed.gpu", "relaxed.sys", "acquire.cta", "acquire.gpu", "acquire.sys"] {
            forms.push(load(&format!("ld.{order}{}.{name}", area.space), area, name, 1, at, plain(name)));
        }
    }
    forms
}

/// One store into a filled area, which is then read back whole.
fn store(opcode: &str, area: Area, name: &str, count: usize, at: usize, inputs: Kind) -> Form {
    let kind = plain(name);
    let registers = |i: usize| format!("%i{}", i + 4);
    let list: Vec<String> = (0..count).map(registers).collect();
    let list = if count == 1 { list[0].clone() } else { format!("{{{}}}", list.join(", ")) };
    let back: String = (0..4).map(|i| format!("ld{}.b64 %o{i}, [{}+{}];\n", area.space, area.address, 8 * i)).collect();
    let text = format!("{{\n{}\n{}{opcode} [{}+{at}], {list};\n{back}}}", area.setup, area.fill(), area.address);
    let kinds = [vec![Kind::U64; 4], vec![inputs; count]].concat();
    let probe = Probe::of(&text, kinds, vec![Kind::U64; 4]).module(MODULE).scratch(vec![0; 32 * THREADS]);
    let size = kind.bits() as usize / 8;
    body(opcode, probe, words(&mut Random(at as u64 + 1), 4 + count), move |_, words| {
        let mut bytes = to_bytes(&words[..4]);
        for (i, value) in words[4..].iter().enumerate() {
            bytes[at + i * size..at + (i + 1) * size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
        bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
    })
}

fn stores() -> Vec<Form> {
    let mut forms = vec![];
    for area in Area::all() {
        for (name, count, at) in accesses() {
            let opcode =
                |modifier: &str, cache: &str| format!("st{modifier}{}{cache}{}.{name}", area.space, vector(count));
            let kind = plain(name);
            forms.push(store(&opcode("", ""), area, name, count, at, kind));
            if kind.bits() < 32 {
                forms.push(store(&opcode("", ""), area, name, count, at, Kind::U32));
            }
            if area.space != ".local" {
                forms.push(store(&opcode(".volatile", ""), area, name, count, at, kind));
            }
            let caches = if area.space == ".global" { &[".wb", ".cg", ".cs", ".wt"][..] } else { &[] };
            forms.extend(caches.iter().map(|cache| store(&opcode("", cache), area, name, count, at, kind)));
        }
        if area.space != ".local" && !area.setup.contains(".local") {
            forms.extend(ordered_stores(area));
        }
    }
    forms
}

fn ordered_stores(area: Area) -> Vec<Form> {
    let mut forms = vec![];
    for (name, _, at) in accesses().into_iter().filter(|(_, count, _)| *count == 1) {
        for order in ["relaxed.cta", "relaxed.gpu", "relaxed.sys", "release.cta", "release.gpu", "release.sys"] {
            forms.push(store(&format!("st.{order}{}.{name}", area.space), area, name, 1, at, plain(name)));
        }
    }
    forms
}

/// ld.global.nc, of memory that the kernel does not write.
fn read_only() -> Vec<Form> {
    let mut random = Random(11);
    let data: Vec<u64> = (0..4 * THREADS).map(|_| random.next()).collect();
    let mut forms = vec![];
    for (name, count, at) in accesses() {
        for hint in ["nc", "nc.L1::no_allocate", "nc.L2::128B"] {
            let (kind, opcode) = (plain(name), format!("ld.global.{hint}{}.{name}", vector(count)));
            let text = format!("{}\n{opcode} {}, [%d1+{at}];", GLOBAL.setup, list('o', count));
            let probe = Probe::of(&text, vec![], vec![kind; count]).scratch(to_bytes(&data));
            let (bytes, size) = (to_bytes(&data), kind.bits() as usize / 8);
            forms.push(body(&opcode, probe, vec![vec![]; THREADS], move |thread, _| {
                let at = 32 * thread + at;
                let each = |i: usize| loaded(kind, &bytes[at + i * size..at + (i + 1) * size], kind.register_bits());
                (0..count).map(each).collect()
            }));
        }
    }
    forms
}

fn constants() -> Vec<Form> {
    let mut random = Random(12);
    let data: Vec<u8> = (0..128).map(|_| random.next() as u8).collect();
    let numbers: Vec<String> = data.iter().map(u8::to_string).collect();
    let module = format!(".const .align 16 .b8 table[128] = {{{}}};", numbers.join(", "));
    let mut forms = vec![];
    for (name, count, at) in accesses() {
        for (space, convert) in [(".const", ""), ("", "cvta.const.u64 %d1, %d1;\n")] {
            let (kind, opcode) = (plain(name), format!("ld{space}{}.{name}", vector(count)));
            let address = "mov.u64 %d1, table;\nand.b32 %t1, %thread, 3;\nmul.wide.u32 %d2, %t1, 32;\n";
            let text = format!("{address}{convert}add.s64 %d1, %d1, %d2;\n{opcode} {}, [%d1+{at}];", list('o', count));
            let probe = Probe::of(&text, vec![], vec![kind; count]).module(&module);
            let (bytes, size) = (data.clone(), kind.bits() as usize / 8);
            let model = move |thread: usize, _: &[u64]| {
                let at = 32 * (thread & 3) + at;
                let each = |i: usize| loaded(kind, &bytes[at + i * size..at + (i + 1) * size], kind.register_bits());
                (0..count).map(each).collect()
            };
            forms.push(body(&opcode, probe, vec![vec![]; THREADS], model));
        }
    }
    forms
}

/// A kernel with an odd list of parameters, each loaded from where the kernel says that it lies.
fn parameters() -> Vec<Form> {
    let mut forms = vec![];
    for (name, count, at) in accesses() {
        let opcode = format!("ld.param{}.{name}", vector(count));
        let text = parameter_kernel(&opcode, name, count, at);
        forms.push(Form::new(&opcode, move || run_parameters(&text, plain(name), count, at)));
    }
    forms
}

fn parameter_kernel(opcode: &str, name: &str, count: usize, at: usize) -> String {
    let kind = plain(name);
    let register = kind.register();
    let values: Vec<String> = (0..count).map(|i| format!("%v{i}")).collect();
    let list = if count == 1 { values[0].clone() } else { format!("{{{}}}", values.join(", ")) };
    let stores = |from: usize, space: &str| -> String {
        let line = |i| format!("\tst{space}.{register} [%out+{}], %v{i};\n", 8 * (from + i));
        (0..count).map(line).collect()
    };
    format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n\n.visible .entry probe(\n\t.param .u8 probe_param_0,\n\
         \t.param .u64 .ptr .align 8 probe_param_1,\n\t.param .align 16 .b8 probe_param_2[32],\n\
         \t.param .f32 probe_param_3\n)\n{{\n\t.reg .{register} %v<4>;\n\t.reg .b64 %out, %a;\n\
         \tld.param.u64 %out, [probe_param_1];\n\tcvta.to.global.u64 %out, %out;\n\
         \t{opcode} {list}, [probe_param_2+{at}];\n{}\tmov.b64 %a, probe_param_2;\n\
         \t{opcode} {list}, [%a+{at}];\n{}\tret;\n}}\n",
        stores(0, ".global"),
        stores(4, ".global"),
    )
}

fn run_parameters(text: &str, kind: Kind, count: usize, at: usize) -> Result<(), String> {
    if dumping() {
        dump_text(text);
        return Ok(());
    }
    let machine = machine(80);
    let module = load_text(&machine, text)?;
    let out = machine.buffer(&[0; 64]);
    let mut random = Random(13);
    let data: Vec<u8> = (0..32).map(|_| random.next() as u8).collect();
    let kernel = module.kernel("probe").ok_or("no kernel")?;
    let fields: [&[u8]; 4] = [&[1], &out.to_le_bytes(), &data, &[0; 4]];
    if kernel.params.len() != 4 {
        return Err(format!("{} parameters, not 4", kernel.params.len()));
    }
    let mut params = vec![0; kernel.params.iter().map(|param| param.offset + param.size).max().unwrap_or(0) as usize];
    for (param, field) in kernel.params.iter().zip(fields) {
        assert_eq!(param.size as usize, field.len());
        params[param.offset as usize..][..field.len()].copy_from_slice(field);
    }
    if let Some(fault) = machine.launch(&module, "probe", &Shape::line(1), &params) {
        return Err(format!("fault: {fault}"));
    }
    let got = machine.bytes(out, 64);
    let size = kind.bits() as usize / 8;
    for i in 0..count {
        let want = loaded(kind, &data[at + i * size..at + (i + 1) * size], kind.register_bits());
        for slot in [i, i + 4] {
            let word = u64::from_le_bytes(got[8 * slot..8 * slot + 8].try_into().unwrap());
            if word != want {
                return Err(format!("element {i}: got {word:#x}, not {want:#x}"));
            }
        }
    }
    Ok(())
}

/// There and back: a value stored through one kind of address is read through the other.
fn addresses() -> Vec<Form> {
    let mut forms = vec![];
    let table = [
        ("global", GLOBAL.setup, "%d1"),
        ("shared", "mov.u64 %d1, area;\nmad.wide.u32 %d1, %thread, 32, %d1;", "%d1"),
        ("local", LOCAL.setup, "%d1"),
    ];
    for (space, setup, address) in table {
        for opcode in [format!("cvta.{space}.u64"), format!("cvta.to.{space}.u64")] {
            let text = format!(
                "{{\n{setup}\nst.{space}.b32 [{address}+4], %i0;\ncvta.{space}.u64 %d2, {address};\nld.b32 %o0, [%d2+4];\n\
                 add.s64 %d2, %d2, 8;\nst.b32 [%d2], %i0;\ncvta.to.{space}.u64 %d3, %d2;\nld.{space}.b32 %o1, [%d3];\n}}"
            );
            let probe = Probe::new(&text, "b32", "b32 b32").module(MODULE).scratch(vec![0; 32 * THREADS]);
            let model = |_: usize, x: &[u64]| vec![x[0] & 0xffff_ffff; 2];
            forms.push(body(&opcode, probe, words(&mut Random(14), 1), model));
        }
    }
    for opcode in ["cvta.const.u64", "cvta.to.const.u64"] {
        let text = "mov.u64 %d1, table;\ncvta.const.u64 %d2, %d1;\nld.u32 %o0, [%d2+4];\n\
            cvta.to.const.u64 %d3, %d2;\nld.const.u32 %o1, [%d3+8];";
        let probe = Probe::new(text, "", "b32 b32").module(".const .align 4 .u32 table[3] = {5, 6, 0xfffffff7};");
        forms.push(body(opcode, probe, vec![vec![]; 3], |_, _| vec![6, 0xffff_fff7]));
    }
    forms
}

/// Whether a generic address points into a space.
fn spaces() -> Vec<Form> {
    let setup = ".local .align 16 .b8 stack[16];\nmov.u64 %d1, stack;\ncvta.local.u64 %d1, %d1;\nmov.u64 %d2, area;\n\
        cvta.shared.u64 %d2, %d2;\nmov.u64 %d3, table;\ncvta.const.u64 %d3, %d3;\n";
    let module = format!("{MODULE}\n.const .align 4 .u32 table[1] = {{1}};");
    let mut forms = vec![];
    for (yes, space) in ["global", "local", "shared", "const"].into_iter().enumerate() {
        let test = |i: usize| {
            let address = ["%generic", "%d1", "%d2", "%d3"][i];
            format!("isspacep.{space} %o{i}, {address};\n")
        };
        let text = format!("{{\n{setup}{}}}", (0..4).map(test).collect::<String>());
        let probe = Probe::new(&text, "", "pred pred pred pred").module(&module);
        let model = move |_: usize, _: &[u64]| (0..4).map(|i| u64::from(i == yes)).collect();
        forms.push(body(&format!("isspacep.{space}"), probe, vec![vec![]; 2], model));
    }
    forms
}

fn moves() -> Vec<Form> {
    let copy = |name: &str| {
        let kind = plain(name);
        form(&format!("mov.{name}"), kind, &[kind], |x| Want::bits(x[0]))
    };
    let names = ["b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"];
    names.map(copy).into_iter().chain([pack(), unpack(), symbols()]).collect()
}

fn pack() -> Form {
    let text = "mov.b32 %o0, {%i0, %i1};\nmov.b64 %o1, {%i2, %i3};\nmov.b64 %o2, {%i0, %i1, %i1, %i0};";
    let probe = Probe::new(text, "b16 b16 b32 b32", "b32 b64 b64");
    body("mov.b64", probe, cases(&Kind::list("b16 b16 b32 b32"), 15), |_, x| {
        let short = x[0] | x[1] << 16;
        vec![short, x[2] | x[3] << 32, short | x[1] << 32 | x[0] << 48]
    })
}

fn unpack() -> Form {
    let text = "mov.b32 {%o0, %o1}, %i0;\nmov.b64 {%o2, %o3}, %i1;\nmov.b64 {%h0, %o4, %o5, %h1}, %i1;\n\
        mov.b64 {_, %o6}, %i1;\nmov.b64 {%o7, _}, %i1;";
    let probe = Probe::new(text, "b32 b64", "b16 b16 b32 b32 b16 b16 b32 b32");
    body("mov.b32", probe, cases(&Kind::list("b32 b64"), 16), |_, x| {
        let (low, high) = (x[1] & 0xffff_ffff, x[1] >> 32);
        vec![x[0] & 0xffff, x[0] >> 16, low, high, x[1] >> 16 & 0xffff, x[1] >> 32 & 0xffff, high, low]
    })
}

/// Addresses of variables, with offsets, and numbers as nvcc writes them.
fn symbols() -> Form {
    let text = "mov.u64 %d1, table;\nld.global.u32 %o0, [%d1+8];\nld.global.u32 %o1, [table+4];\n\
        mov.u64 %d2, table+12;\nld.global.u32 %o2, [%d2];\nld.global.u32 %o3, [%d2+-12];\nmov.u32 %t1, area+16;\n\
        mov.u32 %t2, area;\nsub.s32 %o4, %t1, %t2;\nmov.f32 %o5, 0fBF800000;\nmov.b32 %o6, -2;\nmov.u32 %o7, 0xfffffffe;";
    let module = ".global .align 16 .u32 table[4] = {10, 11, 0xc, 015};\n.shared .align 16 .b8 area[32];";
    let probe = Probe::new(text, "", "b32 b32 b32 b32 b32 f32 b32 b32").module(module);
    body("mov.u64", probe, vec![vec![]; 2], |_, _| vec![12, 11, 13, 10, 16, 0xbf80_0000, 0xffff_fffe, 0xffff_fffe])
}

/// Without effect on what is computed.
fn hints() -> Vec<Form> {
    let opcodes = ["prefetch.global.L1", "prefetch.global.L2", "prefetch.L1", "prefetch.L2", "prefetchu.L1"];
    let one = |opcode: &str| {
        let address = if opcode.contains("global") { "%scratch" } else { "%generic" };
        let probe = Probe::new(&format!("{opcode} [{address}];\nmov.b32 %o0, %i0;"), "b32", "b32");
        body(opcode, probe, vec![vec![7]; 3], |_, _| vec![7])
    };
    opcodes.map(one).into()
}

/// Static and dynamic shared memory: the dynamic part begins behind the static one.
#[test]
fn dynamic_shared_memory() {
    let text = "mov.u32 %t1, more;\nmad.lo.s32 %t1, %thread, 4, %t1;\nst.shared.b32 [%t1], %i0;\nmov.u32 %t2, area;\n\
        mad.lo.s32 %t2, %thread, 4, %t2;\nst.shared.b32 [%t2], %thread;\nbar.sync 0;\nxor.b32 %t3, %thread, 1;\n\
        mov.u32 %t1, more;\nmad.lo.s32 %t1, %t3, 4, %t1;\nld.shared.b32 %o0, [%t1];\nld.shared.b32 %o1, [%t2];";
    let module = ".shared .align 4 .b8 area[256];\n.extern .shared .align 16 .b8 more[];";
    let probe = Probe::new(text, "b32", "b32 b32").module(module).dynamic_shared(256);
    let cases: Vec<Vec<u64>> = (0..64).map(|i| vec![1000 + i]).collect();
    check(vec![body("st.shared.b32", probe, cases, |i, _| vec![1000 + (i as u64 ^ 1), i as u64])]);
}

/// Module variables: initialised ones hold their values, others zeros, and all of them last between launches.
#[test]
fn module_variables() {
    let text = ".version 9.0\n.target sm_80\n.address_size 64\n.visible .global .align 4 .u32 count;\n\
        .global .align 4 .f32 values[4] = {0f3F800000, 0f40000000};\n.global .align 8 .u64 pointer = generic(values);\n\
        .visible .entry probe(.param .u64 probe_param_0)\n{\n\t.reg .b32 %r<6>;\n\t.reg .b64 %rd<4>;\n\
        \tld.param.u64 %rd1, [probe_param_0];\n\tcvta.to.global.u64 %rd1, %rd1;\n\tld.global.u32 %r1, [count];\n\
        \tadd.s32 %r2, %r1, 3;\n\tst.global.u32 [count], %r2;\n\tst.global.u32 [%rd1], %r1;\n\
        \tld.global.u64 %rd2, [pointer];\n\tld.u32 %r3, [%rd2+4];\n\tst.global.u32 [%rd1+4], %r3;\n\
        \tld.u32 %r4, [%rd2+8];\n\tst.global.u32 [%rd1+8], %r4;\n\tret;\n}\n";
    if dumping() {
        return dump_text(text);
    }
    let machine = machine(80);
    let module = load_text(&machine, text).unwrap();
    let out = machine.buffer(&[0xff; 12]);
    for expected in [0u32, 3, 6] {
        let fault = machine.launch(&module, "probe", &Shape::line(1), &out.to_le_bytes());
        assert!(fault.is_none(), "{fault:?}");
        let want = [expected, 0x4000_0000, 0].map(u32::to_le_bytes).concat();
        assert_eq!(machine.bytes(out, 12), want);
    }
    let (_, address, bytes) = module.globals.iter().find(|(name, ..)| name == "count").expect("count is listed");
    assert_eq!(*bytes, 4);
    assert_eq!(machine.bytes(*address, 4), 9u32.to_le_bytes());
}

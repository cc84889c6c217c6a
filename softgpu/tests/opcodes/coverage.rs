//! Every opcode form in real PTX must have a test.
//!
//! Compiles softgpu's samples and, where there are any, the workspace's kernels/*.cu; reads all `*.ptx` of
//! SOFTGPU_PTX_DIR as well.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::nvcc;

#[test]
fn every_form_in_real_ptx_has_a_test() {
    let folders = match folders() {
        Ok(folders) => folders,
        Err(reason) => return nvcc::skip(&reason),
    };
    let files: Vec<PathBuf> = folders.iter().flat_map(|folder| files(folder, "ptx")).collect();
    let mut missing = BTreeMap::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        for form in untested(&text) {
            missing.entry(form).or_insert_with(|| file.file_name().unwrap().to_owned());
        }
    }
    println!("{} files, {} forms with a test", files.len(), tested().len());
    assert!(files.len() >= 5);
    let list: String = missing.iter().map(|(form, file)| format!("\n{form} ({})", file.display())).collect();
    assert!(missing.is_empty(), "{} forms have no test:{list}", missing.len());
}

fn folders() -> Result<Vec<PathBuf>, String> {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels");
    let mut folders: Vec<PathBuf> = std::env::var_os("SOFTGPU_PTX_DIR").map(PathBuf::from).into_iter().collect();
    for sources in [nvcc::samples(), kernels] {
        let names = files(&sources, "cu");
        let names: Vec<&str> = names.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
        folders.push(nvcc::images(&sources, &names, "ptx")?);
    }
    Ok(folders)
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == extension)).collect();
    paths.sort();
    paths
}

fn tested() -> &'static HashSet<String> {
    static TESTED: OnceLock<HashSet<String>> = OnceLock::new();
    TESTED.get_or_init(|| crate::all().into_iter().map(|form| form.opcode).collect())
}

fn untested(ptx: &str) -> Vec<String> {
    let tested = tested();
    forms(ptx).into_iter().filter(|form| !tested.contains(form)).collect()
}

/// The opcodes of a text, each once.
fn forms(ptx: &str) -> Vec<String> {
    let text = without_lines(&without_sections(&without_comments(ptx)));
    let mut forms: Vec<String> = text.split(';').filter_map(opcode).collect();
    forms.sort();
    forms.dedup();
    forms
}

/// Comments become a space, the insides of strings nothing.
fn without_comments(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(['/', '"']) {
        out += &rest[..at];
        rest = &rest[at..];
        let (end, skip) = match rest {
            _ if rest.starts_with("//") => (rest.find('\n'), 0),
            _ if rest.starts_with("/*") => (rest[2..].find("*/").map(|end| end + 4), 0),
            _ if rest.starts_with('"') => (rest[1..].find('"').map(|end| end + 2), 0),
            _ => (Some(1), 1),
        };
        out += if skip == 0 { " " } else { &rest[..1] };
        rest = &rest[end.unwrap_or(rest.len())..];
    }
    out + rest
}

/// .section .debug_info { ... } holds data without semicolons.
fn without_sections(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(".section") {
        out += &rest[..at];
        rest = rest[at..].find('}').map_or("", |end| &rest[at + end + 1..]);
    }
    out + rest
}

/// Directives that end with their line.
fn without_lines(text: &str) -> String {
    let ends = [".loc", ".file", ".version", ".target", ".address_size"];
    let directive = |line: &&str| !ends.iter().any(|name| line.split_whitespace().next() == Some(*name));
    text.lines().filter(directive).map(|line| line.to_owned() + "\n").collect()
}

/// The opcode of one statement, or None for a directive.
fn opcode(statement: &str) -> Option<String> {
    let mut rest = statement.trim();
    loop {
        if is_function(rest) {
            rest = rest[rest.find('{')? + 1..].trim_start();
        } else if let Some(inner) = rest.strip_prefix(['{', '}']) {
            rest = inner.trim_start();
        } else if let Some(after) = after_label(rest) {
            rest = after;
        } else {
            break;
        }
    }
    if let Some(guard) = rest.strip_prefix('@') {
        rest = guard.trim_start_matches('!').trim_start().split_once(char::is_whitespace)?.1.trim_start();
    }
    let word = rest.split(|c: char| c.is_whitespace() || c == '{').next()?;
    word.starts_with(|c: char| c.is_ascii_lowercase()).then(|| word.to_owned())
}

fn is_function(text: &str) -> bool {
    let mut words = text.split(|c: char| c.is_whitespace() || c == '(').filter(|word| !word.is_empty());
    let linkage = [".visible", ".extern", ".weak", ".common"];
    words.find(|word| !linkage.contains(word)).is_some_and(|word| word == ".entry" || word == ".func")
}

fn after_label(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || "_$%".contains(c)))?;
    let rest = text[end..].trim_start().strip_prefix(':')?;
    (end > 0 && !rest.starts_with(':')).then(|| rest.trim_start())
}

const TEXT: &str = r#"
.version 9.0 // a comment; with a semicolon
.target sm_80
.address_size 64
.file 1 "a;b.cu"
.extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b) ;
.global .align 4 .b8 data[4] = {1, 2, 3, 4};
.visible .entry kernel(.param .u64 kernel_param_0)
.maxntid 32, 1, 1
{
	.pragma "nounroll";
	.reg .pred %p<3>;
	.reg .b32 %r<9>;
	ld.param.u64 %rd1, [kernel_param_0]; /* add.bad.s32; */
	.loc 1 7 3
	@%p1 bra $L__1;
	.loc 1 9 2, function_name $L__info_string0, inlined_at 1 7 3
	@!%p2 add.s32 	%r1, %r2, 3;
$L__1: mov.u32 %r1, %tid.x;
$L__2:
	{ .reg .b32 %t; cp.async.cg.shared::cta.global [%r1], [%rd1], 16; }
	mov.b64 {%r1, %r2}, %rd2;
	{
	call.uni (retval0),
	fun,
	(
	param0
	);
	}
	bar.sync	0; prototype_1 : .callprototype (.param .b32 _) _ (.param .b32 _);
	membar.gl; ret;
}
.func (.param .b32 func_retval0) fun(.param .b32 fun_param_0)
{
	ret;
}
.section .debug_info { .b32 7 .b8 3 }
.section .debug_str
{
$L__info_string0:
	.b8 5, 6
}
.weak .entry other()
{
	trap;
	ret;
}
"#;

#[test]
fn forms_are_found_in_a_text() {
    let expected = [
        "add.s32",
        "bar.sync",
        "bra",
        "call.uni",
        "cp.async.cg.shared::cta.global",
        "ld.param.u64",
        "membar.gl",
        "mov.b64",
        "mov.u32",
        "ret",
        "trap",
    ];
    assert_eq!(forms(TEXT), expected);
    assert_eq!(untested(TEXT), Vec::<String>::new());
}

#[test]
fn an_unknown_form_is_missed() {
    let text = TEXT.replace("add.s32 \t%r1, %r2, 3", "add.rz.wrong.s32 %r1, %r2, 3");
    assert_eq!(untested(&text), ["add.rz.wrong.s32"]);
}

#[test]
fn tables_are_not_empty() {
    assert!(tested().len() > 300, "{}", tested().len());
}

//! The shape of the tree: imports point down only, and every op has its room, its test and its bench.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the ground up; a module may name its own layer and those below.
const LAYERS: [&[&str]; 11] = [
    &["error", "dtype", "layout", "rng", "text", "page"],
    &["device", "tensor"],
    &["ops/*/cpu", "ops/*/cuda"],
    &["ops/*", "ops", "tape"],
    &["model"],
    &["checkpoint"],
    &["data"],
    &["extract"],
    &["metrics", "train"],
    &["distill", "bench"],
    &["cli", "main", "lib"],
];

/// Upward edges that are allowed, each with its reason. This list may only shrink.
const ALLOWED: [(&str, &str); 3] = [
    // The functions of f32 are the CPU's vector math.
    ("dtype", "device"),
    // A backward kernel adds to parameter gradients where the tape holds them.
    ("ops/*/cpu", "tape"),
    ("ops/*/cuda", "tape"),
];

/// Its module's name in the table, from a path below `src` or the words after `crate::`.
fn module(parts: &[&str]) -> String {
    match parts {
        ["ops", _, side @ ("cpu" | "cuda"), ..] => format!("ops/*/{side}"),
        ["ops", _, ..] => "ops/*".into(),
        [first, ..] => (*first).into(),
        [] => "lib".into(),
    }
}

fn layer(module: &str) -> usize {
    let found = LAYERS.iter().position(|names| names.contains(&module));
    found.unwrap_or_else(|| panic!("{module} is in no layer of tests/layers.rs: add it"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The paths that a file names after `crate::`, groups in braces opened one level.
fn imports(text: &str) -> Vec<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap()).collect();
    let mut found = Vec::new();
    for (at, _) in code.join("\n").match_indices("crate::") {
        let code = code.join("\n");
        if code[..at].ends_with('$') {
            continue; // a macro's path, resolved where it is called
        }
        let rest = &code[at + "crate::".len()..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        match rest[end..].strip_prefix('{') {
            Some(group) => {
                let names = group.split('}').next().unwrap().split(',').map(str::trim);
                found.extend(names.map(|name| format!("{}{name}", &rest[..end])));
            }
            None => found.push(rest[..end].into()),
        }
    }
    found
}

#[test]
fn imports_point_down_only() {
    let (mut wrong, mut used) = (BTreeSet::new(), BTreeSet::new());
    for path in sources(Path::new("src")) {
        let name = path.strip_prefix("src").unwrap().with_extension("");
        let from: Vec<&str> = name.iter().map(|part| part.to_str().unwrap()).filter(|part| *part != "mod").collect();
        let from = module(&from);
        for import in imports(&fs::read_to_string(&path).unwrap()) {
            let parts: Vec<&str> = import.split("::").filter(|part| !part.is_empty()).collect();
            // `crate::Result` and macros at the root belong to no layer.
            if parts[0] == "dispatch" || parts[0].starts_with(char::is_uppercase) {
                continue;
            }
            let to = module(&parts);
            if layer(&to) > layer(&from) {
                match ALLOWED.iter().find(|edge| **edge == (&*from, &*to)) {
                    Some(edge) => used.extend([*edge]),
                    None => wrong.extend([format!("{}: {from} names crate::{import}, above it", path.display())]),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(used, BTreeSet::from(ALLOWED), "an edge that nobody uses is no longer allowed");
}

fn ops() -> BTreeSet<String> {
    let rooms = fs::read_dir("src/ops").unwrap().map(|entry| entry.unwrap());
    let rooms = rooms.filter(|entry| entry.path().is_dir());
    rooms.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn every_op_is_timed() {
    let mut timed = BTreeSet::new();
    let device = docre::device::Device::cpu(2).unwrap();
    docre::bench::kernels::each(&device, 1, "", &mut |case, _, _| {
        timed.extend(case.split(' ').next().map(str::to_string));
        Ok(())
    })
    .unwrap();
    let missing: Vec<String> = ops().difference(&timed).cloned().collect();
    assert!(missing.is_empty(), "no case in src/bench/kernels.rs: {missing:?}");
}

#[test]
fn every_op_has_its_twins() {
    let mut missing = Vec::new();
    let mut want = |path: String| missing.extend((!Path::new(&path).exists()).then_some(path));
    for op in ops() {
        want(format!("src/ops/{op}/mod.rs"));
        want(format!("src/ops/{op}/cpu.rs"));
        want(format!("tests/ops/{op}.rs"));
        want(format!("src/ops/{op}/cuda.rs"));
        want(format!("kernels/{op}.cu"));
    }
    assert!(missing.is_empty(), "missing: {missing:#?}");
}

#[test]
fn the_import_reader_reads_groups_and_skips_comments() {
    let text = "use crate::a::{B, c};\n// crate::no\nlet x = crate::d::e(1); $crate::f;";
    assert_eq!(imports(text), ["a::B", "a::c", "d::e"]);
}

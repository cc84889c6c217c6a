//! The shipped checkpoint does what the README and its model card say.

mod common;

use common::real;
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn docre(args: &[&str]) -> Output {
    let run = Command::new(env!("CARGO_BIN_EXE_docre")).args(args).current_dir(ROOT).env_remove("DOCRE_MODEL").output();
    let output = run.unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_demo_prints_true_triples() {
    let table = text(&docre(&["demo"]).stdout);
    let has = |head: &str, relation: &str, tail: &str| {
        table.lines().any(|l| l.trim_start().starts_with(head) && l.contains(relation) && l.contains(tail))
    };
    assert!(has("Marie Curie", "place of birth", "Warsaw"), "{table}");
    assert!(has("Blade Runner", "director", "Ridley Scott"), "{table}");
    assert!(has("Blade Runner", "publication date", "1982"), "{table}");
}

#[test]
fn the_checkpoint_is_whole() {
    docre(&["model", "verify", "weights/demo"]);
    let bytes: u64 = std::fs::read_dir(format!("{ROOT}/weights/demo"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= 64_000_000, "{bytes} bytes");
}

/// `| F1 | 58.72 |` of the model card.
fn card_f1() -> String {
    let card = std::fs::read_to_string(format!("{ROOT}/weights/demo/README.md")).unwrap();
    let row = card.lines().find(|l| l.starts_with("| F1 |")).unwrap();
    row.split('|').nth(2).unwrap().trim().to_string()
}

#[test]
fn the_card_tells_the_f1_that_eval_measures() {
    let Some(gold) = real::data("redocred/tune50.json") else { return };
    let f1 = |precision: &str| {
        let args = ["eval", "-q", "-m", "weights/demo", "--gold", gold.to_str().unwrap(), "--precision", precision];
        let report = docre(&[&args[..], &["--device", "cpu", "--json"]].concat());
        let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
        report["f1"].as_f64().unwrap()
    };
    let exact = f1("f32");
    assert_eq!(format!("{exact:.2}"), card_f1());
    assert!(exact >= 58.0, "{exact}");
    for precision in ["bf16", "int8"] {
        let rounded = f1(precision);
        assert!((rounded - exact).abs() <= 0.2, "{rounded} in {precision}, {exact} in f32");
    }
}

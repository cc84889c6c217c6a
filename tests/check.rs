//! `docre check`: what it counts, what it calls a fault, and its memory on hostile files.

mod common;

use clap::Parser;
use common::real;
use docre::cli::check::{CheckArgs, run_to};
use std::path::Path;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    check: CheckArgs,
}

fn check(args: &[&str]) -> (u8, String) {
    let args = Command::try_parse_from([&["check"], args].concat()).unwrap().check;
    let mut out = Vec::new();
    let code = run_to(&args, &mut out).unwrap();
    (code, String::from_utf8(out).unwrap())
}

fn check_json(args: &[&str]) -> (u8, serde_json::Value) {
    let (code, text) = check(&[&["--json"], args].concat());
    (code, serde_json::from_str(&text).unwrap())
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

const ODD: &str = r#"[{"title":"A","sents":[["a","b"],["c"]],"vertexSet":[
    [{"name":"a b","pos":[0,2],"sent_id":0,"type":"X"},{"name":"q","pos":[0,1],"sent_id":0,"type":"Y"}],[],
    [{"name":"b","pos":[1,2],"sent_id":0,"type":"X"}]],
  "labels":[{"h":0,"t":2,"r":"P1","evidence":[0]},{"h":0,"t":2,"r":"P2"},{"h":0,"t":2,"r":"P2"},{"h":2,"t":2,"r":"P1"}]},
  {"title":"B","sents":[],"vertexSet":[]}]"#;

#[test]
fn oddities_are_counted_and_are_no_faults() {
    let folder = tempfile::tempdir().unwrap();
    let (code, found) = check_json(&[&file(folder.path(), "odd", ODD)]);
    assert_eq!((code, &found["faults"]), (0, &0.into()));
    let found = &found["files"][0];
    assert_eq!((&found["documents"], &found["unlabelled"], &found["format"]), (&2.into(), &1.into(), &"docred".into()));
    let totals = serde_json::json!({"tokens":3,"sentences":2,"entities":3,"mentions":3,"labels":4,"pairs":6});
    assert_eq!((&found["totals"], &found["largest"]), (&totals, &totals));
    assert_eq!(found["most_relations_on_a_pair"], 2);
    assert_eq!(found["relations"], serde_json::json!({"P1":2,"P2":1}));
    let notes = serde_json::json!({
        "documents_with_overlapping_mentions":1, "mentions_named_unlike_their_tokens":1,
        "mentions_typed_unlike_their_entity":1, "entities_without_mention":1,
        "entities_with_two_mentions_at_one_start":1, "labels_without_evidence":3,
        "labels_of_an_entity_with_itself":1, "labels_given_twice":1, "documents_without_entities":1,
        "documents_with_candidate_pairs":0, "documents_with_undirected_relations":0
    });
    assert_eq!(found["notes"], notes);
}

#[test]
fn faults_are_counted_shown_and_change_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let bad = r#"{"title":"x","sents":[["a"]],"vertexSet":[[{"pos":[0,9],"sent_id":0}]]}"#;
    let path = file(folder.path(), "bad", &format!("[{bad},{bad},{bad}]"));
    let (code, text) = check(&["--max-faults", "2", &path]);
    assert_eq!(code, 3);
    assert!(text.contains("at $[1].vertexSet[0][0].pos") && text.contains("and 1 more faults"), "{text}");
    let relations = file(folder.path(), "rel2id.json", r#"{"Na":0,"P1":1}"#);
    let (code, found) = check_json(&["--relations", &relations, &file(folder.path(), "odd", ODD)]);
    assert_eq!((code, &found["files"][0]["faults"][0]["code"]), (3, &"E-RELATION".into()));
    assert_eq!(found["files"][0]["faults"][0]["path"], "$.labels[1].r");
    let args = Command::try_parse_from(["check", "no/such/file"]).unwrap().check;
    assert_eq!(run_to(&args, &mut Vec::new()).unwrap_err().exit_code(), 6);
    assert!(Command::try_parse_from(["check"]).is_err());
}

#[test]
fn names_that_stand_twice_are_faults() {
    let folder = tempfile::tempdir().unwrap();
    let one = |title: &str| format!(r#"{{"title":"{title}","sents":[],"vertexSet":[]}}"#);
    let twice = file(folder.path(), "twice", &format!("[{},{}]", one("A"), one("A")));
    let (code, text) = check(&[&twice]);
    assert!(code == 3 && text.contains("its name stands before: document 0 of this file"), "{text}");
    let one_of =
        |id: &str, title: &str| format!("{{\"id\":\"{id}\",\"title\":\"{title}\",\"text\":\"\",\"entities\":[]}}\n");
    let lines = one_of("a", "T") + &one_of("b", "T") + &one_of("a", "U");
    let (code, text) = check(&[&file(folder.path(), "ids", &lines)]);
    assert!(
        code == 3 && text.contains("\"a\": its name stands before: document 0") && text.contains("1 faults"),
        "{text}"
    );
    let train = file(folder.path(), "train", &format!("[{},{}]", one("A"), one("B")));
    let dev = file(folder.path(), "dev", &format!("[{},{}]", one("C"), one("B")));
    let (code, text) = check(&["--train", &train, "--dev", &dev]);
    assert!(code == 3 && text.contains("document 1 \"B\": also in the training data: document 1"), "{text}");
    assert!(text.contains("1 faults"), "{text}");
}

/// The counts that the data's README gives.
#[test]
fn real_data_has_no_faults() {
    let Some(folder) = real::data("redocred") else { return };
    let path = |name: &str| folder.join(name).display().to_string();
    let (fit, tune, relations) = (path("fit450.json"), path("tune50.json"), path("rel2id.json"));
    let (code, found) = check_json(&["--train", &fit, "--dev", &tune, "--relations", &relations]);
    assert_eq!((code, &found["faults"]), (0, &0.into()));
    let sum = |field: &[&str]| {
        let of = |file: &serde_json::Value| field.iter().fold(file, |value, key| &value[*key]).as_u64().unwrap();
        found["files"].as_array().unwrap().iter().map(of).sum::<u64>()
    };
    assert_eq!((sum(&["documents"]), sum(&["totals", "labels"])), (500, 17284));
    assert_eq!(sum(&["notes", "documents_with_overlapping_mentions"]), 49);
    let odd = sum(&["notes", "mentions_named_unlike_their_tokens"]) as f64 / sum(&["totals", "mentions"]) as f64;
    assert!((0.015..0.025).contains(&odd), "{odd}");
    assert_eq!(found["files"][0]["most_relations_on_a_pair"], 4);
}

/// Peak resident memory of this process in bytes.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? << 10)
}

/// Files made of whatever costs most memory per byte: at most the file and 64 MB, each.
#[test]
fn hostile_files_stay_within_their_memory() {
    let folder = tempfile::tempdir().unwrap();
    let size = 7 << 20;
    let docred = |sents: &str, entities: &str, labels: &str| {
        format!(r#"[{{"title":"t","sents":[{sents}],"vertexSet":[{entities}],"labels":[{labels}]}}]"#)
    };
    let fill = |unit: &str| unit.repeat(size / unit.len()) + unit.trim_end_matches(',');
    let many = |unit: &str, n: usize| unit.repeat(n) + unit.trim_end_matches(',');
    let files = [
        docred(&format!("[{}]", fill(r#""a","#)), "", ""),
        docred(&format!("[{}]", many(r#""a","#, 262_000)), "", ""),
        docred(&fill("[],"), "", ""),
        docred(r#"["a"]"#, &fill("[],"), ""),
        docred(r#"["a"]"#, &format!("[{}]", fill(r#"{"pos":[0,1],"sent_id":0},"#)), ""),
        docred(r#"["a"]"#, &format!("[{}]", many(r#"{"pos":[0,1],"sent_id":0},"#, 131_000)), ""),
        docred(r#"["a"]"#, "[]", &fill(r#"{"h":0,"t":0,"r":""},"#)),
        docred(r#"["a"]"#, "[]", &many(r#"{"h":0,"t":0,"r":"P"},"#, 262_000)),
        docred(
            r#"["a"]"#,
            "[]",
            &many(&format!(r#"{{"h":0,"t":0,"r":"","evidence":[{}]}},"#, many("0,", 250_000)), 13),
        ),
        format!(r#"{{"text":"{}","entities":[]}}"#, fill("a ")),
        format!(r#"{{"text":"{}","entities":[]}}"#, many("a ", 262_000)),
        format!(r#"{{"text":"a","entities":[{{"mentions":[{}]}}]}}"#, many(r#"{"start":0,"end":1},"#, 131_000)),
        format!(
            r#"{{"text":"a","entities":[{}]}}"#,
            many(&format!(r#"{{"mentions":[{}]}},"#, many(r#"{"start":0,"end":1},"#, 10)), 12_000)
        ),
        format!(r#"{{"text":"{}","entities":[],"tokens":[{}]}}"#, "a".repeat(1 << 20), many("[0,1],", 1)),
        format!(r#"{{"text":"a","entities":[],"tokens":[{}]}}"#, many("[1,1],", 262_000)),
        "x".repeat(64 << 20),
        "[".repeat(64 << 20),
        format!("[\"{}", "x".repeat(64 << 20)),
    ];
    let paths: Vec<String> =
        files.iter().enumerate().map(|(i, text)| file(folder.path(), &i.to_string(), text)).collect();
    drop(files);
    let program = std::env::current_exe().unwrap();
    for path in paths {
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        // Each in a process of its own: the peak never falls again.
        let run = std::process::Command::new(&program)
            .args(["--exact", "measured_alone", "--nocapture"])
            .env("DOCRE_CHECK_ALONE", &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        let used: Option<usize> = said.lines().find_map(|line| line.strip_prefix("PEAK ")?.parse().ok());
        assert!(run.status.success(), "{path}: {said}");
        let Some(used) = used else { return eprintln!("SKIPPED: no /proc/self/status") };
        eprintln!("{path}: {:.1} MB file, {:.1} MB peak", length as f64 / 1e6, used as f64 / 1e6);
        assert!(used < length + (64 << 20), "{path}: {used} bytes for a file of {length}");
    }
}

/// Not a test by itself: the process that `hostile_files_stay_within_their_memory` starts.
#[test]
fn measured_alone() {
    let Some(path) = std::env::var_os("DOCRE_CHECK_ALONE") else { return };
    let args = Command::try_parse_from(["check".into(), path]).unwrap().check;
    run_to(&args, &mut Vec::new()).unwrap();
    if let Some(bytes) = peak() {
        eprintln!("PEAK {bytes}");
    }
}

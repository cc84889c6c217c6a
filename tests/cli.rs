//! The program as people call it: output, exit codes, messages.

mod common;

use common::models::{demo_size, relations, tiny, write_model};
use common::room::{LOW, Room, Run, TWO, document};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;

const BIORED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/biored.PubTator");
const CDR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cdr.data");

/// Documents without entities, with one, with many; some longer than the window.
fn documents() -> String {
    (0..70).map(|i| document(i, [0, 1, 2, 6, 3][i % 5], [3, 12, 90, 0, 41, 7][i % 6])).collect()
}

#[test]
fn every_help_shows_examples() {
    let room = Room::new();
    let commands = [
        &["extract"][..],
        &["eval"],
        &["threshold"],
        &["train"],
        &["check"],
        &["convert"],
        &["model"],
        &["model", "inspect"],
        &["model", "verify"],
        &["model", "convert"],
        &["demo"],
        &["doctor"],
        &[],
    ];
    let all = room.run(&["--help"]).ok().out;
    for command in commands {
        let help = room.run(&[command, &["--help"]].concat()).ok().out;
        assert!(help.contains("Examples:\n  docre "), "{command:?}: {help}");
        assert!(command.first().is_none_or(|name| all.contains(&format!("\n  {name}"))), "{command:?} is not in {all}");
    }
    assert!(room.run(&["--version"]).ok().out.starts_with("docre 0."));
}

#[test]
fn wrong_flags_are_usage_errors() {
    let room = Room::with_model();
    let wrong: [&[&str]; 19] = [
        &[],
        &["extract"],
        &["extract", "x", "--to", "pdf"],
        &["extract", "x", "--threshold", "nan"],
        &["extract", "x", "--batch-size", "0"],
        &["extract", "x", "--threads", "many"],
        &["extract", "x", "--max-memory", "2 cups"],
        &["eval", "--gold", "x", "--pred", "y", "-m", "z"],
        &["extract", "x", "--device", "cuda", "--precision", "f32"],
        &["extract", "x", "--device", "cuda", "--precision", "int8"],
        &["bench", "train", "--precision", "int8"],
        &["threshold", "--gold", "x", "--min-gold", "5"],
        &["threshold", "--gold", "x", "--keep-threshold"],
        &["no-such-command"],
        &["extract", "x", "--evidence-threshold", "0.5"],
        &["extract", "x", "--evidence", "--evidence-threshold", "nan"],
        &["extract", "x", "--evidence", "--to", "tsv"],
        &["extract", "x", "--evidence", "--to", "table"],
        &["eval", "--gold", "x", "--pred", "x", "--evidence"],
    ];
    for args in wrong {
        assert_eq!(room.run(args).code, 2, "{args:?}");
    }
    let unknown = room.extract(&[TWO, "--relations", "P17,place of brith"]).fails(2, "--relations").in_one_line();
    assert!(unknown.err.contains("did you mean \"P19\" (place of birth)?"), "{}", unknown.err);
    room.extract(&[TWO, "--relations", "Na"]).fails(2, "unknown relation");
}

#[test]
fn each_kind_of_failure_has_its_exit_code() {
    let room = Room::with_model();
    room.extract(&[&room.file("bad.jsonl", "{}\n")]).fails(3, "E-JSON").in_one_line();
    room.run(&["extract", "-m", "nowhere", TWO]).fails(4, "E-MODEL").in_one_line();
    let cuda = room.extract(&["--device", "cuda", TWO]).fails(5, "E-DEVICE").in_one_line();
    assert!(cuda.err.contains("--device cpu"), "{}", cuda.err);
    room.extract(&["nowhere.jsonl"]).fails(6, "nowhere.jsonl").in_one_line();
    room.extract(&[TWO, "-o", "no/such/folder.jsonl"]).fails(6, "E-IO").in_one_line();
    room.extract(&[TWO, "-o", "."]).fails(6, "is a directory").in_one_line();
}

#[test]
fn the_output_does_not_depend_on_batches_or_threads() {
    let room = Room::with_model();
    let input = room.file("many.jsonl", documents());
    let all = room.extract(&[&input, "--batch-size", "1", "--threads", "1"]).ok();
    let lines = all.lines();
    assert_eq!(lines.len(), 70);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["id"], format!("d{i}"));
        let found = line["relations"].as_array().unwrap().len();
        let n = [0, 1, 2, 6, 3][i % 5];
        assert_eq!(found, 4 * n * (n - usize::from(n > 0)), "{line}"); // top_k of every ordered pair
        let warnings = line["warnings"].as_array().unwrap().len();
        assert_eq!(warnings, usize::from(n == 0 || n >= 5), "{line}");
    }
    for precision in ["f32", "bf16", "int8"] {
        let run = |batch: &str, threads: &str| {
            let flags = ["--batch-size", batch, "--threads", threads, "--precision", precision, "--device", "cpu"];
            // About what a sentence of the middling documents has of the attention.
            let evidence = ["--evidence", "--evidence-threshold", "0.09"];
            room.extract(&[&[&*input], &flags[..], &evidence].concat()).ok().out
        };
        let first = run("1", "1");
        for (batch, threads) in [("1", "2"), ("7", "1"), ("7", "2"), ("64", "1"), ("64", "2")] {
            assert!(run(batch, threads) == first, "{precision}: {batch} documents, {threads} threads");
        }
        let lists: BTreeSet<&str> = first.split("\"evidence\":").skip(1).filter_map(|s| s.split(']').next()).collect();
        assert!(lists.len() > 5, "{precision}: {lists:?}");
    }
    let small = room.extract(&[&input, "--batch-tokens", "50", "--batch-cells", "9"]).ok();
    assert!(small.out == all.out);
    let mut piped = room.docre(&["extract", "-m", "model", LOW, "-q", "-"]);
    piped.write_stdin(documents());
    let piped = Run::of(piped).ok();
    assert!(piped.out == all.out && piped.err.is_empty(), "{}", piped.err);
    let twice = room.extract(&[&input, &input]).ok();
    assert!(twice.out == format!("{0}{0}", all.out));
}

/// Good, three kinds of bad, good.
fn mixed(room: &Room) -> String {
    let good = fs::read_to_string(TWO).unwrap();
    let (first, second) = good.split_once('\n').unwrap();
    let bad = r#"{"id":"bad","text":"abc","entities":[{"mentions":[{"start":0,"end":9}]}]}"#;
    room.file("mixed.jsonl", format!("{first}\n{bad}\nnot json\n{{\"id\":\"half\"\n{second}"))
}

#[test]
fn refused_documents_stop_are_skipped_or_recorded() {
    let room = Room::with_model();
    let input = mixed(&room);
    let stopped = room.extract(&[&input, "-q"]).fails(3, "E-SPAN").in_one_line();
    assert!(stopped.err.contains("line 2") && stopped.err.contains("--on-error skip"), "{}", stopped.err);
    assert_eq!(stopped.lines()[0]["id"], "ada"); // what came before is not lost

    let skipped = room.extract(&[&input, "--on-error", "skip"]).fails(1, "3 refused");
    assert_eq!(skipped.lines().iter().map(|l| l["id"].clone()).collect::<Vec<_>>(), ["ada", "isar"]);
    assert_eq!(skipped.err.matches("refused: error[").count(), 3, "{}", skipped.err);

    let recorded = room.extract(&[&input, "--on-error", "record"]).fails(1, "3 refused").lines();
    assert_eq!(recorded.iter().map(|l| l["id"].clone()).collect::<Vec<_>>(), ["ada", "bad", "2", "3", "isar"]);
    let error = &recorded[1]["error"];
    assert_eq!((&error["code"], &error["path"]), (&json!("E-SPAN"), &json!("/entities/0/mentions/0")));
    assert_eq!(recorded[2]["error"]["code"], "E-JSON");
    let alone = room.extract(&[TWO]).ok().lines();
    assert_eq!([&recorded[0], &recorded[4]], [&alone[0], &alone[1]]);
}

#[test]
fn a_document_past_the_memory_limit_is_refused_alone() {
    let room = Room::with_model();
    let input = room.file("big.jsonl", document(0, 2, 5) + &document(1, 200, 0) + &document(2, 2, 5));
    let args = [&input, "--max-memory", "4MiB", "--on-error", "record"];
    let lines = room.extract(&args).fails(1, "1 refused").lines();
    assert_eq!(lines[1]["error"]["code"], "E-OOM");
    assert!(lines[1]["error"]["msg"].as_str().unwrap().contains("200 entities, 40000 pairs"), "{}", lines[1]);
    assert!(lines[0]["relations"].is_array() && lines[2]["relations"].is_array());
    room.extract(&[&input, "--max-memory", "4MiB"]).fails(5, "E-OOM");
    room.extract(&[TWO, "--max-memory", "1k"]).fails(5, "weights");
}

#[test]
fn each_format_has_its_form() {
    let room = Room::with_model();
    let tsv = room.extract(&[TWO, "--to", "tsv"]).ok().out;
    assert!(tsv.starts_with("id\th\tr\tt\thead\trelation\ttail\tscore\tmargin\nada\ta\tP"), "{tsv}");
    assert_eq!(tsv.lines().count(), 1 + 2 * 6 * 4);
    let submission: Value = serde_json::from_str(&room.extract(&[TWO, "--to", "docred"]).ok().out).unwrap();
    assert_eq!(submission.as_array().unwrap().len(), 2 * 6 * 4);
    assert_eq!((&submission[0]["title"], &submission[0]["h_idx"]), (&json!("Ada Lovelace"), &json!(0)));
    let table = room.extract(&[TWO, "--to", "table", "--max-labels", "1"]).ok().out;
    assert!(table.starts_with("Ada Lovelace\n  Ada Lovelace  ") && table.contains("\n\nIsar\n  Isar  "), "{table}");
    assert_eq!(table.lines().count(), 2 + 1 + 2 * 6);
    let only = room.extract(&[TWO, "--relations", "P19,Country"]).ok().lines();
    let found: Vec<&Value> = only.iter().flat_map(|l| l["relations"].as_array().unwrap()).map(|r| &r["r"]).collect();
    assert!(found.len() == 2 * 6 * 2 && found.iter().all(|r| **r == "P19" || **r == "P17"), "{found:?}");
    let none = room.run(&["extract", "-m", "model", TWO, "--threshold", "100", "--to", "docred"]).ok();
    assert_eq!(none.out, "[]\n");
    let every = room.extract(&[TWO, "--evidence", "--evidence-threshold", "0"]).ok().lines();
    assert!(every[0]["relations"].as_array().unwrap().iter().all(|r| r["evidence"] == json!([0, 1])), "{every:?}");
    let list: Value = serde_json::from_str(&room.extract(&[TWO, "--to", "docred", "--evidence"]).ok().out).unwrap();
    assert!(list.as_array().unwrap().iter().any(|r| r["title"] == "Isar" && r["evidence"] == json!([0])), "{list}");
    let wrong = room.extract(&[TWO, "--from", "docred"]).fails(3, "--from jsonl");
    assert!(wrong.out.is_empty());
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let room = Room::with_model();
    let stdout = room.extract(&[TWO]).ok().out;
    assert!(room.extract(&[TWO, "-o", "out.jsonl"]).ok().out.is_empty());
    assert_eq!(fs::read_to_string(room.path("out.jsonl")).unwrap(), stdout);
    room.extract(&[&mixed(&room), "-o", "out.jsonl"]).fails(3, "E-SPAN");
    assert_eq!(fs::read_to_string(room.path("out.jsonl")).unwrap(), stdout, "an error must leave the old file");
    let hidden =
        fs::read_dir(room.0.path()).unwrap().filter(|e| e.as_ref().unwrap().file_name().as_encoded_bytes()[0] == b'.');
    assert_eq!(hidden.count(), 0);
    room.extract(&[TWO, "-o", "/dev/null"]).ok();
    assert!(!fs::metadata("/dev/null").unwrap().is_file(), "a device must not be replaced by a file");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let room = Room::with_model();
    let input = room.file("many.jsonl", documents().repeat(40));
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_docre"))
        .args(["extract", "-q", LOW, "-m"])
        .arg(room.path("model"))
        .arg(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success());
}

#[test]
fn the_profile_adds_up() {
    let room = Room::with_model();
    let err = room.extract(&[TWO, "--profile", "-v"]).ok().err;
    assert!(err.contains("device: cpu, ") && err.contains("tensors at the peak:"), "{err}");
    let rows = err.lines().skip_while(|l| !l.starts_with("op ")).skip(1).take_while(|l| !l.starts_with("tensors"));
    let rows: Vec<(bool, f64)> = rows
        .map(|line| {
            let percent = line.split_whitespace().find(|word| word.ends_with('%')).unwrap();
            (line.starts_with("wall"), percent.trim_end_matches('%').parse().unwrap())
        })
        .collect();
    let (wall, parts): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.0);
    let sum: f64 = parts.iter().map(|row| row.1).sum();
    assert!(wall.len() == 1 && (sum - 100.0).abs() < 2.0, "{sum}: {err}");
}

/// Three entities; two facts, one of them in `FACTS`.
const GOLD: &str = r#"[{"title":"A","sents":[["Ada","saw","Rome","."],["Oslo","."]],"vertexSet":[
  [{"name":"Ada","pos":[0,1],"sent_id":0,"type":"PER"}],[{"name":"Rome","pos":[2,3],"sent_id":0,"type":"LOC"}],
  [{"name":"Oslo","pos":[0,1],"sent_id":1,"type":"LOC"}]],
  "labels":[{"h":0,"t":1,"r":"P17","evidence":[0]},{"h":0,"t":2,"r":"P27","evidence":[1]}]}]"#;
const PRED: &str = r#"[{"title":"A","h_idx":0,"t_idx":1,"r":"P17"},{"title":"A","h_idx":0,"t_idx":2,"r":"P27"},
  {"title":"A","h_idx":1,"t_idx":2,"r":"P27"}]"#;
const FACTS: &str = r#"[["Ada","Rome","P17"]]"#;

#[test]
fn eval_counts_as_by_hand() {
    let room = Room::new();
    let (gold, pred, facts) = (room.file("g", GOLD), room.file("p", PRED), room.file("f", FACTS));
    let args = ["eval", "--gold", &gold, "--pred", &pred, "--train-facts", &facts];
    let report: Value = serde_json::from_str(&room.run(&[&args[..], &["--json"]].concat()).ok().out).unwrap();
    let near = |key: &str, value: f64| assert!((report[key].as_f64().unwrap() - value).abs() < 1e-3, "{key}: {report}");
    near("precision", 100.0 * 2.0 / 3.0);
    near("recall", 100.0);
    near("f1", 80.0);
    near("ign_f1", 100.0 * 2.0 / 3.0); // precision 1 of 2
    assert_eq!(report["intra"]["correct"], 1);
    assert_eq!(report["inter"]["predicted"], 2);
    let text = room.run(&args).ok().out;
    assert!(text.contains("80.00") && text.contains("Ign F1 66.67") && text.contains("P27"), "{text}");
    let baseline = room.run(&[&args[..], &["--baseline-train", &gold]].concat()).ok().out;
    assert!(baseline.contains("baseline"), "{baseline}");
    room.run(&[&args[..], &["--report", "report.html"]].concat()).ok();
    let page = fs::read_to_string(room.path("report.html")).unwrap();
    for part in ["80.00", "66.67", "P27", "2 of 3 right", "</html>"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    room.run(&[&args[..], &["--report", "no/report.html"]].concat()).fails(6, "no/").in_one_line();
    let unlabelled = room.file("u", r#"[{"title":"A","sents":[["a"]],"vertexSet":[]}]"#);
    room.run(&["eval", "--gold", &unlabelled, "--pred", &pred]).fails(3, "no document has labels").in_one_line();
    room.run(&["eval", "--gold", &gold, "--pred", &pred, "--train-facts", &unlabelled]).fails(3, "no facts");
    room.run(&["eval", "--gold", &gold, "--pred", &room.file("b", "[{}]")]).fails(3, "E-JSON").in_one_line();
}

#[test]
fn eval_of_a_model_is_eval_of_its_output() {
    let room = Room::with_model();
    let threshold = "--threshold=-0.5";
    let figures = |gold: &str, args: &[&str]| {
        let out = room.run(&[&["eval", "--gold", gold, "--json", "-q"], args].concat()).ok().out;
        let mut report: Value = serde_json::from_str(&out).unwrap();
        // Only the model knows the relations' names, and which there are.
        let own = ["model", "unknown_relations"];
        own.iter().for_each(|key| drop(report.as_object_mut().unwrap().remove(*key)));
        report["relations"].as_array_mut().unwrap().iter_mut().for_each(|r| {
            r.as_object_mut().unwrap().remove("name");
        });
        report
    };
    // Only lines have margins, and only the model knows what lies below the threshold.
    let curves = |report: &mut Value| report.as_object_mut().unwrap().remove("curves");
    let evidence = &["--evidence", "--evidence-threshold", "0.09"][..];
    for (gold, evidence) in [(TWO, &[][..]), (TWO, evidence), (BIORED, &[]), (CDR, &[])] {
        let mut of_model = figures(gold, &[&["-m", "model", threshold], evidence].concat());
        let of_model_curves = curves(&mut of_model).unwrap();
        assert!(of_model["predicted"].as_u64().unwrap() > 0, "{gold}: {of_model}");
        assert_eq!(
            (&of_model["duplicates"], of_model["evidence"].is_null()),
            (&json!(0), evidence.is_empty()),
            "{gold}"
        );
        for (to, file) in [("jsonl", "p.jsonl"), ("docred", "p.json")] {
            room.run(&[&["extract", "-m", "model", threshold, gold, "--to", to, "-o", file], evidence].concat()).ok();
            let mut of_file = figures(gold, &["--pred", file]);
            let of_file_curves = curves(&mut of_file);
            assert_eq!(of_file, of_model, "{gold} {to}");
            assert_eq!(of_file_curves.is_some(), to == "jsonl");
            let Some(of_file_curves) = of_file_curves else { continue };
            assert_eq!(of_file_curves["reliability"], of_model_curves["reliability"]);
            let own = |curves: &Value| curves["points"].as_array().unwrap().iter().find(|p| p["shift"] == 0.0).cloned();
            assert!(own(&of_file_curves).is_some() && own(&of_file_curves) == own(&of_model_curves));
        }
    }
}

#[test]
fn documents_are_converted_whole() {
    let room = Room::with_model();
    for input in [TWO, BIORED, CDR] {
        let lines = room.run(&["convert", input]).ok().out;
        let file = room.file("lines.jsonl", &lines);
        assert_eq!(room.run(&["convert", "-q", &file]).ok().out, lines, "a second time");
        let relations = |input: &str| -> Vec<Value> {
            room.extract(&["-q", input]).ok().lines().iter().map(|line| line["relations"].clone()).collect()
        };
        assert_eq!(relations(&file), relations(input));
        let run = room.run(&["convert", "-q", input, "--to", "docred", "-o", "docred.json"]).ok();
        assert_eq!(run.err.contains("warning: "), input != TWO, "{}", run.err);
        let gold = room.run(&["check", "--json", input, "docred.json"]).out;
        let found: Value = serde_json::from_str(&gold).unwrap();
        let of = |i: usize| {
            ["tokens", "entities", "mentions", "labels"].map(|what| found["files"][i]["totals"][what].clone())
        };
        assert_eq!(of(0), of(1));
    }
    // A document of an annotated file that has no relation has labels, none.
    let bare = fs::read_to_string(BIORED).unwrap() + "\n\n9|t|Ada\n9|a|\n9\t0\t3\tAda\tPER\tx\n";
    let lines = room.run(&["convert", &room.file("bare", bare)]).ok().lines();
    assert_eq!(lines.last().unwrap()["labels"], json!([]));
    room.run(&["convert", "lines.jsonl", "-o", "lines.jsonl"]).fails(2, "would be replaced").in_one_line();
}

#[test]
fn concepts_and_candidate_pairs_are_extracted() {
    let room = Room::with_model();
    let pairs = |line: &Value| -> std::collections::BTreeSet<(String, String)> {
        let id = |r: &Value, key: &str| r[key].as_str().unwrap().to_string();
        line["relations"].as_array().unwrap().iter().map(|r| (id(r, "h"), id(r, "t"))).collect()
    };
    let found = room.extract(&[BIORED]).ok().lines();
    assert_eq!((&found[0]["id"], pairs(&found[0]).len()), (&"7468724".into(), 10), "each of 5 concepts with each");
    assert!(pairs(&found[0]).contains(&("D002318".into(), "D000305".into())), "the one mentioned first is the head");
    let found = room.extract(&[CDR]).ok().lines();
    let want = [("D001241", "D004417|D009"), ("D001241", "D006471")].map(|(h, t)| (h.to_string(), t.to_string()));
    assert_eq!(pairs(&found[0]).into_iter().collect::<Vec<_>>(), want);
    assert_eq!((found.len(), pairs(&found[1]).len()), (2, 0));
    let table = room.extract(&[BIORED, "--from", "pubtator", "--to", "tsv"]).ok().out;
    assert!(
        table.lines().any(|line| line.starts_with("20143913\t411\t") && line.contains("\tarylsulfatase B\t")),
        "{table}"
    );
    room.extract(&[BIORED, "--from", "eog"]).fails(3, "E-LINE").in_one_line();
    let checked = room.run(&["check", BIORED, CDR]).ok().out;
    for says in ["(pubtator): 2 documents", "(eog): 2 documents", "left out: 1 pairs marked not_include", "undirected"]
    {
        assert!(checked.contains(says), "{checked}");
    }
}

#[test]
fn two_sets_of_predictions_are_compared() {
    let room = Room::new();
    let (gold, pred) = (room.file("g", GOLD), room.file("p", PRED));
    let other = room.file("o \"<b>", r#"{"id":"A","relations":[{"h":"e0","t":"e1","r":"P17"}]}"#);
    let args = ["eval", "--gold", &gold, "--pred", &pred, "--against", &other];
    let report: Value = serde_json::from_str(&room.run(&[&args[..], &["--json"]].concat()).ok().out).unwrap();
    let against = &report["against"];
    // 80 against 2/3: one of one, one of two found.
    assert!((against["difference"].as_f64().unwrap() - (80.0 - 200.0 / 3.0)).abs() < 1e-9, "{against}");
    assert_eq!((&against["p_value"], &report["f1"]), (&json!(1.0), &against["f1"]), "one document: nothing is certain");
    let text = room.run(&args).ok().out;
    assert!(text.contains("(F1 66.67): +13.33, between") && text.contains("p = 1.0000"), "{text}");
    room.run(&["eval", "--gold", &gold, "--pred", &pred, "--against", "nowhere"]).fails(6, "nowhere").in_one_line();
    let room = Room::with_model();
    room.run(&["extract", "-m", "model", TWO, LOW, "-o", "p.jsonl"]).ok();
    let same = room.run(&["eval", "-m", "model", "--gold", TWO, LOW, "--against", "p.jsonl", "--json"]).ok().out;
    assert_eq!(serde_json::from_str::<Value>(&same).unwrap()["against"]["difference"], 0.0);
}

#[test]
fn a_threshold_is_found_and_used() {
    let room = Room::with_model();
    let plain = room.run(&["extract", "-m", "model", TWO, "--threshold=-0.5"]).ok().lines();
    let found = room.run(&["threshold", "-m", "model", "--gold", TWO, "--json"]).ok();
    let found: Value = serde_json::from_str(&found.out).unwrap();
    let best = &found["after"]["f1"];
    assert!(best.as_f64() >= found["before"]["f1"].as_f64() && found["expected"]["f1"].is_number(), "{found}");
    let eval = |args: &[&str]| -> Value {
        let out = room.run(&[&["eval", "-m", "model", "--gold", TWO, "--json"], args].concat()).ok().out;
        serde_json::from_str(&out).unwrap()
    };
    assert_eq!((&eval(&[])["f1"], &eval(&[])["calibration"]), (best, &json!("model/calibration.json")));
    assert_eq!(eval(&["--no-calibration"])["f1"], found["before"]["f1"]);
    let verified = room.run(&["model", "verify", "model"]).ok().out;
    assert!(verified.contains("manifest: 5 files"), "{verified}");
    let again = ["threshold", "-m", "model", "--gold", TWO, "--per-relation", "--min-gold", "1", "--calibrate"];
    let text = room.run(&again);
    // Two documents and random weights: whether scores can be calibrated is the weights' luck.
    assert!(
        text.code == 0 && text.out.contains("written to model/") || text.err.contains("E-CALIBRATION"),
        "{}",
        text.err
    );
    room.run(&["threshold", "-m", "model", "--gold", TWO, "-q", "-o", "elsewhere.json"]).ok();
    let printed = room.run(&["threshold", "-m", "model", "--gold", TWO, "-q", "-o", "-"]).ok().out;
    assert_eq!(fs::read_to_string(room.path("elsewhere.json")).unwrap(), printed);
    room.run(&["model", "verify", "model", "-q"]).ok();

    let write = |text: &str| room.file("model/calibration.json", text);
    let extract = |args: &[&str]| room.run(&[&["extract", "-m", "model", TWO], args].concat());
    fs::remove_file(room.path("model/MANIFEST.sha256")).unwrap();
    write(r#"{"schema":"docre.calibration.v1","model":"","shift":-0.25,"relations":{"P17":50},"score":{"a":2,"b":1}}"#);
    let shifted = extract(&["--threshold=-0.25"]).ok().lines();
    let mut seen = 0;
    for (was, is) in plain.iter().zip(&shifted) {
        let was = was["relations"].as_array().unwrap().iter().filter(|r| r["r"] != "P17");
        let is = is["relations"].as_array().unwrap();
        assert_eq!(was.clone().count(), is.len(), "{is:?}");
        seen += is.len();
        for (was, is) in was.zip(is) {
            let margin = is["margin"].as_f64().unwrap();
            let score = 1.0 / (1.0 + (-2.0 * margin - 1.0).exp());
            assert!(was["margin"] == is["margin"] && (is["score"].as_f64().unwrap() - score).abs() < 1e-6, "{is}");
        }
    }
    assert!(seen > 0, "{shifted:?}");
    assert_eq!(extract(&["--threshold=-0.5", "--no-calibration"]).ok().lines(), plain);
    write("{}");
    extract(&[]).fails(4, "calibration.json").in_one_line();
    room.run(&["model", "verify", "model"]).fails(4, "calibration.json").in_one_line();
    assert_eq!(extract(&["--threshold=-0.5", "--no-calibration"]).ok().lines(), plain);
    room.run(&["threshold", "-m", "model", "--gold", TWO]).ok();
    extract(&[]).ok();
}

#[test]
fn a_model_is_inspected_verified_and_converted() {
    let room = Room::with_model();
    let text = room.run(&["model", "inspect", "model", "--tensors"]).ok().out;
    for part in ["kd-docre", "parameters", "0 missing", "place of birth", "classifier.weight", "sha256:", "F32"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let whole: Value = serde_json::from_str(&room.run(&["model", "inspect", "model", "--json"]).ok().out).unwrap();
    let parameters = &whole["parameters"];
    let sum: u64 = ["encoder", "axial", "head"].iter().map(|g| parameters[g].as_u64().unwrap()).sum();
    assert_eq!(parameters["total"], sum);
    assert_eq!(whole["relations"].as_array().unwrap().len(), 4);
    room.run(&["model", "inspect", "model/model.safetensors"]).ok();

    let verified = room.run(&["model", "verify", "model"]).ok().out;
    assert!(verified.contains("manifest: 4 files") && verified.contains("trial document"), "{verified}");
    assert!(!verified.contains(" 0 values"), "{verified}");

    fs::write(room.path("model/NOTICE"), "notice").unwrap();
    room.run(&["model", "convert", "model", "half", "--dtype", "bf16"]).ok();
    fs::write(room.path("half/README.md"), "# card").unwrap();
    room.run(&["model", "convert", "model", "half", "--dtype", "bf16"]).ok();
    room.run(&["model", "verify", "half", "-q"]).ok();
    let size = |name: &str| fs::metadata(room.path(name)).unwrap().len();
    assert!(size("half/model.safetensors") < size("model/model.safetensors"));
    assert_eq!(fs::read_to_string(room.path("half/README.md")).unwrap(), "# card", "what stood there stays");
    assert_eq!(fs::read_to_string(room.path("half/NOTICE")).unwrap(), "notice");
    room.run(&["model", "convert", "half", "wide", "--dtype", "f32"]).ok();
    let (half, wide) = (room.run(&["extract", "-m", "half", TWO]), room.run(&["extract", "-m", "wide", TWO]));
    assert_eq!(half.ok().out, wide.ok().out, "bf16 values are f32 values");
    room.run(&["model", "convert", "model", "same"]).ok();
    assert_eq!(room.extract(&[TWO]).ok().out, room.run(&["extract", "-m", "same", LOW, TWO]).ok().out);

    fs::create_dir(room.path("precious")).unwrap();
    room.file("precious/thesis.tex", "years");
    room.run(&["model", "convert", "model", "precious"]).fails(2, "thesis.tex").in_one_line();
    assert!(room.path("precious/thesis.tex").exists());
}

#[test]
fn a_plain_encoder_is_named_as_such() {
    let room = Room::new();
    let mut config = tiny();
    config.as_object_mut().unwrap().remove("docre");
    write_model(&room.path("model"), config);
    fs::remove_file(room.path("model/relations.json")).unwrap();
    fs::remove_file(room.path("model/MANIFEST.sha256")).unwrap();
    for args in
        [&["extract", "-m", "model", TWO][..], &["model", "verify", "model"], &["eval", "-m", "model", "--gold", TWO]]
    {
        let run = room.run(args).fails(4, "plain encoder").in_one_line();
        assert!(run.err.contains("docre train"), "{}", run.err);
    }
    assert!(room.run(&["model", "inspect", "model"]).ok().out.contains("plain encoder"));
}

#[test]
fn damaged_models_are_refused_in_one_line() {
    let cut = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 100]).unwrap();
    };
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path), i32, &'a str);
    let fewer = relations().replace(",\n{\"id\":4,\"r\":\"P27\",\"name\":\"country of citizenship\"}", "");
    let other = relations().replace("P27", "P28");
    let write = |text: &'static str| move |path: &Path| fs::write(path, text).unwrap();
    let damages: [Damage; 9] = [
        ("model.safetensors", &cut, 4, "model.safetensors"),
        ("model.safetensors", &|path| fs::remove_file(path).unwrap(), 4, "no model.safetensors"),
        ("model.safetensors", &write("12345678"), 4, "model.safetensors"),
        ("tokenizer.json", &cut, 4, "E-TOKENIZER"),
        ("tokenizer.json", &write("{}"), 4, "E-TOKENIZER"),
        ("relations.json", &|path| fs::write(path, &fewer).unwrap(), 4, "4 relations, the model has 5"),
        ("relations.json", &|path| fs::write(path, &other).unwrap(), 4, "E-RELATIONS"),
        ("relations.json", &write("[1,2]"), 4, "relations.json"),
        ("config.json", &cut, 4, "E-CONFIG"),
    ];
    for (name, damage, code, says) in damages {
        let room = Room::with_model();
        damage(&room.path("model").join(name));
        room.extract(&[TWO]).fails(code, says).in_one_line();
        let verified = room.run(&["model", "verify", "model"]).in_one_line();
        assert!(matches!(verified.code, 4 | 6), "{}", verified.err); // 6: a listed file is gone
        fs::remove_file(room.path("model/MANIFEST.sha256")).unwrap();
        room.run(&["model", "verify", "model"]).fails(code, says).in_one_line();
    }
}

#[test]
fn demo_and_doctor_say_what_they_use() {
    let room = Room::with_model();
    let demo = room.run(&["demo", "-m", "model", LOW, TWO]).ok().out;
    assert!(demo.starts_with("Ada Lovelace\n") && demo.contains("\nmodel model sha256:"), "{demo}");
    assert!(demo.lines().last().unwrap().contains("2 documents, 48 relations"), "{demo}");
    fs::create_dir_all(room.path("examples")).unwrap();
    fs::create_dir_all(room.path("weights")).unwrap();
    fs::copy(TWO, room.path("examples/demo.jsonl")).unwrap();
    fs::rename(room.path("model"), room.path("weights/demo")).unwrap();
    let found = room.run(&["demo", LOW]).ok().out;
    assert_eq!(found.lines().next(), demo.lines().next());
    let mut named = room.docre(&["extract", "-q", TWO]);
    named.env("DOCRE_MODEL", "elsewhere");
    Run::of(named).fails(4, "elsewhere");
    let doctor: Value = serde_json::from_str(&room.run(&["doctor", "--json"]).ok().out).unwrap();
    assert_eq!(doctor["demo"]["model"], "weights/demo");
    assert!(doctor["cpu"]["cores"].as_u64().unwrap() > 0);
    assert!(room.run(&["doctor"]).ok().out.contains("CUDA"));
}

/// One document of 200 entities and 8,000 word pieces on a model of the demo's size: memory has a bound.
/// Minutes long: DOCRE_SOAK=1.
#[test]
#[cfg(target_os = "linux")]
#[allow(clippy::zombie_processes)] // wait4 waits for the child, and tells its memory
fn a_giant_document_fits_into_3_gb() {
    if std::env::var_os("DOCRE_SOAK").is_none() {
        return;
    }
    let room = Room::new();
    write_model(&room.path("model"), demo_size());
    // A word, and a marker on either side of each of the 160 mentions.
    let input = room.file("giant.jsonl", document(0, 200, 8000 - 2 - 200 - 2 * 160));
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_docre"))
        .args(["extract", "--profile", "-v", "-o", "out.jsonl", "-m", "model", &input])
        .current_dir(room.0.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // SAFETY: a struct of numbers, for which zero is a value.
    let (mut status, mut usage) = (0, unsafe { std::mem::zeroed::<libc::rusage>() });
    // SAFETY: the child is ours and not yet waited for; both places are valid for writing.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.unwrap(), &mut said).unwrap();
    println!("{said}peak resident memory: {:.2} GB", usage.ru_maxrss as f64 * 1024.0 / 1e9);
    assert_eq!((waited > 0, status), (true, 0));
    assert!(usage.ru_maxrss * 1024 < 3_000_000_000, "{} kB", usage.ru_maxrss);
}

//! What docre does not do to those who run it: lose files, mix documents up, ignore what was asked for, or panic.

mod common;

use common::models::{demo_size, write_model};
use common::room::{LOW, Room, Run, TWO, document};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, Instant};

/// Two entities and a relation; the title may be that of another document.
fn fact(id: &str, title: &str, relation: &str) -> String {
    let entity = |id: &str, start: usize| json!({"id": id, "mentions": [{"start": start, "end": start + 3}]});
    let mut document = json!({
        "id": id, "text": "ada the isar", "entities": [entity("e0", 0), entity("e1", 4)],
        "labels": [{"h": "e0", "t": "e1", "r": relation}],
    });
    document["title"] = json!(title);
    document.to_string() + "\n"
}

fn said(id: &str, relation: &str) -> String {
    json!({"id": id, "relations": [{"h": "e0", "t": "e1", "r": relation}]}).to_string() + "\n"
}

#[test]
fn documents_are_told_apart_by_their_ids() {
    let room = Room::with_model();
    let gold = room.file("gold.jsonl", fact("a", "T", "P17") + &fact("b", "T", "P19"));
    let pred = room.file("pred.jsonl", said("a", "P17") + &said("b", "P19"));
    let f1 = |args: &[&str]| {
        let out = room.run(&[&["eval", "--json", "-q", "--gold", &gold], args].concat()).ok().out;
        serde_json::from_str::<Value>(&out).unwrap()["f1"].clone()
    };
    assert_eq!(f1(&["--pred", &pred]), 100.0, "two documents share a title");
    room.run(&["extract", "-q", "-m", "model", LOW, &gold, "-o", "own.jsonl"]).ok();
    assert_eq!(f1(&["-m", "model", LOW]), f1(&["--pred", "own.jsonl"]));
    let official = room.file("official", r#"[{"title":"T","h_idx":0,"t_idx":1,"r":"P17"}]"#);
    room.run(&["eval", "--gold", &gold, "--pred", &official]).fails(3, "title of several documents").in_one_line();
    // The same document twice is joined; another one of its id is refused, whatever asks.
    let twice = room.file("twice.jsonl", fact("a", "T", "P17").repeat(2));
    let joined = room.run(&["eval", "--gold", &twice, "--pred", &room.file("p", said("a", "P17"))]).ok().out;
    assert!(joined.contains("100.00") && joined.contains("1 gold documents that stood before"), "{joined}");
    let other = room.file("other.jsonl", fact("a", "T", "P17") + &document(0, 5, 9).replace("\"d0\"", "\"a\""));
    for args in [&["--pred", &pred[..]][..], &["-m", "model"], &["--pred", &pred, "--baseline-train", &other]] {
        let gold = if args.len() == 4 { &gold } else { &other };
        let run = room.run(&[&["eval", "-q", "--gold", gold], args].concat());
        run.fails(3, "\"a\" is the name of two documents").in_one_line();
    }
}

#[test]
fn flags_that_would_be_ignored_are_refused() {
    let room = Room::new();
    let gold = room.file("gold.jsonl", fact("a", "T", "P17"));
    let pred = room.file("pred.jsonl", said("a", "P17"));
    for flag in
        [&["--threshold", "1"][..], &["--max-labels", "1"], &["--no-calibration"], &["--profile"], &["--evidence"]]
    {
        room.run(&[&["eval", "--gold", &gold, "--pred", &pred], flag].concat()).fails(2, "cannot be used with");
    }
    // Facts are read as the documents are: the names are those of the bytes.
    let text = "zürich ada the isar";
    let entity = |start: usize| json!({"id": format!("e{start}"), "mentions": [{"start": start, "end": start + 3}]});
    let labels = json!([{"h": "e8", "t": "e12", "r": "P17"}]);
    let bytes = json!({"id": "a", "text": text, "entities": [entity(8), entity(12)], "labels": labels}).to_string();
    let bytes = room.file("bytes.jsonl", bytes);
    let pred = json!({"id": "a", "relations": [{"h": "e8", "t": "e12", "r": "P17"}]}).to_string();
    let pred = room.file("of-bytes.jsonl", pred);
    let args = ["eval", "--gold", &bytes, "--pred", &pred, "--train-facts", &bytes, "--offset-unit", "byte", "--json"];
    let report: Value = serde_json::from_str(&room.run(&args).ok().out).unwrap();
    assert_eq!((&report["in_train"], &report["ign_f1"]), (&json!(1), &json!(0.0)));
    // Whatever --from says of the documents, facts are told by how they begin.
    let facts = room.file("facts.json", r#"[["ada","the","P17"]]"#);
    let args = ["eval", "--gold", &gold, "--pred", &room.file("p", said("a", "P17")), "--from", "jsonl", "--json"];
    let report = room.run(&[&args[..], &["--train-facts", &facts]].concat()).ok().out;
    assert_eq!(serde_json::from_str::<Value>(&report).unwrap()["in_train"], 1);
}

#[test]
fn standard_input_is_read_where_a_file_is() {
    let room = Room::new();
    let gold = room.file("gold.jsonl", fact("a", "T", "P17"));
    let mut piped = room.docre(&["eval", "--gold", &gold, "--pred", "-"]);
    piped.write_stdin(said("a", "P17"));
    assert!(Run::of(piped).ok().out.contains("100.00"));
}

#[test]
fn results_do_not_replace_what_they_should_not() {
    let room = Room::with_model();
    let input = room.file("in.jsonl", fs::read(TWO).unwrap());
    let before = fs::read(&input).unwrap();
    symlink("in.jsonl", room.path("link.jsonl")).unwrap();
    for name in ["in.jsonl", "./in.jsonl", "link.jsonl"] {
        room.extract(&[&input, "-o", name]).fails(2, "would be replaced").in_one_line();
    }
    assert_eq!(fs::read(&input).unwrap(), before);
    // A link stays one; a file keeps its permissions.
    fs::write(room.path("target"), "old").unwrap();
    fs::set_permissions(room.path("target"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("target", room.path("link")).unwrap();
    room.extract(&[TWO, "-o", "link"]).ok();
    assert!(room.path("link").is_symlink());
    let written = fs::read_to_string(room.path("target")).unwrap();
    assert_eq!(written, room.extract(&[TWO]).ok().out);
    assert_eq!(room.path("target").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    symlink("later", room.path("dangling")).unwrap();
    room.extract(&[TWO, "-o", "dangling"]).ok();
    assert!(room.path("dangling").is_symlink() && fs::read_to_string(room.path("later")).unwrap() == written);
    // What a shell has put under an open file stays, and what others write there too.
    let docre = env!("CARGO_BIN_EXE_docre");
    let line = format!("{docre} extract -q -m model {LOW} {TWO} -o");
    for place in ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"] {
        let script = format!("(echo first; {line} {place}; echo last) > log");
        assert!(Command::new("sh").args(["-c", &script]).current_dir(room.path("")).status().unwrap().success());
        assert_eq!(fs::read_to_string(room.path("log")).unwrap(), format!("first\n{written}last\n"), "{place}");
    }
    // Other inputs than documents.
    let pred = room.file("pred.jsonl", &written);
    for args in [
        &["eval", "--gold", &input, "--pred", &pred, "--report", &pred][..],
        &["threshold", "-m", "model", "--gold", &input, "-o", &input],
    ] {
        room.run(args).fails(2, "would be replaced");
    }
    // A page for standard output stands there alone; one for a pipe or a device goes into it.
    let page = room.run(&["eval", "-q", "-m", "model", "--gold", TWO, "--report", "-"]).ok().out;
    assert!(page.starts_with("<!") && page.trim_end().ends_with("</html>"), "{page}");
    room.run(&["eval", "-q", "-m", "model", "--gold", TWO, "--report", "/dev/null"]).ok();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn a_signal_leaves_no_part_of_a_file() {
    let room = Room::with_model();
    let mut child = Command::new(env!("CARGO_BIN_EXE_docre"))
        .args(["extract", "-q", "-m", "model", "-", "-o", "out.jsonl"])
        .current_dir(room.path(""))
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let names = || fs::read_dir(room.path("")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let begun = Instant::now();
    while !names().any(|name| name.starts_with(".out.jsonl")) {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing was begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50)); // the handler comes right behind the file
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success() && !child.wait().unwrap().success());
    assert_eq!(names().filter(|name| name.contains("out.jsonl")).count(), 0);
}

/// What was started with `nohup` outlives its terminal.
#[test]
fn an_ignored_signal_stays_ignored() {
    let room = Room::with_model();
    let docre = env!("CARGO_BIN_EXE_docre");
    // The run hangs itself up while its output is open: `sh` feeds it after the signal.
    let script =
        format!("trap '' HUP; (sleep 1; kill -HUP 0; cat {TWO}) | {docre} extract -q -m model {LOW} - -o out.jsonl");
    let status = Command::new("setsid").args(["sh", "-c", &script]).current_dir(room.path("")).status().unwrap();
    assert!(status.success());
    assert_eq!(fs::read_to_string(room.path("out.jsonl")).unwrap(), room.extract(&[TWO]).ok().out);
}

/// Where the system has no memory for a document, that document is refused, not the stream.
#[test]
fn a_document_larger_than_memory_is_refused_alone() {
    let room = Room::new();
    write_model(&room.path("model"), demo_size());
    let input = room.file("big.jsonl", document(0, 2, 5) + &document(1, 3000, 0) + &document(2, 2, 5));
    let docre = env!("CARGO_BIN_EXE_docre");
    // The limit is what the system has; and where a larger one was asked for, the system says no.
    for (more, says) in [("", "MiB are left"), ("--max-memory 100GiB", "the system has less")] {
        let script =
            format!("ulimit -v 3000000; exec {docre} extract -q -m model --threads 1 {input} --on-error record {more}");
        let output = Command::new("sh").args(["-c", &script]).current_dir(room.path("")).output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{out}{err}");
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let said = lines[1]["error"]["msg"].as_str().unwrap();
        assert!(lines[1]["error"]["code"] == "E-OOM" && said.contains(says), "{said}");
        assert!(lines[0]["relations"].is_array() && lines[2]["relations"].is_array());
    }
}

/// What is laid out by cells counts, too: it is refused before it is made.
#[test]
fn the_memory_limit_holds_for_the_layout() {
    let room = Room::with_model();
    let input = room.file("wide.jsonl", document(0, 2000, 0));
    let run = room.extract(&[&input, "--max-memory", "100MiB"]).fails(5, "layout needs 137 MiB more");
    assert!(!run.err.contains("panicked"));
}

#[test]
fn full_disks_under_output_or_messages_are_errors_or_nothing() {
    let room = Room::with_model();
    let sh = |line: &str| {
        let docre = env!("CARGO_BIN_EXE_docre");
        let line = line.replace("docre", docre);
        Command::new("sh").args(["-c", &line]).current_dir(room.path("")).output().unwrap()
    };
    for command in ["model verify model", "bench kernels --filter nothing --no-peak", "eval -q -m model --gold "] {
        let gold = if command.ends_with("--gold ") { TWO } else { "" };
        let output = sh(&format!("docre {command}{gold} >/dev/full"));
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(6) && err.contains("E-IO"), "{command}: {err}");
    }
    let output = sh(&format!("docre extract -v -m model {LOW} {TWO} 2>/dev/full"));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), room.extract(&[TWO]).ok().out);
    assert_eq!(sh("docre extract -m model nowhere 2>/dev/full").status.code(), Some(6));
}

#[test]
fn relation_names_with_commas_can_be_asked_for() {
    let room = Room::with_model();
    let relations = fs::read_to_string(room.path("model/relations.json")).unwrap();
    let renamed = relations.replace("place of birth", "born, or found");
    assert_ne!(relations, renamed);
    fs::write(room.path("model/relations.json"), renamed).unwrap();
    fs::remove_file(room.path("model/MANIFEST.sha256")).unwrap();
    let found = room.extract(&[TWO, "--relations", "born, or found"]).ok().out;
    assert!(found.contains("P19") && !found.contains("P17"), "{found}");
    assert_eq!(found, room.extract(&[TWO, "--relations", "P19"]).ok().out);
    let both = room.extract(&[TWO, "--relations", "P19, P17"]).ok().out;
    assert!(both.contains("P19") && both.contains("P17") && !both.contains("P22"), "{both}");
    room.extract(&[TWO, "--relations", "born"]).fails(2, "--relations").in_one_line();
}

/// Quiet is for what went well.
#[test]
fn a_refusal_is_said_also_quietly() {
    let room = Room::with_model();
    let bad = room.file("bad.jsonl", "{\"id\":\"x\",\"text\":3}\n");
    room.extract(&["-q", &bad, "--on-error", "skip"]).fails(1, "refused: ");
}

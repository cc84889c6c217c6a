//! Runs of the program in a directory of their own.

use super::models::{PIECES, tiny, write_model};
use assert_cmd::Command;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

pub const TWO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/two.jsonl");
/// Random weights are unsure: at this margin every pair has relations.
pub const LOW: &str = "--threshold=-100";

/// A directory to run docre in.
pub struct Room(pub TempDir);

impl Room {
    pub fn new() -> Self {
        Room(tempfile::tempdir().unwrap())
    }
    /// With a tiny model in it.
    pub fn with_model() -> Self {
        let room = Room::new();
        write_model(&room.path("model"), tiny());
        room
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }
    /// In this room and of this process's environment only what finds libraries.
    pub fn docre(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_docre"));
        for variable in ["DOCRE_MODEL", "DOCRE_THREADS", "DOCRE_DEVICE", "DOCRE_PRECISION"] {
            command.env_remove(variable);
        }
        command.current_dir(self.0.path()).args(args);
        command
    }
    pub fn run(&self, args: &[&str]) -> Run {
        Run::of(self.docre(args))
    }
    pub fn extract(&self, args: &[&str]) -> Run {
        self.run(&[&["extract", "-m", "model", LOW], args].concat())
    }
}

/// What a run said, and how it ended.
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Run { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
    }
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self
    }
    #[track_caller]
    pub fn fails(self, code: i32, says: &str) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert!(self.err.contains(says), "{}", self.err);
        self
    }
    /// One line that says what, at most one that says where and what to do, and no panic.
    #[track_caller]
    pub fn in_one_line(self) -> Self {
        assert!(self.err.starts_with("error[E-"), "{}", self.err);
        assert!(self.err.lines().count() <= 2 && !self.err.contains("panicked"), "{}", self.err);
        self
    }
    pub fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A document of `n` entities in words of the vocabulary and others, four words a sentence; every fifth entity has no
/// mention.
pub fn document(id: usize, n: usize, words: usize) -> String {
    let mut text = String::new();
    let (mut entities, mut starts) = (Vec::new(), Vec::new());
    let at = |text: &String| text.chars().count();
    for e in 0..n {
        let start = at(&text);
        starts.push(start);
        let _ = write!(text, "{} ", PIECES[5 + (id + e) % 10]);
        let end = at(&text) - 1;
        let mentions = if e % 5 == 4 { json!([]) } else { json!([{"start": start, "end": end}]) };
        entities.push(json!({"id": format!("e{e}"), "type": "X", "mentions": mentions}));
    }
    for w in 0..words {
        starts.push(at(&text));
        let _ = write!(text, "{} ", ["was", "born", "in", "zürich", "."][(w + id) % 5]);
    }
    let begins: Vec<usize> = starts.into_iter().step_by(4).chain([at(&text)]).collect();
    let sentences: Vec<&[usize]> = begins.windows(2).collect();
    json!({"id": format!("d{id}"), "text": text, "entities": entities, "sentences": sentences}).to_string() + "\n"
}

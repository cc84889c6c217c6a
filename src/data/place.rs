//! Where in a JSON text an error lies, for messages such as `$[17].vertexSet[3][0].pos`.

use crate::error::Error;
use crate::text::clip;

enum Step {
    Index(usize),
    Key(String),
}

/// The steps to the value that byte `end` of `json` belongs to.
///
/// Needs no well-formed text: it counts brackets and commas up to `end` and stops there.
fn steps_to(json: &[u8], end: usize) -> Vec<Step> {
    let json = &json[..end.min(json.len())];
    let mut steps: Vec<Step> = Vec::new();
    let mut key_next = false;
    let mut i = 0;
    while i < json.len() {
        match json[i] {
            b'{' => {
                steps.push(Step::Key(String::new()));
                key_next = true;
            }
            b'[' => {
                steps.push(Step::Index(0));
                key_next = false;
            }
            b'}' | b']' => {
                steps.pop();
                key_next = false;
            }
            b',' => match steps.last_mut() {
                Some(Step::Index(n)) => *n += 1,
                Some(Step::Key(key)) => {
                    key.clear();
                    key_next = true;
                }
                None => {}
            },
            b'"' => {
                let close = string_end(json, i);
                if let (true, Some(Step::Key(key))) = (key_next, steps.last_mut()) {
                    *key = String::from_utf8_lossy(&json[i + 1..close]).into_owned();
                }
                key_next = false;
                i = close;
            }
            _ => {}
        }
        i += 1;
    }
    steps
}

/// Index of the quote that closes the string opened at `open`, or the length of the text.
fn string_end(json: &[u8], open: usize) -> usize {
    let mut i = open + 1;
    while i < json.len() && json[i] != b'"' {
        i += if json[i] == b'\\' { 2 } else { 1 };
    }
    i.min(json.len())
}

fn render(root: &str, steps: &[Step]) -> String {
    let mut path = root.to_string();
    for step in steps {
        match step {
            Step::Index(n) => path.push_str(&format!("[{n}]")),
            Step::Key(key) if key.is_empty() => {}
            Step::Key(key) if key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
                path.push('.');
                path.push_str(&clip(key, 40));
            }
            Step::Key(key) => path.push_str(&format!("[{:?}]", clip(key, 40))),
        }
    }
    path
}

/// The path as a JSON pointer: `$.entities[1].mentions[0]` becomes `/entities/1/mentions/0`.
pub fn pointer(path: &str) -> String {
    let path = path.strip_prefix('$').unwrap_or(path);
    let mut out = String::new();
    for c in path.chars() {
        match c {
            '.' | '[' => out.push('/'),
            ']' | '"' => {}
            c => out.push(c),
        }
    }
    out
}

/// E-JSON for a document that serde refuses, with the place of the value that it stopped at.
pub fn json_error(error: &serde_json::Error, json: &[u8], root: &str) -> Error {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(before, _)| before);
    let line_start =
        json.split_inclusive(|&b| b == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    // The column is that of the last byte read, which may already close the value: stand before it.
    let end = (line_start + error.column()).saturating_sub(1);
    let mut steps = steps_to(json, end);
    if message.starts_with("missing field") {
        // It is the object that lacks something, not the key that happens to stand last.
        steps.pop();
    }
    Error::data("E-JSON", clip(message, 200)).at(render(root, &steps))
}

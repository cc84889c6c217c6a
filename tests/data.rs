//! Reading and writing documents: DocRED and JSONL, every kind of fault, hostile bytes of every format.

mod common;

use common::real;
use docre::data::{self, Corpus, Document, Documents, Format, Options, Span, Unit, Writer};
use docre::error::Kind;
use std::io::{Cursor, Read};

const DOCRED: &str = r#"[
{"title":"Ada","sents":[["Ada","Lovelace","was","born","."],["She","died"]],
 "vertexSet":[[{"name":"Ada L.","pos":[0,2],"sent_id":0,"type":"PER"},{"name":"She","pos":[0,1],"sent_id":1,"type":"MISC"}],
              [{"name":"Lovelace","pos":[1,2],"sent_id":0,"type":"LOC","index":"x"}],[]],
 "labels":[{"h":0,"t":1,"r":"P19","evidence":[1,0]}]},
{"title":"Nothing","sents":[],"vertexSet":[]}
]"#;

const JSONL: &str = r#"{"id":"d1","text":"Ada Lovelace was born in London. She died there.","entities":[{"id":"e0","type":"PER","kb":"Q7259","mentions":[{"start":0,"end":12},{"start":33,"end":36}]},{"id":"e1","type":"LOC","mentions":[{"start":25,"end":31,"text":"London"}]}],"sentences":[[0,32],[33,48]],"labels":[{"h":"e0","t":"e1","r":"P19","evidence":[0]}]}
"#;

fn documents(text: impl Into<Vec<u8>>, options: Options) -> Documents {
    Documents::new(Cursor::new(text.into()), "x", options).unwrap()
}

fn read(text: &str) -> Vec<docre::Result<Document>> {
    documents(text, Options::default()).collect()
}

fn read_one(text: &str) -> docre::Result<Document> {
    let mut all = read(text);
    assert_eq!(all.len(), 1, "one document");
    all.remove(0)
}

fn written(documents: &[Document], format: Format, unit: Unit) -> String {
    let mut writer = Writer::new(Vec::new(), format, unit);
    documents.iter().for_each(|d| writer.write(d).unwrap());
    String::from_utf8(writer.finish().unwrap()).unwrap()
}

#[test]
fn docred_becomes_tokens_spans_and_labels() {
    let all: Vec<Document> = read(DOCRED).into_iter().map(Result::unwrap).collect();
    let ada = &all[0];
    assert_eq!(ada.tokens.len(), 7);
    assert_eq!(ada.sentences.starts, [0, 5, 7]);
    assert_eq!(ada.entities[0].mentions[1].tokens, Span::new(5, 6));
    assert_eq!(ada.entities[0].mentions[0].name, "Ada L.");
    assert_eq!(ada.surface(&ada.entities[0].mentions[0]), "Ada Lovelace");
    assert_eq!(ada.entities[0].kind, "PER");
    assert_eq!(ada.entities[0].mentions[1].kind.as_deref(), Some("MISC"));
    assert!(ada.entities[2].mentions.is_empty());
    assert_eq!(ada.gold()[0].evidence, [1, 0]);
    assert_eq!((ada.sentence_of(4), ada.sentence_of(5), ada.sentence_of(7)), (0, 1, 2));
    assert_eq!(all[1].labels, None, "unlabelled is not the same as no relation");
    assert_eq!((all[1].tokens.len(), all[1].sentences.len(), all[1].entities.len()), (0, 0, 0));
}

#[test]
fn jsonl_becomes_the_same_form() {
    let document = read_one(JSONL).unwrap();
    assert_eq!(document.tokens.join("|"), "Ada|Lovelace|was|born|in|London|.|She|died|there|.");
    assert_eq!(document.sentences.starts, [0, 7, 11]);
    assert_eq!(document.entities[0].mentions[0].tokens, Span::new(0, 2));
    assert_eq!(document.entities[0].mentions[1].chars, Some(Span::new(33, 36)));
    assert_eq!(document.entities[0].kb.as_deref(), Some("Q7259"));
    assert_eq!(document.title, "d1");
}

#[test]
fn a_text_is_split_at_space_marks_and_mentions() {
    let line = r#"{"text":"New-Yorkers' 日本語。नमस्ते\u00a0x","entities":[{"mentions":[{"start":4,"end":8}]},{"mentions":[{"start":13,"end":15}]}]}"#;
    let document = read_one(line).unwrap();
    assert_eq!(document.tokens, ["New", "-", "York", "ers", "'", "日本", "語", "。", "नमस्ते", "x"]);
    assert_eq!(document.entities[1].mentions[0].tokens, Span::new(5, 6));
    assert_eq!(document.entities[1].id, "e1");
    assert_eq!(document.id, "0", "neither id nor title: its number");
}

#[test]
fn both_formats_survive_the_way_through_the_other() {
    let docred: Vec<Document> = read(DOCRED).into_iter().map(Result::unwrap).collect();
    let through = written(&docred, Format::Jsonl, Unit::Char);
    assert_eq!(through.lines().count(), 2);
    let back: Vec<Document> = read(&through).into_iter().map(Result::unwrap).collect();
    assert_eq!(written(&back, Format::Docred, Unit::Char), written(&docred, Format::Docred, Unit::Char));
    let jsonl = read_one(JSONL).unwrap();
    assert_eq!(read_one(&written(std::slice::from_ref(&jsonl), Format::Jsonl, Unit::Char)).unwrap(), jsonl);
    let tokens = read_one(&written(std::slice::from_ref(&jsonl), Format::Docred, Unit::Char)).unwrap();
    assert_eq!((tokens.tokens, tokens.sentences), (jsonl.tokens, jsonl.sentences));
}

#[test]
fn odd_tokens_survive_too() {
    let text = r#"[{"title":"t","sents":[[],["","a b"],["\n"],[],[""]],"vertexSet":[
        [{"name":"","pos":[0,1],"sent_id":1,"type":"A"}],
        [{"name":"z","pos":[0,2],"sent_id":1,"type":"A"},{"name":"","pos":[0,1],"sent_id":4,"type":"A"}]],"labels":[]}]"#;
    let document = read_one(text).unwrap();
    let line = written(std::slice::from_ref(&document), Format::Jsonl, Unit::Char);
    let mut back = read_one(&line).unwrap();
    assert!(back.text.take().is_some());
    back.entities.iter_mut().flat_map(|e| &mut e.mentions).for_each(|m| m.chars = None);
    assert_eq!(back, document, "{line}");
}

#[test]
fn offsets_count_what_the_user_says() {
    // 𝒜 is 4 bytes and 2 UTF-16 units, é is 2 bytes.
    for (unit, start, end) in [(Unit::Char, 3, 7), (Unit::Byte, 7, 11), (Unit::Utf16, 4, 8)] {
        let mention = format!(r#"{{"start":{start},"end":{end},"text":"Rome"}}"#);
        let line = format!(r#"{{"id":"a","text":"𝒜é Rome","entities":[{{"mentions":[{mention}]}}]}}"#);
        let document = documents(line, Options { from: None, unit }).next().unwrap().unwrap();
        assert_eq!(document.entities[0].mentions[0].chars, Some(Span::new(3, 7)), "{unit:?}");
        let again = written(std::slice::from_ref(&document), Format::Jsonl, unit);
        assert!(again.contains(&format!(r#""start":{start},"end":{end}"#)), "{again}");
    }
    let inside = r#"{"text":"é","entities":[{"mentions":[{"start":0,"end":1}]}]}"#;
    let options = Options { from: None, unit: Unit::Byte };
    assert_eq!(documents(inside, options).next().unwrap().unwrap_err().code(), "E-SPAN");
}

/// Every fault with its code and place; the documents around it are still read.
#[test]
fn docred_faults_say_where() {
    let good = r#"{"title":"g","sents":[["a"]],"vertexSet":[]}"#;
    let mention = |rest: &str| format!(r#"{{"title":"b","sents":[["a"]],"vertexSet":[[],[{{{rest}}}]]}}"#);
    let labels = |rest: &str| format!(r#"{{"title":"b","sents":[],"vertexSet":[[],[]],"labels":[{rest}]}}"#);
    let pos = "$[1].vertexSet[1][0].pos";
    let cases = [
        (mention(r#""pos":[0,2],"sent_id":0"#), "E-SPAN", pos),
        (mention(r#""pos":[1,1],"sent_id":0"#), "E-SPAN", pos),
        (mention(r#""pos":[-1,1],"sent_id":0"#), "E-SPAN", pos),
        (mention(r#""pos":[0,9223372036854775807],"sent_id":0"#), "E-SPAN", pos),
        (mention(r#""pos":[0,1],"sent_id":1"#), "E-SENTENCE", "$[1].vertexSet[1][0].sent_id"),
        (mention(r#""pos":[0,1],"sent_id":-1"#), "E-SENTENCE", "$[1].vertexSet[1][0].sent_id"),
        (mention(r#""pos":"0","sent_id":0"#), "E-JSON", pos),
        (mention(r#""pos":[0],"sent_id":0"#), "E-JSON", "$[1].vertexSet[1][0].pos[0]"),
        (mention(r#""sent_id":0"#), "E-JSON", "$[1].vertexSet[1][0]"),
        (r#"{"title":"b","sents":[["a",3]],"vertexSet":[]}"#.into(), "E-JSON", "$[1].sents[0][1]"),
        (r#"{"title":7,"sents":[],"vertexSet":[]}"#.into(), "E-JSON", "$[1].title"),
        (r#"{"title":"b","vertexSet":[]}"#.into(), "E-JSON", "$[1]"),
        (r#"{"title":"b","sents":[],"vertexSet":[],}"#.into(), "E-JSON", "$[1]"),
        ("7".into(), "E-JSON", "$[1]"),
        (labels(r#"{"h":0,"t":2,"r":"P1"}"#), "E-LABEL", "$[1].labels[0].t"),
        (labels(r#"{"h":0,"t":1,"r":"P1"},{"h":-1,"t":1,"r":"P1"}"#), "E-LABEL", "$[1].labels[1].h"),
        (labels(r#"{"h":0,"t":1,"r":"P1","evidence":[0]}"#), "E-SENTENCE", "$[1].labels[0].evidence[0]"),
        (labels(r#"{"h":0,"t":1}"#), "E-JSON", "$[1].labels[0]"),
    ];
    for (bad, code, place) in &cases {
        let all = read(&format!("[{good},{bad},\n{good}]"));
        assert_eq!(all.len(), 3, "{bad}");
        assert!(all[0].is_ok() && all[2].is_ok(), "{bad}");
        let error = all[1].as_ref().unwrap_err();
        assert_eq!((error.code(), error.place(), error.kind()), (*code, Some(*place), Kind::Data), "{bad}: {error}");
        assert!(error.what().starts_with("x: document 1"), "{error}");
    }
}

#[test]
fn jsonl_faults_say_where() {
    let with = |rest: &str| format!(r#"{{"id":"b","text":"ab cd",{rest}}}"#);
    let mention = |rest: &str| format!(r#""entities":[{{"mentions":[{{{rest}}}]}}]"#);
    let first = "$.entities[0].mentions[0]";
    let cases = [
        (mention(r#""start":0,"end":9"#), "E-SPAN", first),
        (mention(r#""start":2,"end":0"#), "E-SPAN", first),
        (mention(r#""start":-1,"end":0"#), "E-SPAN", first),
        (mention(r#""start":1,"end":1"#), "E-SPAN", first),
        (mention(r#""start":2,"end":3"#), "E-SPAN", first),
        (mention(r#""start":0,"end":2,"text":"cd""#), "E-SPAN", first),
        (mention(r#""start":0.5,"end":1"#), "E-JSON", "$.entities[0].mentions[0].start"),
        (mention(r#""start":0,"end":1"#) + r#","tokens":[[0,2],[3,5]]"#, "E-SPAN", first),
        (mention(r#""start":1,"end":5"#) + r#","tokens":[[0,2],[3,5]]"#, "E-SPAN", first),
        (r#""entities":[],"tokens":[[3,5],[0,2]]"#.into(), "E-SPAN", "$.tokens[1]"),
        (r#""entities":[],"sentences":[[0,2]]"#.into(), "E-SENTENCE", "$.sentences"),
        (r#""entities":[],"tokens":[[0,5]],"sentences":[[0,2],[2,5]]"#.into(), "E-SENTENCE", "$.sentences[0]"),
        (r#""entities":[],"sentences":[[0,3],[2,5]]"#.into(), "E-SENTENCE", "$.sentences[1]"),
        (r#""entities":[{"id":"a","mentions":[]},{"id":"a","mentions":[]}]"#.into(), "E-ENTITY", "$.entities[1].id"),
        (
            r#""entities":[{"id":"a","mentions":[]}],"labels":[{"h":"a","t":"z","r":"P1"}]"#.into(),
            "E-LABEL",
            "$.labels[0].t",
        ),
        (
            r#""entities":[{"id":"a","mentions":[]}],"labels":[{"h":"a","t":"a","r":"P1","evidence":[0]}]"#.into(),
            "E-SENTENCE",
            "$.labels[0].evidence[0]",
        ),
        (r#""schema":"docre.v9","entities":[]"#.into(), "E-JSON", "$.schema"),
        (r#""entities":{}"#.into(), "E-JSON", "$.entities"),
    ];
    let good = with(r#""entities":[]"#);
    for (rest, code, place) in &cases {
        let all = read(&format!("{good}\n\n{}\n{good}", with(rest)));
        assert_eq!(all.len(), 3, "{rest}");
        assert!(all[0].is_ok() && all[2].is_ok(), "{rest}");
        let error = all[1].as_ref().unwrap_err();
        assert_eq!((error.code(), error.place()), (*code, Some(*place)), "{rest}: {error}");
        assert!(error.what().starts_with("x: line 3 \"b\""), "{error}");
    }
}

#[test]
fn broken_arrays_end_with_one_error() {
    let good = r#"{"title":"g","sents":[],"vertexSet":[]}"#;
    for (text, fine) in [
        (format!("[{good}"), 0),
        (format!("[{good},"), 1),
        (format!("[{good},]"), 1),
        (format!("[{good}] {good}"), 1),
        (format!("[{good},,{good}]"), 1),
        (format!("[{good}}}, {good}]"), 0),
        (format!("[{good},{{\"title\":\"x"), 1),
        ("[".to_string(), 0),
        ("[,".to_string(), 0),
    ] {
        let all = read(&text);
        assert_eq!(all.iter().filter(|d| d.is_ok()).count(), fine, "{text}");
        assert_eq!(all.iter().filter(|d| d.is_err()).count(), 1, "{text}");
    }
    assert!(read("").is_empty() && read(" \n ").is_empty() && read("[ ]\n").is_empty());
    let options = Options { from: Some(Format::Docred), unit: Unit::Char };
    assert!(documents(JSONL, options).next().unwrap().is_err());
    assert_eq!(read(&format!("\u{feff}{DOCRED}")).len(), 2, "byte order mark");
}

/// Serves data without end: reading may neither wait for the end nor keep what it has read.
struct Endless {
    begun: bool,
}
impl Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let unit: &[u8] = if self.begun { br#"{"title":"g","sents":[["a"]],"vertexSet":[]},"# } else { b"[" };
        self.begun = true;
        out[..unit.len()].copy_from_slice(unit);
        Ok(unit.len())
    }
}

#[test]
fn documents_stream() {
    let documents = Documents::new(Endless { begun: false }, "x", Options::default()).unwrap();
    assert_eq!(documents.take(1000).filter(Result::is_ok).count(), 1000);
}

#[test]
fn bombs_are_refused() {
    let nest = "[".repeat(200_000) + &"]".repeat(200_000);
    let good = r#"{"title":"g","sents":[],"vertexSet":[]}"#;
    let all = read(&format!(r#"[{{"title":"t","x":{nest}}},{good}]"#));
    assert_eq!((all.len(), all[0].as_ref().unwrap_err().code(), all[1].is_ok()), (2, "E-JSON", true));
    let all = read(&format!("{{\"text\":\"{}\"}}\n{JSONL}", "x".repeat(9 << 20)));
    assert_eq!((all.len(), all[0].as_ref().unwrap_err().code(), all[1].is_ok()), (2, "E-SIZE", true));
    assert!(read(&"[".repeat(1 << 20)).iter().all(Result::is_err));
    let text = format!(r#"{{"text":"{}","entities":[]}}"#, "a ".repeat(1 << 19));
    assert_eq!(read_one(&text).unwrap_err().code(), "E-SIZE");
    // Spans of a few bytes each ask for gigabytes of names.
    let (long, many) = ("a".repeat(1 << 20), |mention: &str| vec![mention; 1 << 10].join(","));
    let mentions = many(r#"{"start":0,"end":1048576}"#);
    let text = format!(r#"{{"text":"{long}","entities":[{{"mentions":[{mentions}]}}]}}"#);
    assert_eq!(read_one(&text).unwrap_err().code(), "E-SIZE");
    let mentions = many(r#"{"pos":[0,1],"sent_id":0}"#);
    let text = format!(r#"[{{"title":"","sents":[["{long}"]],"vertexSet":[[{mentions}]]}}]"#);
    assert_eq!(read_one(&text).unwrap_err().code(), "E-SIZE");
    let tokens = r#""","#.repeat(1 << 20);
    let text = format!(r#"[{{"title":"","sents":[[{tokens}""]],"vertexSet":[]}}]"#);
    assert!(read_one(&text).unwrap_err().what().contains("more than 262144"));
}

#[test]
fn messages_stay_on_their_lines() {
    let title = "evil\\n\\u001b[31m".to_string() + &"x".repeat(500);
    let text = format!(r#"[{{"title":"{title}","sents":[["a"]],"vertexSet":[[{{"pos":[0,9],"sent_id":0}}]]}}]"#);
    let message = read_one(&text).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 2, "{message}");
    assert!(message.len() < 300 && !message.contains('\u{1b}'), "{message}");
}

/// xorshift64*: the mutations are the same in every run.
struct Random(u64);
impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    const SPICE: [&[u8]; 16] = [
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b"\"",
        b"-1",
        b"1e999",
        b"99999999999999999999",
        b"null",
        b"\\u0000",
        b"\xff",
        b"\n",
        b"\\",
        b"\t",
        b"|",
    ];
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len().max(1));
        match random.below(4) {
            0 if !bytes.is_empty() => bytes[at] = random.below(256) as u8,
            1 => drop(bytes.splice(at..at, SPICE[random.below(SPICE.len())].iter().copied())),
            2 => drop(bytes.drain(at..(at + random.below(20)).min(bytes.len()))),
            _ => {
                let digit = bytes.iter().skip(at).position(u8::is_ascii_digit);
                digit.into_iter().for_each(|i| bytes[at + i] = b'0' + random.below(10) as u8);
            }
        }
    }
}

/// 2,000 mutations of each format (DOCRE_MUTATIONS for the soak): every one is read or refused, and what
/// is read can be written and read again.
#[test]
fn mutations_never_crash() {
    let sources = [DOCRED, JSONL, include_str!("fixtures/biored.PubTator"), include_str!("fixtures/cdr.data")];
    let count: usize = std::env::var("DOCRE_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let mut random = Random(0x5eed);
    let (mut read, mut refused) = (0, 0);
    for i in 0..sources.len() * count {
        let mut bytes = sources[i % sources.len()].as_bytes().to_vec();
        mutate(&mut random, &mut bytes);
        for document in documents(bytes, Options::default()) {
            let document = match document {
                Ok(document) => document,
                Err(error) => {
                    assert!(error.to_string().lines().count() <= 2, "{error}");
                    refused += 1;
                    continue;
                }
            };
            read += 1;
            document.check().unwrap();
            let line = written(std::slice::from_ref(&document), Format::Jsonl, Unit::Byte);
            let options = Options { from: None, unit: Unit::Byte };
            let again = documents(line, options).next().unwrap().unwrap();
            assert_eq!((again.tokens, again.labels, again.pairs), (document.tokens, document.labels, document.pairs));
        }
    }
    eprintln!("{read} documents read, {refused} refused");
    assert!(read > count && refused > count, "{read} read, {refused} refused: the mutations test nothing");
}

#[test]
fn real_documents_survive_both_ways() {
    for (file, count) in
        [("redocred/fit450.json", 450), ("redocred/tune50.json", 50), ("docred/unlabelled999.json", 999)]
    {
        let Some(path) = real::data(file) else { return };
        let all: Vec<Document> = data::open(path, Options::default()).unwrap().map(Result::unwrap).collect();
        assert_eq!(all.len(), count);
        let lines = written(&all, Format::Jsonl, Unit::Char);
        let back: Vec<Document> = read(&lines).into_iter().map(Result::unwrap).collect();
        assert!(written(&back, Format::Docred, Unit::Char) == written(&all, Format::Docred, Unit::Char), "{file}");
    }
}

/// Documents read by place are those of the stream, whatever stands between them.
#[test]
fn a_corpus_reads_documents_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let (array, lines) = (dir.path().join("a.json"), dir.path().join("b.jsonl"));
    std::fs::write(&array, DOCRED).unwrap();
    let documents: Vec<Document> = read(DOCRED).into_iter().map(Result::unwrap).collect();
    // A mark, and empty lines between documents.
    let text: String =
        documents.iter().map(|d| written(std::slice::from_ref(d), Format::Jsonl, Unit::Char) + "\r\n  \n").collect();
    let text = format!("\u{feff}\n\n{text}");
    std::fs::write(&lines, &text).unwrap();
    let mut seen = 0;
    let count = |_: &Document| {
        seen += 1;
        Ok(())
    };
    let corpus = Corpus::open(&[array.clone(), lines.clone()], count).unwrap();
    assert_eq!((corpus.len(), seen), (2 * documents.len(), corpus.len()));
    let streamed: Vec<Document> = [&array, &lines]
        .into_iter()
        .flat_map(|path| data::open(path, Options::default()).unwrap())
        .map(Result::unwrap)
        .collect();
    for i in (0..corpus.len()).rev() {
        assert_eq!(corpus.document(i).unwrap(), streamed[i], "document {i}");
        assert_eq!(corpus.entities(i), streamed[i].entities.len());
    }
    let again = Corpus::open(&[array.clone(), lines], |_| Ok(())).unwrap();
    let other = Corpus::open(std::slice::from_ref(&array), |_| Ok(())).unwrap();
    assert!(again.hash() == corpus.hash() && other.hash() != corpus.hash());

    std::fs::write(&array, DOCRED.replacen("title", "titel", 1)).unwrap();
    let error = corpus.document(0).unwrap_err();
    assert!(error.exit_code() == 6 && error.to_string().contains("changed while it was in use"), "{error}");
    assert!(corpus.document(corpus.len() - 1).is_ok());
    assert!(Corpus::open(&["/dev/null".into()], |_| Ok(())).is_err());
}

#[test]
fn a_document_without_relations_has_none_where_others_of_its_pubtator_file_have_some() {
    let dir = tempfile::tempdir().unwrap();
    let [annotated, bare] = ["annotated", "bare"].map(|name| dir.path().join(name));
    let without = "1|t|Aspirin.\n1\t0\t7\tAspirin\tChemicalEntity\tD001241\n\n";
    std::fs::write(&annotated, format!("{without}{}", include_str!("fixtures/biored.PubTator"))).unwrap();
    std::fs::write(&bare, without).unwrap();
    let mut seen = Vec::new();
    let corpus = Corpus::open(&[annotated, bare], |document| {
        seen.push(document.labels.as_ref().map(Vec::len));
        Ok(())
    })
    .unwrap();
    let again: Vec<_> = (0..corpus.len()).map(|i| corpus.document(i).unwrap().labels.as_ref().map(Vec::len)).collect();
    assert_eq!((&seen[0], seen.last().unwrap(), corpus.len()), (&Some(0), &None, seen.len()));
    assert!(seen[1..seen.len() - 1].iter().all(|labels| labels.is_some_and(|count| count > 0)), "{seen:?}");
    assert_eq!(seen, again);
}

//! Word pieces, markers and special pieces against small tokenizers whose ids can be counted by hand.

mod common;

use common::real;
use docre::data::ahead::{Prepared, read_ahead};
use docre::data::tokenize::Family;
use docre::data::{Document, Documents, Entity, Mention, Options, Relations, Span, Tokenizer, Unknown};
use docre::layout::Segments;
use std::io::{Cursor, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn document(tokens: &[&str], mentions: &[&[(usize, usize)]]) -> Document {
    let mention = |&(a, b): &(usize, usize)| Mention { tokens: Span::new(a, b), ..Mention::default() };
    let entity =
        |spans: &&[(usize, usize)]| Entity { mentions: spans.iter().map(mention).collect(), ..Entity::default() };
    Document {
        id: "d".to_string(),
        tokens: tokens.iter().map(|t| t.to_string()).collect(),
        sentences: Segments::from_lengths([tokens.len()]),
        entities: mentions.iter().map(entity).collect(),
        ..Document::default()
    }
}

/// A vocabulary as JSON, ids in the order given.
fn vocabulary(pieces: &[&str]) -> String {
    let pairs: Vec<String> = pieces.iter().enumerate().map(|(i, p)| format!("{}:{i}", serde_json::json!(p))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// As MiniLM ships it: truncation and padding are on.
fn word_piece(pieces: &[&str]) -> String {
    format!(
        r###"{{"version":"1.0","truncation":{{"max_length":4,"strategy":"LongestFirst","stride":0,"direction":"Right"}},
        "padding":{{"strategy":{{"Fixed":8}},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"[PAD]"}},
        "added_tokens":[],"normalizer":{{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true}},
        "pre_tokenizer":{{"type":"BertPreTokenizer"}},"post_processor":null,"decoder":null,
        "model":{{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{}}}}}"###,
        vocabulary(pieces)
    )
}

const BERT: [&str; 11] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "*", "ada", "love", "##lace", "born", ".", "##s"];

fn bert() -> Tokenizer {
    Tokenizer::from_bytes(word_piece(&BERT).as_bytes()).unwrap()
}

#[test]
fn word_pieces_stand_between_cls_and_sep() {
    let tokenizer = bert();
    assert_eq!(tokenizer.family(), Family::WordPiece);
    assert_eq!((tokenizer.specials().cls, tokenizer.specials().sep), (2, 3));
    assert_eq!(tokenizer.ids(), 11);
    let encoded = tokenizer.encode(&document(&["Ada", "Lovelace", "born", "."], &[&[(0, 2)], &[(2, 3)], &[]])).unwrap();
    // [CLS] * ada love ##lace * * born * . [SEP]: longer than the 4 and the 8 that the file asks for.
    assert_eq!(encoded.ids, [2, 4, 5, 6, 7, 4, 4, 8, 4, 9, 3]);
    assert_eq!(encoded.mentions, [vec![1], vec![6], vec![]]);
}

#[test]
fn mentions_share_markers() {
    let tokenizer = bert();
    // Two mentions of one entity at one start count twice; nested mentions share what they can.
    let encoded =
        tokenizer.encode(&document(&["ada", "born", "ada"], &[&[(0, 1), (0, 3)], &[(1, 3), (2, 3)]])).unwrap();
    // [CLS] * ada * * born * ada * [SEP]
    assert_eq!(encoded.ids, [2, 4, 5, 4, 4, 8, 4, 5, 4, 3]);
    assert_eq!(encoded.mentions, [vec![1, 1], vec![4, 6]]);
}

#[test]
fn sentences_are_runs_of_pieces() {
    let mentions: &[&[(usize, usize)]] = &[&[(0, 1)], &[(2, 4)]];
    let lengths = [1, 0, 2, 2];
    let split = Document {
        sentences: Segments::from_lengths(lengths),
        ..document(&["lovelace", "born", "ada", "ada", "."], mentions)
    };
    let encoded = bert().encode(&split).unwrap();
    // [CLS] | * love ##lace * | | born * ada | ada * . | [SEP]: the second mention has a marker in each of its sentences.
    assert_eq!(encoded.ids, [2, 4, 6, 7, 4, 8, 4, 5, 5, 4, 9, 3]);
    assert_eq!(encoded.sentences, [1..5, 5..5, 5..8, 8..11]);
    let nothing = bert().encode(&Document { sentences: Segments::default(), ..document(&[], &[]) }).unwrap();
    assert!(nothing.sentences.is_empty());
}

#[test]
fn odd_tokens_are_encoded() {
    let tokenizer = bert();
    for _ in 0..2 {
        // Nothing, white space, unknown, a star of the text, several words in one token; twice: the cache.
        let encoded = tokenizer.encode(&document(&["", " ", "xyz", "*", "ada born"], &[&[(0, 1)]])).unwrap();
        assert_eq!(encoded.ids, [2, 4, 4, 1, 4, 5, 8, 3]);
    }
    let long = "lovelace ".repeat(40);
    assert_eq!(tokenizer.encode(&document(&[&long], &[])).unwrap().ids.len(), 82);
    let nothing = tokenizer.encode(&Document { sentences: Segments::default(), ..document(&[], &[]) }).unwrap();
    assert_eq!((nothing.ids, nothing.mentions.len()), (vec![2, 3], 0));
    let outside = tokenizer.encode(&document(&["ada"], &[&[(0, 2)]])).unwrap_err();
    assert_eq!(outside.code(), "E-SPAN");
}

fn byte_level(prefix_space: bool) -> String {
    let pieces = ["<s>", "<pad>", "</s>", "<unk>", "*", "a", "d", "Ġ", "ad", "Ġad", "A", "Ã", "©"];
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{{"type":"ByteLevel","add_prefix_space":{prefix_space},"trim_offsets":true,"use_regex":true}},
        "post_processor":null,"decoder":null,
        "model":{{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":"","end_of_word_suffix":"",
        "fuse_unk":false,"vocab":{},"merges":["a d","Ġ ad"]}}}}"#,
        vocabulary(&pieces)
    )
}

#[test]
fn byte_pairs_have_no_space_in_front() {
    for prefix_space in [false, true] {
        let tokenizer = Tokenizer::from_bytes(byte_level(prefix_space).as_bytes()).unwrap();
        assert_eq!(tokenizer.family(), Family::Bpe);
        let encoded = tokenizer.encode(&document(&["ad", "Ada", "é"], &[&[(1, 2)]])).unwrap();
        // <s> ad * A d a * Ã © </s>
        assert_eq!(encoded.ids, [0, 8, 4, 10, 6, 5, 4, 11, 12, 2], "prefix space {prefix_space}");
        assert_eq!(encoded.mentions, [[2]]);
    }
}

fn unigram() -> String {
    let vocab = r#"[["<s>",0.0],["<pad>",0.0],["</s>",0.0],["<unk>",0.0],["*",-1.0],["▁ada",-2.0],["▁",-3.0],["s",-4.0],["▁love",-2.0],["lace",-2.5]]"#;
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}},
        "post_processor":null,"decoder":null,"model":{{"type":"Unigram","unk_id":3,"vocab":{vocab},"byte_fallback":false}}}}"#
    )
}

#[test]
fn unigrams_keep_their_mark() {
    let file = unigram();
    let tokenizer = Tokenizer::from_bytes(file.as_bytes()).unwrap();
    assert_eq!(tokenizer.family(), Family::Unigram);
    let encoded = tokenizer.encode(&document(&["ada", "lovelace", "s"], &[&[(0, 1)]])).unwrap();
    // <s> * ▁ada * ▁love lace ▁ s </s>: the marker itself has no mark.
    assert_eq!(encoded.ids, [0, 4, 5, 4, 8, 9, 6, 7, 2]);
}

#[test]
fn a_vocabulary_without_what_we_need_is_refused() {
    for missing in ["*", "[CLS]", "[SEP]"] {
        let pieces: Vec<&str> = BERT.into_iter().map(|p| if p == missing { "gone" } else { p }).collect();
        let error = Tokenizer::from_bytes(word_piece(&pieces).as_bytes()).err().unwrap();
        assert_eq!((error.code(), error.exit_code()), ("E-TOKENIZER", 4), "{missing}");
    }
    assert_eq!(Tokenizer::open("no/such/place").err().unwrap().code(), "E-IO");
}

#[test]
fn damaged_files_are_refused_not_crashed_on() {
    let good = byte_level(false);
    for end in (0..good.len()).step_by(7).filter(|&end| good.is_char_boundary(end)) {
        assert!(Tokenizer::from_bytes(&good.as_bytes()[..end]).is_err());
    }
    for (from, to) in
        [("\"a d\"", "\"a\""), ("\"a d\"", "\"z z\""), ("BPE", "Unigram"), (":0,", ":4294967295,"), ("\"Ġ ad\"", "7")]
    {
        if let Ok(tokenizer) = Tokenizer::from_bytes(good.replace(from, to).as_bytes()) {
            let _ = tokenizer.encode(&document(&["ad", "é"], &[&[(0, 1)]]));
        }
    }
}

#[test]
fn labels_become_bits_for_any_number_of_classes() {
    for classes in [2, 97, 128, 300] {
        let codes: Vec<String> =
            (0..classes).map(|i| if i == 0 { "Na".to_string() } else { format!("P{i}") }).collect();
        let relations = Relations::from_codes(codes).unwrap();
        let mut document = document(&["a", "b"], &[&[(0, 1)], &[(1, 2)], &[]]);
        let last = format!("P{}", classes - 1);
        let label = |head, tail, r: &str| docre::data::Label { head, tail, relation: r.to_string(), evidence: vec![] };
        document.labels = Some(vec![label(0, 2, &last), label(2, 1, "P1"), label(2, 1, &last), label(0, 1, "NA")]);
        let (bits, skipped) = relations.encode(&document, Unknown::Error).unwrap();
        assert_eq!((bits.cells(), bits.classes, skipped), (9, classes, 0));
        let set: Vec<(usize, usize)> = (0..9)
            .flat_map(|cell| (0..classes).map(move |r| (cell, r)))
            .filter(|&(cell, r)| bits.get(cell, r))
            .collect();
        let mut want = vec![(2, classes - 1), (7, 1), (7, classes - 1)];
        want.dedup();
        assert_eq!(set, want);
        document.labels.as_mut().unwrap().push(label(1, 1, "P1x"));
        let error = relations.encode(&document, Unknown::Error).unwrap_err();
        assert_eq!((error.code(), error.place()), ("E-RELATION", Some("$.labels[4]")));
        assert!(error.to_string().contains("did you mean \"P1"), "{error}");
        assert_eq!(relations.encode(&document, Unknown::Skip).unwrap().1, 1);
    }
}

/// Once for each relation that names the sentence: not for one given twice, one without evidence, or one left out.
#[test]
fn evidence_is_counted_by_relation() {
    let relations = Relations::from_names(["P1", "P2"].map(str::to_string));
    let mut document =
        Document { sentences: Segments::from_lengths([1, 1]), ..document(&["a", "b"], &[&[(0, 1)], &[(1, 2)], &[]]) };
    let label = |head, tail, r: &str, evidence: &[u32]| docre::data::Label {
        head,
        tail,
        relation: r.to_string(),
        evidence: evidence.to_vec(),
    };
    document.labels = Some(vec![
        label(2, 1, "P2", &[1, 0, 1]),
        label(0, 1, "P1", &[1]),
        label(2, 1, "P1", &[1]),
        label(2, 1, "P1", &[1]),
        label(0, 2, "P1", &[]),
        label(0, 1, "Na", &[0]),
        label(1, 0, "P9", &[0]),
    ]);
    let (labels, skipped) = relations.encode(&document, Unknown::Skip).unwrap();
    assert_eq!((labels.evidence, skipped), (vec![(1, 1), (7, 1), (7, 0), (7, 1)], 1));
    document.labels = Some(vec![label(0, 1, "P1", &[2])]);
    let error = bert().encode(&document).unwrap_err();
    assert_eq!((error.code(), error.place()), ("E-SENTENCE", Some("$.labels[0].evidence")));
}

#[test]
fn inventories_keep_their_order_and_refuse_holes() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut relations = Relations::read_rel2id(&file("a", r#"{"P5":2,"Na":0,"P17":1}"#)).unwrap();
    assert_eq!(relations.codes(), ["Na", "P17", "P5"]);
    relations.read_names(&file("b", r#"{"P17":"country","P99":"x"}"#)).unwrap();
    assert_eq!((relations.name(1), relations.name(2)), (Some("country"), None));
    assert_eq!(relations.nearest("countri"), Some("P17"));
    std::fs::write(folder.path().join("relations.json"), relations.to_json().unwrap()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("relations.json")).unwrap();
    assert_eq!(
        text,
        "[{\"id\":0,\"r\":\"Na\"},\n{\"id\":1,\"r\":\"P17\",\"name\":\"country\"},\n{\"id\":2,\"r\":\"P5\"}]\n"
    );
    let loaded = Relations::load(&folder.path().join("relations.json")).unwrap();
    assert!(loaded == relations && loaded.name(1) == Some("country"));
    for bad in [
        r#"{"Na":0,"P1":2}"#,
        r#"{"Na":0,"P1":0}"#,
        r#"{"Na":0,"P1":-1}"#,
        r#"{"Na":1,"P1":0}"#,
        r#"{}"#,
        r#"{"Na":0,"na":1}"#,
    ] {
        assert_eq!(Relations::read_rel2id(&file("c", bad)).unwrap_err().code(), "E-RELATION", "{bad}");
    }
    assert_eq!(Relations::read_rel2id(&file("c", "[")).unwrap_err().code(), "E-JSON");
    for bad in [r#"[{"id":1,"r":"Na"}]"#, r#"[{"id":0,"r":"P1"}]"#, "[]"] {
        assert_eq!(Relations::load(&file("d", bad)).unwrap_err().code(), "E-RELATION", "{bad}");
    }
    let named = Relations::from_names(["b", "a", "b", "NA"].map(str::to_string));
    assert_eq!(named.codes(), ["Na", "a", "b"]);
}

/// 500 mutations of each kind of file (DOCRE_MUTATIONS for the soak): loaded and used, or refused.
#[test]
fn mutations_never_crash() {
    let count: usize = std::env::var("DOCRE_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(1500);
    let files = [word_piece(&BERT), byte_level(true), unigram()];
    let mut state = 0x5eed_u64;
    let mut below = |n: usize| {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    };
    const SPICE: [&str; 10] = ["[", "}", ",", "\"", "-1", "4294967295", "null", "true", "\\u0000", "\"\""];
    let (mut loaded, mut refused) = (0, 0);
    for i in 0..count {
        let mut bytes = files[i % 3].clone().into_bytes();
        for _ in 0..1 + below(3) {
            let at = below(bytes.len());
            match below(4) {
                0 => bytes[at] = below(256) as u8,
                1 => drop(bytes.splice(at..at, SPICE[below(10)].bytes())),
                2 => drop(bytes.drain(at..(at + below(12)).min(bytes.len()))),
                _ => bytes[at] = b'0' + below(10) as u8,
            }
        }
        match Tokenizer::from_bytes(&bytes) {
            Err(error) => {
                assert_eq!(error.code(), "E-TOKENIZER");
                assert_eq!(error.to_string().lines().count(), 1, "{error}");
                refused += 1;
            }
            Ok(tokenizer) => {
                let _ = tokenizer.encode(&document(&["Lovelace", "", "é!", "*", "ada"], &[&[(0, 2)], &[(1, 4)]]));
                loaded += 1;
            }
        }
    }
    eprintln!("{loaded} tokenizers loaded, {refused} refused");
    assert!(loaded > count / 40 && refused > count / 4, "{loaded} loaded, {refused} refused");
}

/// With a real vocabulary over real documents: lengths that another program counted, and speed.
#[test]
fn real_documents_have_the_known_lengths() {
    let (Some(tokenizer), Some(data)) = (real::minilm(), real::data("redocred")) else { return };
    let tokenizer = Tokenizer::open(tokenizer).unwrap();
    let mut lengths = Vec::new();
    let mut seconds = 0.0;
    for file in ["fit450.json", "tune50.json"] {
        for document in docre::data::open(data.join(file), Options::default()).unwrap() {
            let document = document.unwrap();
            let start = std::time::Instant::now();
            let encoded = tokenizer.encode(&document).unwrap();
            seconds += start.elapsed().as_secs_f64();
            let marker = tokenizer.specials().marker;
            assert!(encoded.mentions.iter().flatten().all(|&at| encoded.ids[at as usize] == marker));
            lengths.push(encoded.ids.len());
        }
    }
    lengths.sort_unstable();
    let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
    eprintln!("{} documents, mean {mean:.1}, max {}, {:.0} documents/s", lengths.len(), lengths[499], 500.0 / seconds);
    assert_eq!((mean.round(), lengths[lengths.len() - 1]), (282.0, 633));
    assert_eq!(lengths.iter().filter(|&&l| l > 512).count(), 12);
}

/// A document a line, each longer than the one before it; every seventh has no text.
fn lines(count: usize) -> String {
    let line = |i: usize| match i % 7 {
        6 => format!("{{\"id\":\"d{i}\"}}\n"),
        _ => format!("{{\"id\":\"d{i}\",\"text\":\"{}\",\"entities\":[]}}\n", "Ada Lovelace ".repeat(1 + i % 90)),
    };
    (0..count).map(line).collect()
}

#[test]
fn documents_that_are_read_ahead_come_in_their_order() {
    let tokenizer = Arc::new(bert());
    let open = || Documents::new(Cursor::new(lines(300).into_bytes()), "x", Options::default()).unwrap();
    let shown = |read: docre::Result<Vec<u32>>| read.map_err(|e| e.to_string());
    let mut documents = open();
    let mut want = Vec::new();
    while let Some(document) = documents.next() {
        let ids = document.and_then(|d| Ok(tokenizer.encode(&d)?.ids));
        want.push((documents.latest().id.clone(), documents.latest().position.line, shown(ids)));
    }
    assert!(want.len() == 300 && want[6].2.is_err() && want[7].2.is_ok());
    for encoders in [1, 4] {
        let found = read_ahead(open(), &tokenizer, encoders).map(|Prepared { document, latest }| {
            (latest.id, latest.position.line, shown(document.map(|(_, encoded)| encoded.ids)))
        });
        assert!(found.collect::<Vec<_>>() == want, "{encoders} encoders");
    }
}

/// What a pipe holds, and then waits, as one that stays open does.
struct Pipe(Cursor<Vec<u8>>, mpsc::Receiver<()>);

impl Read for Pipe {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(to)? {
            0 => self.1.recv().map_or(Ok(0), |()| Ok(0)),
            read => Ok(read),
        }
    }
}

/// Counts what is read.
struct Counted(Cursor<Vec<u8>>, Arc<AtomicUsize>);

impl Read for Counted {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(to)?;
        self.1.fetch_add(read, Ordering::Relaxed);
        Ok(read)
    }
}

#[test]
fn large_documents_are_not_read_far_ahead() {
    const MIB: usize = 1 << 20;
    let line = format!("{{\"id\":\"d\",\"text\":\"{}\",\"entities\":[]}}\n", "a".repeat(3 * MIB));
    let read = Arc::new(AtomicUsize::new(0));
    let input = Counted(Cursor::new(line.repeat(6).into_bytes()), read.clone());
    let documents = Documents::new(input, "x", Options::default()).unwrap();
    let ahead = read_ahead(documents, &Arc::new(bert()), 2);
    let mut before = usize::MAX;
    while before != read.load(Ordering::Relaxed) {
        before = read.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(300));
    }
    // Two are held, a third waits for room, and some of the next may be in a buffer.
    assert!((3 * MIB..10 * MIB).contains(&before), "{before} bytes");
    assert_eq!(ahead.filter(|read| read.document.is_ok()).count(), 6);
}

#[test]
fn a_pipe_that_stays_open_holds_up_neither_its_documents_nor_the_end() {
    let (open, opened) = mpsc::channel();
    let pipe = Pipe(Cursor::new(lines(3).into_bytes()), opened);
    let mut ahead = read_ahead(Documents::new(pipe, "x", Options::default()).unwrap(), &Arc::new(bert()), 2);
    let ids: Vec<_> = ahead.by_ref().take(3).map(|read| read.latest.id.unwrap()).collect();
    assert_eq!(ids, ["d0", "d1", "d2"]);
    drop(ahead);
    drop(open); // only now: what was given up did not wait for it
}

//! PubTator, candidate pairs of the edge-oriented graph, documents in characters: what becomes of each line, every kind
//! of fault, and pairs on their way from a file to labels, predictions and scores.

mod common;

use common::{real, tiny};
use docre::data::{self, Document, Documents, Format, Options, Relations, Span, Tokenizer, Unit, Unknown, Writer};
use docre::extract::{Rule, predict};
use docre::layout::{Encoded, Pairs};
use docre::metrics::{Evaluator, Facts, baseline::type_pair_baseline};
use docre::train::{Config, Example, Trainer};
use std::io::{Cursor, Read};

const BIORED: &str = include_str!("fixtures/biored.PubTator");
const EOG: &str = include_str!("fixtures/cdr.data");

/// Composite concepts, variants, a concept only named with another, mentions without one, an accent in front.
const COMPOSITE: &str = "\
7|t|β-Catenin. CDKN2A/B and c.677C>T?
7|a|CDKN2A in the mice.
7\t0\t9\tβ-Catenin\tGene\t-
7\t11\t19\tCDKN2A/B\tGene\t1029,1030
7\t24\t32\tc.677C>T\tVariant\tc|SUB|C|677|T
7\t34\t40\tCDKN2A\tGene\t1029|-1
7\t44\t52\tthe mice\tSpecies
7\tAssociation\tc|SUB|C|677|T\t1029,1030\tNovel
7\tBind\t1029\t1029\tNo
";

fn documents(text: impl Into<Vec<u8>>, options: Options) -> Documents {
    Documents::new(Cursor::new(text.into()), "x", options).unwrap()
}

fn read(text: impl Into<Vec<u8>>) -> Vec<docre::Result<Document>> {
    documents(text, Options::default()).collect()
}

fn read_one(text: &str) -> docre::Result<Document> {
    let mut all = read(text);
    assert_eq!(all.len(), 1, "one document");
    all.remove(0)
}

fn jsonl(document: &Document) -> String {
    let mut writer = Writer::new(Vec::new(), Format::Jsonl, Unit::Char);
    writer.write(document).unwrap();
    String::from_utf8(writer.finish().unwrap()).unwrap()
}

fn triples(document: &Document) -> Vec<(&str, &str, &str)> {
    let id = |e: usize| document.entities[e].id.as_str();
    document.gold().iter().map(|l| (id(l.head), l.relation.as_str(), id(l.tail))).collect()
}

#[test]
fn pubtator_becomes_concepts_and_relations() {
    let all: Vec<Document> = read(BIORED).into_iter().map(Result::unwrap).collect();
    assert_eq!(all.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), ["7468724", "20143913"]);
    let first = &all[0];
    let ids: Vec<&str> = first.entities.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(ids, ["D002318", "D013726", "D007752", "9606", "D000305"], "in the order of first mentions");
    assert_eq!(first.entities[0].kind, "DiseaseOrPhenotypicFeature");
    let heart = &first.entities[0].mentions;
    assert_eq!((heart[0].tokens, heart[1].name.as_str()), (Span::new(0, 2), "cardiovascular complications"));
    assert_eq!(first.surface(&heart[1]), "cardiovascular complications", "behind the title and a space");
    assert_eq!(heart[1].chars, Some(Span::new(93, 121)));
    // The title, then three sentences.
    let starts: Vec<&str> = first.sentences.iter().map(|s| first.tokens[s.start].as_str()).collect();
    assert_eq!(starts, ["Cardiovascular", "Severe", "Associated", "Potential"]);
    assert_eq!(triples(first)[0], ("D007752", "Negative_Correlation", "D000305"));
    assert_eq!((first.gold().len(), all[1].gold().len()), (5, 4));
    assert!(first.pairs.undirected && first.pairs.candidates().is_none());
    assert!(all[1].entities.iter().any(|e| e.id == "g|DEL|99367_102002|"), "a variant is one concept");
    assert!(first.text.as_ref().is_some_and(|text| text.raw.ends_with("discussed.")), "without the carriage return");
}

#[test]
fn composite_mentions_are_of_each_concept() {
    let document = read_one(COMPOSITE).unwrap();
    let ids: Vec<(&str, usize)> = document.entities.iter().map(|e| (e.id.as_str(), e.mentions.len())).collect();
    assert_eq!(ids, [("1029", 2), ("1030", 1), ("c|SUB|C|677|T", 1)]);
    assert_eq!(document.entities[0].mentions[0], document.entities[1].mentions[0]);
    let bind = ("1029", "Bind", "1029");
    let variant = |gene| ("c|SUB|C|677|T", "Association", gene);
    assert_eq!(triples(&document), [variant("1029"), variant("1030"), bind]);
    assert_eq!(document.left_out.iter().collect::<Vec<_>>(), [(&"mentions without a concept", &2)]);
    assert_eq!(document.sentences.len(), 3, "β-Catenin. | CDKN2A/B … ? | CDKN2A …");
    // The same in bytes: β has two.
    let bytes = COMPOSITE.split('\n').map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
        [id, start, end, ref rest @ ..] if start.parse::<usize>().is_ok() => {
            let moved = |at: &str| at.parse::<usize>().map(|n| if n > 0 { n + 1 } else { 0 }).unwrap().to_string();
            [&[id, &moved(start), &moved(end)], rest].concat().join("\t")
        }
        _ => line.to_string(),
    });
    let bytes = bytes.collect::<Vec<_>>().join("\n");
    let options = Options { from: None, unit: Unit::Byte };
    assert_eq!(documents(bytes.clone(), options).next().unwrap().unwrap(), document);
    assert_eq!(read_one(&bytes).unwrap_err().code(), "E-SPAN");
}

#[test]
fn pubtator_may_lack_abstract_mentions_and_relations() {
    let all: Vec<Document> =
        read("1|t|One. Two.\n\n \t\n\n2|t|\n2|a|A b\n2\t1\t2\tA\tX\t9").into_iter().map(Result::unwrap).collect();
    assert_eq!(all[0].tokens, ["One", ".", "Two", "."]);
    assert_eq!((all[0].sentences.len(), all[0].labels.as_ref()), (2, None));
    assert_eq!(
        (all[1].tokens.join(" "), all[1].entities[0].id.as_str(), all[1].sentences.len()),
        ("A b".into(), "9", 1)
    );
    // A mention holds its sentence together; what closes a sentence belongs to it.
    let text = "1|t|The J. Smith and M.V.P. (in full.) Then.\n1\t4\t12\tJ. Smith\tX\t9";
    let document = read_one(text).unwrap();
    let sentences: Vec<String> = document.sentences.iter().map(|s| document.tokens[s].join(" ")).collect();
    assert_eq!(sentences, ["The J . Smith and M . V . P .", "( in full . )", "Then ."]);
}

/// Every fault with its code and line; the documents around it are still read.
#[test]
fn pubtator_faults_say_where() {
    let good = "5|t|Aspirin\n5\t0\t7\tAspirin\tX\tD1\n";
    let with = |line: &str| format!("6|t|Aspirin\n6|a|helps\n6\t0\t7\tAspirin\tX\tD1\n{line}");
    let cases = [
        (with("6\t8\t13\thelp\tX\tD2"), "E-SPAN", "line 8"),
        (with("6\t8\t99\thelps\tX\tD2"), "E-SPAN", "line 8"),
        (with("6\t-1\t99\thelps\tX\tD2"), "E-SPAN", "line 8"),
        (with("6\t9\t8\thelps\tX\tD2"), "E-SPAN", "line 8"),
        (with("6\t7\t8\t \tX\tD2"), "E-SPAN", "line 8"),
        (with("6\t8\t8\t\tX\tD2"), "E-SPAN", "line 8"),
        (with("6\t8\t99999999999999999999\thelps\tX\tD2"), "E-LINE", "line 8"),
        (with("7\t8\t13\thelps\tX\tD2"), "E-LINE", "line 8"),
        (with("7|t|No blank line"), "E-LINE", "line 8"),
        (with("6\tCID\tD1"), "E-LINE", "line 8"),
        (with("6"), "E-LINE", "line 8"),
        (with("6\tCID\tD1\tD2"), "E-LABEL", "line 8"),
        (with("6\tCID\tD1\t-"), "E-LABEL", "line 8"),
        (with("6\tCID\tD1\tD1|D3\tNovel"), "E-LABEL", "line 8"),
        ("6|a|helps".to_string(), "E-LINE", "line 5"),
        ("six".to_string(), "E-LINE", "line 5"),
    ];
    for (bad, code, place) in &cases {
        let all = read(format!("{good}\n\n{bad}\n\n{good}"));
        assert_eq!(all.len(), 3, "{bad}");
        assert!(all[0].is_ok() && all[2].is_ok(), "{bad}");
        let error = all[1].as_ref().unwrap_err();
        assert_eq!((error.code(), error.place()), (*code, Some(*place)), "{bad}: {error}");
        assert!(error.what().starts_with("x: line "), "{error}");
    }
}

#[test]
fn candidate_pairs_become_pairs_and_labels() {
    let all: Vec<Document> = read(EOG).into_iter().map(Result::unwrap).collect();
    assert_eq!(all.len(), 2);
    let document = &all[0];
    assert_eq!(document.tokens.len(), 20);
    assert_eq!(document.sentences.starts, [0, 7, 20]);
    let entities: Vec<(&str, &str, usize)> =
        document.entities.iter().map(|e| (e.id.as_str(), e.kind.as_str(), e.mentions.len())).collect();
    let want = [
        ("D001241", "Chemical", 2),
        ("D006471", "Disease", 1),
        ("D004417|D009", "Disease", 1),
        ("D002945", "Chemical", 1),
    ];
    assert_eq!(entities, want);
    assert!(document.entities.iter().flat_map(|e| &e.mentions).all(|m| m.name == document.surface(m)));
    // The chemical is the head, also of the pair marked R2L.
    assert_eq!(triples(document), [("D001241", "CID", "D006471")]);
    assert_eq!(document.pairs, Pairs::only(vec![(0, 1), (0, 2)], false), "not the pair marked not_include");
    assert_eq!(document.left_out.iter().collect::<Vec<_>>(), [(&"pairs marked not_include", &1)]);
    assert_eq!((all[1].pairs.candidates(), all[1].labels.as_deref()), (Some([].as_slice()), Some([].as_slice())));
}

#[test]
fn faults_of_candidate_pairs_say_where() {
    let line = EOG.lines().next().unwrap();
    let with = |column: usize, value: &str| {
        let mut columns: Vec<&str> = line.split('\t').collect();
        columns[2 + 17 + column] = value;
        columns.join("\t")
    };
    let cases = [
        (with(0, "CID"), "E-LINE", Some("pair 2, column 1")),
        (with(15, "21"), "E-SPAN", Some("pair 2, column 15")),
        (with(15, "13"), "E-SPAN", Some("pair 2, column 15")),
        (with(14, "-9"), "E-SPAN", Some("pair 2, column 15")),
        (with(14, "\u{1b}[2J"), "E-SPAN", Some("pair 2, column 15")),
        (with(14, "9:9"), "E-LINE", Some("pair 2, column 13")),
        (format!("{line}\tx"), "E-LINE", None),
    ];
    for (bad, code, place) in &cases {
        let all = read(format!("{line}\n{bad}\n{line}\n"));
        assert_eq!((all.len(), all[0].is_ok(), all[2].is_ok()), (3, true, true), "{bad}");
        let error = all[1].as_ref().unwrap_err();
        assert_eq!((error.code(), error.place()), (*code, *place), "{error}\n{bad}");
        assert!(error.what().starts_with("x: line 2 \"1\"") && !error.what().contains('\u{1b}'), "{error}");
    }
}

/// A pipe may give a byte at a time.
struct Slowly<'a>(&'a [u8]);
impl Read for Slowly<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let Some((&first, rest)) = self.0.split_first() else { return Ok(0) };
        (out[0], self.0) = (first, rest);
        Ok(1)
    }
}

#[test]
fn a_format_is_known_by_how_it_begins() {
    for (text, format) in [
        (BIORED, Format::Pubtator),
        (EOG, Format::Eog),
        ("[]", Format::Docred),
        ("{}", Format::Jsonl),
        ("x", Format::Jsonl),
        ("", Format::Jsonl),
        ("no mark\nx|t|", Format::Jsonl),
    ] {
        for text in [text.to_string(), format!("\u{feff}\n {text}")] {
            let slow =
                Documents::new(Slowly(Box::leak(text.clone().into_boxed_str()).as_bytes()), "x", Options::default());
            let all: Vec<_> = slow.unwrap().map(|d| d.map_err(|e| e.to_string())).collect();
            let at_once = documents(text.clone(), Options::default());
            assert_eq!(at_once.format(), format, "{text:?}");
            assert_eq!(at_once.map(|d| d.map_err(|e| e.to_string())).collect::<Vec<_>>(), all);
        }
        let options = Options { from: Some(format), unit: Unit::Char };
        assert_eq!(documents(text, options).count(), read(text).len());
    }
    let long = "1".repeat(1 << 20) + "|t|title";
    assert_eq!(
        documents(long.clone(), Options::default()).format(),
        Format::Jsonl,
        "where an id ends is not looked for without end"
    );
    let options = Options { from: Some(Format::Pubtator), unit: Unit::Char };
    assert!(documents(long, options).next().unwrap().is_ok());
}

/// Documents without end: reading may neither wait for it nor keep what it has read.
struct Endless<'a>(&'a [u8], usize);
impl Read for Endless<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = out.len().min(self.0.len() - self.1);
        out[..count].copy_from_slice(&self.0[self.1..][..count]);
        self.1 = (self.1 + count) % self.0.len();
        Ok(count)
    }
}

#[test]
fn documents_stream() {
    for text in [BIORED, EOG] {
        let documents = Documents::new(Endless(text.as_bytes(), 0), "x", Options::default()).unwrap();
        assert_eq!(documents.take(1000).filter(Result::is_ok).count(), 1000);
    }
}

#[test]
fn bombs_are_refused() {
    let mention = |concepts: &str| format!("1|t|{0}\n1\t0\t{1}\t{0}\tX\t{concepts}\n", "a".repeat(1 << 10), 1 << 10);
    let many = (0..20_000).map(|i| format!("{i},")).collect::<String>();
    let pairs = "1|t|a\n".to_string() + &format!("1\t0\t1\ta\tX\t{0}\n1\tR\t{0}\t{0}\n", &many[..5000]);
    let lines = "1|t|a\n".to_string() + &"1\t0\t1\ta\tX\t2\n".repeat((1 << 17) + 1);
    let long = format!("1|t|{}\n1\t0\t1\ta\tX\t2\n", "a".repeat(9 << 20));
    let tokens = format!("1\t{}", "a ".repeat(1 << 19) + "a");
    let sentences = format!("1\t{}", "|".repeat(1 << 19));
    for bomb in [mention(&many), pairs, lines, long, tokens, sentences] {
        let all = read(format!("{bomb}\n{BIORED}").into_bytes());
        assert_eq!(all[0].as_ref().unwrap_err().code(), "E-SIZE", "{}", &bomb[..40]);
        assert!(bomb.starts_with("1\t") || all[1].is_ok());
    }
    let tabs = format!("1|t|a\n1{}", "\t".repeat(1 << 20));
    assert_eq!(read_one(&tabs).unwrap_err().code(), "E-LINE");
    // Ends of sentences and mentions in great number: none looks at all the others.
    let dots = "A. ".repeat(80_000);
    let text = format!("1|t|{dots}\n")
        + &(0..80_000).map(|i| format!("1\t{}\t{}\tA\tX\t2\n", 3 * i, 3 * i + 1)).collect::<String>();
    let start = std::time::Instant::now();
    assert_eq!(read_one(&text).unwrap().sentences.len(), 80_000);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn pairs_and_directions_go_through_jsonl() {
    for document in read(BIORED).into_iter().chain(read(EOG)).chain(read(COMPOSITE)) {
        let mut document = document.unwrap();
        let line = jsonl(&document);
        let back = read_one(&line).unwrap();
        document.left_out.clear();
        document.text = back.text.clone();
        document.entities.iter_mut().zip(&back.entities).for_each(|(a, b)| {
            a.mentions.iter_mut().zip(&b.mentions).for_each(|(a, b)| a.chars = b.chars);
        });
        assert_eq!(back, document, "{line}");
    }
    let with = |rest: &str| {
        let entities = r#""entities":[{"id":"a","mentions":[]},{"id":"b","mentions":[]}]"#;
        read_one(&format!(r#"{{"id":"d","text":"x",{entities},{rest}}}"#))
    };
    let document =
        with(r#""pairs":[["b","a"],["a","b"]],"undirected":true,"labels":[{"h":"b","t":"a","r":"P1"}]"#).unwrap();
    assert_eq!(document.pairs, Pairs::only(vec![(0, 1)], true));
    for (rest, place) in [
        (r#""pairs":[["b","a"],["a","z"]]"#, "$.pairs[1][1]"),
        (r#""pairs":[["b","a"]],"labels":[{"h":"a","t":"b","r":"P1"}]"#, "$.labels[0]"),
    ] {
        let error = with(rest).unwrap_err();
        assert_eq!((error.code(), error.place()), ("E-PAIR", Some(place)), "{error}");
    }
    assert_eq!(with(r#""pairs":[["b"]]"#).unwrap_err().code(), "E-JSON");
}

/// HacRED's shape: DocRED with a token a character, other scripts included.
const CHARACTERS: &str = r#"[{"title":"王","sents":[["王","伟","在","2","0","1","9","年","加","入"," ","N","B","A","。"],["他","是","北","京","人"]],
 "vertexSet":[[{"name":"王伟","pos":[0,2],"sent_id":0,"type":"PER"},{"pos":[0,1],"sent_id":1,"type":"PER"}],
              [{"pos":[3,8],"sent_id":0,"type":"TIME"}],[{"pos":[11,14],"sent_id":0,"type":"ORG"}],
              [{"name":"北京","pos":[2,4],"sent_id":1,"type":"LOC"}]],
 "labels":[{"h":0,"t":3,"r":"籍贯","evidence":[1]}]}]"#;

#[test]
fn documents_in_characters_keep_their_names() {
    let document = read_one(CHARACTERS).unwrap();
    let names: Vec<&str> = document.entities.iter().flat_map(|e| &e.mentions).map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["王伟", "他", "2019年", "NBA", "北京"]);
    let text = document.text_or_joined();
    assert_eq!(text.raw, "王伟在2019年加入 NBA。他是北京人");
    assert_eq!(text.tokens[17], Span::new(17, 18));
    let line = jsonl(&document);
    assert!(line.contains(r#"{"start":17,"end":19,"text":"北京"}"#), "{line}");
    let back = read_one(&line).unwrap();
    assert_eq!(
        (&back.tokens, &back.sentences, &back.labels),
        (&document.tokens, &document.sentences, &document.labels)
    );
    // Words have spaces where both sides do; an empty token has a place of its own.
    let spaced = |tokens: &str| {
        let text = format!(r#"[{{"title":"t","sents":[{tokens}],"vertexSet":[]}}]"#);
        let document = read_one(&text).unwrap();
        let back = read_one(&jsonl(&document)).unwrap();
        assert_eq!((&back.tokens, &back.sentences), (&document.tokens, &document.sentences), "{tokens}");
        document.text_or_joined().raw.clone()
    };
    assert_eq!(spaced(r#"["他","加入","NBA","球队","New","York","。"]"#), "他加入NBA球队New York。");
    assert_eq!(spaced(r#"["I","a","m"]"#), "I a m", "not a script without spaces");
    assert_eq!(spaced(r#"["한국","사람"]"#), "한국 사람");
    assert_eq!(spaced(r#"["東","","京"],[""],["。"]"#), "東  京  。");
}

#[test]
fn characters_are_word_pieces() {
    let pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "*", "王", "伟", "北", "京", "他", "人", "2", "n", "##b"];
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        pieces.iter().enumerate().map(|(i, piece)| (piece.to_string(), i.into())).collect();
    let file = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                       "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary},
    });
    let tokenizer = Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
    let encoded = tokenizer.encode(&read_one(CHARACTERS).unwrap()).unwrap();
    // [CLS] * 王 伟 * 在 * 2 0 1 9 年 * 加 入 (space: nothing) * N B A * 。 * 他 * 是 * 北 京 * 人 [SEP]
    let want = [2, 4, 5, 6, 4, 1, 4, 11, 1, 1, 1, 1, 4, 1, 1, 4, 12, 1, 1, 4, 1, 4, 9, 4, 1, 4, 7, 8, 4, 10, 3];
    assert_eq!(encoded.ids, want);
    assert_eq!(encoded.mentions, [vec![1, 21], vec![6], vec![15], vec![25]]);
    // The same pieces from running text, split only at mentions.
    let text = r#"{"text":"王伟他人","entities":[{"mentions":[{"start":0,"end":2}]}]}"#;
    assert_eq!(tokenizer.encode(&read_one(text).unwrap()).unwrap().ids, [2, 4, 5, 6, 4, 9, 10, 3]);
}

#[test]
fn labels_know_candidates_and_both_directions() {
    let relations = Relations::from_names(["CID".to_string(), "Association".into(), "Bind".into()]);
    let (labels, _) = relations.encode(read(EOG)[0].as_ref().unwrap(), Unknown::Error).unwrap();
    let counted: Vec<usize> = (0..16).filter(|&cell| !labels.is_left_out(cell)).collect();
    assert_eq!(counted, [1, 2], "head 0 with tails 1 and 2");
    assert!(labels.get(1, 3) && !labels.get(2, 3));
    let document = read_one(COMPOSITE).unwrap();
    let (labels, _) = relations.encode(&document, Unknown::Error).unwrap();
    let set: Vec<(usize, usize)> =
        (0..9).flat_map(|c| (0..4).map(move |r| (c, r))).filter(|&(c, r)| labels.get(c, r)).collect();
    assert_eq!(set, [(0, 2), (2, 1), (5, 1), (6, 1), (7, 1)]);
    let encoded = Encoded { pairs: document.pairs, mentions: vec![vec![]; 3], ..Encoded::default() };
    assert_eq!(
        Example { encoded, labels, unknown_gold: 1, teacher: Vec::new() }.gold(),
        4,
        "three relations and one of unknown type"
    );
}

#[test]
fn predictions_stay_in_the_candidates_and_join_directions() {
    let model = tiny::lively::<f32>(&tiny::without_dropout(tiny::config(serde_json::json!({}))), 1);
    let plain = tiny::document(1, 20, &[&[1], &[4, 6], &[9], &[]]);
    let rule = Rule { threshold: -1e9, max_labels: usize::MAX, evidence: None };
    let found = |pairs: Pairs| predict(&model, &[&Encoded { pairs, ..plain.clone() }], rule).unwrap().remove(0);
    let all = found(Pairs::default());
    assert_eq!(all.len(), 4 * 3 * (tiny::CLASSES - 1));
    let some = found(Pairs::only(vec![(2, 0), (1, 3), (1, 1)], false));
    let want: Vec<_> = all.iter().filter(|t| [(2, 0), (1, 3)].contains(&(t.head, t.tail))).cloned().collect();
    assert_eq!(some, want);
    assert!(found(Pairs::only(vec![], true)).is_empty());
    for (pairs, count) in [(Pairs::undirected(), 6), (Pairs::only(vec![(3, 1)], true), 1)] {
        let joined = found(pairs);
        assert_eq!(joined.len(), count * (tiny::CLASSES - 1));
        for t in &joined {
            let same = |o: &&docre::data::output::Triple| {
                o.relation == t.relation && [(o.head, o.tail), (o.tail, o.head)].contains(&(t.head, t.tail))
            };
            let both: Vec<f32> = all.iter().filter(same).map(|t| t.margin).collect();
            assert!(t.head < t.tail && both.len() == 2 && t.margin == both[0].max(both[1]), "{t:?} {both:?}");
        }
        let order = |w: &[docre::data::output::Triple]| (w[0].head, w[0].tail) <= (w[1].head, w[1].tail);
        assert!(joined.windows(2).all(order), "by cell");
    }
}

/// With each cell in one of two halves, the losses of both add up to that of all, weighted by their cells; what stands in
/// a cell that is left out changes nothing.
#[test]
fn training_counts_candidates_alone() {
    let loss = |head: &str, asked: &dyn Fn(usize) -> bool, gold: bool| {
        let config: serde_json::Value = serde_json::from_str(head).unwrap();
        let model = tiny::lively::<f64>(&tiny::without_dropout(tiny::config(config)), 1);
        let text = "[data]\ntrain = [\"-\"]\n[model]\nstart = \"-\"\n[schedule]\nbatch = 1\naccumulate = 2";
        let mut trainer = Trainer::new(model, &Config::parse(text, &[]).unwrap(), 10).unwrap();
        let example = |seed| {
            let encoded = tiny::document(seed, 20, &[&[1], &[4, 6], &[9]]);
            let mut labels = tiny::labels(seed, 3, tiny::CLASSES);
            (0..9).filter(|&cell| !asked(cell)).for_each(|cell| {
                labels.leave_out(cell);
                (1..tiny::CLASSES).filter(|_| gold).for_each(|r| labels.set(cell, r));
            });
            Example { encoded, labels, unknown_gold: 0, teacher: Vec::new() }
        };
        let examples = [example(1), example(2)];
        let report = trainer.update(&[&examples[0], &examples[1]]).unwrap();
        assert!(report.bad.is_none());
        (report.loss, report.norm)
    };
    for (head, all, odd) in [("{}", 9.0, 4.0), (r#"{"architecture":"atlop"}"#, 6.0, 4.0)] {
        let [whole, odds, evens] =
            [loss(head, &|_| true, false), loss(head, &|c| c % 2 == 1, false), loss(head, &|c| c % 2 == 0, false)];
        let sum = (odds.0 * odd + evens.0 * (all - odd)) / all;
        assert!((sum - whole.0).abs() < 1e-12 && whole.0 > 0.5, "{head}: {sum}, not {}", whole.0);
        assert_eq!(loss(head, &|c| c % 2 == 1, true), odds, "{head}");
        assert_eq!(loss(head, &|_| false, true), (0.0, 0.0), "{head}: no cell costs nothing");
    }
}

#[test]
fn undirected_pairs_are_counted_once() {
    let document = read(BIORED)[0].as_ref().unwrap().clone();
    let mut eval = Evaluator::default();
    eval.add_gold(&document).unwrap();
    // Gold has Negative_Correlation D007752 D000305 and Association D013726 D000305.
    for (h, t) in [("D007752", "D000305"), ("D000305", "D007752")] {
        eval.add_by_id("7468724", h, t, "Negative_Correlation");
    }
    eval.add("7468724", 4, 1, "Association").unwrap();
    eval.add("7468724", 4, 1, "Bind").unwrap();
    let report = eval.report(None, None);
    assert_eq!((report.all.correct, report.all.predicted, report.all.gold), (2, 3, 5));
    // Directed documents still tell the two apart.
    let document = read(EOG)[0].as_ref().unwrap().clone();
    let mut eval = Evaluator::default();
    eval.add_gold(&document).unwrap();
    eval.add("1", 1, 0, "CID").unwrap();
    assert_eq!((eval.report(None, None).all.correct, eval.report(None, None).all.gold), (0, 1));
    let baseline = type_pair_baseline(eval.gold(), eval.gold());
    assert_eq!((baseline.always.correct, baseline.always.predicted), (1, 2), "the candidate pairs");
    let folder = tempfile::tempdir().unwrap();
    let mut facts = Facts::default();
    for text in [BIORED, EOG] {
        std::fs::write(folder.path().join("f"), text).unwrap();
        facts.read(&folder.path().join("f"), Unit::Char).unwrap();
    }
    let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    assert!(facts.contains_any(&names(&["terbutaline"]), &names(&["preterm labor"]), "Negative_Correlation"));
    assert!(facts.contains_any(&names(&["aspirin"]), &names(&["gastrointestinal bleeding"]), "CID"));
}

/// Counted by another program: documents, entities, mentions, labels, mentions left out, pairs.
#[test]
fn real_biored_is_counted() {
    let Some(folder) = real::data("biored") else { return };
    for (file, want) in [
        ("Train", [400, 4498, 13906, 4182, 31, 30849]),
        ("Dev", [100, 1229, 3629, 1162, 20, 8917]),
        ("Test", [100, 1274, 3633, 1164, 12, 10053]),
    ] {
        let mut got = [0; 6];
        for document in data::open(folder.join(format!("{file}.PubTator")), Options::default()).unwrap() {
            let d = document.unwrap();
            let mentions = d.entities.iter().map(|e| e.mentions.len()).sum();
            let pairs = d.pairs.count(d.entities.len());
            let of_one = [1, d.entities.len(), mentions, d.gold().len(), d.left_out.values().sum(), pairs];
            got.iter_mut().zip(of_one).for_each(|(sum, n)| *sum += n);
            assert!(d.entities.iter().flat_map(|e| &e.mentions).all(|m| !m.tokens.is_empty()));
            let back = read_one(&jsonl(&d)).unwrap();
            assert_eq!((back.entities, back.labels, back.pairs), (d.entities, d.labels, d.pairs));
        }
        assert_eq!(got, want, "{file}");
    }
}

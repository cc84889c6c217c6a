//! The evaluation: each quirk counted by hand, and all of it again by a second, plainer program.

use docre::data::output::{OutputFormat, PredictionWriter, Triple};
use docre::data::{Document, Entity, Label, Mention, Options, Relations, Span};
use docre::layout::Segments;
use docre::metrics::baseline::type_pair_baseline;
use docre::metrics::{Evaluator, Facts, Gold};
use std::collections::HashSet;

/// Entities as lists of (sentence, name); every sentence has ten tokens.
fn document(title: &str, entities: &[&[(usize, &str)]], labels: &[(usize, usize, &str)]) -> Document {
    let mention = |&(s, name): &(usize, &str)| Mention {
        tokens: Span::new(10 * s, 10 * s + 1),
        name: name.to_string(),
        ..Mention::default()
    };
    let entity = |(e, mentions): (usize, &&[(usize, &str)])| Entity {
        id: format!("x{e}"),
        mentions: mentions.iter().map(mention).collect(),
        ..Entity::default()
    };
    let label =
        |&(head, tail, r): &(usize, usize, &str)| Label { head, tail, relation: r.to_string(), evidence: vec![] };
    Document {
        id: title.to_string(),
        title: title.to_string(),
        tokens: vec!["w".to_string(); 40],
        sentences: Segments::from_lengths([10; 4]),
        entities: entities.iter().enumerate().map(entity).collect(),
        labels: Some(labels.iter().map(label).collect()),
        ..Document::default()
    }
}

/// Entities 0 and 1 share sentence 0, 2 stands alone in sentence 1.
fn small() -> Document {
    document(
        "A",
        &[&[(0, "Ada"), (2, "Lady")], &[(0, "Rome")], &[(1, "Oslo")]],
        &[(0, 1, "P17"), (0, 2, "P6"), (0, 1, "P17")],
    )
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn counts_by_hand() {
    let mut eval = Evaluator::default();
    eval.add_gold(&small());
    eval.add("A", 0, 1, "P17"); // correct, intra, frequent
    eval.add("A", 0, 1, "P17"); // once more
    eval.add("A", 1, 2, "P6"); // wrong, inter, long tail
    let report = eval.report(None, None);
    assert_eq!((report.all.correct, report.all.predicted, report.all.gold), (1, 2, 2));
    assert!(near(report.all.f1, 50.0) && near(report.all.precision, 50.0));
    assert_eq!((report.intra.correct, report.intra.predicted, report.intra.gold), (1, 1, 1));
    assert_eq!((report.inter.correct, report.inter.predicted, report.inter.gold), (0, 1, 1));
    assert!(near(report.frequent.f1, 100.0) && near(report.long_tail.f1, 0.0) && near(report.macro_f1, 50.0));
    assert_eq!((report.duplicates, report.ign_f1), (1, None));
    assert_eq!(report.relations.iter().find(|r| r.r == "P6").unwrap().score.predicted, 1);
    assert_eq!(report.f1_interval, [report.all.f1; 2], "one document: every sample is the same");
}

#[test]
fn nothing_and_one_prediction_are_fine() {
    let empty = Evaluator::default().report(Some(&Facts::default()), None);
    assert_eq!((empty.all.f1, empty.ign_f1), (0.0, Some(0.0)));
    let mut eval = Evaluator::default();
    eval.add_gold(&small());
    let none = eval.report(Some(&Facts::default()), None);
    assert_eq!((none.all.f1, none.all.gold, none.ign_f1), (0.0, 2, Some(0.0)));
    eval.add("A", 0, 1, "P17");
    let one = eval.report(Some(&Facts::default()), None);
    assert!(near(one.all.precision, 100.0) && near(one.all.f1, 100.0 * 2.0 / 3.0));
    eval.clear_predictions();
    assert_eq!(eval.report(None, None).all.predicted, 0);
    assert!(!none.to_string().contains("NaN"));
}

#[test]
fn strays_are_wrong_and_reported() {
    let mut eval = Evaluator::default();
    eval.add_gold(&small());
    eval.add("A", 0, 1, "P17");
    eval.add("Nowhere", 0, 1, "P17");
    eval.add("Nowhere", 0, 1, "P17");
    eval.add("A", 0, 9, "P17");
    eval.add("A", -1, 0, "P17");
    eval.add_by_id("A", "x0", "x77", "P17");
    let report = eval.report(None, None);
    assert_eq!((report.unknown_titles, report.unknown_entities, report.duplicates), (1, 3, 1));
    assert_eq!((report.all.correct, report.all.predicted), (1, 5));
    assert_eq!(report.intra.predicted + report.inter.predicted, 1);
}

#[test]
fn relations_the_model_lacks_count_as_missed() {
    let mut eval = Evaluator::default();
    eval.add_gold(&small());
    let model = Relations::from_names(["P17".to_string()]);
    let report = eval.report(None, Some(&model));
    assert_eq!(report.unknown_relations.into_iter().collect::<Vec<_>>(), [("P6".to_string(), 1)]);
    assert_eq!(report.all.gold, 2);
}

#[test]
fn ign_f1_leaves_out_what_training_knew() {
    let mut eval = Evaluator::default();
    eval.add_gold(&small());
    eval.add("A", 0, 1, "P17");
    eval.add("A", 0, 2, "P6");
    eval.add("A", 2, 0, "P6");
    let mut facts = Facts::default();
    facts.add("Lady", "Rome", "P17"); // any name of the head will do
    facts.add("Oslo", "Ada", "P6"); // a known fact, but the prediction is wrong: not left out
    facts.add("Ada", "Oslo", "P17"); // other relation
    let report = eval.report(Some(&facts), None);
    assert_eq!(report.in_train, Some(1));
    // correct 2, predicted 3, gold 2: P_ign = (2 - 1) / (3 - 1 + 1e-5), R stays 1.
    let p = 1.0 / (2.0 + 1e-5);
    assert!(near(report.ign_precision.unwrap(), 100.0 * p));
    assert!(near(report.ign_f1.unwrap(), 100.0 * 2.0 * p / (p + 1.0)));
    // All correct ones known: no division by zero, Ign F1 is 0.
    eval.clear_predictions();
    eval.add("A", 0, 1, "P17");
    assert_eq!(eval.report(Some(&facts), None).ign_f1, Some(0.0));
}

#[test]
fn facts_come_from_a_list_or_from_documents() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("facts");
    std::fs::write(&path, r#"[["Lady","Rome","P17"],["Lady","Rome","P17"]]"#).unwrap();
    let mut listed = Facts::default();
    listed.read(&path).unwrap();
    assert_eq!(listed.len(), 1);
    let mut made = Facts::default();
    made.add_document(&small());
    assert_eq!(made.len(), 4, "two names of the head for each of two relations");
    let mut writer = docre::data::Writer::new(Vec::new(), docre::data::Format::Docred, docre::data::Unit::Char);
    writer.write(&small()).unwrap();
    std::fs::write(&path, writer.finish().unwrap()).unwrap();
    let mut read = Facts::default();
    read.read(&path).unwrap();
    let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    for facts in [&made, &read] {
        assert!(facts.contains_any(&names(&["?", "Lady"]), &names(&["Oslo"]), "P6"));
        assert!(!facts.contains_any(&names(&["Oslo"]), &names(&["Lady"]), "P6"));
    }
    std::fs::write(&path, r#"[["Lady","Rome"]]"#).unwrap();
    assert_eq!(read.read(&path).unwrap_err().code(), "E-JSON");
}

#[test]
fn infer_f1_asks_for_facts_that_two_others_join() {
    let mut eval = Evaluator::default();
    let one = [(0, "n")];
    // 0 -> 1 -> 2 joins (0, 2); 0 -> 1 -> 0 joins nothing.
    let labels = [(0, 1, "P1"), (1, 2, "P2"), (0, 2, "P3"), (0, 2, "P4"), (1, 0, "P5")];
    eval.add_gold(&document("A", &[&one, &one, &one], &labels));
    eval.add("A", 0, 2, "P3");
    eval.add("A", 0, 2, "P9");
    eval.add("A", 0, 1, "P1");
    let report = eval.report(None, None);
    assert_eq!((report.infer.correct, report.infer.predicted, report.infer.gold), (1, 3, 3));
    assert_eq!((report.infer_pairs.correct, report.infer_pairs.predicted, report.infer_pairs.gold), (1, 2, 3));
}

fn write(format: OutputFormat, document: &Document, triples: &[Triple], relations: &Relations) -> Vec<u8> {
    let mut writer = PredictionWriter::new(Vec::new(), format, "sha256:00", relations);
    writer.document(document, triples, &["care".to_string()]).unwrap();
    writer.finish().unwrap()
}

#[test]
fn predictions_are_written_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let document = small();
    let relations = Relations::from_names(["P17", "P6"].map(str::to_string));
    let triple = |tail, relation| Triple { head: 0, tail, relation, margin: 1.5, score: 0.75, evidence: None };
    let triples = [triple(1, 1), triple(2, 2)];
    let sentences = |evidence: &[u32]| Triple { evidence: Some(evidence.to_vec()), ..triple(1, 1) };
    let with = |format| String::from_utf8(write(format, &document, &[sentences(&[]), sentences(&[0, 3])], &relations));
    let line = with(OutputFormat::Jsonl).unwrap();
    assert!(line.contains(r#""margin":1.5,"evidence":[]},"#) && line.contains(r#""margin":1.5,"evidence":[0,3]}]"#));
    let list = with(OutputFormat::Docred).unwrap();
    assert!(list.contains(r#""r":"P17","evidence":[]}"#) && list.contains(r#""r":"P17","evidence":[0,3]}"#), "{list}");
    let line = String::from_utf8(write(OutputFormat::Jsonl, &document, &triples, &relations)).unwrap();
    let want = concat!(
        r#"{"schema":"docre.v1","id":"A","model":"sha256:00","relations":["#,
        r#"{"h":"x0","t":"x1","r":"P17","score":0.75,"margin":1.5},{"h":"x0","t":"x2","r":"P6","score":0.75,"margin":1.5}"#,
        r#"],"warnings":["care"]}"#,
        "\n"
    );
    assert_eq!(line, want);
    for format in [OutputFormat::Jsonl, OutputFormat::Docred] {
        let path = folder.path().join("p");
        std::fs::write(&path, write(format, &document, &triples, &relations)).unwrap();
        let mut eval = Evaluator::default();
        eval.add_gold(&document);
        eval.read_predictions(&path).unwrap();
        let report = eval.report(None, Some(&relations));
        assert!(near(report.all.f1, 100.0), "{format:?}: {report}");
        assert_eq!(serde_json::to_value(&report).unwrap()["f1"], 100.0);
    }
    assert_eq!(write(OutputFormat::Docred, &document, &[], &relations), b"[]\n");
    let bad = Triple { margin: f32::NAN, ..triples[0].clone() };
    let mut writer = PredictionWriter::new(Vec::new(), OutputFormat::Tsv, "", &relations);
    assert_eq!(writer.document(&document, &[bad], &[]).unwrap_err().exit_code(), 7);
}

#[test]
fn tables_and_refusals_are_safe() {
    let mut evil = document("=cmd()|A1", &[&[(0, "a\tb\nc")], &[(0, " +1\\")]], &[]);
    evil.entities[0].id = "@x".to_string();
    let relations = Relations::from_names(["P17".to_string()]);
    let triples = [Triple { head: 0, tail: 1, relation: 1, margin: -0.5, score: 0.25, evidence: None }];
    let table = String::from_utf8(write(OutputFormat::Tsv, &evil, &triples, &relations)).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows[1], ["'=cmd()|A1", "'@x", "P17", "x1", "a\\tb\\nc", "", "' +1\\\\", "0.25", "-0.5"]);
    assert_eq!((rows.len(), rows[0].len()), (2, 9));
    let mut writer = PredictionWriter::new(Vec::new(), OutputFormat::Jsonl, "", &relations);
    let error = docre::Error::data("E-SPAN", "no \"such\"\nplace").at("$.entities[1].mentions[0]");
    writer.refused(None, docre::data::frames::Position { index: 7, line: 8, offset: 0 }, &error).unwrap();
    let line = String::from_utf8(writer.finish().unwrap()).unwrap();
    let want = r#"{"schema":"docre.v1","id":"7","error":{"code":"E-SPAN","path":"/entities/1/mentions/0","msg":"no \"such\"\nplace"}}"#;
    assert_eq!(line.trim_end(), want);
}

/// xorshift64*
struct Random(u64);
impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

type Row = (String, usize, usize, String);

/// Ign F1, F1 and intra F1 straight from the definitions, over lists of strings.
fn plain(documents: &[Document], predictions: &[Row], facts: &HashSet<(String, String, String)>) -> [f64; 3] {
    let predicted: HashSet<&Row> = predictions.iter().collect();
    let gold: HashSet<Row> = documents
        .iter()
        .flat_map(|d| d.gold().iter().map(|l| (d.title.clone(), l.head, l.tail, l.relation.clone())))
        .collect();
    let find = |row: &Row| documents.iter().find(|d| d.title == row.0);
    let names = |row: &Row, e: usize| {
        let document = find(row).unwrap();
        document.entities[e].mentions.iter().map(|m| m.name.clone()).collect::<Vec<_>>()
    };
    let known = |row: &Row| {
        names(row, row.1)
            .iter()
            .any(|h| names(row, row.2).iter().any(|t| facts.contains(&(h.clone(), t.clone(), row.3.clone()))))
    };
    let intra = |row: &Row| {
        find(row).filter(|d| row.1.max(row.2) < d.entities.len()).is_some_and(|d| {
            let at = |e: usize| d.entities[e].mentions.iter().map(|m| m.tokens.start / 10).collect::<HashSet<_>>();
            !at(row.1).is_disjoint(&at(row.2))
        })
    };
    let f1 = |p: f64, r: f64| if p + r > 0.0 { 200.0 * p * r / (p + r) } else { 0.0 };
    let over = |a: usize, b: usize| if b == 0 { 0.0 } else { a as f64 / b as f64 };
    let correct = predicted.iter().filter(|p| gold.contains(**p)).count();
    let seen = predicted.iter().filter(|p| gold.contains(**p) && known(p)).count();
    let recall = over(correct, gold.len());
    let ign = (correct - seen) as f64 / ((predicted.len() - seen) as f64 + 1e-5);
    let near = [
        predicted.iter().filter(|p| gold.contains(**p) && intra(p)).count(),
        predicted.iter().filter(|p| intra(p)).count(),
        gold.iter().filter(|g| intra(g)).count(),
    ];
    [f1(over(correct, predicted.len()), recall), f1(ign, recall), f1(over(near[0], near[1]), over(near[0], near[2]))]
}

#[test]
fn a_second_program_agrees_on_random_inputs() {
    let mut random = Random(7);
    let mut positive = 0;
    for _ in 0..200 {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        const RELATIONS: [&str; 3] = ["P17", "P6", "P7"];
        let mut documents = Vec::new();
        for d in 0..random.below(4) {
            let entities: Vec<Vec<(usize, &str)>> = (0..1 + random.below(4))
                .map(|_| (0..random.below(3)).map(|_| (random.below(4), NAMES[random.below(4)])).collect())
                .collect();
            let n = entities.len();
            let labels: Vec<_> =
                (0..random.below(8)).map(|_| (random.below(n), random.below(n), RELATIONS[random.below(3)])).collect();
            let slices: Vec<&[(usize, &str)]> = entities.iter().map(Vec::as_slice).collect();
            documents.push(document(&format!("t{d}"), &slices, &labels));
        }
        let predictions: Vec<Row> = (0..random.below(30))
            .map(|_| {
                (
                    format!("t{}", random.below(5)),
                    random.below(5),
                    random.below(5),
                    RELATIONS[random.below(3)].to_string(),
                )
            })
            .collect();
        let mut known = HashSet::new();
        let mut facts = Facts::default();
        for _ in 0..random.below(10) {
            let (h, t, r) = (NAMES[random.below(4)], NAMES[random.below(4)], RELATIONS[random.below(3)]);
            facts.add(h, t, r);
            known.insert((h.to_string(), t.to_string(), r.to_string()));
        }
        let mut eval = Evaluator::default();
        documents.iter().for_each(|d| eval.add_gold(d));
        predictions.iter().for_each(|(title, h, t, r)| eval.add(title, *h as i64, *t as i64, r));
        let report = eval.report(Some(&facts), None);
        let want = plain(&documents, &predictions, &known);
        let got = [report.all.f1, report.ign_f1.unwrap(), report.intra.f1];
        assert!(got.iter().zip(want).all(|(a, b)| near(*a, b)), "{got:?} {want:?}");
        assert!(report.f1_interval[0] <= report.f1_interval[1]);
        positive += usize::from(got[1] > 0.0 && got[0] > got[1]);
    }
    assert!(positive > 20, "only {positive} inputs have an Ign F1 of their own");
}

#[test]
fn the_type_pair_baseline_counts_pairs() {
    let kinds = |mut document: Document, kinds: &[&str]| {
        document.entities.iter_mut().zip(kinds).for_each(|(e, k)| e.kind = k.to_string());
        document
    };
    let one = [(0, "n")];
    let mut train = Gold::default();
    // PER -> LOC: P1 twice in two pairs, P2 once; LOC -> PER: P3 once in two pairs.
    train.add(&kinds(
        document("A", &[&one, &one, &one], &[(0, 1, "P1"), (0, 2, "P1"), (0, 2, "P2"), (1, 0, "P3")]),
        &["PER", "LOC", "LOC"],
    ));
    let mut dev = Gold::default();
    dev.add(&kinds(document("B", &[&one, &one], &[(0, 1, "P1")]), &["PER", "LOC"]));
    let baseline = type_pair_baseline(&train, &dev);
    assert_eq!((baseline.always.correct, baseline.always.predicted, baseline.always.gold), (1, 2, 1));
    // On the training set: share 1 alone has P 2/2 R 2/4 (F1 66.7), with share 1/2 P 3/4 R 3/4 (F1 75).
    assert!(near(baseline.share, 0.5));
    assert_eq!(baseline.cut.predicted, 2);
}

#[test]
fn real_baseline() {
    let Some(folder) = std::env::var_os("DOCRE_DATA_DIR") else {
        eprintln!("SKIPPED: set DOCRE_DATA_DIR");
        return;
    };
    let read = |file: &str| {
        let mut gold = Gold::default();
        let path = std::path::Path::new(&folder).join("redocred").join(file);
        docre::data::open(path, Options::default()).unwrap().for_each(|d| {
            gold.add(&d.unwrap());
        });
        gold
    };
    let (train, dev) = (read("fit450.json"), read("tune50.json"));
    assert_eq!(train.facts() + dev.facts(), 17284);
    let mut facts = Facts::default();
    facts.read(&std::path::Path::new(&folder).join("docred/train_facts.json")).unwrap();
    assert_eq!(facts.len(), 52293);
    let baseline = type_pair_baseline(&train, &dev);
    eprintln!("always {:.2}, cut {:.2} at share {:.4}", baseline.always.f1, baseline.cut.f1, baseline.share);
    assert!((5.0..12.0).contains(&baseline.always.f1) && (15.0..23.0).contains(&baseline.cut.f1));
}

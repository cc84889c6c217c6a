//! The evaluation: each quirk counted by hand. (All of it again by a second program: evaluation.rs.)

mod common;

use common::gold::{document, near};
use common::real;
use docre::data::output::{OutputFormat, PredictionWriter, Triple};
use docre::data::{Document, Options, Relations, Unit};
use docre::metrics::baseline::type_pair_baseline;
use docre::metrics::{Details, Evaluator, Facts, Gold, Prediction};

/// Entities 0 and 1 share sentence 0, 2 stands alone in sentence 1.
fn small() -> Document {
    document(
        "A",
        &[&[(0, "Ada"), (2, "Lady")], &[(0, "Rome")], &[(1, "Oslo")]],
        &[(0, 1, "P17"), (0, 2, "P6"), (0, 1, "P17")],
    )
}

#[test]
fn counts_by_hand() {
    let mut eval = Evaluator::default();
    eval.add_gold(&small()).unwrap();
    eval.add("A", 0, 1, "P17").unwrap(); // correct, intra, frequent
    eval.add("A", 0, 1, "P17").unwrap(); // once more
    eval.add("A", 1, 2, "P6").unwrap(); // wrong, inter, long tail
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

fn with_evidence(relation: &str, sentences: &[u32]) -> Prediction {
    let evidence = Some(sentences.iter().copied().collect());
    Prediction { relation: relation.to_string(), details: Details { evidence, ..Details::default() } }
}

#[test]
fn evidence_is_counted_by_sentence() {
    let mut gold = small();
    for (label, evidence) in gold.labels.as_mut().unwrap().iter_mut().zip([&[0, 2][..], &[], &[3]]) {
        label.evidence = evidence.to_vec(); // the first and the third are one fact: sentences 0, 2 and 3
    }
    let mut eval = Evaluator::default();
    eval.add_gold(&gold).unwrap();
    eval.add("A", 0, 1, "P17").unwrap();
    assert_eq!(eval.report(None, None).evidence, None, "nobody named any");
    eval = Evaluator::new(eval.gold().clone());
    eval.add("A", 0, 1, with_evidence("P17", &[0, 1, 2])).unwrap(); // two right, one wrong
    eval.add("A", 0, 1, with_evidence("P17", &[3])).unwrap(); // a duplicate: the first counts
    eval.add("A", 0, 2, with_evidence("P6", &[0, 1])).unwrap(); // correct, but nobody annotated it
    eval.add("A", 1, 2, with_evidence("P6", &[1])).unwrap(); // a wrong triple: wrong sentence
    eval.add("A", 0, 9, with_evidence("P6", &[1])).unwrap(); // no such entity: wrong, too
    eval.add("Nowhere", 0, 1, with_evidence("P6", &[1, 2])).unwrap(); // the official program passes over it
    let report = eval.report(None, None);
    let counts = |score: Option<docre::metrics::Score>| score.map(|s| (s.correct, s.predicted, s.gold)).unwrap();
    assert_eq!(counts(report.evidence), (2, 7, 3));
    assert_eq!(counts(report.evidence_annotated), (2, 5, 3));
    assert!(near(report.evidence.unwrap().f1, 100.0 * 2.0 * 2.0 / (7.0 + 3.0)));
    assert!(report.to_string().contains("evidence "), "{report}");
    eval = Evaluator::new(eval.gold().clone());
    eval.add("A", 0, 1, with_evidence("P17", &[])).unwrap();
    assert_eq!(counts(eval.report(None, None).evidence), (0, 0, 3));
    assert_eq!(eval.report(None, None).evidence.unwrap().f1, 0.0);
}

#[test]
fn buckets_and_macro_figures_by_hand() {
    let mut eval = Evaluator::default();
    eval.add_gold(&small()).unwrap(); // 3 entities; mentions of the pairs: (0, 1) 3, (0, 2) 3, (1, 2) 2
    let one: &[(usize, &str)] = &[(0, "n")];
    eval.add_gold(&document("B", &[one; 11], &[(0, 10, "P6"), (0, 1, "P7")])).unwrap();
    eval.add("A", 0, 1, "P17").unwrap();
    eval.add("A", 1, 2, "P6").unwrap();
    eval.add("B", 0, 10, "P6").unwrap();
    let report = eval.report(None, None);
    let rows = |buckets: &[docre::metrics::BucketScore]| -> Vec<_> {
        let filled = buckets.iter().filter(|b| b.score.predicted + b.score.gold > 0);
        filled.map(|b| (b.from, b.to, [b.score.correct, b.score.predicted, b.score.gold])).collect()
    };
    assert_eq!(rows(&report.by_entities), [(0, Some(10), [1, 2, 2]), (11, Some(15), [1, 1, 2])]);
    assert_eq!(rows(&report.by_mentions), [(0, Some(2), [1, 2, 2]), (3, Some(3), [1, 1, 2])]);
    assert_eq!(report.by_entities.last().unwrap().to, None);
    // P17 1/1/1: 100. P6 1/2/2: 50. P7 0/0/1: 0.
    assert!(near(report.frequent_macro_f1, 100.0) && near(report.long_tail_macro_f1, 25.0));
    assert!(near(report.macro_f1, 50.0));
    let text = report.to_string();
    for part in ["entities 0-10", "entities 11-15", "mentions 0-2", "mentions 3 "] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn hostile_predictions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    let mut eval = Evaluator::default();
    eval.add_gold(&small()).unwrap();
    let line = |fields: &str| format!(r#"{{"id":"A","relations":[{{"h":"x0","t":"x1","r":"P17",{fields}}}]}}"#);
    for (fields, says) in [
        (r#""margin":1e300"#, "$.relations[0].margin"),
        (r#""margin":1e999"#, "out of range"),
        (r#""margin":"NaN""#, "$.relations[0].margin"),
        (r#""score":1.5"#, "$.relations[0].score"),
        (r#""score":-0.1"#, "between 0 and 1"),
        (r#""evidence":[-1]"#, "$.relations[0].evidence[0]"),
        (r#""evidence":7"#, "$.relations[0].evidence"),
    ] {
        std::fs::write(&path, line(fields)).unwrap();
        let error = eval.read_predictions(&path).unwrap_err();
        assert!(error.code() == "E-JSON" && error.to_string().contains(says), "{fields}: {error}");
    }
    std::fs::write(&path, line(r#""margin":null,"score":1,"evidence":[3,3]"#)).unwrap();
    eval.read_predictions(&path).unwrap();
    std::fs::write(&path, r#"[{"title":"A","h_idx":0,"t_idx":2,"r":"P6","evidence":[1]}]"#).unwrap();
    eval.read_predictions(&path).unwrap();
    let report = eval.report(None, None);
    assert_eq!((report.all.correct, report.evidence.unwrap().predicted), (2, 2));
    assert_eq!(report.curves, None, "no margins");
}

#[test]
fn nothing_and_one_prediction_are_fine() {
    let empty = Evaluator::default().report(Some(&Facts::default()), None);
    assert_eq!((empty.all.f1, empty.ign_f1), (0.0, Some(0.0)));
    let mut eval = Evaluator::default();
    eval.add_gold(&small()).unwrap();
    let none = eval.report(Some(&Facts::default()), None);
    assert_eq!((none.all.f1, none.all.gold, none.ign_f1), (0.0, 2, Some(0.0)));
    eval.add("A", 0, 1, "P17").unwrap();
    let one = eval.report(Some(&Facts::default()), None);
    assert!(near(one.all.precision, 100.0) && near(one.all.f1, 100.0 * 2.0 / 3.0));
    eval = Evaluator::new(eval.gold().clone());
    assert_eq!(eval.report(None, None).all.predicted, 0);
    assert!(!none.to_string().contains("NaN"));
}

#[test]
fn strays_are_wrong_and_reported() {
    let mut eval = Evaluator::default();
    eval.add_gold(&small()).unwrap();
    eval.add("A", 0, 1, "P17").unwrap();
    eval.add("Nowhere", 0, 1, "P17").unwrap();
    eval.add("Nowhere", 0, 1, "P17").unwrap();
    eval.add("A", 0, 9, "P17").unwrap();
    eval.add("A", -1, 0, "P17").unwrap();
    eval.add_by_id("A", "x0", "x77", "P17");
    let report = eval.report(None, None);
    assert_eq!((report.unknown_titles, report.unknown_entities, report.duplicates), (1, 3, 1));
    assert_eq!((report.all.correct, report.all.predicted), (1, 5));
    assert_eq!(report.intra.predicted + report.inter.predicted, 1);
}

#[test]
fn relations_the_model_lacks_count_as_missed() {
    let mut eval = Evaluator::default();
    eval.add_gold(&small()).unwrap();
    let model = Relations::from_names(["P17".to_string()]);
    let report = eval.report(None, Some(&model));
    assert_eq!(report.unknown_relations.into_iter().collect::<Vec<_>>(), [("P6".to_string(), 1)]);
    assert_eq!(report.all.gold, 2);
}

#[test]
fn ign_f1_leaves_out_what_training_knew() {
    let mut eval = Evaluator::default();
    eval.add_gold(&small()).unwrap();
    eval.add("A", 0, 1, "P17").unwrap();
    eval.add("A", 0, 2, "P6").unwrap();
    eval.add("A", 2, 0, "P6").unwrap();
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
    eval = Evaluator::new(eval.gold().clone());
    eval.add("A", 0, 1, "P17").unwrap();
    assert_eq!(eval.report(Some(&facts), None).ign_f1, Some(0.0));
}

#[test]
fn facts_come_from_a_list_or_from_documents() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("facts");
    std::fs::write(&path, r#"[["Lady","Rome","P17"],["Lady","Rome","P17"]]"#).unwrap();
    let mut listed = Facts::default();
    listed.read(&path, Unit::Char).unwrap();
    assert_eq!(listed.len(), 1);
    let mut made = Facts::default();
    made.add_document(&small());
    assert_eq!(made.len(), 4, "two names of the head for each of two relations");
    let mut writer = docre::data::Writer::new(Vec::new(), docre::data::Format::Docred, docre::data::Unit::Char);
    writer.write(&small()).unwrap();
    std::fs::write(&path, writer.finish().unwrap()).unwrap();
    let mut read = Facts::default();
    read.read(&path, Unit::Char).unwrap();
    let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    for facts in [&made, &read] {
        assert!(facts.contains_any(&names(&["?", "Lady"]), &names(&["Oslo"]), "P6"));
        assert!(!facts.contains_any(&names(&["Oslo"]), &names(&["Lady"]), "P6"));
    }
    std::fs::write(&path, r#"[["Lady","Rome"]]"#).unwrap();
    assert_eq!(read.read(&path, Unit::Char).unwrap_err().code(), "E-JSON");
}

#[test]
fn infer_f1_asks_for_facts_that_two_others_join() {
    let mut eval = Evaluator::default();
    let one = [(0, "n")];
    // 0 -> 1 -> 2 joins (0, 2); 0 -> 1 -> 0 joins nothing.
    let labels = [(0, 1, "P1"), (1, 2, "P2"), (0, 2, "P3"), (0, 2, "P4"), (1, 0, "P5")];
    eval.add_gold(&document("A", &[&one, &one, &one], &labels)).unwrap();
    eval.add("A", 0, 2, "P3").unwrap();
    eval.add("A", 0, 2, "P9").unwrap();
    eval.add("A", 0, 1, "P1").unwrap();
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
        eval.add_gold(&document).unwrap();
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

#[test]
fn the_type_pair_baseline_counts_pairs() {
    let kinds = |mut document: Document, kinds: &[&str]| {
        document.entities.iter_mut().zip(kinds).for_each(|(e, k)| e.kind = k.to_string());
        document
    };
    let one = [(0, "n")];
    let mut train = Gold::default();
    // PER -> LOC: P1 twice in two pairs, P2 once; LOC -> PER: P3 once in two pairs.
    train
        .add(&kinds(
            document("A", &[&one, &one, &one], &[(0, 1, "P1"), (0, 2, "P1"), (0, 2, "P2"), (1, 0, "P3")]),
            &["PER", "LOC", "LOC"],
        ))
        .unwrap();
    let mut dev = Gold::default();
    dev.add(&kinds(document("B", &[&one, &one], &[(0, 1, "P1")]), &["PER", "LOC"])).unwrap();
    let baseline = type_pair_baseline(&train, &dev);
    assert_eq!((baseline.always.correct, baseline.always.predicted, baseline.always.gold), (1, 2, 1));
    // On the training set: share 1 alone has P 2/2 R 2/4 (F1 66.7), with share 1/2 P 3/4 R 3/4 (F1 75).
    assert!(near(baseline.share, 0.5));
    assert_eq!(baseline.cut.predicted, 2);
}

#[test]
fn real_baseline() {
    let (Some(documents), Some(train_facts)) = (real::data("redocred"), real::data("docred/train_facts.json")) else {
        return;
    };
    let read = |file: &str| {
        let mut gold = Gold::default();
        docre::data::open(documents.join(file), Options::default()).unwrap().for_each(|d| {
            gold.add(&d.unwrap()).unwrap();
        });
        gold
    };
    let (train, dev) = (read("fit450.json"), read("tune50.json"));
    assert_eq!(train.facts() + dev.facts(), 17284);
    let mut facts = Facts::default();
    facts.read(&train_facts, Unit::Char).unwrap();
    assert_eq!(facts.len(), 52293);
    let baseline = type_pair_baseline(&train, &dev);
    eprintln!("always {:.2}, cut {:.2} at share {:.4}", baseline.always.f1, baseline.cut.f1, baseline.share);
    assert!((5.0..12.0).contains(&baseline.always.f1) && (15.0..23.0).contains(&baseline.cut.f1));
}

//! Thresholds, calibrations and their file.

mod common;

use common::gold::{Random, document, near};
use docre::Error;
use docre::checkpoint::directory::{MANIFEST, put_file, save_directory, verify};
use docre::data::Relations;
use docre::data::output::Triple;
use docre::extract::{Calibration, Sigmoid};
use docre::metrics::Evaluator;
use docre::metrics::curves::Curves;
use docre::metrics::tuning::{Choice, Shifts, Tuning, tune};
use std::collections::BTreeMap;

/// A document a list: relation, margin, whether gold has it. Gold also has `missed` facts that are no candidates.
fn evaluator(documents: &[Vec<(&str, f32, bool)>], missed: usize) -> Evaluator {
    let mut eval = Evaluator::default();
    let relations = Relations::from_names(["P17", "P6", "P7"].map(str::to_string));
    for (d, candidates) in documents.iter().enumerate() {
        let one: &[(usize, &str)] = &[(0, "n")];
        let entities = vec![one; candidates.len() + missed + 1];
        let right = candidates.iter().enumerate().filter(|(_, c)| c.2).map(|(i, c)| (0, i + 1, c.0));
        let labels: Vec<_> = right.chain((0..missed).map(|i| (1 + i, 0, "P7"))).collect();
        let gold = document(&format!("d{d}"), &entities, &labels);
        let number = eval.add_gold(&gold).unwrap();
        let triple = |(i, (r, margin, _)): (usize, &(&str, f32, bool))| Triple {
            head: 0,
            tail: i + 1,
            relation: relations.id(r).unwrap(),
            margin: *margin,
            score: 0.0,
            evidence: None,
        };
        let triples: Vec<Triple> = candidates.iter().enumerate().map(triple).collect();
        eval.add_candidates(number, triples.iter().map(|t| (t, t.margin)), &relations);
    }
    eval
}

fn tuned(documents: &[Vec<(&str, f32, bool)>], missed: usize, choice: Choice) -> Tuning {
    tune(&evaluator(documents, missed), choice).unwrap()
}

#[test]
fn shifts_and_what_to_expect_by_hand() {
    let documents = [vec![("P6", -0.5, true)], vec![("P6", 2.0, true), ("P6", -1.0, false)]];
    let found = tuned(&documents, 0, Choice::default());
    // Own threshold: 1 of 1 and of 2. Half-way between -0.5 and -1 both are right and nothing else.
    assert!(near(found.before.score.f1, 200.0 / 3.0) && near(found.after.score.f1, 100.0));
    assert_eq!((found.shift, found.documents), (-0.75, 2));
    // The second document alone is content with 0, which finds nothing in the first; the first alone goes half-way
    // to -6, which finds one right and one wrong in the second.
    let expected = found.expected.unwrap().score;
    assert_eq!((expected.correct, expected.predicted, expected.gold), (1, 2, 2));
    // Nothing to gain: nothing changes.
    let content = tuned(&[vec![("P6", 1.0, true), ("P6", -1.0, false)]], 1, Choice::default());
    assert_eq!((content.shift, content.expected), (0.0, None));
    assert_eq!(content.before, content.after);
    let none = tuned(&[], 0, Choice::default());
    assert_eq!((none.shift, none.after.score.f1, none.after.calibration_error), (0.0, 0.0, 0.0));
}

/// F1 of every pair of thresholds, one for P6 and one for the rest.
fn best_by_force(documents: &[Vec<(&str, f32, bool)>], missed: usize, apart: bool) -> f64 {
    let all: Vec<_> = documents.iter().flatten().collect();
    let gold = all.iter().filter(|c| c.2).count() + missed * documents.len();
    let cuts: Vec<f32> = all.iter().map(|c| c.1).chain([-6.0]).collect();
    let mut best: f64 = 0.0;
    for one in &cuts {
        for other in &cuts {
            let above = |c: &&&(&str, f32, bool)| c.1 > if apart && c.0 == "P6" { *one } else { *other };
            let predicted = all.iter().filter(above).count();
            let correct = all.iter().filter(above).filter(|c| c.2).count();
            best = best.max(200.0 * correct as f64 / (predicted + gold).max(1) as f64);
        }
    }
    best
}

#[test]
fn no_other_thresholds_are_better() {
    let mut random = Random(5);
    let mut better = 0;
    for _ in 0..200 {
        let documents: Vec<Vec<(&str, f32, bool)>> = (0..1 + random.below(3))
            .map(|_| {
                (0..random.below(9))
                    .map(|_| {
                        let margin = random.below(13) as f32 / 2.0 - 3.0; // equals among them
                        (["P17", "P6"][random.below(2)], margin, random.below(8) as f32 > 3.0 - margin)
                    })
                    .collect()
            })
            .collect();
        let missed = random.below(3);
        let one = tuned(&documents, missed, Choice::default());
        assert!(near(one.after.score.f1, best_by_force(&documents, missed, false)), "{documents:?}: {one:?}");
        let apart = tuned(&documents, missed, Choice { shifts: Shifts::PerRelation(0), calibrate: false });
        let enough = documents.iter().flatten().any(|c| c.0 == "P6" && c.2);
        let want = best_by_force(&documents, missed, enough);
        // P17, if gold has it, has a threshold of its own, too: at least as good.
        assert!(apart.after.score.f1 >= want - 1e-9, "{documents:?}: {apart:?}, {want}");
        let never = tuned(&documents, missed, Choice { shifts: Shifts::PerRelation(1000), calibrate: false });
        assert_eq!((never.shift, never.relations.len()), (one.shift, 0));
        better += usize::from(apart.after.score.f1 > one.after.score.f1 + 1.0);
    }
    assert!(better > 20, "{better}");
}

#[test]
fn scores_are_as_likely_as_they_can_be() {
    let mut random = Random(11);
    let candidates: Vec<_> = (0..400)
        .map(|_| {
            let margin = random.below(1000) as f32 / 200.0 + 0.1;
            let chance = 1.0 / (1.0 + (-(0.8 * f64::from(margin) - 1.0)).exp());
            ("P6", margin, (random.below(10_000) as f64) < 10_000.0 * chance)
        })
        .collect();
    let documents: Vec<Vec<_>> = candidates.chunks(20).map(<[_]>::to_vec).collect();
    let found = tuned(&documents, 0, Choice { shifts: Shifts::One, calibrate: true });
    let Sigmoid { a, b } = found.score.unwrap();
    assert!((0.5..1.2).contains(&a) && (-2.0..0.5).contains(&b), "{a} {b}");
    // The likelihood has one maximum, where both derivatives vanish.
    let chosen: Vec<_> = candidates.iter().filter(|c| f64::from(c.1) > found.shift).collect();
    let hits = chosen.iter().filter(|c| c.2).count() as f64;
    let misses = chosen.len() as f64 - hits;
    let (mut da, mut db) = (0.0, 0.0);
    for (_, margin, correct) in chosen {
        let target = if *correct { (hits + 1.0) / (hits + 2.0) } else { 1.0 / (misses + 2.0) };
        let rest = 1.0 / (1.0 + (-(a * f64::from(*margin) + b)).exp()) - target;
        da += rest * f64::from(*margin);
        db += rest;
    }
    assert!(da.abs() < 1e-5 && db.abs() < 1e-5, "{da} {db}");
    let kept = tuned(&documents, 0, Choice { shifts: Shifts::Own, calibrate: true });
    assert!(kept.shift == 0.0 && kept.after.score == kept.before.score && kept.score.is_some());
    let error = |outcome: docre::metrics::tuning::Outcome| outcome.calibration_error;
    assert!(error(found.after) < error(found.before) / 2.0, "{found:?}");
    assert!(error(found.expected.unwrap()) < error(found.before), "{found:?}");
    let upside_down: Vec<_> = candidates.iter().map(|c| ("P6", c.1, c.1 < 2.0)).collect();
    let error = tune(&evaluator(&[upside_down], 0), Choice { shifts: Shifts::One, calibrate: true }).unwrap_err();
    assert_eq!(error.code(), "E-CALIBRATION");
}

#[test]
fn curves_of_few_and_of_monstrous_margins() {
    assert_eq!(Curves::new(vec![], &[], 3), None);
    let at_zero = Curves::new(vec![(0.0, true)], &[], 1).unwrap();
    assert_eq!((at_zero.points.len(), at_zero.points[0].f1, at_zero.calibration_error), (1, 0.0, 0.0));
    for margins in [[f32::MAX, f32::MIN], [1e-45, -1e-45], [3.0, 1e30], [-5.999, 12.34]] {
        let curves = Curves::new(margins.map(|m| (m, true)).to_vec(), &[(1.0, true), (0.0, false)], 2).unwrap();
        let shifts: Vec<f64> = curves.points.iter().map(|p| p.shift).collect();
        assert!(shifts.len() <= 200 && shifts.contains(&0.0) && shifts.is_sorted(), "{shifts:?}");
        assert!(curves.points[0].f1 == 100.0 || margins.iter().all(|m| *m > 0.0), "the first point takes all");
        assert_eq!(curves.reliability.len(), 2);
    }
    let neat = Curves::new(vec![(-5.999, true), (12.34, false)], &[], 1).unwrap();
    assert!(neat.points.iter().all(|p| p.shift.to_string().len() <= 5), "{:?}", neat.points);
    assert!(near(neat.best().unwrap().f1, 200.0 / 3.0));
}

fn load(text: &str) -> Result<Calibration, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Calibration::load(file.path(), &Relations::from_names(["P17", "P6"].map(str::to_string)))
}

#[test]
fn the_file_is_checked() {
    let relations = Relations::from_names(["P17", "P6"].map(str::to_string));
    let whole = Calibration::new(
        "sha256:0",
        -0.5,
        BTreeMap::from([("P6".to_string(), 0.25)]),
        Some(Sigmoid { a: 2.0, b: -1.0 }),
    );
    let text = whole.to_json(&relations).unwrap();
    assert_eq!(load(&text).unwrap(), whole);
    assert_eq!((whole.shift("P6"), whole.shift("P17"), whole.lowest()), (0.25, -0.5, -0.5));
    assert!(near(whole.score.unwrap().score(0.5), 0.5));
    for (old, new) in [
        ("-0.5", "1e999"),
        ("-0.5", "NaN"),
        ("-0.5", "null"),
        ("-0.5", "\"0\""),
        ("\"a\": 2.0", "\"a\": 0"),
        ("\"a\": 2.0", "\"a\": -1"),
        ("\"a\": 2.0,", ""),
        ("P6", "P99"),
        ("P6", "Na"),
        ("calibration.v1", "calibration.v2"),
        ("\"shift\"", "\"shifts\""),
        ("}", ""),
        ("{", "<script>{"),
    ] {
        assert!(text.contains(old));
        let error = load(&text.replacen(old, new, 1)).unwrap_err();
        assert!(error.exit_code() == 4 && error.to_string().contains("--no-calibration"), "{old} {new}: {error}");
    }
    assert_eq!(load(&" ".repeat(2 << 20)).unwrap_err().code(), "E-IO");
    let endless = Calibration::new("", f64::INFINITY, BTreeMap::new(), None);
    assert_eq!(endless.to_json(&relations).unwrap_err().code(), "E-CALIBRATION");
    let falling = Calibration::new("", 0.0, BTreeMap::new(), Some(Sigmoid { a: f64::NAN, b: 0.0 }));
    assert!(falling.to_json(&relations).is_err());
}

#[test]
fn a_manifest_learns_of_the_file() {
    let room = tempfile::tempdir().unwrap();
    let dir = room.path().join("model");
    save_directory(&dir, |staging| staging.write("config.json", b"{}")).unwrap();
    for text in ["one", "two"] {
        put_file(&dir, "calibration.json", text.as_bytes()).unwrap();
        assert_eq!(verify(&dir).unwrap(), ["calibration.json", "config.json"]);
        assert_eq!(std::fs::read_to_string(dir.join("calibration.json")).unwrap(), text);
    }
    std::fs::remove_file(dir.join(MANIFEST)).unwrap();
    put_file(&dir, "calibration.json", b"three").unwrap();
    assert!(!dir.join(MANIFEST).exists());
    assert!(put_file(&dir, "../calibration.json", b"").is_err());
}

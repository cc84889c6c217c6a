//! The evaluation again, by a second program: plain, slow, over lists of strings, straight from the definitions.

mod common;

use common::gold::{Random, document, near};
use docre::data::Document;
use docre::metrics::{BucketScore, Details, Evaluator, Facts, Prediction, Report, Score};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const RELATIONS: [&str; 5] = ["P17", "P131", "P6", "P7", "P8"];

type Fact = (String, usize, usize, String);

#[derive(Clone)]
struct Row {
    fact: Fact,
    evidence: Option<Vec<u32>>,
    margin: f32,
}

struct Plain {
    documents: Vec<Document>,
    /// Each once.
    gold: Vec<(Fact, Vec<u32>)>,
    rows: Vec<Row>,
    known: Vec<[String; 3]>,
}

impl Plain {
    fn new(documents: Vec<Document>, given: &[Row], known: Vec<[String; 3]>) -> Self {
        let mut gold: Vec<(Fact, Vec<u32>)> = Vec::new();
        for d in &documents {
            for l in d.labels.as_ref().unwrap() {
                let fact = (d.title.clone(), l.head, l.tail, l.relation.clone());
                match gold.iter_mut().find(|(known, _)| *known == fact) {
                    Some((_, evidence)) => evidence.extend(&l.evidence),
                    None => gold.push((fact, l.evidence.clone())),
                }
            }
        }
        let mut rows: Vec<Row> = Vec::new();
        for row in given {
            if rows.iter().all(|known| known.fact != row.fact) {
                rows.push(row.clone());
            }
        }
        Plain { documents, gold, rows, known }
    }
    fn correct(&self, fact: &Fact) -> bool {
        self.gold.iter().any(|(gold, _)| gold == fact)
    }
    fn f1(&self, keep: impl Fn(&Fact) -> bool) -> f64 {
        let correct = self.rows.iter().filter(|r| keep(&r.fact) && self.correct(&r.fact)).count();
        let predicted = self.rows.iter().filter(|r| keep(&r.fact)).count();
        let gold = self.gold.iter().filter(|(fact, _)| keep(fact)).count();
        share(2 * correct, predicted + gold)
    }
    /// The two entities, each as its mentions (sentence, name); None if there are no such entities.
    fn pair(&self, (title, h, t, _): &Fact) -> Option<[Vec<(usize, String)>; 2]> {
        let document = self.documents.iter().find(|d| d.title == *title)?;
        let entity = |e: usize| {
            let mentions = document.entities.get(e)?.mentions.iter();
            Some(mentions.map(|m| (m.tokens.start / 10, m.name.clone())).collect())
        };
        Some([entity(*h)?, entity(*t)?])
    }
    fn side(&self, fact: &Fact, intra: bool) -> bool {
        let Some([head, tail]) = self.pair(fact) else { return false };
        head.iter().any(|(s, _)| tail.iter().any(|(t, _)| s == t)) == intra
    }
    fn in_train(&self, fact: &Fact) -> bool {
        let [head, tail] = self.pair(fact).unwrap();
        let listed = |h: &str, t: &str| self.known.iter().any(|[a, b, r]| a == h && b == t && *r == fact.3);
        head.iter().any(|(_, h)| tail.iter().any(|(_, t)| listed(h, t)))
    }
    fn ign_f1(&self) -> f64 {
        let correct: Vec<&Row> = self.rows.iter().filter(|r| self.correct(&r.fact)).collect();
        let seen = correct.iter().filter(|r| self.in_train(&r.fact)).count();
        let precision = (correct.len() - seen) as f64 / ((self.rows.len() - seen) as f64 + 1e-5);
        let recall = share(correct.len(), self.gold.len()) / 100.0;
        if precision + recall > 0.0 { 200.0 * precision * recall / (precision + recall) } else { 0.0 }
    }
    fn evidence(&self, annotated_only: bool) -> f64 {
        let (mut correct, mut predicted) = (0, 0);
        for row in &self.rows {
            if self.documents.iter().all(|d| d.title != row.fact.0) {
                continue;
            }
            let mut said = row.evidence.clone().unwrap_or_default();
            said.sort();
            said.dedup();
            let gold = self.gold.iter().find(|(fact, _)| *fact == row.fact).map(|(_, evidence)| evidence);
            if annotated_only && gold.is_some_and(|evidence| evidence.is_empty()) {
                continue;
            }
            predicted += said.len();
            correct += said.iter().filter(|s| gold.is_some_and(|evidence| evidence.contains(s))).count();
        }
        let gold: usize =
            self.gold.iter().map(|(_, evidence)| (0..4).filter(|sentence| evidence.contains(sentence)).count()).sum();
        share(2 * correct, predicted + gold)
    }
    fn joined(&self, (title, h, t, _): &Fact) -> bool {
        let edge = |a: usize, b: usize| self.gold.iter().any(|(f, _)| f.0 == *title && f.1 == a && f.2 == b);
        h != t && (0..20).any(|o| o != *h && o != *t && edge(*h, o) && edge(o, *t))
    }
    /// F1 of inferred facts, precision over all predictions or over those on such pairs.
    fn infer(&self, over_all: bool) -> f64 {
        let joined = |fact: &Fact| self.joined(fact);
        let correct = self.rows.iter().filter(|r| joined(&r.fact) && self.correct(&r.fact)).count();
        let predicted = self.rows.iter().filter(|r| over_all || joined(&r.fact)).count();
        share(2 * correct, predicted + self.gold.iter().filter(|(fact, _)| joined(fact)).count())
    }
    fn macro_f1(&self, frequent: Option<bool>) -> f64 {
        let in_gold = RELATIONS.iter().filter(|r| self.gold.iter().any(|(fact, _)| fact.3 == **r));
        let chosen: Vec<f64> = in_gold
            .filter(|r| frequent.is_none_or(|frequent| is_frequent(r) == frequent))
            .map(|r| self.f1(|fact| fact.3 == *r))
            .collect();
        if chosen.is_empty() { 0.0 } else { chosen.iter().sum::<f64>() / chosen.len() as f64 }
    }
    fn entities(&self, fact: &Fact, bucket: &BucketScore) -> bool {
        let document = self.documents.iter().find(|d| d.title == fact.0).unwrap();
        inside(bucket, document.entities.len())
    }
    fn bucket(&self, bucket: &BucketScore, of: impl Fn(&Fact) -> usize) -> f64 {
        self.f1(|fact| self.pair(fact).is_some() && inside(bucket, of(fact)))
    }
}

fn inside(bucket: &BucketScore, n: usize) -> bool {
    bucket.from <= n && bucket.to.is_none_or(|to| n <= to)
}

fn is_frequent(relation: &str) -> bool {
    ["P17", "P131"].contains(&relation)
}

/// In percent; 0 of nothing.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

fn random_documents(random: &mut Random) -> Vec<Document> {
    (0..random.below(4))
        .map(|d| {
            let n = [1, 3, 4, 12][random.below(4)];
            let entities: Vec<Vec<(usize, &str)>> = (0..n)
                .map(|_| (0..random.below(5)).map(|_| (random.below(4), NAMES[random.below(4)])).collect())
                .collect();
            let labels: Vec<_> = (0..random.below(12))
                .map(|_| (random.below(n.min(5)), random.below(n.min(5)), RELATIONS[random.below(5)]))
                .collect();
            let slices: Vec<&[(usize, &str)]> = entities.iter().map(Vec::as_slice).collect();
            let mut document = document(&format!("t{d}"), &slices, &labels);
            for label in document.labels.as_mut().unwrap() {
                label.evidence = (0..random.below(3)).map(|_| random.below(4) as u32).collect();
            }
            document
        })
        .collect()
}

/// Some for unknown titles or entities, some twice; margins with equals among them.
fn random_rows(random: &mut Random) -> Vec<Row> {
    let named = random.below(3) > 0;
    (0..random.below(40))
        .map(|_| {
            let evidence =
                (named && random.below(4) > 0).then(|| (0..random.below(4)).map(|_| random.below(5) as u32).collect());
            let title = format!("t{}", random.below(4));
            let fact = (title, random.below(5), random.below(5), RELATIONS[random.below(5)].to_string());
            Row { fact, evidence, margin: random.below(17) as f32 / 4.0 - 1.5 }
        })
        .collect()
}

fn evaluate(plain: &Plain, given: &[Row]) -> Report {
    let mut facts = Facts::default();
    plain.known.iter().for_each(|[h, t, r]| facts.add(h, t, r));
    let mut eval = Evaluator::default();
    for d in &plain.documents {
        eval.add_gold(d).unwrap();
    }
    add(&mut eval, given);
    eval.report(Some(&facts), None)
}

fn add(eval: &mut Evaluator, given: &[Row]) {
    for Row { fact: (title, h, t, r), evidence, margin } in given {
        let evidence = evidence.clone().map(|list| list.into_iter().collect());
        let details = Details { margin: Some(*margin), score: None, evidence };
        eval.add(title, *h as i64, *t as i64, Prediction { relation: r.clone(), details }).unwrap();
    }
}

#[test]
fn a_second_program_agrees_on_random_inputs() {
    let mut random = Random(7);
    let mut positive = [0; 23];
    for round in 0..1000 {
        let documents = random_documents(&mut random);
        let given = random_rows(&mut random);
        let known = (0..random.below(10))
            .map(|_| [NAMES[random.below(4)], NAMES[random.below(4)], RELATIONS[random.below(5)]].map(str::to_string))
            .collect();
        let plain = Plain::new(documents, &given, known);
        let report = evaluate(&plain, &given);
        let f1 = |score: Option<Score>| score.map_or(0.0, |s| s.f1);
        let mut pairs = vec![
            ("F1", report.all.f1, plain.f1(|_| true)),
            ("Ign F1", report.ign_f1.unwrap(), plain.ign_f1()),
            ("intra", report.intra.f1, plain.f1(|fact| plain.side(fact, true))),
            ("inter", report.inter.f1, plain.f1(|fact| plain.side(fact, false))),
            ("frequent", report.frequent.f1, plain.f1(|fact| is_frequent(&fact.3))),
            ("long tail", report.long_tail.f1, plain.f1(|fact| !is_frequent(&fact.3))),
            ("infer", report.infer.f1, plain.infer(true)),
            ("infer pairs", report.infer_pairs.f1, plain.infer(false)),
            ("macro", report.macro_f1, plain.macro_f1(None)),
            ("frequent macro", report.frequent_macro_f1, plain.macro_f1(Some(true))),
            ("long tail macro", report.long_tail_macro_f1, plain.macro_f1(Some(false))),
            ("evidence", f1(report.evidence), plain.evidence(false)),
            ("evidence, annotated", f1(report.evidence_annotated), plain.evidence(true)),
        ];
        for bucket in &report.by_entities {
            let want = plain.f1(|fact| plain.pair(fact).is_some() && plain.entities(fact, bucket));
            pairs.push(("entities", bucket.score.f1, want));
        }
        for bucket in &report.by_mentions {
            let mentions = |fact: &Fact| plain.pair(fact).map_or(0, |[h, t]| h.len() + t.len());
            pairs.push(("mentions", bucket.score.f1, plain.bucket(bucket, mentions)));
        }
        for ((name, got, want), count) in pairs.into_iter().zip(&mut positive) {
            assert!(near(got, want), "round {round}, {name}: {got}, not {want}");
            *count += usize::from(want > 0.0 && want < 100.0);
        }
        check_curves(&report, &plain);
    }
    // Every figure was neither 0 nor 100 now and then, but for the three buckets of more than 12 entities.
    assert_eq!(positive.iter().filter(|n| **n > 10).count(), 20, "{positive:?}");
}

fn check_curves(report: &Report, plain: &Plain) {
    let Some(curves) = &report.curves else {
        return assert!(plain.rows.is_empty());
    };
    assert!(curves.points.len() <= 200 && curves.points.is_sorted_by(|a, b| a.shift < b.shift));
    assert!(curves.points.iter().any(|point| point.shift == 0.0));
    for point in &curves.points {
        let above: Vec<&Row> = plain.rows.iter().filter(|row| f64::from(row.margin) > point.shift).collect();
        let correct = above.iter().filter(|row| plain.correct(&row.fact)).count();
        assert!(near(point.precision, share(correct, above.len())), "{point:?}");
        assert!(near(point.recall, share(correct, plain.gold.len())), "{point:?}");
        assert!(near(point.f1, share(2 * correct, above.len() + plain.gold.len())), "{point:?}");
    }
    let mut error = 0.0;
    for tenth in 0..10 {
        let score = |row: &&Row| 1.0 / (1.0 + (-f64::from(row.margin)).exp());
        let (low, high) = (tenth as f64 / 10.0, (tenth + 1) as f64 / 10.0);
        let rows: Vec<&Row> = plain.rows.iter().filter(|row| (low..high).contains(&score(row))).collect();
        let bin = curves.reliability.iter().find(|bin| bin.low == low);
        assert_eq!(bin.map_or(0, |bin| bin.count), rows.len(), "{low}");
        let Some(bin) = bin else { continue };
        let sure = rows.iter().map(score).sum::<f64>() / rows.len() as f64;
        let right = rows.iter().filter(|row| plain.correct(&row.fact)).count() as f64 / rows.len() as f64;
        assert!(near(bin.high, high) && near(bin.mean_score, sure) && near(bin.precision, right), "{bin:?}");
        error += (sure - right).abs() * rows.len() as f64 / plain.rows.len() as f64;
    }
    assert!(near(curves.calibration_error, error));
}

/// Every way to swap the predictions of some documents.
#[test]
fn the_p_value_is_that_of_all_swaps() {
    let mut random = Random(3);
    for _ in 0..6 {
        let one: &[(usize, &str)] = &[(0, "n")];
        let documents: Vec<Document> = (0..8)
            .map(|d| document(&format!("d{d}"), &[one; 3], &[(0, 1, "P6"), (1, 2, "P6"), (0, 2, "P7")]))
            .collect();
        let mut evals = [Evaluator::default(), Evaluator::default()];
        let mut counts = vec![[[0; 2]; 2]; 8]; // by document: of each side, correct and predicted
        for (side, eval) in evals.iter_mut().enumerate() {
            for (d, document) in documents.iter().enumerate() {
                eval.add_gold(document).unwrap();
                for (h, t, r) in [(0, 1, "P6"), (1, 2, "P6"), (0, 2, "P7"), (2, 0, "P7")] {
                    if random.below(4) > side {
                        eval.add(&document.title, h, t, r).unwrap();
                        counts[d][side][0] += usize::from((h, t) != (2, 0));
                        counts[d][side][1] += 1;
                    }
                }
            }
        }
        let difference = |swaps: usize| {
            let mut sums = [[0; 2]; 2];
            for (d, sides) in counts.iter().enumerate() {
                let swapped = swaps >> d & 1;
                (0..2).for_each(|s| (0..2).for_each(|what| sums[s][what] += sides[s ^ swapped][what]));
            }
            share(2 * sums[0][0], sums[0][1] + 24) - share(2 * sums[1][0], sums[1][1] + 24)
        };
        let truth = difference(0);
        let extreme = (0..256).filter(|swaps| difference(*swaps).abs() >= truth.abs() - 1e-9).count();
        let exact = extreme as f64 / 256.0;
        let found = evals[0].compare(&evals[1]);
        assert!(near(found.difference, truth) && near(found.f1 - found.against_f1, truth));
        assert!((found.p_value - exact).abs() < 0.02, "{} is not {exact}", found.p_value);
        let [low, high] = found.difference_interval;
        assert!(low <= truth && truth <= high && low < high, "{found:?}");
        let mirrored = evals[1].compare(&evals[0]);
        assert!(near(mirrored.difference, -truth) && near(mirrored.p_value, found.p_value));
        assert!(near(mirrored.difference_interval[0] + mirrored.difference_interval[1], -(low + high)));
        let same = evals[0].compare(&evals[0]);
        assert_eq!((same.difference, same.difference_interval, same.p_value), (0.0, [0.0; 2], 1.0));
    }
    let empty = Evaluator::default().compare(&Evaluator::default());
    assert_eq!((empty.difference, empty.p_value), (0.0, 1.0));
}

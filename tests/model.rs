//! The whole model on tiny sizes: what must not change a bit, what must not change a number, windows of
//! long documents, documents with little in them, and whether it learns.

mod common;

use common::tiny::{self, CLASSES, WINDOW};
use docre::checkpoint::{Want, build_to_infer};
use docre::device::Device;
use docre::dtype::DType;
use docre::extract::{EVIDENCE_THRESHOLD, Rule, predict};
use docre::layout::{Encoded, Labels, Tables};
use docre::model::batch::plan_windows;
use docre::model::config::ModelConfig;
use docre::model::{Batch, Model};
use docre::ops::axial::{Axes, axial};
use docre::ops::layernorm::layernorm;
use docre::ops::linear::linear;
use docre::ops::loss::{Objective, loss};
use docre::rng::Dropout;
use docre::tape::{Grads, Tape};
use docre::tensor::Tensor;
use docre::train::{Config, Example, Trainer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const FOCAL: Objective = Objective::AdaptiveFocal { gamma: 1.0, released: true };

/// Short and long documents, entities with none, one and several mentions, no entity at all.
fn documents() -> Vec<Encoded> {
    vec![
        tiny::document(1, 13, &[&[1], &[4, 9], &[7]]),
        tiny::document(2, WINDOW + 9, &[&[2], &[20, 39], &[], &[33]]),
        tiny::document(3, 6, &[]),
        tiny::document(4, 90, &[&[1, 50, 88], &[30]]),
        tiny::document(5, 9, &[&[3]]),
        tiny::document(6, 2, &[]),
        tiny::document(7, WINDOW, &[&[5], &[5], &[30], &[11], &[12, 12]]),
    ]
}

fn refs(documents: &[Encoded]) -> Vec<&Encoded> {
    documents.iter().collect()
}

/// The labels of a batch's logits, cell by cell those of `tiny::labels`.
fn labels(batch: &Batch, documents: &[&Encoded]) -> Labels {
    let mut all = Labels::new(batch.rows(), CLASSES);
    for (row, cell) in batch.cells.iter().enumerate() {
        let document = documents[cell.document as usize];
        let n = document.mentions.len();
        let own = tiny::labels(document.ids.len() as u64, n, CLASSES);
        let at = cell.subject as usize * n + cell.object as usize;
        (1..CLASSES).filter(|&r| own.get(at, r)).for_each(|r| all.set(row, r));
    }
    all
}

/// Loss and gradient of every parameter, the mean taken over `cells`.
fn gradients(model: &Model, documents: &[&Encoded], recompute: bool, cells: usize) -> (f64, Vec<f64>) {
    let batch = model.batch(documents).unwrap();
    let mut tape = Tape::training(3, 17);
    let logits = model.forward(&mut tape, &batch, recompute).unwrap();
    let value = loss(&mut tape, &logits, &labels(&batch, documents), FOCAL, None, cells).unwrap();
    let mut grads = Grads::new(model.params.device(), model.params.dtype(), model.params.len()).unwrap();
    tape.backward(&mut grads).unwrap();
    (value.read().unwrap().objective, grads.flat().to_f64().unwrap())
}

fn cells(documents: &[&Encoded]) -> usize {
    documents.iter().map(|d| d.mentions.len().pow(2)).sum()
}

#[test]
fn recomputed_layers_have_the_bits_of_a_plain_run() {
    let config = tiny::config(json!({}));
    assert!(config.encoder.hidden_dropout_prob > 0.0 && config.encoder.attention_probs_dropout_prob > 0.0);
    let model = tiny::lively::<f32>(&config, 2);
    let documents = documents();
    let documents = refs(&documents);
    let plain = gradients(&model, &documents, false, cells(&documents));
    assert!(plain.1.iter().all(|g| g.is_finite()) && plain.1.iter().filter(|g| **g != 0.0).count() > 1000);
    assert!(plain == gradients(&model, &documents, true, cells(&documents)), "recomputed");
    assert!(plain == gradients(&model, &documents, false, cells(&documents)), "a second run");
    let alone = tiny::lively::<f32>(&config, 1);
    assert!(plain == gradients(&alone, &documents, true, cells(&documents)), "on one thread");
}

/// The bits of every document's logits, in inference.
fn logits(model: &Model, documents: &[&Encoded]) -> Vec<Vec<u64>> {
    let batch = model.batch(documents).unwrap();
    let logits = model.forward(&mut Tape::inference(), &batch, false).unwrap();
    assert_eq!(logits.shape(), [batch.rows(), CLASSES]);
    let mut all = vec![Vec::new(); documents.len()];
    for (cell, row) in batch.cells.iter().zip(logits.to_f64().unwrap().chunks(CLASSES)) {
        assert!(row.iter().all(|x| x.is_finite()));
        all[cell.document as usize].extend(row.iter().map(|x| x.to_bits()));
    }
    all
}

/// What a test says of a head, and the models with it.
fn widths(head: &Value) -> [(String, ModelConfig); 2] {
    [(head.to_string(), tiny::config(head.clone())), (format!("{head}, wide"), tiny::wide_config(head.clone()))]
}

/// Weights as products take them give the bits that weights to be trained give, in either precision, on any number of
/// threads, a document alone or in company.
#[test]
fn weights_ready_for_use_change_no_bit() {
    for (head, config) in [
        json!({}),
        json!({"axial": "sequential", "block_size": 1}),
        json!({"pad_entities": 42}),
        json!({"pad_entities": 4, "pad_cells": "bias", "extractor_size": 15, "block_size": 5}),
        json!({"architecture": "atlop"}),
    ]
    .iter()
    .flat_map(widths)
    {
        let model = tiny::lively::<f32>(&config, 1);
        let documents = documents();
        for precision in [DType::F32, DType::BF16] {
            let on = |threads, ready| tiny::moved(&model, &Device::cpu_in(threads, precision).unwrap(), ready);
            let (first, ready) = (logits(&on(1, false), &refs(&documents)), on(2, true));
            assert!(first == logits(&ready, &refs(&documents)), "{head} {precision:?}");
            for (document, want) in documents.iter().zip(&first) {
                assert!(logits(&ready, &[document])[0] == *want, "{head} {precision:?}, alone");
            }
        }
    }
}

/// In int8 too a document's bits do not depend on the rest, and they are near those of f32: in the head, eight bits round
/// less than bf16 does before it.
#[test]
fn int8_has_the_same_bits_in_any_company() {
    for (head, config) in
        [json!({}), json!({"axial": "sequential", "block_size": 4}), json!({"pad_entities": 4, "pad_cells": "bias"})]
            .iter()
            .flat_map(widths)
    {
        let model = tiny::lively::<f32>(&config, 1);
        let documents = documents();
        let on = |threads| tiny::moved(&model, &Device::cpu_in_int8(threads).unwrap(), true);
        let (first, other) = (logits(&on(1), &refs(&documents)), on(2));
        for (document, want) in documents.iter().zip(&first) {
            assert!(logits(&other, &[document])[0] == *want, "{head}, alone");
        }
        let numbers = |all: &[Vec<u64>]| all.concat().into_iter().map(f64::from_bits).collect::<Vec<_>>();
        let exact = numbers(&logits(&model, &refs(&documents)));
        let in_bf16 = tiny::moved(&model, &Device::cpu_in(1, DType::BF16).unwrap(), true);
        let in_bf16 = numbers(&logits(&in_bf16, &refs(&documents)));
        let error = |x: &[f64]| x.iter().zip(&exact).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt();
        let (ours, plain) = (error(&numbers(&first)), error(&in_bf16));
        assert!(ours > 0.0 && ours != plain && ours <= 2.0 * plain, "{head}: {ours}, in bf16 {plain}");
    }
}

#[test]
fn int8_is_refused_for_atlop() {
    let (config, device) = (tiny::config(json!({"architecture": "atlop"})), Device::cpu_in_int8(1).unwrap());
    let error = build_to_infer("never read", config, Want::Everything, 0, &device, |_| ()).err().unwrap().to_string();
    assert!(error.contains("int8") && error.contains("ATLOP"), "{error}");
}

#[test]
fn recomputed_layers_have_the_bits_of_a_plain_run_in_bf16() {
    let heads = [json!({}), json!({"axial": "sequential"}), json!({"architecture": "atlop"})];
    for (head, config) in heads.iter().flat_map(widths) {
        let model = tiny::lively::<f32>(&config, 1);
        let documents = documents();
        let documents = refs(&documents);
        let on = |threads| tiny::moved(&model, &Device::cpu_in(threads, DType::BF16).unwrap(), false);
        let plain = gradients(&on(2), &documents, false, cells(&documents));
        assert!(plain.1.iter().all(|g| g.is_finite()) && plain.1.iter().filter(|g| **g != 0.0).count() > 1000);
        assert!(plain == gradients(&on(2), &documents, true, cells(&documents)), "{head}: recomputed");
        assert!(plain == gradients(&on(1), &documents, true, cells(&documents)), "{head}: on one thread");
    }
}

#[test]
fn a_document_has_the_same_bits_in_any_batch() {
    for head in [
        json!({}),
        json!({"pad_entities": 42}),
        json!({"pad_entities": 4, "pad_cells": "bias"}),
        json!({"architecture": "atlop"}),
    ] {
        let model = tiny::lively::<f32>(&tiny::config(head.clone()), 2);
        let documents = documents();
        let together = logits(&model, &refs(&documents));
        assert!(together.iter().map(Vec::len).sum::<usize>() > 100);
        let mut turned = refs(&documents);
        turned.rotate_left(3);
        turned.swap(0, 1);
        let turned_logits = logits(&model, &turned);
        let alone = |d: &Encoded| logits(&model, &[d]).remove(0);
        for (i, document) in documents.iter().enumerate() {
            assert!(alone(document) == together[i], "{head}: document {i} alone");
            let at = turned.iter().position(|d| std::ptr::eq(*d, document)).unwrap();
            assert!(turned_logits[at] == together[i], "{head}: document {i} in another order");
        }
    }
}

#[track_caller]
fn assert_close(what: &str, a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}[{i}]: {a} is not {b} to {tolerance}");
    }
}

#[test]
fn a_split_batch_equals_the_whole() {
    let model = tiny::lively::<f64>(&tiny::without_dropout(tiny::config(json!({}))), 2);
    let documents = documents();
    let documents = refs(&documents);
    let n = cells(&documents);
    let (whole, gradient) = gradients(&model, &documents, false, n);
    let (mut sum, mut sums) = (0.0, vec![0.0; gradient.len()]);
    for part in [&documents[..2], &documents[2..3], &documents[3..]] {
        let (loss, g) = gradients(&model, part, false, n);
        sum += loss;
        sums.iter_mut().zip(g).for_each(|(s, g)| *s += g);
    }
    assert_close("loss", &[sum], &[whole], 1e-12);
    assert_close("gradient", &sums, &gradient, 1e-12);
}

fn examples(documents: &[Encoded]) -> Vec<Example> {
    let example = |d: &Encoded| Example {
        labels: tiny::with_evidence(tiny::labels(d.ids.len() as u64, d.mentions.len(), CLASSES), d),
        encoded: d.clone(),
        unknown_gold: 0,
        teacher: Vec::new(),
    };
    documents.iter().map(example).collect()
}

fn schedule(lines: &str) -> Config {
    Config::parse(&format!("[data]\ntrain = [\"-\"]\n[model]\nstart = \"-\"\n[schedule]\n{lines}"), &[]).unwrap()
}

/// With evidence supervision.
fn supervised(lines: &str, weight: f64) -> Config {
    let mut config = schedule(lines);
    config.objective.evidence = weight;
    config
}

/// The same through the trainer: first moments are a tenth of the gradient.
#[test]
fn accumulated_batches_equal_one_batch() {
    let all = examples(&documents());
    let update = |batch: usize, head: Value| {
        let model = tiny::lively::<f64>(&tiny::without_dropout(tiny::config(head)), 2);
        let lines = format!("batch = {batch}\naccumulate = {}\nwarmup = 0.0\nclip = 1e9", 8usize.div_ceil(batch));
        let mut trainer = Trainer::new(model, &supervised(&lines, 0.1), 10).unwrap();
        let report = trainer.update(&all.iter().collect::<Vec<_>>()).unwrap();
        assert!(report.bad.is_none(), "{report:?}");
        (vec![report.loss, report.norm, report.evidence.unwrap()], trainer.optimizer.m.to_f64().unwrap())
    };
    for head in [json!({}), json!({"architecture": "atlop"})] {
        let (report, moments) = update(8, head.clone());
        assert!(report[0] > 0.5 && report[1] > 0.01 && report[2] > 0.1, "{report:?}");
        for batch in [1, 2, 3] {
            let (parts, part_moments) = update(batch, head.clone());
            assert_close("loss and norm", &parts, &report, 1e-12);
            assert_close("moments", &part_moments, &moments, 1e-12);
        }
    }
}

/// The trainer's gradient of the sum of both losses, through every op below the attention, by differences.
#[test]
fn supervised_gradients_agree_with_differences() {
    let (head, weight) = (json!({"axial_layers": 1}), 0.5);
    let config = tiny::without_dropout(tiny::config(head));
    let documents = [tiny::document(1, 24, &[&[1], &[4, 6], &[12]]), tiny::document(2, WINDOW + 5, &[&[3, 30], &[20]])];
    let all = examples(&documents);
    let all: Vec<&Example> = all.iter().collect();
    let trainer = |at: usize, step: f64| {
        let mut model = tiny::lively::<f64>(&config, 1);
        model.params.flat_mut().0.slice_mut::<f64>()[at] += step;
        let mut trainer = Trainer::new(model, &supervised("batch = 2\nwarmup = 0.0\nclip = 1e9", weight), 10).unwrap();
        let report = trainer.update(&all).unwrap();
        (report.loss + weight * report.evidence.unwrap(), trainer)
    };
    let (_, whole) = trainer(0, 0.0);
    let moments = whole.optimizer.m.to_f64().unwrap();
    let (specs, ranges) = (whole.model.params.specs(), whole.model.params.ranges());
    for name in ["layer.1.qkv.weight", "layer.0.up.weight", "embeddings.position"] {
        let range = &ranges[specs.iter().position(|s| s.name == name).unwrap()];
        for at in [range.start, range.start + range.len() / 3] {
            let (h, loss) = (1e-4, |step: f64| trainer(at, step).0);
            let want = (8.0 * (loss(h) - loss(-h)) - (loss(2.0 * h) - loss(-2.0 * h))) / (12.0 * h);
            let got = 10.0 * moments[at];
            assert!((got - want).abs() <= 1e-8 * want.abs().max(1.0), "d{name}[{at}]: {got}, by differences {want}");
        }
    }
}

/// Fourth-order central differences at two elements of every parameter.
fn check_differences(head: Value) {
    let config = tiny::without_dropout(tiny::config(head.clone()));
    let mut model = tiny::lively::<f64>(&config, 1);
    let documents = [tiny::document(1, 9, &[&[1], &[4, 6], &[]]), tiny::document(2, WINDOW + 5, &[&[3, 30], &[20]])];
    let documents = refs(&documents);
    let n = cells(&documents);
    let (_, gradient) = gradients(&model, &documents, false, n);
    let batch = model.batch(&documents).unwrap();
    let gold = labels(&batch, &documents);
    let names: Vec<(String, std::ops::Range<usize>)> =
        model.params.specs().iter().map(|s| s.name.clone()).zip(model.params.ranges().to_vec()).collect();
    let mut moving = 0;
    for (name, range) in names {
        // Of the embeddings, rows that some token uses.
        let first = if name == "embeddings.word" { range.start + 16 } else { range.start };
        for at in [first, range.start + range.len() / 2] {
            let mut moved = |step: f64| {
                model.params.flat_mut().0.slice_mut::<f64>()[at] += step;
                let logits = model.forward(&mut Tape::inference(), &batch, false).unwrap();
                let value = loss(&mut Tape::inference(), &logits, &gold, FOCAL, None, n).unwrap();
                let value = value.read().unwrap().objective;
                model.params.flat_mut().0.slice_mut::<f64>()[at] -= step;
                value
            };
            let h = 1e-4;
            let want = (8.0 * (moved(h) - moved(-h)) - (moved(2.0 * h) - moved(-2.0 * h))) / (12.0 * h);
            let error = (gradient[at] - want).abs();
            // Rounding of the loss gives 1e-15 / h, the fifth derivative (up to some 1e6 here) h^4.
            assert!(
                error <= 1e-8 * want.abs().max(1.0),
                "{head}: d{name}[{at}]: {}, by differences {want}",
                gradient[at]
            );
            moving += usize::from(want.abs() > 1e-6);
        }
    }
    assert!(moving > 40, "{head}: only {moving} elements matter");
}

#[test]
fn gradients_agree_with_differences() {
    check_differences(json!({}));
    check_differences(json!({"axial_layers": 0}));
    check_differences(json!({"axial": "sequential"}));
    check_differences(json!({"architecture": "atlop"}));
    check_differences(json!({"pad_entities": 42}));
    check_differences(json!({"pad_entities": 5, "pad_cells": "bias", "axial": "sequential"}));
}

/// The stage `name` of a forward pass in f64.
fn stage(model: &Model, batch: &Batch, name: &str) -> Tensor {
    let mut found = None;
    let mut keep = |stage: &'static str, t: &Tensor| {
        if stage == name {
            found = Some(t.clone());
        }
    };
    model.forward_observed(&mut Tape::inference(), batch, false, &mut keep).unwrap();
    found.unwrap()
}

/// The axial layers over the whole 42 x 42 table, from the exact table's cells amid zeros.
fn padded_axial(model: &Model, x: &Tensor, n: usize, pad: usize, sequential: bool) -> Vec<f64> {
    let (d, exact) = (x.dim(), x.to_f64().unwrap());
    let mut wide = vec![0.0; pad * pad * d];
    let place = |cell: usize| (cell / n * pad + cell % n) * d;
    (0..n * n).for_each(|c| wide[place(c)..place(c) + d].copy_from_slice(&exact[c * d..(c + 1) * d]));
    let mut x = Tensor::from_vec(model.params.device(), "test", &[pad * pad, d], wide).unwrap();
    let (tables, tape) = (Arc::new(Tables::exact(&[pad])), &mut Tape::inference());
    let get = |name: String| model.params.get(&name).unwrap();
    for l in 0..2 {
        let mut sum = x.clone();
        for (a, axes) in [Axes::Subject, Axes::Object].into_iter().enumerate() {
            let from = if sequential { sum.clone() } else { x.clone() };
            let of_axis = match sequential {
                true => get(format!("axial.{l}.{a}.qkv.weight")),
                false => get(format!("axial.{l}.qkv.weight")).view(a * 3 * d * d, &[3 * d, d]).unwrap(),
            };
            let qkv = linear(tape, &from, &of_axis, None, None).unwrap();
            let attended = axial(tape, &qkv, &tables, 2, axes).unwrap().remove(0);
            let (w, b) = (get(format!("axial.{l}.{a}.out.weight")), get(format!("axial.{l}.{a}.out.bias")));
            sum = linear(tape, &attended, &w, Some(&b), Some(&sum)).unwrap();
        }
        let (w, b) = (get(format!("axial.{l}.ffn.weight")), get(format!("axial.{l}.ffn.bias")));
        let y = linear(tape, &sum, &w, Some(&b), None).unwrap();
        let (w, b) = (get(format!("axial.{l}.norm.weight")), get(format!("axial.{l}.norm.bias")));
        x = layernorm(tape, &y, None, &w, &b, 1e-5, Dropout::default()).unwrap();
    }
    let all = x.to_f64().unwrap();
    (0..n * n).flat_map(|c| all[place(c)..place(c) + d].to_vec()).collect()
}

#[test]
fn zero_pads_equal_the_padded_table() {
    for (order, sequential) in [("released", false), ("sequential", true)] {
        let exact = tiny::lively::<f64>(&tiny::config(json!({"axial": order})), 2);
        let padded = tiny::lively::<f64>(&tiny::config(json!({"axial": order, "pad_entities": 42})), 2);
        let document = tiny::document(1, 20, &[&[1], &[4, 9], &[7], &[12]]);
        let (n, side) = (4, 5);
        let batch = exact.batch(&[&document]).unwrap();
        let want = padded_axial(&exact, &stage(&exact, &batch, "projection"), n, 42, sequential);
        let ours = stage(&padded, &padded.batch(&[&document]).unwrap(), "axial");
        let (d, all) = (ours.dim(), ours.to_f64().unwrap());
        let at = |cell: usize| (cell / n * side + cell % n) * d;
        let ours: Vec<f64> = (0..n * n).flat_map(|c| all[at(c)..at(c) + d].to_vec()).collect();
        assert_close(order, &ours, &want, 1e-12);
        let without = stage(&exact, &batch, "axial").to_f64().unwrap();
        let change = without.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(change > 1e-2, "{order}: the pads change the outputs by {change} only");
    }
}

#[test]
fn documents_with_little_in_them() {
    let nothing = [tiny::document(1, 2, &[]), tiny::document(2, 7, &[])];
    let odd = [tiny::document(3, 2, &[&[]]), tiny::document(4, 2, &[&[], &[0]]), tiny::document(5, 5, &[&[], &[]])];
    for head in [
        json!({}),
        json!({"pad_entities": 42}),
        json!({"pad_entities": 42, "pad_cells": "bias"}),
        json!({"architecture": "atlop"}),
    ] {
        let model = tiny::lively::<f32>(&tiny::config(head.clone()), 2);
        let rule = Rule { threshold: 0.0, max_labels: 4, evidence: None };
        for batch in [&refs(&nothing)[..], &refs(&odd), &[&nothing[0], &odd[1]], &[&odd[0]], &[]] {
            let (loss, gradient) = gradients(&model, batch, false, cells(batch));
            assert!(loss.is_finite() && gradient.iter().all(|g| g.is_finite()), "{head}: loss {loss}");
            let triples = predict(&model, batch, rule).unwrap();
            assert_eq!(triples.len(), batch.len());
        }
        let mut trainer = Trainer::new(model, &schedule("batch = 1"), 10).unwrap();
        let report = trainer.update(&examples(&nothing).iter().collect::<Vec<_>>()).unwrap();
        assert_eq!((report.loss, report.norm, report.bad), (0.0, 0.0, None), "{head}: documents without entities");
    }
}

/// The least overlap of neighbouring windows beyond two.
fn overlap(inner: usize) -> usize {
    128.min(inner / 4)
}

fn check_plan(length: usize, window: usize, ends: usize) {
    let plan = plan_windows(length, window, ends);
    let what = format!("{length} positions, windows of {window}, {ends} end tokens: {plan:?}");
    let (first, last) = (&plan[0], &plan[plan.len() - 1]);
    assert!(first.start == 0 && last.end == length, "{what}");
    for pair in plan.windows(2) {
        let least = if plan.len() == 2 { 0 } else { overlap(window - 1 - ends) };
        assert!(pair[0].start < pair[1].start && pair[1].start + least <= pair[0].end, "{what}");
    }
    for w in &plan {
        let rows = w.len() + usize::from(w.start > 0) + if w.end < length { ends } else { 0 };
        assert!(rows <= window && !w.is_empty(), "{what}");
    }
    match plan.len() {
        1 => assert!(length <= window, "{what}"),
        2 => assert_eq!(plan, [0..window - ends, length - window + 1..length], "{what}"), // as released
        k => {
            let (span, step) = (length - window + 1, window - 1 - ends - overlap(window - 1 - ends));
            assert!(span > window - ends && span.div_ceil(step) == k - 1, "{what}: not the smallest count");
        }
    }
}

#[test]
fn windows_cover_every_position() {
    for ends in [1, 2] {
        (1..20_000).filter(|l| *l < 3000 || l % 37 == 0).chain([20_000]).for_each(|l| check_plan(l, 512, ends));
        for window in (ends + 2..20).chain([WINDOW, 64, 127, 128, 129, 200]) {
            (1..700).for_each(|l| check_plan(l, window, ends));
        }
        let limit = 1023 - ends; // 1022 for BERT, 1021 for RoBERTa
        let count = |l| plan_windows(l, 512, ends).len();
        assert_eq!([512, 513, limit, limit + 1].map(count), [1, 2, 2, 3]);
    }
    assert_eq!(plan_windows(0, 512, 1), vec![0..0; 1]);
}

#[test]
fn windows_in_a_batch() {
    let mut config = tiny::encoder_json();
    config["model_type"] = json!("roberta");
    config["pad_token_id"] = json!(1);
    config["max_position_embeddings"] = json!(WINDOW + 2);
    config["docre"] = tiny::config(json!({})).to_json().parse::<Value>().unwrap()["docre"].clone();
    let config = docre::model::config::ModelConfig::parse(&config.to_string()).unwrap();
    let document = tiny::document(1, 100, &[&[1, 50, 98]]);
    let batch = Batch::new(&[&document], &config.encoder, config.head.as_ref().unwrap(), &Arc::default()).unwrap();
    let windows = batch.documents.windows_of(0);
    assert!(windows.len() > 3);
    for w in windows {
        let (ids, positions) = (&batch.ids[w.rows.clone()], &batch.positions[w.rows.clone()]);
        assert!(ids.len() <= WINDOW && ids[0] == 1 && ids[ids.len() - 1] == 2, "{w:?}");
        assert!(w.keep.end == 100 || ids[ids.len() - 2..] == [2, 2], "{w:?}");
        assert!(positions.iter().enumerate().all(|(i, &p)| p as usize == i + 2), "{positions:?}");
        assert_eq!(ids[w.local()], document.ids[w.keep.clone()]);
    }
    let merge = batch.merge.as_ref().unwrap();
    for (t, rows) in merge.rows.iter().enumerate() {
        let sum: f64 = merge.weight[rows.clone()].iter().sum();
        assert!(
            (sum - 1.0).abs() < 1e-9 && merge.index[rows].iter().all(|&r| batch.ids[r as usize] == document.ids[t])
        );
    }
}

/// Micro F1 in percent of a model's own predictions.
fn f1(model: &Model, examples: &[Example]) -> f64 {
    let (mut correct, mut guessed, mut gold) = (0, 0, 0);
    let documents: Vec<&Encoded> = examples.iter().map(|e| &e.encoded).collect();
    let triples = predict(model, &documents, Rule { threshold: 0.0, max_labels: 4, evidence: None }).unwrap();
    for (example, triples) in examples.iter().zip(triples) {
        let n = example.encoded.mentions.len();
        guessed += triples.len();
        correct += triples.iter().filter(|t| example.labels.get(t.head * n + t.tail, t.relation)).count();
        gold += example.labels.bits.iter().map(|w| w.count_ones() as usize).sum::<usize>();
    }
    200.0 * correct as f64 / (guessed + gold) as f64
}

#[test]
fn a_model_memorises_eight_documents() {
    for head in [json!({"axial_layers": 1}), json!({"architecture": "atlop"})] {
        let model = tiny::fresh::<f32>(&tiny::config(head.clone()), 2);
        let documents: Vec<Encoded> =
            (0..8).map(|d| tiny::document(d + 50, 14 + d as usize, &[&[1], &[4, 9], &[7], &[11]])).collect();
        let examples = examples(&documents);
        let all: Vec<&Example> = examples.iter().collect();
        let start = f1(&model, &examples);
        let text = "batch = 8\nwarmup = 0.05\nencoder_rate = 3e-3\naxial_rate = 3e-3\nhead_rate = 1e-2";
        let mut trainer = Trainer::new(model, &schedule(text), 400).unwrap();
        let losses: Vec<f64> = (0..400).map(|_| trainer.update(&all).unwrap().loss).collect();
        let end = f1(&trainer.model, &examples);
        eprintln!("{head}: loss {:.3} to {:.3}, F1 {start:.1} to {end:.1}", losses[0], losses[399]);
        assert!(start < 70.0 && end == 100.0, "{head}: F1 {start:.1} to {end:.1}, loss {}", losses[399]);
    }
}

/// Evidence of every relation that a model finds, (document, subject, object, class), and that of the examples.
fn evidence(model: &Model, examples: &[Example]) -> [BTreeMap<[usize; 4], Vec<u32>>; 2] {
    let documents: Vec<&Encoded> = examples.iter().map(|e| &e.encoded).collect();
    let rule = Rule { threshold: 0.0, max_labels: 4, evidence: Some(EVIDENCE_THRESHOLD) };
    let [mut found, mut gold] = [BTreeMap::new(), BTreeMap::new()];
    for (d, (example, triples)) in examples.iter().zip(predict(model, &documents, rule).unwrap()).enumerate() {
        found.extend(triples.into_iter().map(|t| ([d, t.head, t.tail, t.relation], t.evidence.unwrap())));
        let n = example.encoded.mentions.len();
        for &(cell, sentence) in &example.labels.evidence {
            let cell = cell as usize;
            for class in (1..CLASSES).filter(|&class| example.labels.get(cell, class)) {
                gold.entry([d, cell / n, cell % n, class]).or_insert_with(Vec::new).push(sentence);
            }
        }
    }
    [found, gold]
}

/// Four documents of five sentences; two pairs of entities have a relation each way, on the evidence of one sentence
/// and of two.
#[test]
fn a_model_memorises_the_evidence_of_four_documents() {
    let example = |d: usize| {
        let encoded = tiny::document(d as u64 + 70, 27, &[&[1], &[8, 20], &[12], &[18]]);
        let mut labels = Labels::new(16, CLASSES);
        let one = [(d % 5) as u32];
        let two = [((d + 1) % 4) as u32, 4];
        for (s, o, evidence) in [(0, 1, &one[..]), (1, 0, &one), (2, 3, &two), (3, 2, &two)] {
            let cell = 4 * s + o;
            labels.set(cell, 1 + (d + s) % (CLASSES - 1));
            labels.evidence.extend(evidence.iter().map(|&sentence| (cell as u32, sentence)));
        }
        Example { encoded, labels, unknown_gold: 0, teacher: Vec::new() }
    };
    let examples: Vec<Example> = (0..4).map(example).collect();
    let all: Vec<&Example> = examples.iter().collect();
    let model = tiny::fresh::<f32>(&tiny::without_dropout(tiny::config(json!({"axial_layers": 1}))), 2);
    let text = "batch = 4\nwarmup = 0.05\nencoder_rate = 3e-3\naxial_rate = 3e-3\nhead_rate = 1e-2";
    let mut trainer = Trainer::new(model, &supervised(text, 0.5), 400).unwrap();
    let losses: Vec<f64> = (0..400).map(|_| trainer.update(&all).unwrap().evidence.unwrap()).collect();
    let [found, gold] = evidence(&trainer.model, &examples);
    eprintln!("evidence loss {:.3} to {:.3}", losses[0], losses[399]);
    assert!(losses[0] > 0.5 && losses[399] < 0.1, "{} to {}", losses[0], losses[399]);
    assert_eq!(found, gold);
}

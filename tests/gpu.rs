//! Training on a GPU, real or in software (`DOCRE_TEST_DEVICE`): it follows the CPU, recomputing changes no bit,
//! a bad gradient changes nothing, and it learns.

mod common;

use common::gpu::{gpu, reorder};
use common::tiny;
use docre::checkpoint::{Want, build};
use docre::data::Relations;
use docre::data::output::Triple;
use docre::device::Device;
use docre::dtype::DType;
use docre::error::Error;
use docre::extract::{Budget, Rule, batches, predict};
use docre::layout::{Encoded, Labels};
use docre::model::config::ModelConfig;
use docre::model::names::{parameter_table, random_encoder};
use docre::model::params::initialize;
use docre::model::{Model, Params};
use docre::train::state::{self, Companions, Progress};
use docre::train::step::Pending;
use docre::train::{Config, Example, Trainer};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// The smallest sizes that the kernels take: heads of 32, blocks of 32, windows of 64 pieces.
fn config(dropout: f64) -> ModelConfig {
    let text = json!({
        "model_type": "bert", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 96, "vocab_size": tiny::VOCABULARY, "max_position_embeddings": 64, "type_vocab_size": 2,
        "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout,
        "docre": {"extractor_size": 64, "block_size": 32, "classes": tiny::CLASSES, "axial_layers": 2, "axial_heads": 2},
    });
    ModelConfig::parse(&text.to_string()).unwrap()
}

fn model(device: &Device, config: &ModelConfig) -> Model {
    let mut table = parameter_table(config);
    random_encoder(&mut table);
    let mut flat = vec![0f32; table.iter().map(|p| p.elements()).sum()];
    initialize(&table, &(0..table.len()).collect::<Vec<_>>(), 5, &mut flat);
    Model { config: config.clone(), params: Params::new(device, table, flat).unwrap() }
}

/// Short and long documents, one of two windows, one without a relation.
fn examples() -> Vec<Example> {
    let mentions: [&[&[u32]]; 5] =
        [&[&[1], &[4, 9], &[7]], &[&[2], &[20, 70], &[], &[33]], &[&[3]], &[&[5], &[5], &[11]], &[&[1], &[6, 6]]];
    let example = |(i, (mentions, length)): (usize, (&[&[u32]], usize))| {
        let n = mentions.len();
        let labels = if i == 2 { Labels::new(n * n, tiny::CLASSES) } else { tiny::labels(i as u64, n, tiny::CLASSES) };
        let encoded = tiny::document(i as u64, length, mentions);
        let labels = tiny::with_evidence(labels, &encoded);
        Example { labels, encoded, unknown_gold: 0, teacher: Vec::new() }
    };
    mentions.into_iter().zip([13, 80, 6, 33, 9]).enumerate().map(example).collect()
}

fn trainer(device: &Device, dropout: f64, overrides: &[&str]) -> Trainer {
    let settings: Value =
        json!({"encoder_rate": 1e-3, "axial_rate": 1e-3, "head_rate": 2e-3, "batch": 3, "accumulate": 2});
    let line = |(key, value): (&String, &Value)| format!("schedule.{key}={value}");
    let mut all: Vec<String> = settings.as_object().unwrap().iter().map(line).collect();
    all.push("objective.evidence=0.1".into());
    all.extend(overrides.iter().map(|o| o.to_string()));
    let text = "[data]\ntrain = [\"x\"]\n[model]\nstart = \"x\"\n";
    Trainer::new(model(device, &config(dropout)), &Config::parse(text, &all).unwrap(), 100).unwrap()
}

fn losses(trainer: &mut Trainer, steps: usize) -> Vec<f64> {
    let examples = examples();
    let all: Vec<&Example> = examples.iter().collect();
    (0..steps).map(|_| trainer.update(&all).unwrap().loss).collect()
}

fn weights(trainer: &Trainer) -> Vec<f64> {
    trainer.model.params.flat().to_f64().unwrap()
}

/// The same dropout masks everywhere: with them too the losses of ten updates stay as near to those of the CPU in
/// f32 as the losses of plain bf16 code (activations rounded by the CPU), times two.
#[test]
fn ten_updates_follow_the_cpu_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let exact = losses(&mut trainer(&Device::cpu(2).unwrap(), 0.1, &[]), 10);
    let twin = Device::cpu(2).unwrap();
    let Device::Cpu(cpu) = &twin else { panic!("a CPU") };
    cpu.round();
    let plain = losses(&mut trainer(&twin, 0.1, &[]), 10);
    let ours = losses(&mut trainer(&device, 0.1, &[]), 10);
    let error = |x: &[f64]| x.iter().zip(&exact).map(|(x, e)| (x - e).abs()).sum::<f64>() / 10.0;
    println!("mean error of ten losses: {:.2e}, plain bf16 {:.2e}; {exact:.4?}", error(&ours), error(&plain));
    assert!(error(&ours) <= 2.0 * error(&plain) + exact[0] / 256.0, "{ours:?}\n{plain:?}\n{exact:?}");
    assert!(exact[9] < exact[0] && ours[9] < ours[0], "it learns");
}

#[test]
fn recomputing_and_the_order_of_warps_change_no_bit_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let run = |overrides: &[&str]| {
        let mut trainer = trainer(&device, 0.1, overrides);
        let losses = losses(&mut trainer, 3);
        (losses, weights(&trainer), trainer.optimizer.m.to_f64().unwrap())
    };
    let plain = run(&[]);
    assert!(plain.1.iter().all(|w| w.is_finite()));
    assert!(run(&["schedule.recompute=true"]) == plain, "recomputing");
    reorder(5);
    let again = run(&[]);
    reorder(0);
    assert!(again == plain, "another order of warps");
}

#[test]
fn a_bad_gradient_changes_nothing_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let mut trainer = trainer(&device, 0.0, &[]);
    losses(&mut trainer, 1);
    let (before, updates) = (weights(&trainer), trainer.optimizer.updates);
    let mut broken = before.iter().map(|&w| w as f32).collect::<Vec<_>>();
    let last = broken.len() - 1;
    broken[last] = f32::NAN; // the bias of the last class
    trainer.model.params = Params::new(&device, trainer.model.params.specs().to_vec(), broken.clone()).unwrap();
    let examples = examples();
    let report = trainer.update(&examples.iter().collect::<Vec<_>>()).unwrap();
    assert!(report.bad.is_some() && trainer.optimizer.updates == updates, "{report:?}");
    let after = weights(&trainer);
    let same = after.iter().zip(&broken).all(|(a, b)| (*a as f32).to_bits() == b.to_bits());
    assert!(same, "weights were changed");
}

/// Three updates under way at once have the bits of three that are waited for; after a bad one none is done.
#[test]
fn updates_that_are_read_late_change_no_bit_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let (mut at_once, mut late) = (trainer(&device, 0.1, &[]), trainer(&device, 0.1, &[]));
    let (examples, want) = (examples(), losses(&mut at_once, 3));
    let all: Vec<&Example> = examples.iter().collect();
    let mut pending: Vec<Pending> = Vec::new();
    (0..3).for_each(|_| pending.push(late.start(&all, pending.last()).unwrap()));
    let found: Vec<f64> = pending.iter().map(|p| late.read(p).unwrap().loss).collect();
    assert!(found == want && weights(&late) == weights(&at_once));

    let good: Vec<f32> = weights(&late).iter().map(|&w| w as f32).collect();
    let mut broken = good.clone();
    *broken.last_mut().unwrap() = f32::NAN;
    let specs = late.model.params.specs().to_vec();
    let set = |trainer: &mut Trainer, flat: &[f32]| {
        trainer.model.params = Params::new(&device, specs.clone(), flat.to_vec()).unwrap()
    };
    set(&mut late, &broken);
    let bad = late.start(&all, None).unwrap();
    set(&mut late, &good);
    let next = late.start(&all, Some(&bad)).unwrap();
    assert!(late.read(&bad).unwrap().bad.is_some() && late.optimizer.updates == 3);
    assert!(late.read(&next).unwrap().norm.is_finite());
    assert!(weights(&late) == weights(&at_once), "an update after a bad one was done");
    late.optimizer.updates = 3;
    assert!(losses(&mut late, 1) == losses(&mut at_once, 1) && weights(&late) == weights(&at_once));
}

#[test]
fn what_runs_side_by_side_is_taken_in_order_until_an_error_on_the_gpu() {
    let gpu = gpu();
    for device in gpu.iter().map(|(device, _)| device.clone()).chain([Device::cpu(3).unwrap()]) {
        let run = |count: usize, unwelcome: usize| {
            let work = |i: usize| {
                sleep(Duration::from_millis(if i.is_multiple_of(3) { 9 } else { 1 }));
                if i == 20 { Err(Error::data("E-TEST", "made")) } else { Ok(i) }
            };
            let mut taken = Vec::new();
            let ended = device.side_by_side(count, work, |i| {
                taken.push(i);
                if i == unwelcome { Err(Error::data("E-TEST", "taken")) } else { Ok(()) }
            });
            (taken, ended.err().map(|e| e.to_string()).unwrap_or_default())
        };
        for count in [0, 1, 2, 20] {
            assert_eq!(run(count, 99), ((0..count).collect(), String::new()));
        }
        for (unwelcome, last, why) in [(99, 19, "made"), (5, 5, "taken")] {
            let (taken, error) = run(30, unwelcome);
            assert!(taken == (0..=last).collect::<Vec<_>>() && error.contains(why), "{taken:?}, {error}");
        }
    }
}

#[test]
fn what_finds_no_memory_beside_others_is_done_by_itself_on_the_gpu() {
    let gpu = gpu();
    for device in gpu.iter().map(|(device, _)| device.clone()).chain([Device::cpu(3).unwrap()]) {
        let ledger = device.ledger();
        ledger.set_limit(Some(ledger.live() + (10 << 20)));
        let (tries, mut taken) = (AtomicUsize::new(0), Vec::new());
        let run = |bytes: usize, taken: &mut Vec<usize>| {
            let work = |i: usize| {
                tries.fetch_add(1, Ordering::Relaxed);
                let _held = device.zeros("test", DType::F32, &[bytes / 4])?;
                sleep(Duration::from_millis(30));
                Ok(i)
            };
            device.side_by_side(6, work, |i| {
                taken.push(i);
                Ok(())
            })
        };
        let alone = run(11 << 20, &mut taken);
        assert!(alone.is_err_and(|e| e.code() == "E-OOM") && taken.is_empty());
        tries.store(0, Ordering::Relaxed);
        run(6 << 20, &mut taken).unwrap();
        assert_eq!(taken, [0, 1, 2, 3, 4, 5]);
        assert!(tries.into_inner() > 6, "they never stood beside each other");
        ledger.set_limit(None);
    }
}

/// Documents in several parts that go through the model side by side have the bits of each by itself: tiles and grids
/// differ, the order of no sum does.
#[test]
fn a_document_has_the_same_bits_beside_others_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let mut config = config(0.0);
    config.encoder.intermediate_size = 512;
    config.head.as_mut().unwrap().extractor_size = 256;
    let model = model(&device, &config);
    let mentions: Vec<Vec<u32>> = (1..30).map(|token| vec![token]).collect();
    let mentions: Vec<&[u32]> = mentions.iter().map(Vec::as_slice).collect();
    let mut documents: Vec<Encoded> = examples().into_iter().map(|e| e.encoded).collect();
    documents.extend((0..10).map(|i| tiny::document(10 + i, 60 + 3 * i as usize, &mentions)));
    let documents: Vec<&Encoded> = documents.iter().collect();
    assert!(batches(&documents, Budget::of_part(&device)).len() > 1);
    let every = Rule { threshold: f64::NEG_INFINITY, max_labels: tiny::CLASSES, evidence: None };
    let margins = |documents: &[&Encoded]| -> Vec<Vec<(usize, usize, usize, u32)>> {
        let bits = |t: &Triple| (t.head, t.tail, t.relation, t.margin.to_bits());
        predict(&model, documents, every).unwrap().iter().map(|found| found.iter().map(bits).collect()).collect()
    };
    let (together, alone) = (margins(&documents), documents.iter().flat_map(|d| margins(&[*d])).collect::<Vec<_>>());
    assert!(together.iter().map(Vec::len).sum::<usize>() > 10_000);
    assert!(together == alone);
}

/// Two updates, a checkpoint, and two more from its files have the bits of four.
#[test]
fn a_resumed_run_has_the_bits_of_one_that_was_not_cut_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let mut whole = trainer(&device, 0.1, &[]);
    let all = losses(&mut whole, 4);
    let mut first = trainer(&device, 0.1, &[]);
    losses(&mut first, 2);
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (1..tiny::CLASSES).map(|r| format!("P{r}")).collect();
    let with = Companions { tokenizer: Vec::new(), relations: Relations::from_names(names) };
    let progress = Progress { updates: first.optimizer.updates, ..Progress::default() };
    let saved = state::save_checkpoint(dir.path(), &first, &progress, &with, 1).unwrap();
    drop(first);
    let (model, _) = build::<f32>(&saved, config(0.1), Want::Everything, 0, &device).unwrap();
    let mut second = trainer(&device, 0.1, &[]);
    second.model = model;
    state::restore(&saved, &state::read_progress(&saved).unwrap(), &mut second.optimizer).unwrap();
    assert_eq!(losses(&mut second, 2), all[2..]);
    assert!(weights(&second) == weights(&whole), "weights");
    let moments = |t: &Trainer| (t.optimizer.m.to_f64().unwrap(), t.optimizer.v.to_f64().unwrap());
    assert!(moments(&second) == moments(&whole), "moments");
}

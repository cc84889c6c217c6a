//! Parity with the reference programs: every stored tensor, loss, gradient and prediction of the golden
//! files (made in f64 by the released KD-DocRE and ATLOP). Error relative to max(largest golden value, 1e-3).

mod common;

use common::golden::{golden, golden_config};
use common::gpu::gpu;
use common::real;
use docre::checkpoint::{Stored, TensorFile, Want, build, load, save};
use docre::device::Device;
use docre::dtype::{DType, Real};
use docre::layout::{Encoded, Labels};
use docre::model::batch::Batch;
use docre::model::config::{Architecture, HeadConfig, ModelConfig, PadCells};
use docre::model::names::{Group, parameter_table};
use docre::model::{Model, Params, encoder};
use docre::ops::attention_rows::attention_rows;
use docre::ops::gather::gather;
use docre::ops::loss::{Distillation, Objective, TeacherLogits, loss, predict};
use docre::tape::{Grads, Tape};
use docre::tensor::Tensor;
use half::bf16;
use std::collections::BTreeMap;

/// max |ours - golden| <= tolerance * max(max |golden|, 1e-3); a NaN never passes.
fn close(what: &str, ours: &[f64], golden: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), golden.len(), "{what}: length");
    let scale = golden.iter().fold(1e-3, |m: f64, g| m.max(g.abs()));
    for (i, (o, g)) in ours.iter().zip(golden).enumerate() {
        let error = (o - g).abs();
        assert!(error <= tolerance * scale, "{what}[{i}]: error {error:.3e} of {scale:.3e}, allowed {tolerance:.0e}");
    }
}

fn read(file: &TensorFile, name: &str) -> Vec<f64> {
    file.read_f64(name).unwrap_or_else(|e| panic!("{name}: {e}")).1
}

fn bytes(file: &TensorFile, name: &str) -> (usize, Vec<bool>) {
    let (shape, values) = file.read_u64(name).unwrap();
    (shape[1], values.into_iter().map(|v| v != 0).collect())
}

struct Case {
    file: TensorFile,
    documents: Vec<Encoded>,
}

impl Case {
    fn open(name: &str) -> Self {
        let file = golden(name);
        let count = file.names().filter(|n| n.ends_with(".input_ids")).count();
        let documents = (0..count).map(|d| document(&file, d)).collect();
        Case { file, documents }
    }
    fn labels(&self, config: &ModelConfig) -> Labels {
        let classes = config.head.as_ref().unwrap().classes;
        let mut all = Labels::new(0, classes);
        for d in 0..self.documents.len() {
            let (width, hot) = bytes(&self.file, &format!("doc{d}.labels"));
            let mut labels = Labels::new(hot.len() / width, classes);
            (0..hot.len()).filter(|&i| hot[i] && i % width > 0).for_each(|i| labels.set(i / width, i % width));
            all.append(&labels);
        }
        all
    }
}

fn document(file: &TensorFile, d: usize) -> Encoded {
    let (_, ids) = file.read_i64(&format!("doc{d}.input_ids")).unwrap();
    let mut mentions: Vec<Vec<u32>> = Vec::new();
    if file.info(&format!("doc{d}.mentions")).is_some() {
        let (_, rows) = file.read_i64(&format!("doc{d}.mentions")).unwrap();
        for row in rows.chunks(3) {
            mentions.resize_with(mentions.len().max(row[0] as usize + 1), Vec::new);
            mentions[row[0] as usize].push(row[1] as u32 + 1);
        }
    }
    Encoded { ids: ids.into_iter().map(|i| i as u32).collect(), mentions, ..Encoded::default() }
}

fn model<T: Real>(name: &str, pad: usize) -> Model {
    model_on::<T>(&Device::cpu(2).unwrap(), name, pad, |x| x)
}

/// Its weights passed through `round`.
fn model_on<T: Real>(device: &Device, name: &str, pad: usize, round: fn(T) -> T) -> Model {
    let (mut config, _) = golden_config(name);
    let head = config.head.as_mut().unwrap();
    (head.pad_entities, head.pad_cells) = (pad, PadCells::Bias);
    if head.architecture == Architecture::Atlop {
        head.context_eps = 1e-5;
    }
    let table = parameter_table(&config);
    let path = common::golden::golden_path(&format!("{name}.weights"));
    let (flat, _) = load::<T>(path, &table, Want::Everything).unwrap();
    let params = Params::new(device, table, flat.into_iter().map(round).collect()).unwrap();
    Model { config, params }
}

/// Rows of each document's real cells among the cells of the padded tables.
fn real_cells(batch: &Batch, d: usize) -> Vec<usize> {
    let tables = &batch.grid.tables;
    let (n, side, base) = (tables.entities(d), tables.side[d], tables.cells.starts[d]);
    (0..n * n).map(|c| base + c / n * side + c % n).collect()
}

fn rows(t: &Tensor, rows: impl IntoIterator<Item = usize>) -> Vec<f64> {
    let (all, dim) = (t.to_f64().unwrap(), t.dim());
    rows.into_iter().flat_map(|r| all[r * dim..(r + 1) * dim].to_vec()).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    assert_eq!(a.len(), b.len());
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn parity<T: Real>(weights: &str, name: &str, pad: usize, tolerance: f64) {
    let model = model::<T>(weights, pad);
    let case = Case::open(name);
    let batch = model.batch(&case.documents.iter().collect::<Vec<_>>()).unwrap();
    let mut tape = Tape::training(0, 0);
    let mut seen = BTreeMap::new();
    let mut keep = |what, t: &Tensor| drop(seen.insert(what, t.clone()));
    let logits = model.forward_observed(&mut tape, &batch, false, &mut keep).unwrap();
    let atlop = model.head().unwrap().architecture == Architecture::Atlop;
    check_logits(&case, &batch, &logits, model.head().unwrap().top_k, tolerance);
    if !atlop {
        (0..case.documents.len()).for_each(|d| check_stages(&case, &batch, &seen, d, tolerance));
        check_attention(&model, &case, tolerance);
    }
    check_loss_and_gradients::<T>(&model, &case, tape, &logits, atlop, tolerance);
}

fn check_logits(case: &Case, batch: &Batch, logits: &Tensor, top_k: usize, tolerance: f64) {
    let predicted = predict(logits, top_k).unwrap();
    for d in 0..case.documents.len() {
        let of_document: Vec<usize> = (0..batch.rows()).filter(|&r| batch.cells[r].document as usize == d).collect();
        let ours = rows(logits, of_document.iter().copied());
        close(&format!("doc{d}.logits"), &ours, &read(&case.file, &format!("doc{d}.logits")), tolerance);
        let (width, hot) = bytes(&case.file, &format!("doc{d}.prediction"));
        for (i, &row) in of_document.iter().enumerate() {
            let golden: Vec<usize> = (1..width).filter(|c| hot[i * width + c]).collect();
            let mut ours: Vec<usize> = predicted[row].iter().map(|p| p.0 as usize).collect();
            ours.sort();
            assert_eq!(ours, golden, "doc{d}.prediction of cell {i}");
        }
    }
}

fn check_stages(case: &Case, batch: &Batch, seen: &BTreeMap<&str, Tensor>, d: usize, tolerance: f64) {
    let check = |stage: &str, ours: Vec<f64>| {
        let name = format!("doc{d}.{stage}");
        close(&name, &ours, &read(&case.file, &name), tolerance);
    };
    let n = batch.grid.tables.entities(d);
    let pair = |c: usize| batch.grid.pair(d, c / n, c % n).unwrap();
    check("hidden", rows(&seen["hidden"], batch.documents.tokens.range(d)));
    check("entity", rows(&seen["entity"], batch.grid.entities.range(d)));
    check("context", rows(&seen["context"], (0..n * n).map(pair)));
    check("projection", rows(&seen["projection"], real_cells(batch, d)));
    check("axial", rows(&seen["axial"], real_cells(batch, d)));
}

/// With every token an entity of its own, its attention row is the row of the L x L matrix.
fn check_attention(model: &Model, case: &Case, tolerance: f64) {
    let heads = model.config.encoder.num_attention_heads;
    for (d, document) in case.documents.iter().enumerate() {
        let name = format!("doc{d}.attention");
        if case.file.info(&name).is_none() {
            continue;
        }
        let length = document.ids.len();
        let all = Encoded { mentions: (0..length as u32).map(|t| vec![t]).collect(), ..document.clone() };
        let batch = model.batch(&[&all]).unwrap();
        let mut tape = Tape::inference();
        let e = encoder::encode(&mut tape, &model.params, &model.config.encoder, &batch, false).unwrap();
        let a = attention_rows(&mut tape, &e.qkv, &e.lse, &batch.documents, heads, e.drop).unwrap().to_f64().unwrap();
        let at = |h: usize, i: usize, j: usize| a[(i * heads + h) * length + j];
        let ours: Vec<f64> =
            (0..heads * length * length).map(|x| at(x / (length * length), x / length % length, x % length)).collect();
        close(&name, &ours, &read(&case.file, &name), tolerance);
    }
}

fn check_loss_and_gradients<T: Real>(
    model: &Model,
    case: &Case,
    mut tape: Tape,
    logits: &Tensor,
    atlop: bool,
    tolerance: f64,
) {
    let (device, labels) = (model.params.device(), case.labels(&model.config));
    let teacher = (!atlop).then(|| {
        let values = read(&case.file, "teacher_logits").into_iter().map(<T as Real>::of).collect();
        let logits = Tensor::from_vec::<T>(device, "teacher", logits.shape(), values).unwrap();
        TeacherLogits { logits, weight: 1.0, kind: Distillation::Mse }
    });
    let objective =
        if atlop { Objective::AdaptiveThreshold } else { Objective::AdaptiveFocal { gamma: 1.0, released: true } };
    let value = loss(&mut tape, logits, &labels, objective, teacher.as_ref(), logits.rows()).unwrap().read().unwrap();
    let golden = |name: &str| read(&case.file, name);
    if atlop {
        close("loss", &[value.objective], &golden("loss"), tolerance);
    } else {
        close("loss.focal", &[value.objective], &golden("loss.focal"), tolerance);
        close("loss.mse", &[value.distillation], &golden("loss.mse"), tolerance);
        close("loss.total", &[value.objective + value.distillation], &golden("loss.total"), tolerance);
    }
    let mut grads = Grads::new(device, model.params.dtype(), model.params.len()).unwrap();
    tape.backward(&mut grads).unwrap();
    check_gradients::<T>(model, case, grads.flat(), tolerance);
}

/// Writes the flat gradient under the released names and compares it name by name, both ways.
fn check_gradients<T: Real>(model: &Model, case: &Case, flat: &Tensor, tolerance: f64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gradient.safetensors");
    let mut out = std::fs::File::create(&path).unwrap();
    let stored = if T::DTYPE == DType::F64 { Stored::F64 } else { Stored::F32 };
    save(&mut out, model.params.specs(), flat.slice::<T>(), stored, &BTreeMap::new()).unwrap();
    let ours = TensorFile::open(&path).unwrap();
    let names: Vec<&str> = case.file.names().filter_map(|n| n.strip_prefix("grad.")).collect();
    assert!(names.len() > 30 && model.params.specs().iter().any(|s| s.group == Group::Encoder));
    for name in ours.names() {
        assert!(names.contains(&name), "no golden gradient of {name}");
    }
    for name in names {
        close(&format!("grad.{name}"), &read(&ours, name), &read(&case.file, &format!("grad.{name}")), tolerance);
    }
}

const F64: f64 = 1e-9;
/// The gpu files are stored as f32.
const F64_OF_F32: f64 = 1e-5;
const F32: f64 = 1e-4;

#[test]
fn golden_bert_exact() {
    parity::<f64>("bert", "bert.exact", 0, F64);
    parity::<f32>("bert", "bert.exact", 0, F32);
}

#[test]
fn golden_bert_pad42() {
    parity::<f64>("bert", "bert.pad42", 42, F64);
    parity::<f32>("bert", "bert.pad42", 42, F32);
}

#[test]
fn golden_roberta_exact() {
    parity::<f64>("roberta", "roberta.exact", 0, F64);
    parity::<f32>("roberta", "roberta.exact", 0, F32);
}

#[test]
fn golden_roberta_pad42() {
    parity::<f64>("roberta", "roberta.pad42", 42, F64);
    parity::<f32>("roberta", "roberta.pad42", 42, F32);
}

#[test]
fn golden_gpu_exact() {
    parity::<f64>("gpu", "gpu.exact", 0, F64_OF_F32);
    parity::<f32>("gpu", "gpu.exact", 0, F32);
}

#[test]
fn golden_gpu_pad42() {
    parity::<f64>("gpu", "gpu.pad42", 42, F64_OF_F32);
    parity::<f32>("gpu", "gpu.pad42", 42, F32);
}

#[test]
fn golden_atlop() {
    parity::<f64>("atlop", "atlop", 0, F64);
    parity::<f32>("atlop", "atlop", 0, F32);
}

/// What a model makes of a case: logits of each document, losses, gradients by their released names.
fn numbers(model: &Model, case: &Case) -> BTreeMap<String, Vec<f64>> {
    let device = model.params.device();
    let batch = model.batch(&case.documents.iter().collect::<Vec<_>>()).unwrap();
    let mut tape = Tape::training(0, 0);
    let logits = model.forward(&mut tape, &batch, false).unwrap();
    let mut found = BTreeMap::new();
    for d in 0..case.documents.len() {
        let of_document = (0..batch.rows()).filter(|&r| batch.cells[r].document as usize == d);
        found.insert(format!("doc{d}.logits"), rows(&logits, of_document));
    }
    let values = read(&case.file, "teacher_logits").into_iter().map(|x| x as f32).collect();
    let teacher = Tensor::from_vec::<f32>(device, "teacher", logits.shape(), values).unwrap();
    let teacher = TeacherLogits { logits: teacher, weight: 1.0, kind: Distillation::Mse };
    let objective = Objective::AdaptiveFocal { gamma: 1.0, released: true };
    let labels = case.labels(&model.config);
    let value = loss(&mut tape, &logits, &labels, objective, Some(&teacher), logits.rows()).unwrap();
    let value = value.read().unwrap();
    let mut grads = Grads::new(device, DType::F32, model.params.len()).unwrap();
    tape.backward(&mut grads).unwrap();
    found.insert("loss.focal".into(), vec![value.objective]);
    found.insert("loss.mse".into(), vec![value.distillation]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gradient.safetensors");
    let mut out = std::fs::File::create(&path).unwrap();
    let flat = grads.flat().to_cpu().unwrap();
    save(&mut out, model.params.specs(), flat.slice::<f32>(), Stored::F32, &BTreeMap::new()).unwrap();
    let file = TensorFile::open(&path).unwrap();
    found.extend(file.names().map(|name| (format!("grad.{name}"), read(&file, name))));
    found
}

/// The rule of low precision: of each tensor the device's error is at most twice that of plain bf16 code, which is
/// the CPU's with every activation rounded where an op hands it on. Root mean square, since the largest error of
/// few numbers is luck; a loss is one number: its floor is a unit of bf16.
fn parity_in_bf16(device: &Device, name: &str, pad: usize) {
    let case = Case::open(name);
    let twin = Device::cpu(2).unwrap();
    let Device::Cpu(cpu) = &twin else { panic!("a CPU") };
    cpu.round();
    let plain = numbers(&model_on::<f32>(&twin, "gpu", pad, |x| bf16::from_f32(x).to_f32()), &case);
    let ours = numbers(&model_on::<f32>(device, "gpu", pad, |x| x), &case);
    let mut worst = (0.0, "");
    for (name, ours) in &ours {
        let golden = read(&case.file, name);
        let norm = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / x.len().max(1) as f64).sqrt();
        let error = |x: &[f64]| norm(&x.iter().zip(&golden).map(|(x, g)| x - g).collect::<Vec<_>>());
        assert_eq!(ours.len(), golden.len(), "{name}");
        let (error, of_plain) = (error(ours), error(&plain[name]));
        // The gradient of a key's bias is 0 in exact arithmetic: what is left is the sum of the roundings of dS, which
        // eager code rounds too, and of dK. The weight's gradient, a sum of the same dK times inputs of about 1, has
        // their size: a unit of bf16 of it for each of the two.
        let floor = match name.strip_suffix("key.bias") {
            _ if ours.len() == 1 => golden[0].abs() / 256.0,
            Some(stem) => norm(&read(&case.file, &format!("{stem}key.weight"))) / 128.0,
            None => 1e-6,
        };
        assert!(error <= 2.0 * of_plain + floor, "{name}: {error:e}, plain {of_plain:e}, size {:e}", norm(&golden));
        if ours.len() > 1 && of_plain > 1e-6 && error / of_plain > worst.0 {
            worst = (error / of_plain, name);
        }
    }
    println!("{name}: largest error / plain error: {:.2} ({})", worst.0, worst.1);
}

#[test]
fn golden_numbers_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    parity_in_bf16(&device, "gpu.exact", 0);
    parity_in_bf16(&device, "gpu.pad42", 42);
}

#[test]
fn golden_numbers_in_bf16() {
    let device = Device::cpu_in(2, DType::BF16).unwrap();
    parity_in_bf16(&device, "gpu.exact", 0);
    parity_in_bf16(&device, "gpu.pad42", 42);
}

/// A real encoder on real documents, one of them of two windows.
#[test]
fn golden_minilm_encoder() {
    let Some(dir) = real::minilm() else { return };
    let head = HeadConfig {
        extractor_size: 8,
        block_size: 8,
        axial_layers: 1,
        axial_heads: 1,
        ..HeadConfig::released(Architecture::KdDocre, 2)
    };
    let config = ModelConfig::load(&dir).unwrap().with_head(head, Vec::new()).unwrap();
    let case = Case::open("minilm_encoder");
    assert_eq!(case.documents.iter().map(|d| d.ids.len()).collect::<Vec<_>>(), [161, 259, 513]);
    let golden = |d: usize| read(&case.file, &format!("doc{d}.hidden"));
    let hidden = |device: Device| {
        let (model, _) = build::<f32>(&dir, config.clone(), Want::Encoder, 1, &device).unwrap();
        let batch = model.batch(&case.documents.iter().collect::<Vec<_>>()).unwrap();
        let mut tape = Tape::inference();
        let encoded = encoder::encode(&mut tape, &model.params, &model.config.encoder, &batch, false).unwrap();
        let hidden = gather(&mut tape, &encoded.hidden, batch.merge.as_ref().unwrap()).unwrap();
        (0..case.documents.len()).map(|d| rows(&hidden, batch.documents.tokens.range(d))).collect::<Vec<_>>()
    };
    for (d, ours) in hidden(Device::cpu_in(2, DType::BF16).unwrap()).iter().enumerate() {
        let (golden, width) = (golden(d), config.encoder.hidden_size);
        let cosines: Vec<f64> = ours.chunks(width).zip(golden.chunks(width)).map(|(a, b)| cosine(a, b)).collect();
        eprintln!("document {d} in bf16: least cosine {:.5}", cosines.iter().fold(1.0, |a: f64, b| a.min(*b)));
        // NaN-safe.
        assert!(ours.len() == golden.len() && cosines.iter().all(|&c| c >= 0.9998), "document {d}: {cosines:?}");
    }
    for (d, ours) in hidden(Device::cpu(2).unwrap()).iter().enumerate() {
        let golden = golden(d);
        let worst = ours.iter().zip(&golden).map(|(o, g)| (o - g).abs()).fold(0.0, f64::max);
        eprintln!("document {d}: largest error {worst:.2e}");
        assert_eq!(ours.len(), golden.len());
        // Six layers of f32 on either side, values up to about 2; NaN-safe.
        assert!(ours.iter().zip(&golden).all(|(o, g)| (o - g).abs() <= 1e-4), "document {d}: {worst:e}");
    }
}

//! Training runs: cut and resumed, poisoned, interrupted, misconfigured.

mod common;

use common::lab::{documents, write_lab};
use common::tiny;
use docre::device::Device;
use docre::dtype::DType;
use docre::rng::Stream;
use docre::train::state::Progress;
use docre::train::step::Report;
use docre::train::{Config, End, Example, Run, Trainer, Watch};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A directory with an encoder, ten training and three development documents, and a configuration.
struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Lab { dir: tempfile::tempdir().unwrap() };
        write_lab(lab.dir.path());
        std::fs::write(lab.path("train.toml"), lab.text()).unwrap();
        lab
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn text(&self) -> String {
        let path = |name: &str| json!(self.path(name)).to_string();
        format!(
            "[data]\ntrain = [{}]\ndev = [{}]\n[model]\nstart = {}\nextractor_size = 16\nblock_size = 8\naxial_layers = 1\n\
             axial_heads = 2\n[schedule]\nepochs = 3\nbatch = 2\naccumulate = 2\nencoder_rate = 1e-3\nhead_rate = 1e-2\n\
             eval_every = 2\n[output]\nsave_every = 2\n",
            path("train.json"),
            path("dev.json"),
            path("encoder")
        )
    }
    fn config(&self, overrides: &[&str]) -> Config {
        Config::parse(&self.text(), &overrides.iter().map(|o| o.to_string()).collect::<Vec<_>>()).unwrap()
    }
    fn open(&self, out: &str, resume: bool, overrides: &[&str]) -> docre::Result<Run> {
        Run::open(self.config(overrides), &self.path(out), resume, &Device::cpu(1).unwrap(), &mut Silent::default())
    }
    fn docre(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_docre"));
        command.arg("train").arg(self.path("train.toml")).args(arguments).env("DOCRE_THREADS", "1");
        command
    }
}

#[derive(Default)]
struct Silent {
    messages: Vec<String>,
}

impl Watch for Silent {
    fn update(&mut self, _: &Run, _: &Report) {}
    fn evaluated(&mut self, _: &Run, _: f64, _: bool) {}
    fn message(&mut self, text: &str) {
        self.messages.push(text.to_string());
    }
}

/// Trains until `stop` has been asked `updates` times.
fn train_for(run: &mut Run, updates: u64) -> End {
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > updates
    };
    run.train(&stop, &mut Silent::default()).unwrap()
}

fn bits(run: &Run) -> [Vec<u32>; 3] {
    let o = &run.trainer.optimizer;
    [run.trainer.model.params.flat(), &o.m, &o.v].map(|t| t.slice::<f32>().iter().map(|x| x.to_bits()).collect())
}

/// The lines of train.jsonl without what no two runs have in common: how fast it was, in how much memory.
fn lines(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("train.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in ["documents_per_second", "memory_mib"] {
            let figure = line.as_object_mut().unwrap().remove(key);
            assert!(line.get("dev_f1").is_some() || figure.unwrap().as_f64().unwrap() > 0.0, "{key}: {line}");
        }
        line
    };
    text.lines().map(line).collect()
}

/// Each update's last line: what a cut run did again stands twice.
fn log(dir: &Path) -> BTreeMap<(u64, bool), Value> {
    let key = |v: &Value| (v["update"].as_u64().unwrap(), v.get("dev_f1").is_some());
    lines(dir).into_iter().map(|v| (key(&v), v)).collect()
}

#[test]
fn a_run_that_was_cut_ends_in_the_same_bits() {
    let lab = Lab::new();
    let mut whole = lab.open("whole", false, &[]).unwrap();
    let start = bits(&whole)[0].clone();
    assert_eq!(whole.train(&|| false, &mut Silent::default()).unwrap(), End::Finished);
    let want = bits(&whole);
    assert!(want[0] != start && whole.progress.updates == 9);
    let cuts: u64 = std::env::var("DOCRE_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let mut stream = Stream::new(4, 4);
    for cut in 0..cuts {
        let out = format!("cut{cut}");
        // After 0 to 8 of the 9 updates, and once more after what is left of them.
        let first = if cut == 0 { 0 } else { stream.below(9) as u64 };
        assert_eq!(train_for(&mut lab.open(&out, false, &[]).unwrap(), first), End::Interrupted);
        let second = stream.below(9 - first as usize) as u64;
        assert_eq!(train_for(&mut lab.open(&out, true, &[]).unwrap(), second), End::Interrupted);
        let mut run = lab.open(&out, true, &[]).unwrap();
        assert_eq!(
            (run.train(&|| false, &mut Silent::default()).unwrap(), &run.progress),
            (End::Finished, &whole.progress)
        );
        assert!(bits(&run) == want, "cut after {first} and {second} more");
        assert_eq!(log(&lab.path(&out)), log(&lab.path("whole")));
        for file in ["model.safetensors", "config.json"] {
            let read = |run: &str| std::fs::read(lab.path(run).join("best").join(file)).unwrap();
            assert!(read(&out) == read("whole"), "best/{file} of a run cut after {first} and {second} more");
        }
    }
}

/// A checkpoint that lost a file is passed over for the one before.
#[test]
fn a_broken_checkpoint_is_passed_over() {
    let lab = Lab::new();
    let mut run = lab.open("run", false, &[]).unwrap();
    assert_eq!(train_for(&mut run, 3), End::Interrupted);
    let newest = lab.path("run").join("checkpoint-000003");
    std::fs::write(newest.join("optimizer.safetensors"), b"").unwrap();
    let again = lab.open("run", true, &[]).unwrap();
    assert_eq!(again.progress.tried, 2);
}

#[test]
fn another_configuration_is_not_resumed() {
    let lab = Lab::new();
    train_for(&mut lab.open("run", false, &[]).unwrap(), 1);
    let refused =
        |resume, overrides: &[&str]| lab.open("run", resume, overrides).err().map(|e| (e.exit_code(), e.to_string()));
    let (code, message) = refused(true, &["schedule.head_rate=0.02"]).unwrap();
    assert!(code == 2 && message.contains("made by another configuration"), "{message}");
    let (code, message) = refused(false, &[]).unwrap();
    assert!(code == 2 && message.contains("already holds a run") && message.contains("--resume auto"), "{message}");
    assert!(refused(true, &["output.keep=5", "output.save_every=1"]).is_none(), "how often it saves is no matter");
}

/// Without a checkpoint to go on from, what stands in the directory is not written over.
#[test]
fn a_run_does_not_write_over_another_ones_best() {
    let lab = Lab::new();
    std::fs::create_dir_all(lab.path("mine/best")).unwrap();
    std::fs::write(lab.path("mine/best/thesis.tex"), "years").unwrap();
    let refused = |out: &str, resume, overrides: &[&str]| {
        let error = lab.open(out, resume, overrides).err().unwrap();
        let says = if resume { "a `best` that is not this run's" } else { "already holds a run" };
        assert!(error.exit_code() == 2 && error.to_string().contains(says), "{error}");
    };
    [false, true].iter().for_each(|&resume| refused("mine", resume, &[]));
    // Only the best weights were kept: the same run may make them again, another one not.
    train_for(&mut lab.open("kept", false, &[]).unwrap(), 3);
    for entry in std::fs::read_dir(lab.path("kept")).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("checkpoint-") {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    assert!(lab.path("kept/best").exists());
    refused("kept", false, &[]);
    refused("kept", true, &["schedule.seed=9"]);
    assert_eq!(lab.open("kept", true, &["output.save_every=1"]).unwrap().progress.tried, 0);
    // To look at what would be done leaves nothing behind.
    let output = lab.docre(&["--dry-run", "-q", "--out"]).arg(lab.path("looked")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("10 training and 3 development documents"), "{text}");
    assert!(!lab.path("looked").exists());
}

#[test]
fn other_documents_are_not_resumed() {
    let lab = Lab::new();
    train_for(&mut lab.open("run", false, &[]).unwrap(), 1);
    for (file, made) in [("train.json", documents(1, 9)), ("dev.json", documents(1, 3))] {
        let kept = std::fs::read_to_string(lab.path(file)).unwrap();
        std::fs::write(lab.path(file), made).unwrap();
        let error = lab.open("run", true, &[]).err().unwrap();
        assert!(error.exit_code() == 2 && error.to_string().contains("other documents"), "{error}");
        std::fs::write(lab.path(file), kept).unwrap();
    }
    assert_eq!(lab.open("run", true, &[]).unwrap().progress.tried, 1);
}

#[test]
fn documents_that_cannot_train_or_choose_a_model_are_refused() {
    let lab = Lab::new();
    std::fs::write(lab.path("none.json"), "[]").unwrap();
    let mut bare: Value = serde_json::from_str(&documents(2, 3)).unwrap();
    bare.as_array_mut().unwrap().iter_mut().for_each(|d| drop(d.as_object_mut().unwrap().remove("labels")));
    std::fs::write(lab.path("bare.json"), bare.to_string()).unwrap();
    for (key, file, says) in [("train", "none.json", "no document"), ("dev", "bare.json", "no document has labels")] {
        let error = lab.open("run", false, &[&format!("data.{key}=[{}]", json!(lab.path(file)))]).err().unwrap();
        assert!(error.code() == "E-LABEL" && error.to_string().contains(says), "{error}");
    }
}

/// However often it is asked to go on.
#[test]
fn a_run_that_lost_patience_has_ended() {
    let lab = Lab::new();
    let hasty = ["schedule.patience=1", "schedule.eval_every=0", "schedule.epochs=40", "schedule.head_rate=0"];
    let hasty = [&hasty[..], &["schedule.encoder_rate=0", "schedule.axial_rate=0"]].concat();
    let mut run = lab.open("run", false, &hasty).unwrap();
    assert_eq!(run.train(&|| false, &mut Silent::default()).unwrap(), End::Patience);
    let ended = run.progress.clone();
    assert_eq!(ended.epoch, 2, "without learning no evaluation is better than the first");
    for _ in 0..2 {
        let mut again = lab.open("run", true, &hasty).unwrap();
        assert_eq!(again.train(&|| false, &mut Silent::default()).unwrap(), End::Patience);
        assert_eq!(again.progress, ended);
    }
}

/// A run that goes on in another precision says so.
#[test]
fn another_precision_is_told() {
    let lab = Lab::new();
    train_for(&mut lab.open("run", false, &[]).unwrap(), 1);
    let open = |dtype| {
        let mut watch = Silent::default();
        let device = Device::cpu_in(1, dtype).unwrap();
        Run::open(lab.config(&[]), &lab.path("run"), true, &device, &mut watch).unwrap();
        watch.messages.join("\n")
    };
    let said = open(DType::BF16);
    assert!(said.contains("so far this run computed in f32 on a CPU; in bf16 on a CPU"), "{said}");
    assert!(!open(DType::F32).contains("warning"));
}

/// The rates that an update was made with: the first of a warm-up are 0.
#[test]
fn logged_rates_are_those_of_their_update() {
    let lab = Lab::new();
    let overrides = ["schedule.epochs=2", "schedule.warmup=0.5", "schedule.head_rate=0.01"];
    lab.open("run", false, &overrides).unwrap().train(&|| false, &mut Silent::default()).unwrap();
    let text = std::fs::read_to_string(lab.path("run/train.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rates: Vec<f64> = lines.iter().filter_map(|line| line["rates"][2].as_f64()).collect();
    assert_eq!(rates.len(), 6);
    for (rate, part) in rates.iter().zip([0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0, 2.0 / 3.0, 1.0 / 3.0]) {
        assert!((rate - 0.01 * part).abs() < 1e-12, "{rates:?}");
    }
}

/// As a version of docre would leave it that lays the parameters out otherwise.
#[test]
fn moments_in_another_order_are_not_resumed() {
    let lab = Lab::new();
    train_for(&mut lab.open("run", false, &[]).unwrap(), 1);
    let dir = lab.path("run").join("checkpoint-000001");
    let (state, manifest) = (dir.join("trainer_state.json"), dir.join("MANIFEST.sha256"));
    let hash = |text: &str| Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let before = std::fs::read_to_string(&state).unwrap();
    let layout = lab.open("run", true, &[]).unwrap().progress.layout;
    let after = before.replace(&layout, "0123456789abcdef");
    assert!(layout.len() == 16 && before != after);
    std::fs::write(&state, &after).unwrap();
    let listed = std::fs::read_to_string(&manifest).unwrap();
    assert!(listed.contains(&hash(&before)), "{listed}");
    std::fs::write(&manifest, listed.replace(&hash(&before), &hash(&after))).unwrap();
    let error = lab.open("run", true, &[]).err().unwrap();
    assert!(error.exit_code() == 4 && error.to_string().contains("parameters in another order"), "{error}");
}

/// Every double survives trainer_state.json: the best F1 decides by `>` which weights are kept.
#[test]
fn progress_survives_its_file_exactly() {
    let mut stream = Stream::new(1, 1);
    for _ in 0..2000 {
        let f1 = 200.0 * stream.below(5000) as f64 / (1 + stream.below(20_000)) as f64;
        let progress = Progress { best_f1: Some(f1), ..Progress::default() };
        let again: Progress = serde_json::from_str(&serde_json::to_string_pretty(&progress).unwrap()).unwrap();
        assert_eq!(again.best_f1.map(f64::to_bits), Some(f1.to_bits()), "{f1}");
    }
}

fn poison(run: &mut Run, name: &str) {
    let params = &mut run.trainer.model.params;
    let at = params.specs().iter().position(|s| s.name == name).unwrap();
    let range = params.ranges()[at].clone();
    params.flat_mut().0.slice_mut::<f32>()[range].fill(f32::MAX);
}

#[test]
fn an_update_that_is_not_finite_changes_nothing() {
    // Read at once, and late.
    for every in ["output.log_every=1", "output.log_every=3"] {
        give_up_after_ten(every);
    }
}

fn give_up_after_ten(every: &str) {
    let lab = Lab::new();
    // Without development data: evaluating such weights would end the run before its ten updates.
    let settings = ["schedule.epochs=9", "data.dev=[]", "schedule.eval_every=0", "output.save_every=0", every];
    let mut run = lab.open("run", false, &settings).unwrap();
    train_for(&mut run, 1);
    poison(&mut run, "layer.0.up.weight");
    let (before, updates) = (bits(&run), run.progress.updates);
    let mut watch = Silent::default();
    let error = run.train(&|| false, &mut watch).unwrap_err();
    assert_eq!((error.exit_code(), run.progress.updates), (7, updates), "{error}");
    assert!(bits(&run) == before, "weights or moments changed");
    let first = &run.trainer.model.params.specs()[0].name;
    assert!(error.to_string().contains("10 updates in a row") && error.to_string().contains(first.as_str()), "{error}");
    assert_eq!(watch.messages.len(), 10);
    assert!(watch.messages.iter().all(|m| m.contains("skipped") && m.contains(first.as_str())), "{:?}", watch.messages);
    let skipped = log(&lab.path("run")).into_values().filter(|line| line["skipped"].is_string()).count();
    assert_eq!(skipped, 10);
}

/// Whatever is read late, bad updates among it, the run takes the same course.
#[test]
fn updates_that_are_read_late_change_no_bit() {
    let lab = Lab::new();
    let train = |every: usize| {
        let (out, every) = (format!("run{every}"), format!("output.log_every={every}"));
        let one_by_one = ["schedule.batch=1", "schedule.accumulate=1", "data.dev=[]", "schedule.eval_every=0"];
        let mut run = lab.open(&out, false, &[&one_by_one[..], &["output.save_every=8", &every]].concat()).unwrap();
        // The position that only the longest documents have: two of ten.
        let params = &mut run.trainer.model.params;
        let at = params.specs().iter().position(|s| s.name == "embeddings.position").unwrap();
        let (first, width) = (params.ranges()[at].start, params.specs()[at].shape[1]);
        params.flat_mut().0.slice_mut::<f32>()[first + 26 * width..][..width].fill(f32::MAX);
        let mut watch = Silent::default();
        assert_eq!(run.train(&|| false, &mut watch).unwrap(), End::Finished);
        (bits(&run), run.progress, watch.messages, lines(&lab.path(&out)))
    };
    let want = train(1);
    assert_eq!((want.1.tried, want.1.updates, want.2.len()), (30, 24, 6));
    for every in [2, 3, 7, 100] {
        let got = train(every);
        assert!(got.0 == want.0, "weights or moments, read every {every} updates");
        assert_eq!((got.1, got.2, got.3), (want.1.clone(), want.2.clone(), want.3.clone()));
    }
}

#[test]
fn evidence_supervision_is_logged_and_needs_evidence() {
    let lab = Lab::new();
    let few = ["schedule.epochs=1", "schedule.eval_every=0"];
    let mut plain = lab.open("plain", false, &few).unwrap();
    plain.train(&|| false, &mut Silent::default()).unwrap();
    assert!(log(&lab.path("plain")).values().all(|line| line["evidence"].is_null()));
    let mut run = lab.open("run", false, &[&few[..], &["objective.evidence=0.1"]].concat()).unwrap();
    run.train(&|| false, &mut Silent::default()).unwrap();
    assert!(bits(&run)[0] != bits(&plain)[0], "it changes what is learnt");
    for line in log(&lab.path("run")).values().filter(|line| line.get("loss").is_some()) {
        assert!(line["evidence"].as_f64().unwrap() > 0.0, "{line}");
    }
    std::fs::write(lab.path("train.json"), documents(1, 10).replace("\"evidence\":[0]", "\"evidence\":[]")).unwrap();
    assert!(lab.open("without", false, &[]).is_ok());
    let error = lab.open("refused", false, &["objective.evidence=0.1"]).err().unwrap();
    assert!(error.exit_code() == 3 && error.to_string().contains("no label of data.train names"), "{error}");
}

#[test]
fn one_bad_update_is_survived() {
    let lab = Lab::new();
    let mut run = lab.open("run", false, &[]).unwrap();
    let examples: Vec<Example> = (0..2)
        .map(|i| Example {
            encoded: tiny::document(i, 9, &[&[1], &[4]]),
            labels: tiny::labels(i, 2, 4),
            unknown_gold: 0,
            teacher: Vec::new(),
        })
        .collect();
    let all: Vec<&Example> = examples.iter().collect();
    let trainer: &mut Trainer = &mut run.trainer;
    let report = trainer.update(&all).unwrap();
    assert!(report.bad.is_none() && report.norm > 0.0);
    let weights = trainer.model.params.flat().to_f64().unwrap();
    let n = weights.len();
    let kept = trainer.model.params.flat().slice::<f32>()[n - 1];
    trainer.model.params.flat_mut().0.slice_mut::<f32>()[n - 1] = f32::NAN;
    let report = trainer.update(&all).unwrap();
    assert_eq!(report.bad.as_deref(), Some("embeddings.word"), "{report:?}");
    trainer.model.params.flat_mut().0.slice_mut::<f32>()[n - 1] = kept;
    assert_eq!(trainer.model.params.flat().to_f64().unwrap(), weights, "a skipped update changes no weight");
    assert!(trainer.update(&all).unwrap().bad.is_none());
}

#[test]
fn rates_rise_and_fall_linearly() {
    let lab = Lab::new();
    let mut run = lab.open("run", false, &["schedule.warmup=0.1", "schedule.axial_rate=2e-3"]).unwrap();
    run.trainer.total = 100;
    for (done, factor) in [(0, 0.0), (1, 0.1), (5, 0.5), (10, 1.0), (55, 0.5), (99, 1.0 / 90.0), (100, 0.0), (101, 0.0)]
    {
        let want = [1e-3 * factor, 2e-3 * factor, 1e-2 * factor];
        for (got, want) in run.trainer.rates(done).into_iter().zip(want) {
            assert!((got - want).abs() <= 1e-15, "after {done} updates: {got}, not {want}");
        }
    }
    run.trainer.schedule.warmup = 0.0;
    assert_eq!(run.trainer.rates(0)[0], 1e-3);
    run.trainer.schedule.warmup = 1.0;
    assert!((run.trainer.rates(99)[0] - 0.99e-3).abs() < 1e-15 && run.trainer.rates(100)[0] == 0.0);
}

/// The message of a configuration that is refused.
fn refusal(text: &str, overrides: &[&str]) -> String {
    let error = Config::parse(text, &overrides.iter().map(|o| o.to_string()).collect::<Vec<_>>()).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("E-USAGE", 2), "{error}");
    error.to_string()
}

#[test]
fn a_wrong_configuration_is_a_usage_error() {
    let lab = Lab::new();
    let text = lab.text();
    assert!(refusal(&text, &["schedule.epoch=3"]).contains("epoch"));
    assert!(refusal(&text, &["schedul.epochs=3"]).contains("schedul"));
    assert!(refusal(&text, &["schedule.epochs=three"]).contains("three"));
    assert!(refusal(&text, &["schedule.epochs=-1"]).contains("-1"));
    for form in ["epochs=3", "schedule.epochs", "=", ""] {
        assert!(refusal(&text, &[form]).contains("section.key=value"), "{form}");
    }
    for bad in ["schedule.batch=0", "schedule.batch=4611686018427387904"] {
        assert!(refusal(&text, &[bad]).contains("schedule.batch must be from 1 to 1000000"), "{bad}");
    }
    // The key, and what was probably meant; of a text its line.
    assert!(refusal(&text, &["schedule.epochs=ten"]).contains("schedule.epochs: invalid type"));
    assert!(refusal(&text, &["schedule.epoch=3"]).contains("epochs was probably meant"));
    let broken = refusal(&format!("{text}x = [\u{1b}[31m{}", "1,".repeat(100_000)), &[]);
    assert!(broken.contains(&format!("line {}: ", text.lines().count() + 1)) && broken.len() < 400, "{broken}");
    assert!(!broken.contains('\u{1b}'), "{broken}");
    for bad in ["schedule.head_rate=nan", "schedule.head_rate=-1e-3", "schedule.encoder_rate=inf"] {
        assert!(refusal(&text, &[bad]).contains("rate must be from 0 to 1"), "{bad}");
    }
    assert!(refusal(&text, &["schedule.warmup=1.5"]).contains("warmup"));
    assert!(refusal(&text, &["schedule.clip=0.0"]).contains("clip"));
    let least = ["objective.evidence=-0.1", "objective.evidence=nan", "objective.gamma=nan", "objective.alpha=0.5"];
    let others = ["schedule.weight_decay=-1e4", "schedule.weight_decay=inf", "schedule.adam_epsilon=0"];
    for bad in least.into_iter().chain(others) {
        let name = bad.split('=').next().unwrap();
        assert!(refusal(&text, &[bad]).contains(&format!("{name} must be at least ")), "{bad}");
    }
    assert!(refusal(&text, &["data.train=[]"]).contains("data.train names no file"));
    assert!(refusal(&text, &["objective.kind=hinge"]).contains("hinge"));
    assert!(refusal("[data", &[]).contains("error"));
    assert!(refusal("[data]\ntrain = [\"x\"]\n", &[]).contains("model"));
    // A text needs no quotes, and a value of the file gives way.
    let config = Config::parse(&text, &["objective.kind=atgl".into(), "schedule.epochs = 7".into()]).unwrap();
    assert_eq!(
        (config.schedule.epochs, config.objective.objective()),
        (7, docre::ops::loss::Objective::Atgl { alpha: 2.0 })
    );
    let again = Config::parse(&config.resolved().unwrap(), &[]).unwrap();
    assert_eq!(again.resolved().unwrap(), config.resolved().unwrap());
}

#[test]
fn a_wrong_head_setting_names_itself() {
    let lab = Lab::new();
    let refused = |overrides: &[&str]| lab.open("run", false, overrides).err().unwrap().to_string();
    assert!(refused(&["model.axial_layer=2"]).contains("axial_layer"));
    assert!(refused(&["model.block_size=5"]).contains("block_size"));
    assert!(lab.open("run", false, &["model.axial=sequential"]).is_ok());
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

#[test]
fn the_command_reports_and_exits() {
    let lab = Lab::new();
    let out = lab.path("run");
    let out = out.to_str().unwrap();
    let wrong = lab.docre(&["-s", "schedule.epoch=3", "--out", out]).output().unwrap();
    let said = String::from_utf8_lossy(&wrong.stderr).to_string();
    assert!(code(&wrong) == 2 && said.contains("error[E-USAGE]") && said.contains("epoch"), "{said}");
    let piped = std::fs::read_to_string(lab.path("train.toml")).unwrap();
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_docre"));
    command.args(["train", "/dev/stdin", "--print-config"]).write_stdin(piped).assert().success();
    let shown = lab.docre(&["--print-config", "-s", "schedule.epochs=11"]).output().unwrap();
    assert!(code(&shown) == 0 && String::from_utf8_lossy(&shown.stdout).contains("epochs = 11"));
    let done = lab.docre(&["--out", out, "-s", "schedule.epochs=1"]).output().unwrap();
    assert_eq!(code(&done), 0, "{}", String::from_utf8_lossy(&done.stderr));
    for file in ["config.json", "tokenizer.json", "relations.json", "model.safetensors"] {
        assert!(Path::new(out).join("best").join(file).is_file(), "best/{file}");
    }
    let page = std::fs::read_to_string(Path::new(out).join("index.html")).unwrap();
    assert!(page.contains("finished") && page.contains("<dd>3</dd>") && page.matches("<svg").count() == 6, "{page}");
}

/// Waits up to a minute; a test must end.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts `docre train`, lets it do some updates more, and ends it with SIGTERM.
#[cfg(unix)]
fn interrupt(lab: &Lab, arguments: &[&str], out: &Path) {
    let updates = || std::fs::read_to_string(out.join("train.jsonl")).map_or(0, |text| text.lines().count());
    let before = updates();
    let mut child = lab.docre(arguments).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the first updates", || updates() > before + 4);
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let mut status = None;
    wait_until("the end of the process", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_the_run_goes_on() {
    let lab = Lab::new();
    let settings = ["schedule.epochs=100000", "schedule.eval_every=0", "output.save_every=0"];
    let out = lab.path("run");
    let mut arguments = vec!["--out", out.to_str().unwrap()];
    settings.iter().for_each(|s| arguments.extend(["-s", s]));
    interrupt(&lab, &arguments, &out);
    let first = lab.open("run", true, &settings).unwrap().progress.tried;
    let refused = lab.docre(&arguments).output().unwrap();
    assert_eq!(code(&refused), 2, "a used directory without --resume");
    arguments.extend(["--resume", "auto"]);
    interrupt(&lab, &arguments, &out);
    let second = lab.open("run", true, &settings).unwrap().progress.tried;
    assert!(4 <= first && first + 4 <= second, "{first} updates, then {second}");
    let lines: Vec<u64> = log(&lab.path("run")).into_keys().map(|(update, _)| update).filter(|&u| u > 0).collect();
    assert_eq!(lines[lines.len() - 1], second, "the checkpoint is that of the last update");
}

/// Negatives left out are drawn by update: a run that was cut draws the same.
#[test]
fn sampled_negatives_are_the_same_after_a_cut() {
    let lab = Lab::new();
    let train = |out: &str, cut: bool, part: &str| {
        let sampled = format!("objective.negatives={part}");
        if cut {
            train_for(&mut lab.open(out, false, &[&sampled]).unwrap(), 3);
        }
        let mut run = lab.open(out, cut, &[&sampled]).unwrap();
        assert_eq!(run.train(&|| false, &mut Silent::default()).unwrap(), End::Finished);
        bits(&run)
    };
    let half = train("half", false, "0.5");
    assert!(half == train("cut", true, "0.5") && half != train("all", false, "1.0"));
    let mut example = Example {
        encoded: tiny::document(1, 9, &[&[1], &[4], &[5]]),
        labels: tiny::labels(3, 3, 4),
        unknown_gold: 0,
        teacher: Vec::new(),
    };
    let gold: Vec<usize> = (0..9).map(|cell| example.labels.relations(cell)).collect();
    example.keep_negatives(0.0, &mut Stream::new(1, 1));
    for (cell, &relations) in gold.iter().enumerate() {
        assert_eq!((example.labels.relations(cell), example.labels.is_left_out(cell)), (relations, relations == 0));
    }
    let wrong = Config::parse(&lab.text(), &["objective.negatives=1.5".into()]);
    assert_eq!(wrong.unwrap_err().exit_code(), 2);
}

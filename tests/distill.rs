//! The pipeline: cut, killed, misconfigured; logits dense, sparse, computed when needed, damaged.

mod common;

use common::lab::{documents, write_lab};
use docre::data::Relations;
use docre::device::Device;
use docre::distill::{Config, Pipeline, Stage};
use docre::layout::{Labels, Pairs};
use docre::train::config::DistillationSection;
use docre::train::logits::{self, Form, Identity, Logits};
use docre::train::step::Report;
use docre::train::teacher::{Teacher, Teaching};
use docre::train::{End, Run, Watch};
use half::f16;
use serde_json::{Value, json};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An encoder, ten annotated documents, three to choose by, twelve without labels, and a configuration.
struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Lab { dir: tempfile::tempdir().unwrap() };
        write_lab(lab.dir.path());
        let mut more: Value = serde_json::from_str(&documents(3, 12)).unwrap();
        for document in more.as_array_mut().unwrap() {
            document.as_object_mut().unwrap().remove("labels");
        }
        std::fs::write(lab.path("more.json"), more.to_string()).unwrap();
        std::fs::write(lab.path("distill.toml"), lab.text()).unwrap();
        lab
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn text(&self) -> String {
        let path = |name: &str| json!(self.path(name)).to_string();
        format!(
            "[data]\ntrain = [{}]\ndev = [{}]\n[model]\nstart = {}\nextractor_size = 16\nblock_size = 8\naxial_layers = 1\n\
             axial_heads = 2\n[schedule]\nepochs = 3\nbatch = 2\nencoder_rate = 1e-3\nhead_rate = 1e-2\n[output]\nsave_every = 2\n\
             [teacher.schedule]\nepochs = 20\n[student.data]\ntrain = [{}]\n[student.schedule]\nseed = 5\n\
             [finetune.schedule]\nhead_rate = 1e-3\n",
            path("train.json"),
            path("dev.json"),
            path("encoder"),
            path("more.json"),
        )
    }
    fn config(&self, out: &str, overrides: &[&str]) -> docre::Result<Config> {
        Config::parse(&self.text(), &overrides.iter().map(|o| o.to_string()).collect::<Vec<_>>(), &self.path(out))
    }
    fn pipeline(&self, out: &str, overrides: &[&str]) -> Pipeline {
        let config = self.config(out, overrides).unwrap();
        Pipeline { config, dir: self.path(out), device: Device::cpu(1).unwrap() }
    }
    fn run(&self, out: &str, overrides: &[&str]) -> docre::Result<End> {
        self.pipeline(out, overrides).run(None, &|| false, &mut Silent)
    }
    fn weights(&self, out: &str, stage: &str) -> Vec<u8> {
        std::fs::read(self.path(out).join(stage).join("best/model.safetensors")).unwrap()
    }
    fn docre(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_docre"));
        command.arg("distill").arg(self.path("distill.toml")).args(arguments).env("DOCRE_THREADS", "1");
        command
    }
}

struct Silent;

impl Watch for Silent {
    fn update(&mut self, _: &Run, _: &Report) {}
    fn evaluated(&mut self, _: &Run, _: f64, _: bool) {}
    fn message(&mut self, _: &str) {}
}

#[test]
fn stages_run_once_and_in_their_order() {
    let lab = Lab::new();
    let only = |stage| lab.pipeline("run", &[]).run(Some(stage), &|| false, &mut Silent);
    let error = only(Stage::Student).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("student needs teacher"), "{error}");
    for stage in Stage::ALL {
        assert_eq!(only(stage).unwrap(), End::Finished);
    }
    let made = lab.weights("run", "finetune");
    let time = |stage: &str| std::fs::metadata(lab.path("run").join(stage).join("best")).unwrap().modified().unwrap();
    let before = ["teacher", "student", "finetune"].map(time);
    assert_eq!(lab.run("run", &[]).unwrap(), End::Finished);
    assert_eq!(["teacher", "student", "finetune"].map(time), before, "a stage that was done ran again");
    // Fine-tuning goes on from the student; the student does not start from the teacher.
    assert!(made != lab.weights("run", "student") && lab.weights("run", "teacher") != lab.weights("run", "student"));
    assert_eq!(lab.run("again", &[]).unwrap(), End::Finished);
    assert!(lab.weights("again", "finetune") == made, "the same in another directory");

    // Logits of another teacher or in another form make another student, however one comes to them.
    let dirs =
        |stages: &[&str]| stages.iter().for_each(|s| std::fs::remove_dir_all(lab.path("again").join(s)).unwrap());
    dirs(&["teacher", "student", "finetune"]);
    let reseeded = ["teacher.schedule.seed=77"];
    let only = |stage| lab.pipeline("again", &reseeded).run(Some(stage), &|| false, &mut Silent);
    only(Stage::Teacher).unwrap();
    let error = only(Stage::Student).unwrap_err();
    assert!(error.exit_code() == 4 && error.to_string().contains("logits was made from other inputs"), "{error}");
    lab.run("sparse", &[]).unwrap();
    std::fs::remove_dir_all(lab.path("sparse/logits")).unwrap();
    let error = lab.run("sparse", &["logits.form=\"sparse\"", "logits.keep=2"]).unwrap_err();
    assert!(error.to_string().contains("student was made from other inputs"), "{error}");

    // Other settings, other data or another teacher are other inputs.
    let refused = |overrides: &[&str]| lab.run("run", overrides).unwrap_err();
    let error = refused(&["student.schedule.seed=6"]);
    assert!(error.exit_code() == 4 && error.to_string().contains("student was made from other inputs"), "{error}");
    let error = refused(&["logits.form=\"sparse\"", "logits.keep=2"]);
    assert!(error.to_string().contains("logits was made from other inputs"), "{error}");
    std::fs::write(lab.path("more.json"), std::fs::read_to_string(lab.path("more.json")).unwrap() + "\n").unwrap();
    assert!(refused(&[]).to_string().contains("logits was made from other inputs"));
}

/// Where the teacher's logits come from is no matter, nor is how often the run is interrupted.
#[test]
fn logits_computed_when_needed_give_the_same_student() {
    let lab = Lab::new();
    lab.run("stored", &[]).unwrap();
    let live = ["logits.form=\"live\""];
    let pipeline = lab.pipeline("live", &live);
    assert_eq!(pipeline.stages(), [Stage::Teacher, Stage::Student, Stage::Finetune]);
    let asked = Cell::new(0);
    let every_tenth = || {
        asked.set(asked.get() + 1);
        asked.get() % 10 == 0
    };
    let mut runs = 1;
    while pipeline.run(None, &every_tenth, &mut Silent).unwrap() == End::Interrupted {
        runs += 1;
    }
    assert!(runs > 10, "{runs} runs");
    for stage in ["teacher", "student", "finetune"] {
        assert!(lab.weights("live", stage) == lab.weights("stored", stage), "{stage}");
    }
    // Of all classes, sparse logits are dense ones. Of fewer they are others, and so is what the student learns.
    let sparse = |keep: &str| ["logits.form=\"sparse\"".to_string(), format!("logits.keep={keep}")];
    let student = |out: &str, keep: &str| {
        let sparse = sparse(keep);
        lab.run(out, &[&sparse[0], &sparse[1]]).unwrap();
        lab.weights(out, "student")
    };
    assert!(student("all", "4") == lab.weights("stored", "student"));
    assert!(student("few", "2") != lab.weights("stored", "student"));
    // Without the distillation term the teacher still labels the documents.
    let alone = ["student.distillation.weight=0.0", "student.distillation.margin=-1.5"];
    lab.run("labels", &alone).unwrap();
    lab.run("never", &[&alone[..], &["student.distillation.self_labels=\"never\""]].concat()).unwrap();
    let students = ["stored", "labels", "never"].map(|out| lab.weights(out, "student"));
    assert!(students[0] != students[1] && students[1] != students[2]);
}

/// Waits until `path` is there, kills the process, and says whether it was still running.
fn kill_when(command: &mut Command, path: &Path) -> bool {
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !path.exists() {
        assert!(begin.elapsed() < Duration::from_secs(120), "{} did not appear", path.display());
        assert!(child.try_wait().unwrap().is_none(), "it ended without {}", path.display());
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

#[test]
fn killed_at_five_places_it_ends_in_the_same_bits() {
    let lab = Lab::new();
    let long = ["-s", "student.schedule.epochs=30", "-s", "finetune.schedule.epochs=30"];
    let out = |name: &str| lab.path(name).to_string_lossy().into_owned();
    let whole = lab.docre(&[&long[..], &["--quiet", "--out", &out("whole")]].concat()).output().unwrap();
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let places = [
        "teacher/stage.json",
        "teacher/checkpoint-000010/MANIFEST.sha256",
        "logits/stage.json",
        "student/checkpoint-000020/MANIFEST.sha256",
        "finetune/checkpoint-000004/MANIFEST.sha256",
    ];
    let killed = out("killed");
    for place in places {
        let arguments = [&long[..], &["--quiet", "--out", &killed]].concat();
        assert!(kill_when(&mut lab.docre(&arguments), &lab.path("killed").join(place)), "{place}: too late");
    }
    let last = lab.docre(&[&long[..], &["--out", &killed]].concat()).output().unwrap();
    let said = String::from_utf8_lossy(&last.stderr);
    assert!(last.status.success() && said.contains("teacher: done before, best F1"), "{said}");
    assert!(said.contains("going on from") && said.contains("finetune/best"), "{said}");
    for stage in ["teacher", "student", "finetune"] {
        assert!(lab.weights("killed", stage) == lab.weights("whole", stage), "{stage}");
    }
    let shard = |out: &str| std::fs::read(lab.path(out).join("logits/logits-00000.safetensors")).unwrap();
    assert!(shard("killed") == shard("whole"));
}

#[test]
fn the_plan_is_shown_first() {
    let lab = Lab::new();
    let out = lab.path("run");
    let run = lab.docre(&["--dry-run", "--out", &out.to_string_lossy()]).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && !out.exists(), "{said}");
    let row = |stage: &str| {
        let line = said.lines().find(|line| line.starts_with(stage)).unwrap_or_else(|| panic!("{stage}: {said}"));
        line.split_whitespace().map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        (&row("teacher")[1..3], &row("logits")[1..3]),
        (&["10".into(), "100".into()][..], &["12".into(), "-".into()][..])
    );
    assert_eq!(
        (&row("student")[1..3], &row("finetune")[1..3]),
        (&["12".into(), "18".into()][..], &["10".into(), "15".into()][..])
    );
    let printed = lab.docre(&["--print-config", "--out", &out.to_string_lossy()]).output().unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    assert!(text.contains("[student.distillation]") && text.contains("keep_head = true"), "{text}");
}

#[test]
fn wrong_configurations_are_usage_errors() {
    let lab = Lab::new();
    let wrong = |overrides: &[&str]| {
        let error = lab.config("run", overrides).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    };
    assert!(wrong(&["student.schedule.epochs=0"]).contains("[student]"));
    let typo = wrong(&["student.schedule.epoch=1"]);
    assert!(typo.contains("unknown field `epoch`") && typo.contains("epochs was probably meant"), "{typo}");
    // A flag for all stages is for those without a value of their own; where all have one, it would do nothing.
    assert_eq!(lab.config("run", &["schedule.seed=7"]).unwrap().student.schedule.seed, 5);
    assert_eq!(lab.config("run", &["schedule.seed=7"]).unwrap().finetune.unwrap().schedule.seed, 7);
    let own = lab
        .text()
        .replace("[teacher.schedule]", "[teacher.schedule]\nseed = 1")
        .replace("[finetune.schedule]", "[finetune.schedule]\nseed = 1");
    let parse = |overrides: &[&str]| {
        Config::parse(&own, &overrides.iter().map(|o| o.to_string()).collect::<Vec<_>>(), &lab.path("run"))
    };
    let error = parse(&["schedule.seed=7"]).unwrap_err().to_string();
    assert!(
        error.contains("all have one") && error.contains("-s teacher.schedule.seed=… -s student.schedule.seed=…"),
        "{error}"
    );
    assert_eq!(parse(&["schedule.seed=7", "student.schedule.seed=8"]).unwrap().student.schedule.seed, 8);
    assert!(wrong(&["logits.form=\"dens\""]).contains("[logits]"));
    assert!(wrong(&["logits.teacher=\"x\""]).contains("one of them"));
    assert!(wrong(&["distillation.weight=1.0"]).contains("[student.distillation]"));
    assert!(wrong(&["student.distillation.weight=-1.0"]).contains("distillation.weight"));
    let error = lab.run("run", &["logits.form=\"sparse\"", "logits.keep=5"]).unwrap_err();
    assert!(error.to_string().contains("sparse logits of 5 classes: 2 to 4"), "{error}");
    // A teacher that is there already.
    lab.run("run2", &[]).unwrap();
    let text = lab.text().replace("[teacher.schedule]\nepochs = 20\n", "");
    let teacher = format!("logits.teacher={}", json!(lab.path("run2").join("teacher/best")));
    let config = Config::parse(&text, &[teacher], &lab.path("given")).unwrap();
    let pipeline = Pipeline { config, dir: lab.path("given"), device: Device::cpu(1).unwrap() };
    assert_eq!(pipeline.run(None, &|| false, &mut Silent).unwrap(), End::Finished);
    assert!(lab.weights("given", "student") == lab.weights("run2", "student"));
}

/// Training alone, without a teacher, does not take documents without labels for documents without relations.
#[test]
fn documents_without_labels_need_a_teacher() {
    let lab = Lab::new();
    let train = format!("teacher.data.train=[{}]", json!(lab.path("more.json")));
    let error = lab.run("run", &[&train]).unwrap_err();
    assert!(error.exit_code() == 3 && error.to_string().contains("has no labels"), "{error}");
}

/// Logits of a run, its identity, and the teacher that made them.
fn stored(lab: &Lab) -> (PathBuf, Teacher, Relations, docre::data::Corpus) {
    let pipeline = lab.pipeline("run", &[]);
    pipeline.run(Some(Stage::Teacher), &|| false, &mut Silent).unwrap();
    pipeline.run(Some(Stage::Logits), &|| false, &mut Silent).unwrap();
    let best = lab.path("run/teacher/best");
    let relations = Relations::load(&best.join("relations.json")).unwrap();
    let teacher = Teacher::open(&best, &relations, &pipeline.device).unwrap();
    (lab.path("run/logits"), teacher, relations, pipeline.corpus(|_| Ok(())).unwrap())
}

#[test]
fn damaged_logits_and_those_of_something_else_are_refused() {
    let lab = Lab::new();
    let (dir, teacher, relations, corpus) = stored(&lab);
    let shard = dir.join("logits-00000.safetensors");
    let good = std::fs::read(&shard).unwrap();
    let find = || Logits::find(&dir, &corpus, &relations);
    assert!((0..12).all(|i| find().unwrap().document(i).unwrap().len() == 16 * relations.len()));

    // Any byte of the tensors.
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    for at in [header, header + 500, good.len() - 8 * 12 - 1, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&shard, &bad).unwrap();
        let errors: Vec<String> =
            (0..12).filter_map(|i| find().unwrap().document(i).err()).map(|e| e.to_string()).collect();
        assert!(errors.len() == 1 && errors[0].contains("are damaged"), "byte {at}: {errors:?}");
    }
    std::fs::write(&shard, &good[..good.len() - 1]).unwrap();
    assert!(find().is_err());
    std::fs::write(&shard, &good).unwrap();

    // Of other weights, documents, relations, another form.
    let refused = |model: &str, relations: &Relations, form| {
        let identity = Identity::new(model, &corpus, relations, form).unwrap();
        logits::is_done(&dir, &identity, 0).unwrap_err().to_string()
    };
    assert!(refused("sha256:0", &relations, Form::Dense).contains("another model"));
    assert!(refused(&teacher.digest, &relations, Form::Sparse(2)).contains("another form"));
    let codes = ["Na", "P2", "P1", "P3"].map(String::from).to_vec();
    assert!(
        refused(&teacher.digest, &Relations::from_codes(codes).unwrap(), Form::Dense).contains("another relations")
    );
    let annotated = docre::data::Corpus::open(&[lab.path("train.json")], |_| Ok(())).unwrap();
    let error = Logits::find(&dir, &annotated, &relations).err().unwrap();
    assert!(error.to_string().contains("another data"), "{error}");
}

/// Of a cell's classes the threshold, the largest, and for the rest their mean.
#[test]
fn sparse_logits_keep_the_largest() {
    let lab = Lab::new();
    let (_, _, relations, corpus) = stored(&lab);
    let dir = lab.path("sparse");
    std::fs::create_dir(&dir).unwrap();
    let identity = || Identity::new("m", &corpus, &relations, Form::Sparse(2)).unwrap();
    let row = |i: usize| [i as f32, -3.0, 7.5, -1.0].map(f16::from_f32);
    let logits: Vec<Vec<f16>> = (0..12).map(|i| (0..16).flat_map(|_| row(i)).collect()).collect();
    logits::write(&dir, &identity(), 0, &logits).unwrap();
    let read = Logits::open(&dir, identity()).unwrap();
    for i in 0..12 {
        let want: Vec<f16> = (0..16).flat_map(|_| [i as f32, -2.0, 7.5, -2.0].map(f16::from_f32)).collect();
        assert_eq!(read.document(i).unwrap(), want, "document {i}");
    }
}

/// The teacher's labels are its predictions: as `docre extract` gives them.
#[test]
fn self_labels_are_the_predictions() {
    let lab = Lab::new();
    let (dir, teacher, relations, corpus) = stored(&lab);
    let tokenizer = docre::data::Tokenizer::open(lab.path("encoder")).unwrap();
    // So small a teacher predicts nothing at 0: half of everything is to be above the margin.
    let all = Logits::find(&dir, &corpus, &relations).unwrap();
    let rows: Vec<f16> = (0..corpus.len()).flat_map(|i| all.document(i).unwrap()).collect();
    let margins = rows.chunks_exact(4).flat_map(|row| row[1..].iter().map(|l| l.to_f64() - row[0].to_f64()));
    let mut margins: Vec<f64> = margins.filter(|margin| *margin != 0.0).collect();
    margins.sort_by(f64::total_cmp);
    let middle = (margins.len() / 2..).find(|&i| margins[i + 1] - margins[i] > 0.01).unwrap();
    let margin = (margins[middle] + margins[middle + 1]) / 2.0;
    let section = |logits: Option<PathBuf>, teacher: Option<PathBuf>| {
        let mut table = toml::Table::new();
        let mut put = |key: &str, path: Option<PathBuf>| {
            path.map(|path| table.insert(key.into(), path.to_string_lossy().into_owned().into()))
        };
        put("logits", logits);
        put("teacher", teacher);
        table.insert("margin".into(), margin.into());
        table.try_into::<DistillationSection>().unwrap()
    };
    let device = Device::cpu(1).unwrap();
    let stored = Teaching::open(&section(Some(dir), None), &corpus, &relations, &device).unwrap();
    let best = lab.path("run/teacher/best");
    let live = Teaching::open(&section(None, Some(best)), &corpus, &relations, &device).unwrap();
    let rule = docre::extract::Rule { threshold: margin, max_labels: 4, evidence: None };
    let mut found = 0;
    for i in 0..corpus.len() {
        let encoded = tokenizer.encode(&corpus.document(i).unwrap()).unwrap();
        let logits = stored.logits(&[i], &[&encoded]).unwrap();
        assert_eq!(logits, live.logits(&[i], &[&encoded]).unwrap());
        let labels = stored.predicted(&logits[0], &Pairs::default(), 4, &Labels::new(16, relations.len()), 4);
        let predicted = docre::extract::predict(&teacher.model, &[&encoded], rule).unwrap();
        found += predicted[0].len();
        let bits: usize = labels.bits.iter().map(|word| word.count_ones() as usize).sum();
        assert_eq!(bits, predicted[0].len());
        assert!(predicted[0].iter().all(|t| labels.get(t.head * 4 + t.tail, t.relation)), "document {i}");
        let both = stored.predicted(&logits[0], &Pairs::undirected(), 4, &Labels::new(16, relations.len()), 4);
        for (cell, class) in (0..16).flat_map(|cell| (1..relations.len()).map(move |class| (cell, class))) {
            let either = labels.get(cell, class) || labels.get(cell % 4 * 4 + cell / 4, class);
            assert_eq!(both.get(cell, class), either, "document {i}, cell {cell}");
        }
    }
    assert!((20..margins.len() - 20).contains(&found), "{found}");
}

/// Documents without labels, one after another into a file.
fn write_unlabelled(path: &Path, count: usize) {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    for part in 0..count.div_ceil(1000) {
        let made: Value = serde_json::from_str(&documents(part as u64, 1000.min(count - part * 1000))).unwrap();
        for (i, mut document) in made.as_array().unwrap().iter().cloned().enumerate() {
            document.as_object_mut().unwrap().remove("labels");
            document["title"] = json!(format!("document {part} {i}"));
            out.write_all(if part + i == 0 { b"[" } else { b",\n" }).unwrap();
            out.write_all(document.to_string().as_bytes()).unwrap();
        }
    }
    out.write_all(b"]").unwrap();
}

/// MiB at the peak of the process that ran a stage.
fn peak_of(lab: &Lab, stage: &str, out: &str) -> f64 {
    let out = lab.path(out).to_string_lossy().into_owned();
    let few_saves = ["-s", "output.save_every=0", "-s", "student.schedule.epochs=1", "-s", "student.schedule.batch=8"];
    let arguments = [&["--only", stage, "--profile", "--out", &out], &few_saves[..]].concat();
    let run = lab.docre(&arguments).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    let line = said.lines().find_map(|line| line.split_once("the process at its peak: ")).unwrap();
    line.1.split(' ').next().unwrap().parse().unwrap()
}

/// As many documents as DocRED's distantly supervised set has: minutes, with DOCRE_SOAK=1.
#[test]
fn memory_does_not_grow_with_the_documents() {
    if std::env::var_os("DOCRE_SOAK").is_none() {
        println!("SKIPPED: 100,000 documents, since DOCRE_SOAK is not set");
        return;
    }
    let lab = Lab::new();
    let peaks = [10_000, 100_000].map(|count| {
        write_unlabelled(&lab.path("more.json"), count);
        let out = format!("run{count}");
        peak_of(&lab, "teacher", &out);
        let [logits, student] = ["logits", "student"].map(|stage| peak_of(&lab, stage, &out));
        let files = std::fs::read_dir(lab.path(&out).join("logits")).unwrap();
        let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        println!(
            "{count} documents: logits {logits} MiB, student {student} MiB, {:.1} MiB on disk",
            bytes as f64 / 1048576.0
        );
        [logits, student]
    });
    // 48 bytes a document, and what the allocator makes of it.
    let more = peaks[1].iter().zip(&peaks[0]).map(|(more, less)| more - less);
    assert!(peaks[1].iter().all(|mib| *mib < 1500.0) && more.into_iter().all(|mib| mib < 24.0), "{peaks:?}");
}

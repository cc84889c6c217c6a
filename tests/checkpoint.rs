//! Damaged files are refused with one line; killed saves lose nothing.

mod common;

use common::golden::golden_config;
use docre::checkpoint::directory::{
    MANIFEST, checkpoint_name, latest_complete, prune, recover, save_directory, verify,
};
use docre::checkpoint::{AtomicFile, Planned, Slice, Stored, TensorFile, TensorWriter, Want, load, save};
use docre::model::config::ModelConfig;
use docre::model::names::{ParamSpec, parameter_table};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// xorshift64*: enough to choose places to damage.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }
}

/// A safetensors file with this header and so many bytes of data.
fn raw(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn open(bytes: &[u8]) -> docre::Result<TensorFile> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    fs::write(&path, bytes).unwrap();
    TensorFile::open(path)
}

fn written(plan: Vec<Planned>, fill: impl FnOnce(&mut TensorWriter<Vec<u8>>)) -> Vec<u8> {
    let mut writer = TensorWriter::new(Vec::new(), plan, &BTreeMap::from([("k".into(), "v".into())])).unwrap();
    fill(&mut writer);
    writer.finish().unwrap()
}

#[test]
fn headers_that_lie_are_refused() {
    let f32s = |name: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let one = |entry: String| format!("{{{entry}}}");
    assert!(open(&raw(&one(f32s("a", "[2]", 0, 8)), 8)).is_ok());
    assert!(open(&raw("{}", 0)).is_ok());
    let cases = [
        (raw(&one(f32s("a", "[2]", 0, 8)), 7), "promises"),
        (raw(&one(f32s("a", "[2]", 0, 8)), 9), "promises"),
        (raw(&one(f32s("a", "[3]", 0, 8)), 8), "takes 12 bytes"),
        (raw(&one(f32s("a", "[2]", 8, 0)), 8), "takes 8 bytes"),
        (raw(&one(f32s("a", "[2]", 4, 12)), 12), "hole"),
        (raw(&format!("{{{},{}}}", f32s("a", "[2]", 0, 8), f32s("b", "[2]", 4, 12)), 12), "overlaps"),
        (raw(&format!("{{{},{}}}", f32s("a", "[2]", 0, 8), f32s("a", "[2]", 0, 8)), 8), "twice"),
        (raw(&one(f32s("a", "[4294967296,4294967296]", 0, 0)), 0), "impossible shape"),
        (raw(&one(f32s("a", "[0,4294967296,4294967296]", 0, 0)), 0), "impossible shape"),
        (raw(&one(f32s("a", "[1,1,1,1,1,1,1,1,1]", 0, 4)), 4), "too many dimensions"),
        (raw(&one(f32s("a", "[-1]", 0, 4)), 4), "not valid"),
        (raw(&one(f32s("a b", "[1]", 0, 4)), 4), "refused tensor name"),
        (raw(&one(f32s("a\\nb", "[1]", 0, 4)), 4), "refused tensor name 'a\\nb'"),
        (raw(&one(f32s("", "[1]", 0, 4)), 4), "refused tensor name"),
        (raw(r#"{"a":{"dtype":"F8","shape":[1],"data_offsets":[0,1]}}"#, 1), "'F8', which is not supported"),
        (raw(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0}}"#, 1), "unknown field"),
        (raw(r#"{"__metadata__":{"a":1}}"#, 0), "not valid"),
        (raw("[]", 0), "not valid"),
        (b"1234567".to_vec(), "too few"),
        (u64::MAX.to_le_bytes().to_vec(), "not a safetensors file"),
        (100u64.to_le_bytes().to_vec(), "not a safetensors file"),
    ];
    for (i, (bytes, why)) in cases.iter().enumerate() {
        let error = open(bytes).unwrap_err();
        assert!(error.what().contains(why), "case {i}: {error}");
        assert!(!error.what().contains('\n'), "case {i}: {error}");
    }
}

/// What a header may make us allocate is bounded by its own length, however it is filled.
#[test]
fn headers_that_would_take_memory_are_refused_early() {
    let long_shape = format!(r#"{{"a":{{"dtype":"U8","shape":[{}0],"data_offsets":[0,0]}}}}"#, "0,".repeat(4_000_000));
    assert!(open(&raw(&long_shape, 0)).unwrap_err().what().contains("too many dimensions"));
    let empty = |i: usize| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let many: Vec<String> = (0..100_001).map(empty).collect();
    assert!(open(&raw(&format!("{{{}}}", many.join(",")), 0)).unwrap_err().what().contains("too many tensors"));
    assert!(open(&raw(&format!("{{{}}}", many[1..].join(",")), 0)).is_ok());
    let entries: Vec<String> = (0..4097).map(|i| format!(r#""{i}":"""#)).collect();
    let metadata = format!(r#"{{"__metadata__":{{{}}}}}"#, entries.join(","));
    assert!(open(&raw(&metadata, 0)).unwrap_err().what().contains("too much metadata"));
}

#[test]
fn a_directory_or_a_pipe_is_no_file() {
    assert!(TensorFile::open("/").unwrap_err().what().contains("not a regular file"));
    assert!(TensorFile::open("/dev/null").unwrap_err().what().contains("not a regular file"));
    assert_eq!(TensorFile::open("/nowhere").unwrap_err().exit_code(), 6);
}

#[test]
fn every_type_is_read() {
    let types = ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"];
    for name in types {
        let (one, minus): (Vec<u8>, Option<Vec<u8>>) = match name {
            "F64" => (1f64.to_le_bytes().into(), Some((-1f64).to_le_bytes().into())),
            "F32" => (1f32.to_le_bytes().into(), Some((-1f32).to_le_bytes().into())),
            "F16" => (half::f16::ONE.to_le_bytes().into(), Some(half::f16::NEG_ONE.to_le_bytes().into())),
            "BF16" => (half::bf16::ONE.to_le_bytes().into(), Some(half::bf16::NEG_ONE.to_le_bytes().into())),
            _ => {
                let size = match &name[name.len() - 2..] {
                    "64" => 8,
                    "32" => 4,
                    "16" => 2,
                    _ => 1,
                };
                let mut one = vec![0; size];
                one[0] = 1;
                (one, name.starts_with('I').then(|| vec![255; size]))
            }
        };
        let second = minus.clone().unwrap_or_else(|| one.clone());
        let n = 2 * one.len();
        let mut bytes = raw(&format!(r#"{{"a":{{"dtype":"{name}","shape":[2],"data_offsets":[0,{n}]}}}}"#), 0);
        bytes.extend(one.iter().chain(&second));
        let file = open(&bytes).unwrap();
        let expected = [1, if minus.is_some() { -1 } else { 1 }];
        if file.info("a").unwrap().stored.is_float() {
            assert_eq!(file.read_f64("a").unwrap().1, expected.map(f64::from), "{name}");
            assert_eq!(file.read_f32("a").unwrap().1, expected.map(|v| v as f32), "{name}");
            assert!(file.read_i64("a").unwrap_err().what().contains("not integers"));
        } else {
            assert_eq!(file.read_i64("a").unwrap().1, expected.map(i64::from), "{name}");
            assert!(file.read_f32("a").unwrap_err().what().contains("not weights"));
            assert_eq!(file.read_u64("a").is_err(), minus.is_some(), "{name}");
        }
    }
}

#[test]
fn slices_longer_than_the_buffer_are_exact() {
    let (rows, columns) = (700, 900); // 5 MB of f64: several chunks, not at row ends
    let values: Vec<f64> = (0..rows * columns).map(|i| i as f64 * 0.5).collect();
    let bytes = written(vec![Planned::new("a", Stored::F64, &[rows, 30, 30])], |w| w.write(&values).unwrap());
    let file = open(&bytes).unwrap();
    assert!(file.read_f64("a").unwrap().1 == values);
    let mut part = vec![0f32; 10 * 7];
    file.read_into("a", &Slice { rows: 300..310, columns: 893..900 }, &mut part).unwrap();
    for (i, value) in part.iter().enumerate() {
        assert_eq!(*value as f64, values[(300 + i / 7) * columns + 893 + i % 7]);
    }
    let mut some = vec![0f64; 2 * columns];
    file.read_into("a", &Slice::rows(file.info("a").unwrap(), 698..700), &mut some).unwrap();
    assert!(some == values[698 * columns..]);
    assert!(file.read_into("a", &Slice { rows: 0..701, columns: 0..1 }, &mut vec![0f64; 701]).is_err());
    assert!(file.read_into("a", &Slice { rows: 0..1, columns: 0..1 }, &mut [0f64; 2]).is_err());
}

#[test]
fn a_file_that_shrinks_while_open_is_an_error() {
    let bytes = written(vec![Planned::new("a", Stored::F32, &[4])], |w| w.write(&[1f32; 4]).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, &bytes).unwrap();
    let file = TensorFile::open(&path).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(bytes.len() as u64 - 1).unwrap();
    assert_eq!(file.read_f32("a").unwrap_err().exit_code(), 6);
}

#[test]
fn non_finite_weights_are_named_and_never_written() {
    let mut bytes = written(vec![Planned::new("w", Stored::F32, &[2, 3])], |w| w.write(&[1f32; 6]).unwrap());
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let at = bytes.len() - 8;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let error = open(&bytes).unwrap().read_f64("w").unwrap_err();
        assert_eq!((error.code(), error.exit_code()), ("E-NONFINITE", 4));
        assert!(error.what().contains(&format!("tensor w (2x3) has {value} at element 4")), "{error}");
    }
    let large = written(vec![Planned::new("w", Stored::F64, &[1])], |w| w.write(&[1e300]).unwrap());
    assert!(open(&large).unwrap().read_f64("w").is_ok());
    assert_eq!(open(&large).unwrap().read_f32("w").unwrap_err().code(), "E-NONFINITE");

    let refuse = |stored, value: f64| {
        let mut writer =
            TensorWriter::new(Vec::new(), vec![Planned::new("w", stored, &[1])], &BTreeMap::new()).unwrap();
        let error = writer.write(&[value]).unwrap_err();
        assert_eq!(error.exit_code(), 7, "{error}");
    };
    refuse(Stored::F32, 1e39);
    refuse(Stored::F16, 65520.0);
    refuse(Stored::BF16, 3.4e38);
    refuse(Stored::F64, f64::NAN);
}

#[test]
fn what_is_written_is_read_by_the_safetensors_crate() {
    let plan = vec![
        Planned::new("w", Stored::BF16, &[3]),
        Planned::new("none", Stored::F32, &[0, 4]),
        Planned::new("state", Stored::U64, &[2]),
        Planned::new("scalar", Stored::F32, &[]),
    ];
    // ties to even: 1 + 2^-8 lies between 1 and 1 + 2^-7; 1 + 3 * 2^-8 between 1 + 2^-7 and 1 + 2^-6
    let step = 2f64.powi(-8);
    let bytes = written(plan, |w| {
        w.write(&[1.0 + step]).unwrap();
        w.write(&[1.0 + 3.0 * step, -0.0]).unwrap();
        w.write_u64(&[7, u64::MAX]).unwrap();
        w.write(&[0.1f32]).unwrap();
    });
    let other = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let bits: Vec<u16> = [1.0, 1.0 + 4.0 * step, -0.0].iter().map(|v| half::bf16::from_f64(*v).to_bits()).collect();
    assert_eq!(other.tensor("w").unwrap().data(), bytemuck::cast_slice::<u16, u8>(&bits));
    assert_eq!(other.tensor("none").unwrap().shape(), [0, 4]);
    assert_eq!(other.tensor("scalar").unwrap().data(), 0.1f32.to_le_bytes());
    let ours = open(&bytes).unwrap();
    assert_eq!(ours.read_u64("state").unwrap().1, [7, u64::MAX]);
    assert!(ours.read_i64("state").unwrap_err().what().contains("out of range"));
    assert_eq!(ours.metadata()["k"], "v");
}

#[test]
fn a_writer_holds_its_plan() {
    let plan = || vec![Planned::new("a", Stored::F32, &[2]), Planned::new("b", Stored::U64, &[1])];
    let new = |plan| TensorWriter::new(Vec::new(), plan, &BTreeMap::new());
    let mut short = new(plan()).unwrap();
    short.write(&[1f32]).unwrap();
    assert!(short.write_u64(&[1]).is_err());
    assert!(short.finish().is_err());
    let mut long = new(plan()).unwrap();
    assert!(long.write(&[1f32; 3]).is_err());
    let twice = vec![Planned::new("a", Stored::F32, &[1]), Planned::new("a", Stored::F32, &[1])];
    assert!(new(twice).is_err());
}

#[test]
fn an_unfinished_file_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    fs::write(&path, "old").unwrap();
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(b"half").unwrap();
    drop(file);
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(b"new").unwrap();
    file.commit().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// A checkpoint of two files that both say `step`.
fn save_step(dir: &Path, step: u64) -> docre::Result<()> {
    save_directory(dir, |staging| {
        let plan = vec![Planned::new("step", Stored::U64, &[1]), Planned::new("w", Stored::F32, &[20_000])];
        staging.write_with("model.safetensors", |out| {
            let mut writer = TensorWriter::new(out, plan, &BTreeMap::new())?;
            writer.write_u64(&[step])?;
            writer.write(&vec![step as f32; 20_000])?;
            writer.finish().map(|_| ())
        })?;
        staging.write("trainer_state.json", format!("{{\"step\": {step}}}").as_bytes())
    })
}

/// The step that a checkpoint says it is, its files being whole and of one mind.
fn step_of(dir: &Path) -> u64 {
    assert_eq!(verify(dir).unwrap(), ["model.safetensors", "trainer_state.json"]);
    let file = TensorFile::open(dir.join("model.safetensors")).unwrap();
    let step = file.read_u64("step").unwrap().1[0];
    assert!(file.read_f32("w").unwrap().1.iter().all(|v| *v == step as f32));
    assert_eq!(fs::read_to_string(dir.join("trainer_state.json")).unwrap(), format!("{{\"step\": {step}}}"));
    step
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_way_to_break_a_checkpoint_is_noticed() {
    let run = tempfile::tempdir().unwrap();
    let old = run.path().join(checkpoint_name(1));
    save_step(&old, 1).unwrap();
    let new = run.path().join(checkpoint_name(2));
    for file in ["model.safetensors", "trainer_state.json", MANIFEST] {
        save_step(&new, 2).unwrap();
        let length = fs::metadata(new.join(file)).unwrap().len();
        let line = 10 + 64 + 2 + 17 + 1; // in the manifest: exactly between two lines
        let cuts = [0, 1, line.min(length - 1), length / 2, length - 1];
        for cut in cuts.map(Some).into_iter().chain([None]) {
            save_step(&new, 2).unwrap();
            assert_eq!(latest_complete(run.path()).unwrap().unwrap().step, 2);
            match cut {
                Some(length) => fs::File::options().write(true).open(new.join(file)).unwrap().set_len(length).unwrap(),
                None => fs::remove_file(new.join(file)).unwrap(),
            }
            let latest = latest_complete(run.path()).unwrap().unwrap();
            assert_eq!((latest.step, latest.passed_over.len()), (1, 1), "{file} cut to {cut:?}");
            assert_eq!(latest.dir, old);
        }
    }
    save_step(&new, 2).unwrap();
    let mut bytes = fs::read(new.join("model.safetensors")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(new.join("model.safetensors"), bytes).unwrap();
    let latest = latest_complete(run.path()).unwrap().unwrap();
    assert_eq!(latest.step, 1);
    assert!(latest.passed_over[0].what().contains("model.safetensors: differs from its hash"));
    fs::remove_file(old.join(MANIFEST)).unwrap();
    assert_eq!(latest_complete(run.path()).unwrap_err().code(), "E-CHECKPOINT");
}

#[test]
fn a_manifest_cannot_point_elsewhere() {
    let run = tempfile::tempdir().unwrap();
    let dir = run.path().join("c");
    save_step(&dir, 1).unwrap();
    let manifest = fs::read_to_string(dir.join(MANIFEST)).unwrap();
    fs::write(dir.join(MANIFEST), manifest.replace("trainer_state.json", "../../etc/passwd")).unwrap();
    assert!(verify(&dir).unwrap_err().what().contains("damaged line"));
}

#[test]
fn sha256sum_accepts_the_manifest() {
    let run = tempfile::tempdir().unwrap();
    save_step(&run.path().join("c"), 3).unwrap();
    let Ok(done) = Command::new("sha256sum").args(["-c", MANIFEST]).current_dir(run.path().join("c")).output() else {
        eprintln!("SKIPPED sha256sum_accepts_the_manifest: no sha256sum");
        return;
    };
    assert!(done.status.success());
}

#[test]
fn a_failed_save_leaves_what_was_there() {
    let run = tempfile::tempdir().unwrap();
    let dir = run.path().join("best");
    save_step(&dir, 1).unwrap();
    let failed = save_directory(&dir, |staging| {
        staging.write("model.safetensors", b"x")?;
        Err(docre::Error::non_finite("loss"))
    });
    assert_eq!(failed.unwrap_err().exit_code(), 7);
    for name in ["../x", "a/b", "", ".hidden", MANIFEST] {
        assert!(save_directory(&dir, |staging| staging.write(name, b"x")).is_err(), "{name}");
    }
    assert!(save_directory(&dir, |s| s.write("a", b"x").and_then(|()| s.write("a", b"y"))).is_err());
    assert_eq!(step_of(&dir), 1);
    assert_eq!(names_in(run.path()), ["best"]);
}

#[test]
fn an_interrupted_replacement_is_taken_back() {
    let run = tempfile::tempdir().unwrap();
    save_step(&run.path().join("best"), 1).unwrap();
    fs::rename(run.path().join("best"), run.path().join(".best.old-999999")).unwrap();
    recover(run.path()).unwrap();
    assert_eq!(step_of(&run.path().join("best")), 1);
}

#[test]
fn pruning_keeps_the_newest_complete_and_the_linked() {
    let run = tempfile::tempdir().unwrap();
    let at = |step: u64| run.path().join(checkpoint_name(step));
    for step in [5, 100, 20, 1_000_000, 30, 40] {
        save_step(&at(step), step).unwrap();
    }
    fs::remove_file(at(100).join("trainer_state.json")).unwrap();
    std::os::unix::fs::symlink(checkpoint_name(5), run.path().join("best")).unwrap();
    fs::create_dir(run.path().join(".checkpoint-000007.tmp-4294967")).unwrap();
    let alive = format!(".checkpoint-000008.tmp-{}", std::os::unix::process::parent_id());
    fs::create_dir(run.path().join(&alive)).unwrap();
    fs::create_dir(run.path().join("notes")).unwrap();
    prune(run.path(), 2).unwrap();
    let mut expected: Vec<String> =
        [5, 40, 100, 1_000_000].map(checkpoint_name).into_iter().chain(["best".into(), "notes".into()]).collect();
    if Path::new("/proc/self").exists() {
        expected.push(alive); // another process's save
    }
    expected.sort();
    assert_eq!(names_in(run.path()), expected);
    assert_eq!(step_of(&run.path().join("best")), 5);
    assert_eq!(latest_complete(run.path()).unwrap().unwrap().step, 1_000_000);
    assert!(latest_complete(run.path().join("nowhere")).unwrap().is_none());
    assert!(latest_complete(run.path().join("notes")).unwrap().is_none());
}

/// Not a test: the process that `killed_saves_lose_nothing` kills. Saves until it dies.
#[test]
#[ignore = "run by killed_saves_lose_nothing"]
fn saving_child() {
    let Some(run) = std::env::var_os("DOCRE_TEST_SAVES_IN").map(PathBuf::from) else { return };
    recover(&run).unwrap();
    let start = latest_complete(&run).unwrap().map_or(0, |latest| latest.step);
    for step in start + 1.. {
        save_step(&run.join(checkpoint_name(step)), step).unwrap();
        save_step(&run.join("best"), step).unwrap();
        prune(&run, 2).unwrap();
        println!("\nsaved {step}");
    }
}

#[test]
fn killed_saves_lose_nothing() {
    let kills: usize = std::env::var("DOCRE_KILLS").map_or(5, |n| n.parse().unwrap());
    let run = tempfile::tempdir().unwrap();
    let mut dice = Dice(0x5eed);
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["saving_child", "--exact", "--ignored", "--nocapture"])
            .env("DOCRE_TEST_SAVES_IN", run.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let saved = |line: String| line.strip_prefix("saved ").and_then(|n| n.parse::<u64>().ok());
        let mut promised = lines.by_ref().find_map(saved).expect("the child saves");
        std::thread::sleep(std::time::Duration::from_micros(dice.roll(60_000) as u64));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        promised = lines.filter_map(saved).last().unwrap_or(promised);

        let latest = latest_complete(run.path()).unwrap().expect("a complete checkpoint");
        assert!(latest.passed_over.is_empty(), "kill {kill}: {:?}", latest.passed_over);
        assert!(latest.step >= promised, "kill {kill}: step {} after {promised} was promised", latest.step);
        assert_eq!(step_of(&latest.dir), latest.step);
        assert!(step_of(&run.path().join("best")) + 1 >= latest.step);
    }
}

/// A small model's files, for damaging.
fn small_model() -> (String, Vec<u8>, Vec<ParamSpec>) {
    let text = golden_config("bert").0.to_json();
    let text =
        text.replace("\"vocab_size\": 97", "\"vocab_size\": 5").replace("\"hidden_size\": 32", "\"hidden_size\": 4");
    let text = text.replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 8");
    let config = ModelConfig::parse(&text).unwrap();
    let table = parameter_table(&config);
    let flat: Vec<f32> = (0..table.iter().map(ParamSpec::elements).sum()).map(|i| i as f32).collect();
    let mut weights = Vec::new();
    save(&mut weights, &table, &flat, Stored::F32, &BTreeMap::new()).unwrap();
    (text, weights, table)
}

/// One or a few changes of the kinds that disks, editors and attackers make.
fn damage(bytes: &mut Vec<u8>, region: usize, dice: &mut Dice) {
    const TEXTS: [&[u8]; 8] =
        [b"99999999999999999999", b"-1", b"0", b"null", b"\"", b"{", b"[[[[[[", b"18446744073709551615"];
    for _ in 0..1 + dice.roll(3) {
        let at = dice.roll(region.min(bytes.len()).max(1)).min(bytes.len().saturating_sub(1));
        match dice.roll(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.roll(8),
            1 if !bytes.is_empty() => bytes[at] = dice.roll(256) as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.splice(at..at, TEXTS[dice.roll(TEXTS.len())].iter().copied())),
            4 => {
                let end = (at + dice.roll(20)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            _ => {
                let end = (at + dice.roll(100)).min(bytes.len());
                let copy = bytes[at.min(end)..end].to_vec();
                drop(bytes.splice(at..at, copy));
            }
        }
    }
}

#[test]
fn damaged_models_are_refused_with_one_line_or_load() {
    let mutations: usize = std::env::var("DOCRE_MUTATIONS").map_or(2000, |n| n.parse().unwrap());
    let (config, weights, _) = small_model();
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.safetensors");
    let mut dice = Dice(0xd0c);
    let (mut refused, mut loaded) = (0, 0);
    for round in 0..mutations {
        let (mut text, mut bytes) = (config.clone().into_bytes(), weights.clone());
        match round % 4 {
            0 | 1 => damage(&mut bytes, header, &mut dice),
            2 => damage(&mut bytes, usize::MAX, &mut dice),
            _ => damage(&mut text, usize::MAX, &mut dice),
        }
        fs::write(dir.path().join("config.json"), text).unwrap();
        fs::write(&model, bytes).unwrap();
        let result = ModelConfig::load(dir.path())
            .and_then(|config| load::<f32>(dir.path(), &parameter_table(&config), Want::Everything));
        match result {
            Ok((flat, _)) => {
                assert!(flat.iter().all(|v| v.is_finite()));
                loaded += 1;
            }
            Err(error) => {
                assert_eq!(error.exit_code(), 4, "round {round}: {error}");
                assert!(!error.what().contains('\n') && error.what().len() < 600, "round {round}: {error}");
                refused += 1;
            }
        }
    }
    eprintln!("{mutations} mutations: {refused} refused, {loaded} loaded");
    assert!(refused > mutations / 2 && loaded > 0, "the mutations reach both ends");
}

//! How good the kernels' tests are: bugs are planted in kernels/, one at a time, and one of the op's tests whose names
//! say `on_the_gpu` must fail.
//!
//! `tests/ops/mutants/OP.txt` lists the bugs of an op: blocks of
//! ```text
//! # what it is
//! in gemm.cuh            (else in OP.cu; of another op's kernels that this op launches, in X.cu)
//! < a piece of that file, found once in it; \n where a line ends
//! > what stands there instead, or nothing
//! ```
//! `make mutants` runs it: a few seconds each, on softgpu; with DOCRE_MUTANTS=OP those of one op. A mutated file is
//! compiled to PTX and loaded through DOCRE_KERNELS instead of the build's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
struct Mutant {
    op: String,
    what: String,
    file: String,
    from: String,
    to: String,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Fault,
    WrongValue,
    /// Right values, but more bytes moved than the gate allows, or conflicts in shared memory.
    Traffic,
    TimedOut,
    Survived,
}

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

fn list() -> Vec<Mutant> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ops/mutants");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| read(file)).collect()
}

fn read(path: &Path) -> Vec<Mutant> {
    let op = path.file_stem().unwrap().to_str().unwrap().to_string();
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("\n\n").map(str::trim).filter(|block| !block.is_empty());
    let parse = |block: &str| {
        let of = |mark: &str| block.lines().find_map(|line| Some(line.strip_prefix(mark)?.trim().to_string()));
        Mutant {
            what: of("#").unwrap_or_else(|| panic!("{path:?}: no # line in\n{block}")),
            file: of("in ").unwrap_or(format!("{op}.cu")),
            from: of("<").unwrap_or_else(|| panic!("{path:?}: no < line in\n{block}")).replace("\\n", "\n"),
            to: of(">").unwrap_or_default().replace("\\n", "\n"),
            op: op.clone(),
        }
    };
    blocks.map(parse).collect()
}

/// The mutated sources in `dir`, and the image of the op's kernels.
fn compile(mutant: &Mutant, dir: &Path) -> PathBuf {
    let sources = dir.join("kernels");
    std::fs::create_dir_all(&sources).unwrap();
    for entry in std::fs::read_dir(kernels()).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), sources.join(entry.file_name())).unwrap();
    }
    let file = sources.join(&mutant.file);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches(&mutant.from).count(), 1, "{}: {:?} must occur once", mutant.file, mutant.from);
    std::fs::write(&file, text.replacen(&mutant.from, &mutant.to, 1)).unwrap();
    let images = dir.join("images");
    std::fs::create_dir_all(&images).unwrap();
    let nvcc = std::env::var_os("NVCC").expect("NVCC: `make mutants` sets it");
    let image = mutant.file.strip_suffix(".cu").unwrap_or(&mutant.op);
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "--no-compress", "-std=c++17", "-O3", "-lineinfo", "-I"]).arg(&sources);
    command.arg("-gencode=arch=compute_80,code=compute_80").arg("-o").arg(images.join(format!("{image}.fatbin")));
    let output = command.arg(sources.join(format!("{image}.cu"))).output().unwrap();
    assert!(output.status.success(), "{mutant:?}: {}", String::from_utf8_lossy(&output.stderr));
    images
}

/// The names of the op's tests that need a GPU; the one of what kernels move comes last.
fn gpu_tests(op: &str) -> Vec<String> {
    let output = Command::new(std::env::current_exe().unwrap()).args(["--list", "--format=terse"]).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    let names = listing.lines().filter_map(|line| line.strip_suffix(": test"));
    let of_op = |name: &&str| name.starts_with(&format!("{op}::")) && name.contains("on_the_gpu");
    let mut names: Vec<String> = names.filter(of_op).map(str::to_string).collect();
    assert!(!names.is_empty(), "{op}: no test on_the_gpu");
    names.sort_by_key(|name| name.ends_with(TRAFFIC));
    names
}

const TRAFFIC: &str = "::traffic_on_the_gpu";

/// One test after another, up to the first that fails.
fn run(mutant: &Mutant) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let images = compile(mutant, dir.path());
    let mut outcomes = gpu_tests(&mutant.op).into_iter().map(|name| run_test(&name, &images, &dir.path().join("log")));
    outcomes.find(|outcome| *outcome != Outcome::Survived).unwrap_or(Outcome::Survived)
}

fn run_test(name: &str, images: &Path, log: &Path) -> Outcome {
    const PATIENCE: Duration = Duration::from_secs(300);
    let out = std::fs::File::create(log).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("DOCRE_KERNELS", images)
        .env("RUST_BACKTRACE", "0")
        .stdout(out.try_clone().unwrap())
        .stderr(Stdio::from(out))
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if start.elapsed() > PATIENCE => {
                child.kill().unwrap();
                child.wait().unwrap();
                return Outcome::TimedOut;
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("running 1 test") && !said.contains("SKIPPED"), "{name}: {said}");
    match status.success() {
        true => Outcome::Survived,
        false if said.contains("softgpu: ") => Outcome::Fault,
        false if name.ends_with(TRAFFIC) => Outcome::Traffic,
        false => Outcome::WrongValue,
    }
}

#[test]
fn every_planted_bug_has_its_place() {
    for mutant in list() {
        let text = std::fs::read_to_string(kernels().join(&mutant.file)).unwrap();
        assert_eq!(text.matches(&mutant.from).count(), 1, "{}: {:?} must occur once", mutant.file, mutant.from);
        assert!(mutant.from != mutant.to, "{mutant:?}");
    }
}

#[test]
#[ignore = "minutes: make mutants"]
fn planted_bugs_are_caught() {
    assert_eq!(std::env::var("DOCRE_TEST_DEVICE").as_deref(), Ok("softgpu"), "`make mutants` sets it");
    let chosen = std::env::var("DOCRE_MUTANTS").ok();
    let all: Vec<Mutant> = list().into_iter().filter(|m| chosen.as_ref().is_none_or(|op| *op == m.op)).collect();
    let (queue, done) = (Mutex::new(all.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(mutant) = queue.lock().unwrap().next() else { return };
                    let outcome = run(mutant);
                    println!("{outcome:?}: {}: {}", mutant.op, mutant.what);
                    done.lock().unwrap().push((mutant, outcome));
                }
            });
        }
    });
    let done = done.into_inner().unwrap();
    let count = |wanted: Outcome| done.iter().filter(|(_, outcome)| *outcome == wanted).count();
    let caught = done.len() - count(Outcome::Survived);
    println!(
        "caught {caught} of {} planted bugs: {} by a fault, {} by a wrong value, {} by what they move, {} by the time",
        done.len(),
        count(Outcome::Fault),
        count(Outcome::WrongValue),
        count(Outcome::Traffic),
        count(Outcome::TimedOut)
    );
    let survived = done.iter().filter(|(_, outcome)| *outcome == Outcome::Survived);
    let survived: Vec<String> = survived.map(|(mutant, _)| format!("{}: {}", mutant.op, mutant.what)).collect();
    assert!(
        survived.is_empty() && (chosen.is_some() || all.len() >= 300),
        "{} bugs, not caught: {survived:#?}",
        all.len()
    );
}

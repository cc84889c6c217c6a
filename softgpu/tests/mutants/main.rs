//! Does softgpu notice bugs? Plants them in the sample kernels, one at a time, and counts how many the samples' own
//! comparisons and softgpu's checks catch. `make mutants` runs it.

#[path = "../common/nvcc.rs"]
mod nvcc;
#[path = "../common/program.rs"]
mod program;
mod table;

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use table::{MUTANTS, Mutant};

const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Warp instructions of a block; the samples need less than a hundredth.
const INSTRUCTION_LIMIT: &str = "20000000";
/// Orders of warps to try, as the tests of kernels do.
const SEEDS: [&str; 2] = ["0", "1"];
/// Compilers and samples at work at the same time.
const WORKERS: usize = 2;

#[test]
fn each_text_occurs_once_in_its_file() {
    for mutant in MUTANTS {
        let source = fs::read_to_string(nvcc::samples().join(mutant.file)).expect(mutant.file);
        assert_eq!(source.matches(mutant.find).count(), 1, "{}: {:?} in {}", mutant.name, mutant.find, mutant.file);
        assert_ne!(mutant.find, mutant.replace, "{}", mutant.name);
        assert!(program::NAMES.contains(&mutant.image()), "{}", mutant.name);
    }
    let names: HashSet<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
    assert_eq!(names.len(), MUTANTS.len(), "two mutants share a name");
    assert!(MUTANTS.len() >= 40);
}

#[test]
#[ignore = "minutes: make mutants"]
fn mutants_are_caught() {
    let sound = nvcc::images(&nvcc::samples(), &program::NAMES, "ptx").expect("nvcc compiles the samples");
    if let Some(what) = SEEDS.iter().find_map(|seed| run(&sound, None, seed)) {
        panic!("the samples fail without any mutation: {what}");
    }
    let (queue, survivors) = (Mutex::new(MUTANTS.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let Some(mutant) = queue.lock().unwrap().next() else { return };
                    let images = compile(mutant);
                    let caught = SEEDS.iter().find_map(|seed| run(&images, Some(mutant.sample), seed));
                    println!("{:40} {}", mutant.name, caught.as_deref().unwrap_or("SURVIVED"));
                    if caught.is_none() {
                        survivors.lock().unwrap().push(mutant.name);
                    }
                }
            });
        }
    });
    let survivors = survivors.into_inner().unwrap();
    println!("caught {} of {}", MUTANTS.len() - survivors.len(), MUTANTS.len());
    assert!(survivors.is_empty(), "survived: {}", survivors.join(", "));
}

/// Copies the samples, plants the bug and compiles the image that it concerns.
fn compile(mutant: &Mutant) -> PathBuf {
    let dir = nvcc::target().join("softgpu-samples/mutants").join(mutant.name);
    fs::create_dir_all(&dir).expect("target/ can be written");
    for entry in fs::read_dir(nvcc::samples()).expect("the samples").flatten() {
        let mut text = fs::read_to_string(entry.path()).expect("a sample is text");
        if entry.file_name() == mutant.file {
            text = text.replacen(mutant.find, mutant.replace, 1);
        }
        fs::write(dir.join(entry.file_name()), text).expect("target/ can be written");
    }
    let images = nvcc::images(&dir, &[mutant.image()], "ptx");
    images.unwrap_or_else(|what| panic!("{} does not compile: {what}", mutant.name))
}

/// By what the bug was caught, if it was.
fn run(images: &Path, sample: Option<&str>, seed: &str) -> Option<String> {
    // A file, since nobody reads a pipe while we wait.
    let log = images.join(format!("seed{seed}.log"));
    let output = File::create(&log).expect("target/ can be written");
    let mut command = program::samples(images).expect("make mutants builds what is needed");
    command.args(sample).env("SOFTGPU_SEED", seed).env("SOFTGPU_LIMIT", INSTRUCTION_LIMIT);
    command.stdout(output.try_clone().expect("a second handle")).stderr(output);
    let start = Instant::now();
    let mut child = command.spawn().expect("the example starts");
    let status = loop {
        if let Some(status) = child.try_wait().expect("the example is ours") {
            break status;
        }
        if start.elapsed() > TIME_LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Some("time-out".into());
        }
        thread::sleep(Duration::from_millis(5));
    };
    judge(status, &String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()))
}

/// 1 and 2 are the example's "wrong value" and "driver error". Any other end says nothing about the mutant.
fn judge(status: ExitStatus, output: &str) -> Option<String> {
    let line = |start: &str| output.lines().find(|line| line.starts_with(start));
    match status.code() {
        Some(0) => None,
        Some(1) => Some(line("WRONG").unwrap_or("wrong value").into()),
        Some(2) => {
            let place = output.lines().find_map(|line| line.trim().strip_prefix("at ")?.rsplit('/').next());
            let place = place.map(|place| format!(" at {place}")).unwrap_or_default();
            Some(line("softgpu: ").or(line("ERROR")).unwrap_or("driver error").to_string() + &place)
        }
        _ => panic!("the example ended with {status}: {output}"), // a crash: softgpu's own bug
    }
}

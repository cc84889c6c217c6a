//! The sample kernels as a user runs them: a plain cudarc program in a process of its own, which finds the driver by the
//! library path or not at all. Needs nvcc, and the library that `make softgpu` builds.

#[path = "common/nvcc.rs"]
mod nvcc;
#[path = "common/program.rs"]
mod program;

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// The program with its images in this format; None, and said, where something for it is missing.
fn program(format: &str) -> Option<Command> {
    let images = nvcc::images(&nvcc::samples(), &program::NAMES, format);
    images.and_then(|images| program::samples(&images)).inspect_err(|reason| nvcc::skip(reason)).ok()
}

fn run(format: &str, settings: &[(&str, &str)], cases: &[&str]) -> Option<Output> {
    let mut command = program(format)?;
    Some(command.args(cases).envs(settings.iter().copied()).output().expect("the program starts"))
}

fn text(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// What it printed, and the report.
fn reported(settings: &[(&str, &str)], cases: &[&str]) -> Option<(String, Value)> {
    let dir = tempfile();
    let report = dir.join("report.json");
    let settings = [settings, &[("SOFTGPU_REPORT", report.to_str().expect("a plain path"))]].concat();
    let said = text(&run("ptx", &settings, cases)?);
    let json = std::fs::read_to_string(&report).expect("the report is written when the process ends");
    let _ = std::fs::remove_dir_all(dir);
    Some((said, serde_json::from_str(&json).expect("JSON")))
}

fn tempfile() -> PathBuf {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("softgpu-samples-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
    let dir = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&dir).expect("a directory for the report");
    dir
}

#[test]
fn without_the_library_path_there_is_no_driver() {
    let Some(mut program) = program("ptx") else { return };
    let output = program.env_remove("LD_LIBRARY_PATH").output().expect("the program starts");
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: loads a library if there is one; calls nothing.
    assert!(!unsafe { cudarc::driver::sys::is_culib_present() }, "cargo's own library path must hold no libcuda");
}

#[test]
fn all_samples_are_right_and_repeat_to_the_bit() {
    let settings = |seed, threads| [("SOFTGPU_SEED", seed), ("SOFTGPU_THREADS", threads)];
    let Some((said, report)) = reported(&settings("0", "1"), &[]) else { return };
    assert!(said.lines().filter(|line| line.starts_with("ok ")).count() > 60, "{said}");
    assert!(said.contains("block 1 of 2: 42 0.125 done"), "what a kernel prints:\n{said}");
    for (seed, threads) in [("0", "2"), ("1", "1"), ("7", "3")] {
        let Some((again, counted)) = reported(&settings(seed, threads), &[]) else { return };
        assert_eq!(sorted(&said), sorted(&again), "seed {seed}, {threads} threads");
        for (kernel, other) in kernels(&report).iter().zip(kernels(&counted)) {
            // How often a compare-and-swap is tried again depends on the order of blocks.
            if kernel["kernel"] != "histogram" {
                assert_eq!(
                    kernel["counters"], other["counters"],
                    "{} seed {seed}, {threads} threads",
                    kernel["kernel"]
                );
            }
        }
    }
}

fn kernels(report: &Value) -> &Vec<Value> {
    report["kernels"].as_array().expect("kernels")
}

/// Lines that blocks print themselves come in any order.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn fat_binaries_load_too_and_other_profiles_run_them() {
    let cases = ["gemm_nt=65x136x40", "layernorm_bf16=3x96", "attention_forward=2x1x66"];
    let Some(first) = run("ptx", &[], &cases) else { return };
    for profile in ["sm_80", "sm_89", "sm_90"] {
        let Some(again) = run("fatbin", &[("SOFTGPU_PROFILE", profile)], &cases) else { return };
        assert_eq!(text(&first), text(&again), "{profile}");
    }
}

#[test]
fn hanging_kernels_end_with_a_report() {
    let Some(output) = run("ptx", &[("SOFTGPU_LIMIT", "50")], &["layernorm_f32=1x96"]) else { return };
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("instruction_limit") && said.contains("layernorm.cu:"), "{said}");
}

#[test]
fn failed_checks_come_back_as_errors() {
    for (sample, fault) in [("assert_fires", "softgpu: assert: "), ("trap_fires", "softgpu: trap: ")] {
        let Some(output) = run("ptx", &[], &[sample]) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stdout));
        assert!(said.contains(fault) && said.contains("reduce.cu:"), "{said}");
    }
}

#[track_caller]
fn counters(case: &str, kernel: &str, expected: Value) {
    let Some((_, report)) = reported(&[], &[case]) else { return };
    let found = kernels(&report).iter().find(|found| found["kernel"] == kernel).expect("the kernel ran");
    for (name, value) in expected.as_object().expect("an object") {
        let mut counted = &found["counters"];
        name.split('.').for_each(|part| counted = &counted[part]);
        let values: Value = match counted {
            Value::Object(fields) => fields.values().cloned().collect(),
            other => other.clone(),
        };
        assert_eq!(values, *value, "{case}: {name}");
    }
}

// Of memory: requests, bytes, sectors a request, sectors a launch. Of shared memory: requests, bytes, passes, ideal.

#[test]
fn layernorm_counts() {
    // 4 rows of 768 floats, 4 warps. A row is 6 packs of 16 bytes a lane, 512 bytes a request, 16 sectors.
    // Loads: x, gamma and beta, 24 requests each; gamma and beta (96 sectors each) are the same for all rows.
    // Stores: y, and one float of mean and of rstd a row, which lie in one sector each.
    // An element: sum 1, distance 1, square 2, normal 2, scale and shift 2 = 8 operations; a lane: two sums over the
    // warp of 5 steps, two divisions, one addition of eps.
    counters(
        "layernorm_f32=4x768",
        "layernorm_f32",
        json!({
            "global_load": [72, 36864, 1152, 384 + 96 + 96],
            "global_store": [24 + 8, 12288 + 32, 384 + 8, 384 + 2],
            "flops": 4 * 768 * 8 + 4 * 32 * (2 * 5 + 2 + 1),
            "instructions.warp": 4 * 10,
            "instructions.tensor": 0,
            "barriers": 0,
            "local_bytes": 0,
        }),
    );
}

#[test]
fn gemm_counts() {
    // 128 x 128 x 128, launched twice (small integers, then random values): one block, 4 steps of depth 32.
    // Copies: A and B are 32 KiB each, 512 bytes a request. C in bf16: 8 warps store 32 times 8 rows of 16 bytes:
    // 8 sectors a request, of which each is written twice.
    // A warp and step: 2 depths of 16 with 4 + 2 ldmatrix.x4 and 16 mma.
    counters(
        "gemm_nt=128x128x128",
        "gemm_nt",
        json!({
            "tensor_flops": 2 * 2 * 128 * 128 * 128,
            "instructions.tensor": 2 * 8 * 4 * 2 * 16,
            "global_load": [2 * 128, 2 * 65536, 2 * 2048, 2 * 2048],
            "shared_store": [2 * 128, 2 * 65536, 2 * 512, 2 * 512],
            "global_store": [2 * 8 * 32, 2 * 32768, 2 * 8 * 32 * 8, 2 * 1024],
            "ldmatrix": [2 * 8 * 4 * 2 * 6, 2 * 8 * 4 * 2 * 6 * 512, 2 * 8 * 4 * 2 * 6 * 4, 2 * 8 * 4 * 2 * 6 * 4],
            "barriers": 2 * 8 * 4,
            "divergent_branches": 0,
        }),
    );
}

#[test]
fn attention_counts() {
    // One head, one sequence of 64: one block of 4 warps, one tile of keys.
    // Loads: two numbers of `starts` a warp, the same for all lanes; Q, K and V, 8 KiB each.
    // Stores: a warp 16 times 8 rows of 16 bytes, and twice 8 numbers of the LSE.
    // A warp: 4 ldmatrix.x4 for Q, 32 x2 for K, 16 x4 for V; 32 mma for the scores and 32 for the values.
    counters(
        "attention_forward=1x64",
        "attention_forward",
        json!({
            "global_load": [8 + 48, 8 * 128 + 3 * 8192, 8 + 768, 1 + 768],
            "global_store": [4 * 18, 8192 + 256, 4 * 16 * 8 + 8, 256 + 8],
            "shared_store": [48, 3 * 8192, 4 * 48, 4 * 48],
            "ldmatrix": [4 * 52, 4 * (20 * 512 + 32 * 256), 4 * (20 * 4 + 32 * 2), 4 * (20 * 4 + 32 * 2)],
            "instructions.tensor": 4 * 64,
            "tensor_flops": 4 * 64 * 4096,
            "barriers": 8,
        }),
    );
}

#[test]
fn reduction_counts() {
    // 1024 numbers, 4 blocks of 4 warps: two loads a warp; 5 shuffles a warp; one number a warp through shared memory,
    // read by one thread; one atomic a block.
    counters(
        "sum_atomic=1024x4",
        "sum_atomic",
        json!({
            "global_load": [32, 4096, 128, 128],
            "global_atomics": [4, 16, 4, 1],
            "shared_store": [16, 64, 16, 16],
            "shared_load": [16, 64, 16, 16],
            "instructions.warp": 16 * 5,
            "barriers": 16,
        }),
    );
}

#[test]
fn philox_counts() {
    // 256 counters of 16 bytes, and three known answers of one each.
    counters(
        "philox_words=256",
        "philox_words",
        json!({ "global_store": [8 + 3, 4096 + 48, 128 + 3, 128 + 3], "flops": 0 }),
    );
}

//! What docre makes of a CUDA driver, shown by softgpu: the driver in software that `make softgpu` builds.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// The GPU tests are to run on a real one: `--device cuda` is then that, not softgpu.
fn on_hardware() -> bool {
    std::env::var("DOCRE_TEST_DEVICE").is_ok_and(|device| device == "cuda")
}

/// docre in a process that finds softgpu with these settings; None, and said, where it is not built.
fn docre(args: &[&str], settings: &[(&str, &str)]) -> Option<Output> {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/softgpu");
    if !library.join("libcuda.so.1").exists() {
        let required = std::env::var("DOCRE_REQUIRE_CUDA_TESTS").is_ok_and(|value| value == "1");
        assert!(!required, "DOCRE_REQUIRE_CUDA_TESTS=1, but target/softgpu/libcuda.so.1 is missing: make softgpu");
        println!("SKIPPED: no target/softgpu/libcuda.so.1: make softgpu builds it");
        return None;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_docre"));
    command.args(args).env("LD_LIBRARY_PATH", library).env_remove("DOCRE_DEVICE").envs(settings.iter().copied());
    Some(command.output().expect("docre starts"))
}

/// docre on the GPU of the tests: the real one, where that is asked for, else softgpu; none where the CPU's turn is.
fn docre_on_the_gpu(args: &[&str]) -> Option<Output> {
    if std::env::var("DOCRE_TEST_DEVICE").is_ok_and(|device| device == "cpu") {
        return None;
    }
    if !on_hardware() {
        return docre(args, &[("SOFTGPU_CHECKS", "bounds")]);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_docre"));
    Some(command.args(args).env_remove("DOCRE_DEVICE").output().expect("docre starts"))
}

fn doctor(args: &[&str], settings: &[(&str, &str)]) -> Option<String> {
    let output = docre(&[&["doctor"], args].concat(), settings)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

#[test]
fn doctor_describes_the_gpu_and_says_that_it_is_software() {
    for (profile, capability, shared) in [("sm_80", [8, 0], 163), ("sm_89", [8, 9], 99), ("sm_90", [9, 0], 227)] {
        let settings = [("SOFTGPU_PROFILE", profile), ("SOFTGPU_MEMORY_MIB", "512")];
        let Some(said) = doctor(&["--json"], &settings) else { return };
        let found: Value = serde_json::from_str(&said).expect("JSON");
        let gpu = &found["cuda"]["gpus"][0];
        assert_eq!(gpu["compute_capability"], serde_json::json!(capability), "{said}");
        assert_eq!(gpu["shared_bytes"], shared * 1024, "{said}");
        assert_eq!(gpu["memory_bytes"], 512 << 20, "{said}");
        assert_eq!((&gpu["software"], &found["cuda"]["driver"]), (&true.into(), &true.into()), "{said}");
    }
    let Some(said) = doctor(&[], &[]) else { return };
    assert!(said.contains("GPU        softgpu sm_80"), "{said}");
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo.jsonl");

/// Margins by (document, subject, object, relation), of all relations down to a margin of -3.
fn margins(device: &str) -> Option<BTreeMap<String, f64>> {
    let args = ["extract", DEMO, "--device", device, "--threshold=-3", "--max-labels=20", "--batch-size=2"];
    let output = docre_on_the_gpu(&args)?;
    assert!(output.status.success(), "{}", err(&output));
    let software = device == "cuda" && !on_hardware();
    assert_eq!(err(&output).contains("a CUDA driver in software"), software, "{}", err(&output));
    let mut found = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let document: Value = serde_json::from_str(line).unwrap();
        for relation in document["relations"].as_array().unwrap() {
            let key = format!("{} {} {} {}", document["id"], relation["h"], relation["t"], relation["r"]);
            found.insert(key, relation["margin"].as_f64().unwrap());
        }
    }
    Some(found)
}

/// How far a margin in bf16 may be from that in f32: logits of the demo model go up to about 10; some 60 roundings of
/// activations to 8 bits on the way, of random direction, are 2^-9 sqrt(60) of that.
const MARGIN_TOLERANCE: f64 = 0.2;

#[test]
fn extraction_finds_the_same_relations_on_the_gpu() {
    let (Some(cpu), Some(gpu)) = (margins("cpu"), margins("cuda")) else { return };
    assert!(cpu.values().filter(|m| **m > 0.0).count() > 10, "{} relations", cpu.len());
    let mut worst = 0f64;
    for (key, margin) in &cpu {
        match gpu.get(key) {
            Some(other) => worst = worst.max((margin - other).abs()),
            None => assert!(*margin < -3.0 + MARGIN_TOLERANCE, "{key}: {margin} on the CPU only"),
        }
    }
    for (key, margin) in &gpu {
        assert!(cpu.contains_key(key) || *margin < -3.0 + MARGIN_TOLERANCE, "{key}: {margin} on the GPU only");
    }
    println!("{} margins, largest difference {worst:.3}", cpu.len());
    assert!(worst <= MARGIN_TOLERANCE, "{worst}");
}

#[test]
fn sizes_without_a_kernel_are_refused_by_name_on_the_gpu() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    common::models::write_model(&model, common::models::tiny()); // heads of 8
    let args = ["extract", DEMO, "--device", "cuda", "-m", model.to_str().unwrap()];
    let Some(output) = docre_on_the_gpu(&args) else { return };
    let said = err(&output);
    assert!(output.status.code() == Some(5) && said.contains("E-KERNEL") && said.contains("--device cpu"), "{said}");
}

#[test]
fn too_little_memory_says_who_holds_what_on_the_gpu() {
    let args = ["extract", DEMO, "--device", "cuda"];
    let Some(output) = docre(&args, &[("SOFTGPU_MEMORY_MIB", "48")]) else { return };
    let said = err(&output);
    assert!(output.status.code() == Some(5) && said.contains("E-OOM") && said.contains("weights"), "{said}");
}

#[test]
fn bench_reads_the_gpu_s_clock_and_models_what_softgpu_counts_on_the_gpu() {
    let args = ["bench", "kernels", "--device", "cuda", "--filter", "entity_pool", "--documents", "1"];
    let timed = ["--repeats", "2", "--warm-up", "0", "--no-peak", "--format", "json"];
    let Some(output) = docre(&[&args[..], &timed].concat(), &[]) else { return };
    assert!(output.status.success(), "{}", err(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert!(report["schema"] == "docre.bench.v1" && rows.len() == 2, "{report}");
    assert!(rows.iter().all(|row| row["median_ms"].as_f64().unwrap() >= 0.0 && row["repeats"] == 2), "{report}");
    let Some(output) = docre(&[&args[..], &["--modelled", "h100"]].concat(), &[]) else { return };
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("MODELLED, not measured") && said.contains("| entity_pool_forward |"), "{said}");
    let Some(output) = docre(&[&args[..], &["--modelled", "h1000"]].concat(), &[]) else { return };
    assert!(output.status.code() == Some(2) && err(&output).contains("H100"), "{}", err(&output));
}

#[test]
fn auto_never_chooses_softgpu() {
    let Some(output) = docre(&["extract", DEMO, "-v", "--device", "auto"], &[]) else { return };
    assert!(output.status.success() && err(&output).contains("device: cpu"), "{}", err(&output));
}

#[test]
fn a_driver_that_does_not_work_is_no_crash() {
    let Some(said) = doctor(&[], &[("SOFTGPU_PROFILE", "sm_1")]) else { return };
    assert!(said.contains("the CUDA driver does not work"), "{said}");
    let Some(output) = docre(&["extract", DEMO, "--device", "cuda"], &[("SOFTGPU_PROFILE", "sm_1")]) else { return };
    assert!(output.status.code() == Some(5) && err(&output).contains("E-DEVICE"), "{}", err(&output));
}

#[test]
fn without_a_library_path_there_is_no_driver() {
    // cargo puts target/ on the library path of what it runs: no libcuda.so may lie there.
    assert!(!docre::device::cuda::driver_present() || Path::new("/dev/nvidia0").exists());
}

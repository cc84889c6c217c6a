//! The sample kernels, as nvcc compiles them, on softgpu as a program meets it: a libcuda.so.1.

#[path = "common/nvcc.rs"]
mod nvcc;
#[path = "common/program.rs"]
mod program;

use std::path::Path;
use std::process::Output;

/// Runs the program; None, and the reason, where something for it is missing.
fn run(format: &str, settings: &[(&str, &str)], samples: &[&str]) -> Option<Output> {
    let images = nvcc::images(&nvcc::samples(), &program::NAMES, format);
    match images.and_then(|images| program::samples(Path::new(&images))) {
        Ok(mut command) => {
            Some(command.envs(settings.iter().copied()).args(samples).output().expect("the program starts"))
        }
        Err(reason) => {
            nvcc::skip(&reason);
            None
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it printed, after all samples passed.
fn passed(output: &Output) -> String {
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}\n{printed}{}", output.status, text(&output.stderr));
    assert!(printed.lines().filter(|line| line.starts_with("ok ")).count() > 60, "{printed}");
    printed
}

#[test]
fn samples_are_right_and_the_same_for_every_schedule() {
    let Some(first) = run("ptx", &[], &[]) else { return };
    let first = passed(&first);
    assert!(first.contains("block 1 of 2: 42 0.125 done"), "what a kernel prints:\n{first}");
    let schedules = [("1", "1"), ("7", "3")];
    for (seed, threads) in schedules {
        let Some(again) = run("ptx", &[("SOFTGPU_SEED", seed), ("SOFTGPU_THREADS", threads)], &[]) else { return };
        same(&first, &passed(&again));
    }
}

#[test]
fn images_and_gpus_do_not_matter() {
    let Some(first) = run("ptx", &[], &[]) else { return };
    let first = passed(&first);
    for profile in ["sm_80", "sm_89", "sm_90"] {
        let Some(again) = run("fatbin", &[("SOFTGPU_PROFILE", profile)], &[]) else { return };
        same(&first, &passed(&again));
    }
}

/// Line by line, hashes of all output bits among them; what kernels print may come in another order.
fn same(first: &str, again: &str) {
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(String::from).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(first), sorted(again));
}

#[test]
fn failed_checks_come_back_as_errors() {
    for (sample, fault) in [("assert_fires", "softgpu: assert: "), ("trap_fires", "softgpu: trap: ")] {
        let Some(output) = run("ptx", &[], &[sample]) else { return };
        let said = text(&output.stderr);
        assert!(output.status.success(), "{}{said}", text(&output.stdout));
        assert!(said.contains(fault) && said.contains("reduce.cu:"), "{said}");
    }
}

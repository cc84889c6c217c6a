//! What docre makes of a CUDA driver, shown by softgpu: the driver in software that `make softgpu` builds.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// `docre doctor` in a process that finds softgpu with these settings; None, and said, where it is not built.
fn doctor(args: &[&str], settings: &[(&str, &str)]) -> Option<String> {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/softgpu");
    if !library.join("libcuda.so.1").exists() {
        let required = std::env::var("DOCRE_REQUIRE_CUDA_TESTS").is_ok_and(|value| value == "1");
        assert!(!required, "DOCRE_REQUIRE_CUDA_TESTS=1, but target/softgpu/libcuda.so.1 is missing: make softgpu");
        println!("SKIPPED: no target/softgpu/libcuda.so.1: make softgpu builds it");
        return None;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_docre"));
    command.arg("doctor").args(args).env("LD_LIBRARY_PATH", library).envs(settings.iter().copied());
    let output = command.output().expect("docre starts");
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

#[test]
fn a_driver_that_does_not_work_is_no_crash() {
    let Some(said) = doctor(&[], &[("SOFTGPU_PROFILE", "sm_1")]) else { return };
    assert!(said.contains("the CUDA driver does not work"), "{said}");
}

#[test]
fn without_a_library_path_there_is_no_driver() {
    // cargo puts target/ on the library path of what it runs: no libcuda.so may lie there.
    assert!(!docre::device::cuda::driver_present() || Path::new("/dev/nvidia0").exists());
}

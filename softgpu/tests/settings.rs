//! Settings from the environment, and what the profiles answer.

use softgpu::Settings;
use softgpu::profile::{PROFILES, Profile, SM_80, SM_89, SM_90};

fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
    Settings::from_vars(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_string()))
}

#[test]
fn nothing_set_is_the_default() {
    let settings = read(&[]).unwrap();
    assert_eq!(settings, Settings::default());
    assert_eq!(read(&[("SOFTGPU_SEED", ""), ("SOFTGPU_PROFILE", "")]).unwrap(), settings);
    assert_eq!(settings.profile, &SM_80);
    assert!(settings.checks && settings.threads > 0 && settings.memory > 1 << 20);
    assert_eq!(settings.limit, 2_000_000_000);
}

#[test]
fn everything_can_be_set() {
    let settings = read(&[
        ("SOFTGPU_PROFILE", "sm_90"),
        ("SOFTGPU_CHECKS", "bounds"),
        ("SOFTGPU_SEED", "18446744073709551615"),
        ("SOFTGPU_THREADS", "3"),
        ("SOFTGPU_LIMIT", "1_000_000"),
        ("SOFTGPU_MEMORY_MIB", "512"),
        ("SOFTGPU_REPORT", "/tmp/a b.json"),
        ("SOFTGPU_TABLE", "1"),
    ])
    .unwrap();
    assert_eq!(settings.profile, &SM_90);
    assert!(!settings.checks && settings.table);
    assert_eq!((settings.seed, settings.threads, settings.limit), (u64::MAX, 3, 1_000_000));
    assert_eq!(settings.memory, 512 << 20);
    assert_eq!(settings.report.unwrap().to_str(), Some("/tmp/a b.json"));
}

#[test]
fn bad_values_are_named() {
    for (name, value, expected) in [
        ("SOFTGPU_PROFILE", "sm_75", "one of sm_80, sm_89, sm_90"),
        ("SOFTGPU_CHECKS", "none", "all or bounds"),
        ("SOFTGPU_SEED", "-1", "a whole number from 0 to 2^64 - 1"),
        ("SOFTGPU_THREADS", "0", "a whole number from 1 to 1024"),
        ("SOFTGPU_LIMIT", "2e9", "a whole number from 1"),
        ("SOFTGPU_MEMORY_MIB", "8GiB", "a whole number from 1"),
        ("SOFTGPU_TABLE", "yes", "1 or 0"),
    ] {
        let why = read(&[(name, value)]).unwrap_err();
        assert!(why.starts_with(&format!("{name}={value:?} is not understood")), "{why}");
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn attributes() {
    for (profile, arch, shared) in [(&SM_80, 80, 163), (&SM_89, 89, 99), (&SM_90, 90, 227)] {
        assert_eq!(Profile::named(profile.key), Some(profile));
        assert_eq!(profile.arch(), arch);
        assert!(profile.name.contains("softgpu"));
        assert_eq!(profile.attribute(75), Some(profile.major as i32));
        assert_eq!(profile.attribute(76), Some(profile.minor as i32));
        assert_eq!(profile.attribute(97), Some(shared << 10), "shared memory a block, opt-in");
        assert_eq!(profile.attribute(81), Some((shared + 1) << 10), "shared memory a multiprocessor");
        assert_eq!(profile.attribute(10), Some(32), "warp");
        assert_eq!(profile.attribute(115), Some(1), "memory pools");
        assert_eq!(profile.attribute(95), Some(0), "cooperative launch");
    }
    let block = [2, 3, 4].map(|attribute| SM_80.attribute(attribute));
    assert_eq!(block, [Some(1024), Some(1024), Some(64)]);
    let grid = [5, 6, 7].map(|attribute| SM_80.attribute(attribute));
    assert_eq!(grid, [Some(i32::MAX), Some(65_535), Some(65_535)]);
}

#[test]
fn every_attribute_of_cuda_13_0_has_an_answer_and_no_other() {
    for profile in PROFILES {
        assert!((1..=147).all(|attribute| profile.attribute(attribute).is_some()));
        assert_eq!([0, 148, u32::MAX].map(|attribute| profile.attribute(attribute)), [None; 3]);
    }
}

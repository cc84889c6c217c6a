//! How the machine runs, read from the environment once (SOFTGPU_*).

use std::path::PathBuf;

use crate::Profile;
use crate::profile::{PROFILES, SM_80};

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub profile: &'static Profile,
    /// SOFTGPU_CHECKS=all (default) or bounds: only what keeps the process alive.
    pub checks: bool,
    /// SOFTGPU_SEED: order of warps; 0 is the order of their numbers.
    pub seed: u64,
    /// SOFTGPU_THREADS: workers that run blocks; default: the machine's.
    pub threads: usize,
    /// SOFTGPU_LIMIT: warp instructions that one block may execute.
    pub limit: u64,
    /// SOFTGPU_MEMORY_MIB, in bytes here.
    pub memory: u64,
    /// SOFTGPU_REPORT: file for the JSON report, written when the process ends.
    pub report: Option<PathBuf>,
    /// SOFTGPU_TABLE=1: print the counters' table to stderr when the process ends.
    pub table: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            profile: &SM_80,
            checks: true,
            seed: 0,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            limit: 2_000_000_000,
            memory: half_of_ram(),
            report: None,
            table: false,
        }
    }
}

impl Settings {
    /// What the environment asks for, or a sentence about the first value that makes no sense.
    pub fn from_env() -> Result<Settings, String> {
        Self::from_vars(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// The same with any source of variables, for tests. An empty value counts as unset.
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Settings, String> {
        let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let mut settings = Settings::default();
        if let Some(value) = get("SOFTGPU_PROFILE") {
            settings.profile = Profile::named(&value).ok_or_else(|| {
                let known: Vec<_> = PROFILES.iter().map(|profile| profile.key).collect();
                wrong("SOFTGPU_PROFILE", &value, &format!("one of {}", known.join(", ")))
            })?;
        }
        if let Some(value) = get("SOFTGPU_CHECKS") {
            settings.checks = choose("SOFTGPU_CHECKS", &value, "all", "bounds")?;
        }
        if let Some(value) = get("SOFTGPU_SEED") {
            settings.seed = number("SOFTGPU_SEED", &value, 0..=u64::MAX)?;
        }
        if let Some(value) = get("SOFTGPU_THREADS") {
            settings.threads = number("SOFTGPU_THREADS", &value, 1..=1024)? as usize;
        }
        if let Some(value) = get("SOFTGPU_LIMIT") {
            settings.limit = number("SOFTGPU_LIMIT", &value, 1..=u64::MAX)?;
        }
        if let Some(value) = get("SOFTGPU_MEMORY_MIB") {
            // The upper end, 64 TiB, keeps the reserved addresses inside of what a process can have.
            settings.memory = number("SOFTGPU_MEMORY_MIB", &value, 1..=1 << 26)? << 20;
        }
        settings.report = get("SOFTGPU_REPORT").map(PathBuf::from);
        if let Some(value) = get("SOFTGPU_TABLE") {
            settings.table = choose("SOFTGPU_TABLE", &value, "1", "0")?;
        }
        Ok(settings)
    }
}

fn choose(name: &str, value: &str, yes: &str, no: &str) -> Result<bool, String> {
    match value {
        _ if value == yes => Ok(true),
        _ if value == no => Ok(false),
        _ => Err(wrong(name, value, &format!("{yes} or {no}"))),
    }
}

fn number(name: &str, value: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    let digits = value.replace('_', "");
    digits.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let to = if *range.end() == u64::MAX { "2^64 - 1".to_string() } else { range.end().to_string() };
        wrong(name, value, &format!("a whole number from {} to {to}", range.start()))
    })
}

fn wrong(name: &str, value: &str, expected: &str) -> String {
    format!("{name}={value:?} is not understood: expected {expected}")
}

fn half_of_ram() -> u64 {
    // SAFETY: sysconf only reads.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    match (u64::try_from(pages), u64::try_from(size)) {
        (Ok(pages), Ok(size)) if pages > 0 && size > 0 => pages * size / 2,
        _ => 1 << 30,
    }
}

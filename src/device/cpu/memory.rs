//! How much memory there is.

use std::fs::read_to_string;

/// Bytes that this process may still take, where the system says so: what /proc/meminfo calls available, less where
/// the control group or a resource limit allows less.
pub fn available() -> Option<usize> {
    let group = read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    [kilobytes("MemAvailable"), group, address_space()].into_iter().flatten().min()
}

/// A line of /proc/meminfo, in bytes.
pub fn kilobytes(name: &str) -> Option<usize> {
    let text = read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|k| k << 10)
}

/// `ulimit -v`.
fn address_space() -> Option<usize> {
    let limits = read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok() // or "unlimited"
}

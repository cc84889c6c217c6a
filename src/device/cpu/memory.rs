//! How much memory there is.

use std::fs::read_to_string;
use std::path::Path;

/// Bytes that this process may still take, where the system says so: what /proc/meminfo calls available, with swap, or
/// less where its control group (version 2) or `ulimit -v` allows less.
pub fn available() -> Option<usize> {
    let free = kilobytes("MemAvailable").map(|free| free + kilobytes("SwapFree").unwrap_or(0));
    [free.filter(|free| *free > 0), control_group(), address_space()].into_iter().flatten().min()
}

/// A line of /proc/meminfo, in bytes.
pub fn kilobytes(name: &str) -> Option<usize> {
    let text = read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|k| k << 10)
}

/// The least of the limits of the group and those around it.
fn control_group() -> Option<usize> {
    let text = read_to_string("/proc/self/cgroup").ok()?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new("/sys/fs/cgroup").join(group);
    let limits =
        group.ancestors().map_while(|group| group.starts_with("/sys/fs/cgroup").then(|| group.join("memory.max")));
    limits.filter_map(|limit| read_to_string(limit).ok()?.trim().parse().ok()).min()
}

fn address_space() -> Option<usize> {
    let limits = read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok() // or "unlimited"
}

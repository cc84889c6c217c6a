//! How many threads are worth starting: two threads of one core share the units that products keep busy.

use std::collections::BTreeSet;

/// Physical cores that this process may use, and no more than its share of time allows.
pub fn available() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, |n| n.get());
    physical().map_or(logical, |cores| cores.clamp(1, logical))
}

/// Distinct sets of sibling threads among the CPUs that this process may run on.
#[cfg(target_os = "linux")]
fn physical() -> Option<usize> {
    let mut set = std::mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: `set` has the size that is said; a zeroed one is valid.
    let (failed, set) =
        unsafe { (libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()), set.assume_init()) };
    if failed != 0 {
        return None;
    }
    let siblings = |cpu: usize| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
    };
    // SAFETY: below the size of the set.
    let mine = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) });
    mine.map(siblings).collect::<Option<BTreeSet<String>>>().map(|cores| cores.len())
}

#[cfg(not(target_os = "linux"))]
fn physical() -> Option<usize> {
    None
}

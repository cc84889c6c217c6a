//! Entry points of softgpu's own: what a test wants to set, or to know, while it runs. A program finds them with
//! dlsym in the library that it has loaded; on a real driver they are missing.

use std::sync::atomic::Ordering;

use super::{CUresult, entry, lock};
use crate::report::Report;

/// The order of warps from the next launch on, as SOFTGPU_SEED sets it from the start.
#[unsafe(no_mangle)]
pub extern "C" fn softgpuSetSeed(seed: u64) -> CUresult {
    entry("softgpuSetSeed", || {
        super::driver()?.seed.store(seed, Ordering::Relaxed);
        Ok(())
    })
}

/// The report (docs in README.md, SOFTGPU_REPORT) of all launches since the last call: JSON in `text`, of which at
/// most `size` bytes are written; without a terminating zero. The number of bytes that it has, or 0 if there is no
/// driver. A text that does not fit is kept, so that a second call can fetch it.
///
/// # Safety
/// `text` must be writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn softgpuTakeReport(text: *mut u8, size: usize) -> usize {
    let mut needed = 0;
    entry("softgpuTakeReport", || {
        let driver = super::driver()?;
        let mut report = lock(&driver.report);
        let json = report.json(&driver.settings).to_string();
        needed = json.len();
        if needed <= size && !text.is_null() {
            // SAFETY: the caller's promise; `needed` bytes fit.
            unsafe { std::ptr::copy_nonoverlapping(json.as_ptr(), text, needed) };
            *report = Report::default();
        }
        Ok(())
    });
    needed
}

//! Reads what `ptxas -v` reports: a few lines a kernel, in English.

/// What one kernel needs on one GPU; bytes, but for the registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub kernel: String,
    /// As in `sm_90a`.
    pub arch: String,
    pub registers: u32,
    /// Of a thread: arrays indexed by data, and spills.
    pub stack: u32,
    pub spill_stores: u32,
    pub spill_loads: u32,
    /// Static, of a block.
    pub shared: u32,
}

/// In the order of the report. A function that a kernel calls counts towards the kernel before it.
pub fn parse(report: &str) -> Vec<Usage> {
    let mut found: Vec<Usage> = Vec::new();
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let mut names = rest.split('\'');
            let (kernel, arch) = (names.next(), names.nth(1));
            found.push(Usage { kernel: text(kernel), arch: text(arch), ..Usage::default() });
        }
        let Some(usage) = found.last_mut() else { continue };
        let spills = line.contains("bytes spill");
        let phrases = line.rsplit(": ").next().unwrap_or_default().split(',').map(str::trim);
        for phrase in phrases.map(|phrase| phrase.trim_start_matches("Used ")) {
            let Some((number, what)) = phrase.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            match what {
                "registers" => usage.registers = number,
                "bytes smem" => usage.shared = number,
                "bytes stack frame" if spills => usage.stack += number,
                "bytes spill stores" => usage.spill_stores += number,
                "bytes spill loads" => usage.spill_loads += number,
                _ => (), // barriers, constant memory
            }
        }
    }
    found
}

fn text(name: Option<&str>) -> String {
    name.unwrap_or_default().into()
}

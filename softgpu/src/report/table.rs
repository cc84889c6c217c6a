//! The report as text for a terminal.

use std::fmt::Write;

use super::{JsonKernel, JsonShape};
use crate::model::{
    self, Bound, GPUS, ISSUE_WARPS_PER_CLOCK, L1_SECTORS_PER_CLOCK, Resource, SHARED_WAVEFRONTS_PER_CLOCK,
    SPECIAL_WARPS_PER_CLOCK,
};
use crate::{Fault, Settings};

const COLUMNS: [&str; 11] = [
    "kernel",
    "launches",
    "instructions",
    "tensor GFLOP",
    "load eff.",
    "store eff.",
    "bank passes",
    "divergent",
    "registers",
    "occupancy",
    "modelled lower bound",
];

pub(super) fn render(kernels: &[JsonKernel], faults: &[Fault], settings: &Settings) -> String {
    let mut text = format!("softgpu: {}; modelled times are lower bounds, never measured\n", settings.profile.name);
    let mut rows = vec![COLUMNS.map(str::to_string)];
    rows.extend(kernels.iter().map(|kernel| row(kernel, settings)));
    align(&mut text, &rows);
    for fault in faults {
        let _ = writeln!(text, "fault: {fault}");
    }
    constants(&mut text);
    text
}

fn row(kernel: &JsonKernel, settings: &Settings) -> [String; 11] {
    let counters = &kernel.counters;
    let spilled = kernel.resources.spills.filter(|&bytes| bytes > 0);
    let registers = match (kernel.resources.from_ptxas, spilled) {
        (None, _) => format!("~{}", kernel.resources.registers),
        (Some(_), None) => kernel.resources.registers.to_string(),
        (Some(_), Some(bytes)) => format!("{} +{bytes} B", kernel.resources.registers),
    };
    [
        kernel.kernel.to_string(),
        kernel.launches.to_string(),
        counters.instructions.total().to_string(),
        format!("{:.3}", counters.tensor_flops as f64 / 1e9),
        percent(counters.global_load.efficiency()),
        percent(counters.global_store.efficiency()),
        counters.bank_conflicts().map_or("-".into(), |ratio| format!("{ratio:.2}x")),
        percent(counters.divergence()),
        registers,
        occupancies(&kernel.shapes),
        nearest(&kernel.modelled, settings),
    ]
}

/// The worst and the best over the shapes.
fn occupancies(shapes: &[JsonShape]) -> String {
    let all = shapes.iter().map(|shape| shape.occupancy.fraction());
    let (low, high) = all.fold((f64::MAX, 0.0_f64), |(low, high), one| (low.min(one), high.max(one)));
    if low < high { format!("{:.0}-{:.0} %", 100.0 * low, 100.0 * high) } else { percent(Some(high)) }
}

/// The bound on the GPU that the profile's limits are from; the others are in the JSON.
fn nearest(bounds: &[Bound], settings: &Settings) -> String {
    let index = match settings.profile.arch() {
        89 => 1,
        90 => 2,
        _ => 0,
    };
    let Some(bound) = bounds.iter().find(|bound| bound.gpu == GPUS[index].name) else { return "-".into() };
    let range = match bound.resource {
        Resource::L2 => format!(" (to {})", time(bound.l2_slowest_us)),
        _ => String::new(),
    };
    format!("{}{range} on {}, by {}", time(bound.us), bound.gpu, name(bound.resource))
}

fn time(us: f64) -> String {
    if us < 100.0 { format!("{us:.3} us") } else { format!("{us:.1} us") }
}

fn name(resource: Resource) -> String {
    let value = serde_json::to_value(resource).unwrap_or_default();
    value.as_str().unwrap_or("?").to_string()
}

fn percent(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |ratio| format!("{:.0} %", 100.0 * ratio))
}

/// Names and the last column to the left, numbers to the right.
fn align(text: &mut String, rows: &[[String; 11]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in rows {
        let mut line = format!("{:<1$}", row[0], width(0));
        for (column, cell) in row.iter().enumerate().skip(1) {
            let _ = match column {
                10 => write!(line, "  {cell}"),
                _ => write!(line, "  {cell:>0$}", width(column)),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn constants(text: &mut String) {
    for gpu in &GPUS {
        let [slow, fast] = gpu.l2_gb_per_s;
        let _ = writeln!(
            text,
            "{}: {} multiprocessors, {} GHz, tensor {} TFLOP/s x {} for mma.sync, float {} warps a clock, DRAM {} GB/s, \
             L2 {slow}-{fast} GB/s",
            gpu.name,
            gpu.multiprocessors,
            gpu.clock_ghz,
            gpu.tensor_tflops,
            gpu.mma_sync_share,
            gpu.float_warps_per_clock,
            gpu.dram_gb_per_s
        );
    }
    let _ = writeln!(
        text,
        "all: issue {ISSUE_WARPS_PER_CLOCK} and special {SPECIAL_WARPS_PER_CLOCK} warps, shared \
         {SHARED_WAVEFRONTS_PER_CLOCK} pass, L1 {L1_SECTORS_PER_CLOCK} sectors a clock and multiprocessor"
    );
    for note in model::NOTES {
        let _ = writeln!(text, "- {note}");
    }
}

//! What softgpu counted of each kernel, and the lower bound of its time on a named GPU that follows: a model from
//! published rates, never a measurement.

use super::kernels::each;
use crate::device::Device;
use crate::device::cuda::software::take_report;
use crate::error::{Error, Result};
use serde_json::Value;
use std::fmt::Write;

/// Runs every case once and returns the table. `gpu` is part of a name that softgpu knows, as in `h100`.
pub fn table(device: &Device, documents: usize, filter: &str, gpu: &str) -> Result<String> {
    let none = || {
        Error::usage("--modelled needs softgpu, the CUDA driver in software: its counts are what is modelled")
            .fix("make softgpu, then LD_LIBRARY_PATH=target/softgpu docre bench kernels --device cuda --modelled h100")
    };
    if !matches!(device, Device::Cuda(_)) {
        return Err(none());
    }
    let report = take_report().ok_or_else(none)?;
    let rates = rates(&report, gpu)?;
    let mut text = format!(
        "MODELLED, not measured: lower bounds on {} from what softgpu counted (mma.sync {:.0} TFLOP/s, {:.0} GB/s), \
         {documents} mean documents.\n\n",
        rates.name, rates.tflops, rates.gb_per_s
    );
    text += "| case | kernel | launches | regs | shared KiB | occupancy | MB touched | MB asked | loads | stores | \
             bank conflicts | modelled us | bound by |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n";
    each(device, documents, filter, &mut |name, work, run| {
        take_report(); // what made the operands
        run()?;
        let report = take_report().unwrap_or_default();
        let mut sum = 0.0;
        for kernel in report["kernels"].as_array().into_iter().flatten() {
            for shape in kernel["shapes"].as_array().into_iter().flatten() {
                sum += row(&mut text, name, kernel, shape, &rates.name);
            }
        }
        let floor = 1e6 * (work.flops / rates.tflops / 1e12).max(work.bytes / rates.gb_per_s / 1e9);
        let (mb, gf) = (work.bytes / 1e6, work.flops / 1e9);
        let _ = writeln!(
            text,
            "| {name} | **all** | | | | | floor {mb:.2} | | {gf:.2} GFLOP | | | {sum:.1} | {:.2} x the floor's {floor:.1} |",
            sum / floor
        );
        Ok(())
    })?;
    Ok(text)
}

struct Rates {
    name: String,
    tflops: f64,
    gb_per_s: f64,
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn rates(report: &Value, gpu: &str) -> Result<Rates> {
    let all = report["model"]["gpus"].as_array().cloned().unwrap_or_default();
    let name = |g: &Value| g["name"].as_str().unwrap_or_default().to_string();
    let found = all.iter().find(|g| name(g).to_lowercase().contains(&gpu.to_lowercase()));
    let found = found.ok_or_else(|| {
        let known = all.iter().map(name).collect::<Vec<_>>().join(", ");
        Error::usage(format!("--modelled {gpu}: no such GPU")).fix(format!("one of {known}"))
    })?;
    let tflops = number(found, "/tensor_tflops") * number(found, "/mma_sync_share");
    Ok(Rates { name: name(found), tflops, gb_per_s: number(found, "/dram_gb_per_s") })
}

/// One launch shape of a kernel; its modelled microseconds.
fn row(text: &mut String, case: &str, kernel: &Value, shape: &Value, gpu: &str) -> f64 {
    let c = |path: &str| number(shape, &format!("/counters/{path}"));
    let efficiency = |what: &str| {
        let sectors = c(&format!("{what}/sectors"));
        if sectors > 0.0 { 100.0 * c(&format!("{what}/bytes")) / (32.0 * sectors) } else { 100.0 }
    };
    let sum =
        |what: &str| ["shared_load", "shared_store", "ldmatrix"].map(|k| c(&format!("{k}/{what}"))).iter().sum::<f64>();
    let conflicts = if sum("ideal") > 0.0 { 100.0 * (sum("wavefronts") / sum("ideal") - 1.0) } else { 0.0 };
    let bound =
        shape["modelled"].as_array().into_iter().flatten().find(|b| b["gpu"] == gpu).cloned().unwrap_or_default();
    let micros = number(&bound, "/us");
    let shared = (number(kernel, "/resources/static_shared") + number(shape, "/dynamic_shared")) / 1024.0;
    let _ = writeln!(
        text,
        "| {case} | {} | {} | {} | {shared:.1} | {:.0} % | {:.3} | {:.3} | {:.0} % | {:.0} % | {conflicts:.1} % | {micros:.2} | {} |",
        kernel["kernel"].as_str().unwrap_or_default(),
        shape["launches"],
        kernel["resources"]["registers"],
        100.0 * number(shape, "/occupancy/warps") / number(shape, "/occupancy/max_warps"),
        32e-6 * (c("global_load/distinct_sectors") + c("global_store/distinct_sectors")),
        1e-6 * (c("global_load/bytes") + c("global_store/bytes")),
        efficiency("global_load"),
        efficiency("global_store"),
        bound["resource"].as_str().unwrap_or_default(),
    );
    micros
}

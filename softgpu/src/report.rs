//! What a process did on the device: launches with their counters, faults, modelled bounds; as JSON and as a table.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::{self, Bound, GPUS};
use crate::occupancy::{Demand, Occupancy, occupancy};
use crate::{Counters, Fault, Settings};

mod table;

/// What a kernel takes of the device, from the compiler where its machine code was in the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// A thread's. An estimate from PTX (the most that are alive at once) if `from_ptxas` is not set.
    pub registers: u32,
    pub static_shared: u32,
    /// A thread's stack, bytes: local arrays and spills.
    pub stack: u32,
    /// The part of it that the PTX does not ask for: spilled registers. None without machine code.
    pub spills: Option<u32>,
    pub max_threads: u32,
    /// Machine code's architecture that the numbers are from: 80 for sm_80.
    pub from_ptxas: Option<u32>,
}

/// Launches of equal shape are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
}

impl Shape {
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }

    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }
}

#[derive(Clone, Debug, Default)]
struct Sum {
    launches: u64,
    counters: Counters,
}

struct KernelSum {
    resources: Resources,
    shapes: BTreeMap<Shape, Sum>,
}

#[derive(Default)]
pub struct Report {
    kernels: BTreeMap<String, KernelSum>,
    faults: Vec<Fault>,
}

#[derive(Serialize)]
struct JsonShape {
    #[serde(flatten)]
    shape: Shape,
    launches: u64,
    occupancy: Occupancy,
    counters: Counters,
    modelled: Vec<Bound>,
}

#[derive(Serialize)]
struct JsonKernel<'a> {
    kernel: &'a str,
    launches: u64,
    resources: &'a Resources,
    counters: Counters,
    modelled: Vec<Bound>,
    shapes: Vec<JsonShape>,
}

impl Report {
    /// Two modules may hold kernels of one name: they are counted as one, with the resources of the last.
    pub fn launch(&mut self, kernel: &str, resources: &Resources, shape: Shape, counters: Counters) {
        let sum = match self.kernels.get_mut(kernel) {
            Some(sum) => sum,
            None => self
                .kernels
                .entry(kernel.to_string())
                .or_insert_with(|| KernelSum { resources: resources.clone(), shapes: BTreeMap::new() }),
        };
        if sum.resources != *resources {
            sum.resources = resources.clone();
        }
        let sum = sum.shapes.entry(shape).or_default();
        sum.launches += 1;
        sum.counters += counters;
    }

    pub fn fault(&mut self, fault: &Fault) {
        self.faults.push(fault.clone());
    }

    /// The whole report. Equal runs give equal text: nothing in it depends on time or the machine.
    pub fn json(&self, settings: &Settings) -> serde_json::Value {
        let kernels = self.summaries(settings);
        let mut counters = Counters::default();
        kernels.iter().for_each(|kernel| counters += kernel.counters);
        serde_json::json!({
            "softgpu": env!("CARGO_PKG_VERSION"),
            "device": settings.profile.name,
            "checks": if settings.checks { "all" } else { "bounds" },
            "seed": settings.seed,
            "launches": kernels.iter().map(|kernel| kernel.launches).sum::<u64>(),
            "counters": counters,
            "modelled": total_bounds(kernels.iter().flat_map(|kernel| &kernel.modelled)),
            "kernels": kernels,
            "faults": self.faults,
            "model": { "notes": model::NOTES, "gpus": GPUS },
        })
    }

    /// The same as aligned text, the constants and what the model assumes below.
    pub fn table(&self, settings: &Settings) -> String {
        table::render(&self.summaries(settings), &self.faults, settings)
    }

    fn summaries(&self, settings: &Settings) -> Vec<JsonKernel<'_>> {
        self.kernels.iter().map(|(name, sum)| sum.summary(name, settings)).collect()
    }
}

impl KernelSum {
    fn summary<'a>(&'a self, kernel: &'a str, settings: &Settings) -> JsonKernel<'a> {
        let shapes: Vec<_> = self.shapes.iter().map(|(shape, sum)| self.shape(*shape, sum, settings)).collect();
        let mut counters = Counters::default();
        shapes.iter().for_each(|shape| counters += shape.counters);
        let launches = shapes.iter().map(|shape| shape.launches).sum();
        let modelled = total_bounds(shapes.iter().flat_map(|shape| &shape.modelled));
        JsonKernel { kernel, launches, resources: &self.resources, counters, modelled, shapes }
    }

    fn shape(&self, shape: Shape, sum: &Sum, settings: &Settings) -> JsonShape {
        let demand = Demand {
            threads: shape.threads(),
            registers: self.resources.registers,
            static_shared: self.resources.static_shared,
            dynamic_shared: shape.dynamic_shared,
        };
        JsonShape {
            shape,
            launches: sum.launches,
            occupancy: occupancy(settings.profile, &demand),
            counters: sum.counters,
            modelled: GPUS.iter().map(|gpu| model::bound(gpu, &sum.counters, shape.blocks())).collect(),
        }
    }
}

/// One bound a GPU, over all of `parts`.
fn total_bounds<'a>(parts: impl Iterator<Item = &'a Bound> + Clone) -> Vec<Bound> {
    GPUS.iter().filter_map(|gpu| model::sum(gpu, parts.clone())).collect()
}

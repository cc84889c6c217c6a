//! The counters' report and the modelled bounds, against numbers computed by hand.

use softgpu::counters::{Counters, Instructions, Traffic, Wavefronts};
use softgpu::model::{self, Bound, GPUS, Gpu, Resource};
use softgpu::profile::SM_90;
use softgpu::report::{Report, Resources, Shape};
use softgpu::{Fault, FaultKind, Settings};

fn gpu(name: &str) -> &'static Gpu {
    GPUS.iter().find(|gpu| gpu.name == name).unwrap()
}

fn us(bound: &Bound, resource: Resource) -> f64 {
    bound.resources.iter().find(|one| one.0 == resource).unwrap().1
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1e-9), "{found} is not {expected}");
}

/// Each counter differs from the others, so that a mixed-up field shows.
fn counters() -> Counters {
    let traffic = |n| Traffic { requests: n, bytes: 100 * n, sectors: 5 * n, distinct_sectors: 2 * n };
    let wavefronts = |n| Wavefronts { requests: n, bytes: 128 * n, wavefronts: 3 * n, ideal: 2 * n };
    Counters {
        instructions: Instructions {
            integer: 1,
            float: 2,
            special: 3,
            tensor: 4,
            conversion: 5,
            moves: 6,
            load_store: 7,
            warp: 8,
            control: 9,
        },
        thread_instructions: 1000,
        tensor_flops: 4096,
        flops: 64,
        global_load: traffic(10),
        global_store: traffic(20),
        global_atomics: traffic(30),
        local_bytes: 320,
        shared_load: wavefronts(40),
        shared_store: wavefronts(50),
        ldmatrix: wavefronts(60),
        shared_atomics: 11,
        barriers: 12,
        branches: 40,
        divergent_branches: 10,
    }
}

#[test]
fn sums_and_ratios() {
    let one = counters();
    assert_eq!(one.instructions.total(), 45);
    assert_eq!(one.instructions.unavoidable(), 24);
    near(one.global_load.efficiency().unwrap(), 1000.0 / 1600.0);
    near(one.bank_conflicts().unwrap(), 1.5);
    near(one.divergence().unwrap(), 0.25);
    let none = Counters::default();
    assert_eq!([none.global_load.efficiency(), none.bank_conflicts(), none.divergence()], [None; 3]);

    let mut sum = none;
    sum += one;
    assert_eq!(sum, one);
    sum += one;
    let numbers = |counters: &Counters| -> Vec<u64> {
        let text = serde_json::to_string(counters).unwrap();
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
    };
    let doubled: Vec<_> = numbers(&one).iter().map(|n| 2 * n).collect();
    assert_eq!(numbers(&sum), doubled);
}

/// A GEMM of 4096 x 4096 x 4096: 137.4 GFLOP at 312 TFLOP/s are 440.5 us.
#[test]
fn tensor_bound() {
    let work = Counters { tensor_flops: 2 * 4096_u64.pow(3), ..Counters::default() };
    let bound = model::bound(gpu("A100 SXM"), &work, 1024);
    assert_eq!(bound.resource, Resource::Tensor);
    near(bound.us, 137_438.953_472 / 312.0);
    // mma.sync has 63 % of 989.4.
    near(model::bound(gpu("H100 SXM"), &work, 1024).us, 137_438.953_472 / (989.4 * 0.63));
    near(model::bound(gpu("RTX 4090"), &work, 1024).us, 137_438.953_472 / 165.2);
    // 27 blocks use a quarter of the 108 multiprocessors.
    near(model::bound(gpu("A100 SXM"), &work, 27).us, 4.0 * 137_438.953_472 / 312.0);
}

/// A copy of 64 MiB: 2 x 2,097,152 distinct sectors; blocks do not matter.
#[test]
fn memory_bound() {
    let side = Traffic { requests: 1 << 19, bytes: 1 << 26, sectors: 1 << 21, distinct_sectors: 1 << 21 };
    let work = Counters { global_load: side, global_store: side, ..Counters::default() };
    let bound = model::bound(gpu("A100 SXM"), &work, 1);
    assert_eq!(bound.resource, Resource::L1, "one multiprocessor's 128 bytes a clock");
    near(bound.us, (1 << 21) as f64 / 4.0 / 1410.0);
    let bound = model::bound(gpu("A100 SXM"), &work, 1000);
    assert_eq!(bound.resource, Resource::Dram);
    near(bound.us, 134.217_728e6 / 2039e3);
    near(us(&bound, Resource::L2), 134.217_728e6 / 7200e3);
    near(bound.l2_slowest_us, 134.217_728e6 / 5400e3);
    near(us(&bound, Resource::L1), (1 << 21) as f64 / (4.0 * 108.0 * 1410.0));
    // Loaded twice, each sector still comes from DRAM once.
    let twice = Traffic { sectors: 1 << 22, ..side };
    let again = model::bound(gpu("A100 SXM"), &Counters { global_load: twice, ..work }, 1000);
    near(again.us, bound.us);
    near(again.l2_slowest_us, 1.5 * bound.l2_slowest_us);
}

#[test]
fn instruction_and_shared_bounds() {
    let mut work = Counters::default();
    work.instructions.float = 1_000_000;
    // Two FP32 warps a clock on an A100, four on the others.
    near(model::bound(gpu("A100 SXM"), &work, 108).us, 1e6 / (2.0 * 108.0 * 1410.0));
    near(model::bound(gpu("H100 SXM"), &work, 132).us, 1e6 / (4.0 * 132.0 * 1980.0));
    work.instructions.special = 500_000;
    let bound = model::bound(gpu("A100 SXM"), &work, 108);
    assert_eq!(bound.resource, Resource::Special);
    near(bound.us, 5e5 / (0.5 * 108.0 * 1410.0));
    near(us(&bound, Resource::Issue), 1.5e6 / (4.0 * 108.0 * 1410.0));
    // What ptxas may fold away costs nothing.
    work.instructions.integer = 1 << 40;
    near(model::bound(gpu("A100 SXM"), &work, 108).us, bound.us);
    work.shared_load.wavefronts = 2_000_000;
    work.shared_atomics = 1_000_000;
    let bound = model::bound(gpu("A100 SXM"), &work, 108);
    assert_eq!(bound.resource, Resource::Shared);
    near(bound.us, 3e6 / (108.0 * 1410.0));
}

#[test]
fn bounds_of_several_launches_add_up() {
    let tensor = Counters { tensor_flops: 312_000_000, ..Counters::default() };
    let mut float = Counters::default();
    float.instructions.float = 2 * 108 * 1410 * 3;
    let parts = [&tensor, &float].map(|work| model::bound(gpu("A100 SXM"), work, 108));
    near(parts[0].us, 1.0);
    near(parts[1].us, 3.0);
    let other = model::bound(gpu("RTX 4090"), &tensor, 128);
    let sum = model::sum(gpu("A100 SXM"), parts.iter().chain([&other])).unwrap();
    near(sum.us, 4.0);
    assert_eq!(sum.resource, Resource::Float, "the larger part's");
    near(us(&sum, Resource::Tensor), 1.0);
    assert_eq!(model::sum(gpu("H100 SXM"), parts.iter()), None);
}

fn resources(from_ptxas: Option<u32>) -> Resources {
    Resources {
        registers: 64,
        static_shared: 1024,
        stack: 16,
        spills: from_ptxas.map(|_| 8),
        max_threads: 256,
        from_ptxas,
    }
}

fn shape(blocks: u32) -> Shape {
    Shape { grid: [blocks, 1, 1], block: [256, 1, 1], dynamic_shared: 0 }
}

fn fault() -> Fault {
    Fault {
        kind: FaultKind::OutOfBounds,
        kernel: "gemm".into(),
        ptx_line: 42,
        instruction: "ld.global.f32 %f1, [%rd1];".into(),
        source: vec![("gemm.cu".into(), 7)],
        block: [1, 0, 0],
        thread: Some([31, 0, 0]),
        address: Some(0x1000),
        detail: "4 bytes behind the end".into(),
    }
}

fn report() -> Report {
    let mut report = Report::default();
    report.launch("gemm", &resources(Some(80)), shape(10), counters());
    report.launch("gemm", &resources(Some(80)), shape(20), counters());
    report.launch("gemm", &resources(Some(80)), shape(10), counters());
    report.launch("axpy", &resources(None), shape(1), counters());
    report.fault(&fault());
    report
}

#[test]
fn json() {
    let json = report().json(&Settings::default());
    assert_eq!(json["launches"], 4);
    assert_eq!(json["device"], "softgpu sm_80 (A100 limits)");
    assert_eq!(json["counters"]["flops"], 4 * 64);
    assert_eq!(json["kernels"][0]["kernel"], "axpy", "in order of their names");
    let gemm = &json["kernels"][1];
    assert_eq!((&gemm["launches"], &gemm["counters"]["global_load"]["sectors"]), (&3.into(), &150.into()));
    assert_eq!((&gemm["resources"]["registers"], &gemm["resources"]["spills"]), (&64.into(), &8.into()));
    let shapes = gemm["shapes"].as_array().unwrap();
    assert_eq!(shapes.iter().map(|shape| shape["grid"][0].as_u64().unwrap()).collect::<Vec<_>>(), [10, 20]);
    assert_eq!(shapes[0]["launches"], 2);
    // 256 threads of 64 registers: four blocks, half of the warps.
    assert_eq!((&shapes[0]["occupancy"]["blocks"], &shapes[0]["occupancy"]["limit"]), (&4.into(), &"registers".into()));
    let bounds = gemm["modelled"].as_array().unwrap();
    assert_eq!(
        bounds.iter().map(|bound| bound["gpu"].as_str().unwrap()).collect::<Vec<_>>(),
        ["A100 SXM", "RTX 4090", "H100 SXM"]
    );
    assert!(bounds[0]["resources"]["dram"].as_f64().unwrap() > 0.0);
    let of_shapes: f64 = shapes.iter().map(|shape| shape["modelled"][0]["us"].as_f64().unwrap()).sum();
    near(bounds[0]["us"].as_f64().unwrap(), of_shapes);
    assert_eq!(json["faults"][0]["kind"], "out_of_bounds");
    assert_eq!(json["model"]["gpus"][2]["mma_sync_share"], 0.63);
    assert!(json["model"]["notes"][0].as_str().unwrap().contains("not measurements"));
    assert_eq!(json.to_string(), report().json(&Settings::default()).to_string(), "equal runs, equal text");
}

#[test]
fn table() {
    let settings = Settings { profile: &SM_90, ..Settings::default() };
    let table = report().table(&settings);
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].contains("softgpu sm_90") && lines[0].contains("never measured"), "{table}");
    assert!(lines[1].starts_with("kernel  launches  instructions"), "{table}");
    // An estimate of the registers is marked; spills are named.
    assert!(lines[2].starts_with("axpy           1            45") && lines[2].contains("~64"), "{table}");
    assert!(lines[3].starts_with("gemm           3           135") && lines[3].contains("64 +8 B"), "{table}");
    for cell in ["62 %", "1.50x", "25 %", "50 %", "on H100 SXM, by "] {
        assert!(lines[3].contains(cell), "{cell}: {table}");
    }
    assert!(table.contains("fault: out_of_bounds: 4 bytes behind the end (address 0x1000)"), "{table}");
    for gpu in &GPUS {
        assert!(table.contains(&format!("{}: {} multiprocessors", gpu.name, gpu.multiprocessors)), "{table}");
    }
    // Every note of the model is below; columns line up.
    assert!(model::NOTES.iter().all(|note| table.contains(note)), "{table}");
    let column = lines[1].find("modelled lower bound").unwrap();
    assert!(lines[2..4].iter().all(|line| line[..column].ends_with("  ")), "{table}");
}

#[test]
fn an_empty_report_is_one() {
    let report = Report::default();
    assert_eq!(report.json(&Settings::default())["launches"], 0);
    assert!(report.table(&Settings::default()).contains("kernel"));
}

//! Speed of the machine on the bf16 tensor-core GEMM of softgpu/samples, in GFLOP/s of CPU time, with all checks and
//! with bounds only, on one core and on two. Runs itself as child processes: the driver is found through the library
//! path, which must be set before a process starts.
//!
//! make softgpu && cargo bench -p softgpu

#[path = "../tests/common/nvcc.rs"]
mod nvcc;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg};

const SIZE: usize = 768;
const RUNS: usize = 5;
const SHARED: u32 = 65536;

fn main() {
    match std::env::var_os("SOFTGPU_BENCH_IMAGE") {
        Some(image) => child(Path::new(&image)).expect("the driver runs the GEMM"),
        None => parent(),
    }
}

/// Seconds of CPU time that this process has used.
fn cpu_seconds() -> f64 {
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a valid pointer to a plain structure.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Prints the medians of CPU and wall seconds of a launch.
fn child(image: &Path) -> Result<(), DriverError> {
    let context = CudaContext::new(0)?;
    let stream = context.default_stream();
    let kernel = Arc::new(context.load_module(cudarc::nvrtc::Ptx::from_file(image))?.load_function("gemm_nt")?);
    kernel.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, SHARED as i32)?;
    let ones = vec![0x3F80u16; SIZE * SIZE];
    let (a, b) = (stream.clone_htod(&ones)?, stream.clone_htod(&ones)?);
    let mut c = stream.alloc_zeros::<u16>(SIZE * SIZE)?;
    let size = SIZE as i32;
    let blocks = SIZE.div_ceil(128) as u32;
    let config = LaunchConfig { grid_dim: (blocks, blocks, 1), block_dim: (256, 1, 1), shared_mem_bytes: SHARED };
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let (cpu, wall) = (cpu_seconds(), Instant::now());
        // SAFETY: the arguments are those of gemm_nt, and the arrays hold SIZE x SIZE values each.
        unsafe {
            stream
                .launch_builder(&kernel)
                .arg(&a)
                .arg(&b)
                .arg(&mut c)
                .arg(&size)
                .arg(&size)
                .arg(&size)
                .launch(config)?
        };
        stream.synchronize()?;
        times.push((cpu_seconds() - cpu, wall.elapsed().as_secs_f64()));
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    println!("{} {}", times[RUNS / 2].0, times[RUNS / 2].1);
    Ok(())
}

fn parent() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let library = root.join("target/softgpu");
    if !library.join("libcuda.so").exists() {
        return println!("SKIPPED: no target/softgpu/libcuda.so: run `make softgpu` first");
    }
    let image = match nvcc::images(&nvcc::samples(), &["gemm"], "ptx").map(|dir| dir.join("gemm.ptx")) {
        Ok(image) => image,
        Err(reason) => return println!("SKIPPED: {reason}"),
    };
    let flops = 2.0 * (SIZE as f64).powi(3);
    println!("gemm_nt {SIZE} x {SIZE} x {SIZE}, {:.2} GFLOP, median of {RUNS}", flops * 1e-9);
    for checks in ["bounds", "all"] {
        let mut walls = Vec::new();
        for threads in ["1", "2"] {
            let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
            command.env("SOFTGPU_BENCH_IMAGE", &image).env("LD_LIBRARY_PATH", &library);
            let output =
                command.env("SOFTGPU_CHECKS", checks).env("SOFTGPU_THREADS", threads).output().expect("a child");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let [cpu, wall] = numbers[..] else {
                return println!("checks {checks}: {text}{}", String::from_utf8_lossy(&output.stderr));
            };
            walls.push(wall);
            println!("checks {checks:6} threads {threads}: {:6.2} GFLOP/s of CPU time", flops / cpu * 1e-9);
        }
        println!("checks {checks:6} two threads are {:.2} times as fast as one", walls[0] / walls[1]);
    }
}

use cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::sys::CUresult::CUDA_ERROR_INVALID_VALUE;
use cudarc::driver::{DeviceRepr, LaunchConfig};
use half::bf16;

use crate::check::{Random, Report, Value};
use crate::gpu::{Failure, Gpu, grid, launch};
use crate::{Sample, Sizes, sample};

/// Tile -1/0/+1 in m and (by 8, as 16-byte loads need) in n and k; more and fewer steps of k than stages.
const SIZES: Sizes = Some(&[
    &[1, 8, 8],
    &[127, 120, 24],
    &[128, 128, 32],
    &[129, 136, 40],
    &[200, 136, 96],
    &[1, 96, 768],
    &[65, 768, 96],
    &[130, 264, 296],
]);

pub const SAMPLES: &[Sample] = &[
    sample("gemm_nt", |gpu, size| run(gpu, size, "gemm_nt", bf16::from_f32), SIZES, "m n k"),
    sample("gemm_nn", |gpu, size| run(gpu, size, "gemm_nn", |x| x), SIZES, "m n k"),
    sample("gemm_refused", refused, Some(&[&[1, 8, 8]]), "m n k"),
];

const TILE: usize = 128;
const THREADS: usize = 256;
const SHARED_BYTES: u32 = 65536;

struct Problem {
    m: usize,
    n: usize,
    k: usize,
    a: Vec<bf16>,
    /// [n, k], or for gemm_nn [k, n].
    b: Vec<bf16>,
    b_by_columns: bool,
}

fn config(m: usize, n: usize) -> LaunchConfig {
    LaunchConfig { shared_mem_bytes: SHARED_BYTES, ..grid([n.div_ceil(TILE), m.div_ceil(TILE), 1], THREADS) }
}

/// First on small integers, where every sum is exact and so is the result; then on numbers of every kind.
fn run<T>(gpu: &Gpu, size: &[usize], entry: &str, narrow: fn(f32) -> T) -> Result<Report, Failure>
where
    T: Value + DeviceRepr + Default,
{
    let (m, n, k) = (size[0], size[1], size[2]);
    let b_by_columns = entry == "gemm_nt";
    let mut random = Random((m * 1_000_000 + n * 1000 + k) as u64);
    let mut report = Report::default();

    let mut integers = |count: usize| -> Vec<bf16> {
        random.integers(count, -4, 5).into_iter().map(|i| bf16::from_f32(i as f32)).collect()
    };
    let problem = Problem { m, n, k, a: integers(m * k), b: integers(k * n), b_by_columns };
    let right: Vec<T> = problem.products().iter().map(|&sum| narrow(sum as f32)).collect();
    report.exact("c", &problem.run(gpu, entry)?, &right);

    let (a, b) = (random.units(m * k, bf16::from_f32), random.units(k * n, bf16::from_f32));
    let problem = Problem { m, n, k, a, b, b_by_columns };
    let plain: Vec<T> = problem.plain().iter().map(|&sum| narrow(sum)).collect();
    // k roundings of sums of k products that are at most 1, by any order and any rounding.
    let floor = k as f64 * f64::from(f32::EPSILON);
    report.close("c", &problem.run(gpu, entry)?, &plain, &problem.products(), floor);
    Ok(report)
}

/// More shared memory than the default without having asked for it: the driver must refuse the launch.
fn refused(gpu: &Gpu, size: &[usize]) -> Result<Report, Failure> {
    let (m, n, k) = (size[0], size[1], size[2]);
    let function = gpu.function("gemm", "gemm_nt")?;
    let (a, b) = (gpu.zeros::<bf16>(m * k)?, gpu.zeros::<bf16>(k * n)?);
    let mut c = gpu.zeros::<bf16>(m * n)?;
    let config = config(m, n);
    function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 48 * 1024)?;
    let (m, n, k) = (m as i32, n as i32, k as i32);
    let launched = launch!(gpu, function, config, &a, &b, &mut c, &m, &n, &k);
    let mut report = Report::default();
    let refused = launched.is_err_and(|error| error.0 == CUDA_ERROR_INVALID_VALUE);
    report.require(refused, "64 KiB of shared memory were not refused with CUDA_ERROR_INVALID_VALUE");
    Ok(report)
}

impl Problem {
    fn run<T: Value + DeviceRepr + Default>(&self, gpu: &Gpu, entry: &str) -> Result<Vec<T>, Failure> {
        let function = gpu.function("gemm", entry)?;
        function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, SHARED_BYTES as i32)?;
        let (a, b, mut c) = (gpu.upload(&self.a)?, gpu.upload(&self.b)?, gpu.fresh::<T>(self.m * self.n)?);
        let (m, n, k) = (self.m as i32, self.n as i32, self.k as i32);
        launch!(gpu, function, config(self.m, self.n), &a, &b, &mut c, &m, &n, &k)?;
        gpu.download(&c)
    }

    fn b(&self, depth: usize, column: usize) -> bf16 {
        self.b[if self.b_by_columns { column * self.k + depth } else { depth * self.n + column }]
    }

    fn each<S>(&self, sum: impl Fn(&mut dyn Iterator<Item = (bf16, bf16)>) -> S) -> Vec<S> {
        let cells = (0..self.m).flat_map(|row| (0..self.n).map(move |column| (row, column)));
        cells
            .map(|(row, column)| sum(&mut (0..self.k).map(|d| (self.a[row * self.k + d], self.b(d, column)))))
            .collect()
    }

    fn products(&self) -> Vec<f64> {
        self.each(|pairs| pairs.map(|(a, b)| a.wide() * b.wide()).sum())
    }

    fn plain(&self) -> Vec<f32> {
        self.each(|pairs| pairs.map(|(a, b)| a.to_f32() * b.to_f32()).sum())
    }
}

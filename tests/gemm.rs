//! The matrix product: exact on small integers for every shape, layout and instruction set, and the
//! same bits for a row whatever shares the call.

use docre::device::Device;
use docre::device::cpu::gemm::int8::{LONGEST, Tokens, Weight};
use docre::device::cpu::gemm::{CHUNK, Factor, Mat, block_rows, gemm};
use docre::dtype::Real;
use docre::rng::Stream;
use half::bf16;
use rayon::prelude::*;

/// Columns of C that the product packs at a time.
const SLAB: usize = 1024;

/// A matrix in memory with room beyond its columns (or rows), which must not be read into the result.
struct Stored<T> {
    data: Vec<T>,
    stride: usize,
    by_columns: bool,
}

impl<T: Factor> Stored<T> {
    fn new(values: &[i64], (rows, cols): (usize, usize), by_columns: bool, stride: Option<usize>) -> Self {
        let (lines, length) = if by_columns { (cols, rows) } else { (rows, cols) };
        let stride = stride.map_or(length, |s| s.max(length));
        let of = |x: f64| T::narrow(T::Wide::of(x));
        let mut data = vec![of(f64::NAN); lines * stride];
        for (i, &value) in values.iter().enumerate() {
            let (r, c) = (i / cols, i % cols);
            data[if by_columns { c * stride + r } else { r * stride + c }] = of(value as f64);
        }
        Stored { data, stride, by_columns }
    }
    fn mat(&self) -> Mat<'_, T> {
        let rows = Mat::rows(&self.data, self.stride);
        if self.by_columns { rows.t() } else { rows }
    }
}

/// -15..=15: sums of up to 74,000 products stay below 2^24, exact in f32 in any order.
fn integers(seed: u64, n: usize) -> Vec<i64> {
    let mut stream = Stream::new(seed, 3);
    (0..n).map(|_| stream.below(31) as i64 - 15).collect()
}

fn product(a: &[i64], b: &[i64], (m, n, k): (usize, usize, usize)) -> Vec<i64> {
    let dot = |i: usize, j: usize| a[i * k..(i + 1) * k].iter().zip(&b[j * k..(j + 1) * k]).map(|(a, b)| a * b).sum();
    (0..m * n).map(|at| dot(at / n, at % n)).collect()
}

#[derive(Clone, Copy, Debug)]
struct Layout {
    by_columns: bool,
    stride: Option<usize>,
}

fn check<T: Factor>(device: &Device, (m, n, k): (usize, usize, usize), left: Layout, right: Layout) {
    let (a, b) = (integers(1, m * k), integers(2, n * k));
    let want = product(&a, &b, (m, n, k));
    let a = Stored::<T>::new(&a, (m, k), left.by_columns, left.stride);
    let b = Stored::<T>::new(&b, (n, k), right.by_columns, right.stride);
    let Device::Cpu(cpu) = device else { panic!("a CPU") };
    for assign in [true, false] {
        let before = if assign { f64::NAN } else { 7.0 };
        let mut c = vec![T::Wide::of(before); m * n];
        cpu.run(|| gemm::<T>((m, n, k), &a.mat(), &b.mat(), &mut c, assign));
        for (i, (got, want)) in c.iter().zip(&want).enumerate() {
            let want = *want as f64 + if assign { 0.0 } else { 7.0 };
            assert!(got.f64() == want, "({m}, {n}, {k}) {left:?} {right:?} assign {assign} [{i}]: {got:?}, not {want}");
        }
    }
}

fn layouts(strides: &[Option<usize>]) -> Vec<Layout> {
    strides.iter().flat_map(|&stride| [false, true].map(|by_columns| Layout { by_columns, stride })).collect()
}

#[test]
fn integers_are_exact_in_every_layout() {
    let device = Device::cpu(2).unwrap();
    let some = layouts(&[None, Some(67), Some(512), Some(1024)]); // 512 f32 are 2048 bytes, as 1024 bf16
    for size in [(1, 1, 1), (13, 33, 31), (25, 65, 7)] {
        for (&left, &right) in some.iter().flat_map(|l| some.iter().map(move |r| (l, r))) {
            check::<f32>(&device, size, left, right);
            check::<f64>(&device, size, left, right);
            check::<bf16>(&device, size, left, right);
        }
    }
}

#[test]
fn integers_are_exact_in_every_shape() {
    let device = Device::cpu(2).unwrap();
    let plain = Layout { by_columns: false, stride: None };
    let columns = Layout { by_columns: true, stride: None };
    // One less, as many, one more than: rows of a tile (4, 6, 12), columns of one (4, 8, 16, 32), a chunk, a slab.
    for m in [0, 1, 3, 4, 5, 6, 7, 11, 12, 13, 97] {
        for n in [0, 1, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33] {
            for k in [0, 1, 2, 17] {
                check::<f32>(&device, (m, n, k), plain, plain);
                check::<f64>(&device, (m, n, k), plain, columns);
                check::<bf16>(&device, (m, n, k), columns, plain);
            }
        }
    }
    for k in [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1, 3 * CHUNK - 1, 3 * CHUNK, 3 * CHUNK + 1] {
        check::<f32>(&device, (13, 33, k), plain, plain);
        check::<f32>(&device, (7, 9, k), columns, columns);
        check::<bf16>(&device, (13, 33, k), plain, plain);
        check::<bf16>(&device, (7, 9, k), columns, columns);
    }
    for n in [SLAB - 1, SLAB, SLAB + 1] {
        check::<f32>(&device, (5, n, 3), plain, plain);
        check::<f32>(&device, (13, n, CHUNK + 1), plain, plain);
        check::<bf16>(&device, (13, n, CHUNK + 1), plain, plain);
        check::<bf16>(&device, (97, n, 19), columns, columns);
    }
}

/// `A B^T` through eight bits.
fn int8(threads: usize, (m, n, k): (usize, usize, usize), a: &[bf16], b: &[bf16]) -> Vec<f32> {
    let mut c = vec![f32::NAN; m * n];
    let Device::Cpu(cpu) = &Device::cpu(threads).unwrap() else { panic!("a CPU") };
    cpu.run(|| {
        let (a, b) = (Tokens::new(a, k), Weight::new(b, n, k).unwrap());
        let outs = c.par_chunks_mut((block_rows(m) * n).max(1));
        b.run((&a, m, &a.scales), outs, |block, sums, c| {
            block.rows_mut(sums, c, n).for_each(|(sums, c)| c.copy_from_slice(sums));
        });
    });
    c
}

/// Rows whose largest number is 127 have a scale of 1: nothing is rounded.
#[test]
fn integers_are_exact_in_eight_bits() {
    let all_shapes = [0, 1, 5, 12, 13, 97].into_iter().flat_map(|m| [1, 31, 32, 33].map(|n| (m, n)));
    let shapes = all_shapes.flat_map(|(m, n)| [1, 2, 3, 4, 5, 17, CHUNK, CHUNK + 1].map(|k| (m, n, k)));
    for (m, n, k) in shapes.chain([(13, SLAB + 1, 9)]) {
        let [a, b] = [(1, m), (2, n)].map(|(seed, rows)| {
            let mut values = integers(seed, rows * k);
            values.chunks_mut(k).enumerate().for_each(|(i, row)| row[i % k] = if i % 3 == 0 { -127 } else { 127 });
            values
        });
        let want: Vec<f32> = product(&a, &b, (m, n, k)).into_iter().map(|x| x as f32).collect();
        let [a, b] = [a, b].map(|x| x.iter().map(|&x| bf16::from_f32(x as f32)).collect::<Vec<_>>());
        assert!(int8(2, (m, n, k), &a, &b) == want, "({m}, {n}, {k})");
    }
}

/// The longest sums of the largest numbers, which wrap around on the way; longer ones are not taken.
#[test]
fn sums_in_eight_bits_hold_the_longest_rows() {
    let most = |rows: usize| vec![bf16::from_f32(-127.0); rows * LONGEST];
    let want = (127 * 127 * LONGEST) as f32;
    assert_eq!(int8(1, (1, 1, LONGEST), &most(1), &most(1)), [want]);
    assert!(127 * 127 * (LONGEST as i64) < 1 << 31);
    assert!(Weight::new(&vec![bf16::ONE; LONGEST + 1], 1, LONGEST + 1).is_none());
}

/// Zeros stay zeros; what is not a number stays none.
#[test]
fn eight_bits_hide_no_nan() {
    let one = [1.0, -2.0, 3.0, 0.5, 1.0].map(bf16::from_f32);
    for (bad, finite) in [(0.0, true), (f32::NAN, false), (f32::INFINITY, false), (f32::NEG_INFINITY, false)] {
        let mut other = [bf16::ZERO; 5];
        other[4] = bf16::from_f32(bad);
        for found in [int8(1, (1, 1, 5), &one, &other)[0], int8(1, (1, 1, 5), &other, &one)[0]] {
            assert!(found.is_finite() == finite && (!finite || found == 0.0), "{bad}: {found}");
        }
        // The rows beside it are as they were.
        let both = [one, other].concat();
        assert!(int8(1, (2, 1, 5), &both, &one)[0].is_finite());
    }
}

fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut stream = Stream::new(seed, 4);
    (0..n).map(|_| stream.uniform() as f32 - 0.5).collect()
}

fn bits<T: Factor<Wide = f32>>(threads: usize, (m, n, k): (usize, usize, usize), a: &[f32], b: &[f32]) -> Vec<u32> {
    let [a, b] = [a, b].map(|x| x.iter().map(|&x| T::narrow(x)).collect::<Vec<T>>());
    let mut c = vec![f32::NAN; m * n];
    let Device::Cpu(cpu) = &Device::cpu(threads).unwrap() else { panic!("a CPU") };
    cpu.run(|| gemm::<T>((m, n, k), &Mat::rows(&a, k), &Mat::rows(&b, k), &mut c, true));
    c.into_iter().map(f32::to_bits).collect()
}

/// k = 512 is a stride that is packed, the others are read in place.
#[test]
fn a_row_has_the_same_bits_in_any_company() {
    rows_in_company(bits::<f32>);
    rows_in_company(bits::<bf16>);
    rows_in_company(|threads, size, a, b| {
        let [a, b] = [a, b].map(|x| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>());
        int8(threads, size, &a, &b).into_iter().map(f32::to_bits).collect()
    });
}

fn rows_in_company(bits: impl Fn(usize, (usize, usize, usize), &[f32], &[f32]) -> Vec<u32>) {
    for (n, k) in [(97, 96), (33, CHUNK), (33, CHUNK + 1), (33, 3 * CHUNK + 1), (SLAB + 1, 40)] {
        let (m, a, b) = (300, values(1, 300 * k), values(2, n * k));
        let all = bits(2, (m, n, k), &a, &b);
        for threads in [1, 3] {
            assert!(bits(threads, (m, n, k), &a, &b) == all, "{threads} threads, n {n}, k {k}");
        }
        for row in [0, 11, 12, 95, 96, 299] {
            let alone = bits(2, (1, n, k), &a[row * k..(row + 1) * k], &b);
            assert!(alone == all[row * n..(row + 1) * n], "row {row} alone, n {n}, k {k}");
        }
    }
}

/// This file again, in a process of its own for each lower level of instructions.
#[test]
fn every_level_of_instructions() {
    for level in ["avx512", "avx2", "portable"] {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--skip", "every_level_of_instructions"])
            .env("DOCRE_SIMD", level)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("6 passed"), "{level}: {said}");
    }
}

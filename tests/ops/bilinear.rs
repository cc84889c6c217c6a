use crate::support::*;
use docre::device::Device;
use docre::dtype::DType;
use docre::ops::bilinear::bilinear;
use docre::rng::Stream;
use docre::tape::Tape;
use half::bf16;

#[derive(Clone, Copy)]
struct Size {
    cells: usize,
    e: usize,
    block: usize,
    out: usize,
}

fn plain<T: Plain>(v: &[Vec<T>], s: Size) -> Vec<T> {
    let Size { e, block: k, .. } = s;
    let mut y = Vec::new();
    for (cell, r) in (0..s.cells).flat_map(|cell| (0..s.out).map(move |r| (cell, r))) {
        let mut sum = v.get(3).map_or(T::ZERO, |b| b[r]);
        for x in 0..e * k {
            let (g, i, j) = (x / (k * k), x / k % k, x % k);
            sum += v[0][cell * e + g * k + i] * v[1][cell * e + g * k + j] * v[2][r * e * k + x];
        }
        y.push(sum);
    }
    y
}

/// Weights of about 1/sqrt(E k), so that the output is of order one.
fn inputs(s: Size, bias: bool) -> Vec<Input> {
    let mut w = parameter("w", &[s.out, s.e * s.block]);
    let scale = 0.5f64.powi(((s.e * s.block) as f64).log2() as i32 / 2); // a power of two: exact
    w.values.iter_mut().for_each(|w| *w *= scale);
    let mut inputs = vec![activation("zs", &[s.cells, s.e]), activation("zo", &[s.cells, s.e]), w];
    inputs.extend(bias.then(|| parameter("b", &[s.out])));
    inputs
}

fn case(cells: usize, e: usize, block: usize, out: usize, bias: bool) {
    let size = Size { cells, e, block, out };
    check(
        &inputs(size, bias),
        &|tape, t| bilinear(tape, &t[0], &t[1], &t[2], t.get(3), block),
        &|v| plain::<f64>(v, size),
        &|v| plain::<f32>(v, size),
    );
}

/// Where the largest of z_s and of W's rows are 127 and those of z_o are 1, eight bits round nothing.
#[test]
fn integers_are_exact_in_eight_bits() {
    let device = Device::cpu_in_int8(2).unwrap();
    for (cells, e, block, out) in [(1, 1, 1, 1), (7, 15, 5, 3), (13, 64, 32, 33), (97, 32, 8, 5)] {
        let (size, mut stream) = (Size { cells, e, block, out }, Stream::new(4, 1));
        let mut integers = |rows: usize, columns: usize, most: usize| {
            let mut values: Vec<f64> =
                (0..rows * columns).map(|_| stream.below(2 * most + 1) as f64 - most as f64).collect();
            values.chunks_mut(columns).for_each(|row| row[columns / 2] = if most == 1 { -1.0 } else { 127.0 });
            values
        };
        let values = [integers(cells, e, 15), integers(cells, e, 1), integers(out, e * block, 15)];
        let shapes = [[cells, e], [cells, e], [out, e * block]];
        let [zs, zo, w] = [0, 1, 2].map(|i| tensor(&device, DType::BF16, &shapes[i], &values[i]));
        let y = bilinear(&mut Tape::inference(), &zs, &zo, &w.into_int8().unwrap(), None, block).unwrap();
        let want: Vec<f64> = plain::<f64>(&values, size).iter().map(|&x| f64::from(bf16::from_f32(x as f32))).collect();
        assert_eq!(y.to_f64().unwrap(), want, "{cells} {e} {block} {out}");
    }
}

#[test]
fn five_checks() {
    case(0, 8, 8, 4, true);
    case(1, 1, 1, 1, false);
    case(7, 15, 5, 3, true);
    // Register tiles are 12 or 6 rows and 32 or 16 columns; a task of the backward pass takes 48 cells.
    for (cells, out) in [(11, 31), (12, 32), (13, 33)] {
        case(cells, 64, 32, out, false);
    }
    for cells in [47, 48, 49] {
        case(cells, 16, 8, 7, true);
    }
}

#[test]
fn five_checks_of_wide_ones() {
    case(5, 96, 32, 5, false);
    case(3, 128, 64, 97, true);
    case(1, 768, 64, 3, false);
    case(2, 64, 64, 768, false); // two chunks of the output in the backward pass
    case(513, 8, 8, 2, true); // two chunks of cells
}

#[test]
fn a_cell_has_the_same_bits_alone() {
    let inputs = inputs(Size { cells: 300, e: 64, block: 32, out: 97 }, true);
    let op: Op = &|tape, t| bilinear(tape, &t[0], &t[1], &t[2], t.get(3), 32);
    check_rows_alone(&inputs, &[0, 1], op, &[0, 11, 12, 95, 96, 299]);
    // With its gradients: cells 100..160 are one document's.
    let (cells, e, out) = (100..160, 64, 97);
    let of = |width: usize| cells.start * width..cells.end * width;
    check_alone(&inputs, op, op, cells.start * out, &[of(e), of(e), 0..inputs[2].values.len(), 0..out]);
}

#[test]
fn shapes_are_checked() {
    let t = |shape: &[usize]| tensor(&poisoned(1), DType::F32, shape, &random(1, shape.iter().product()));
    let run = |zs: &[usize], zo: &[usize], w: &[usize], block| {
        bilinear(&mut docre::tape::Tape::inference(), &t(zs), &t(zo), &t(w), None, block)
    };
    assert!(run(&[2, 8], &[2, 8], &[3, 32], 4).is_ok());
    assert!(run(&[2, 8], &[1, 8], &[3, 32], 4).is_err());
    assert!(run(&[2, 8], &[2, 8], &[3, 31], 4).is_err());
    assert!(run(&[2, 8], &[2, 8], &[3, 24], 3).is_err());
    assert!(run(&[2, 8], &[2, 8], &[3, 0], 0).is_err());
}

/// What eager bf16 code does: it stores the outer products and their gradients, rounded. Parameter gradients are f32.
fn eager(v: &[Vec<f64>], dy: &[f64], s: Size) -> Outcome {
    let Size { e, block: k, out, .. } = s;
    let (zs, zo, w, width) = (&v[0], &v[1], &v[2], e * k);
    let (mut y, mut dw) = (Vec::new(), vec![0.0; w.len()]);
    let (mut dzs, mut dzo) = (vec![0.0; zs.len()], vec![0.0; zo.len()]);
    for (cell, dy) in (0..s.cells).map(|cell| (cell, &dy[cell * out..][..out])) {
        let of = |x: usize| (cell * e + x / k, cell * e + x / (k * k) * k + x % k);
        let products: Vec<f64> = (0..width).map(|x| zs[of(x).0] * zo[of(x).1]).collect();
        let products = round(&products);
        let mut gradient = vec![0.0; width];
        for ((r, row), dy) in w.chunks_exact(width).enumerate().zip(dy) {
            let sum: f64 = row.iter().zip(&products).map(|(w, x)| w * x).sum();
            y.push(sum + v.get(3).map_or(0.0, |b| b[r]));
            row.iter().zip(&mut gradient).for_each(|(w, g)| *g += dy * w);
            dw[r * width..][..width].iter_mut().zip(&products).for_each(|(d, x)| *d += dy * x);
        }
        for (x, g) in round(&gradient).into_iter().enumerate() {
            dzs[of(x).0] += g * zo[of(x).1];
            dzo[of(x).1] += g * zs[of(x).0];
        }
    }
    let mut grads = vec![round(&dzs), round(&dzo), dw];
    if v.len() == 4 {
        grads.push((0..out).map(|r| (0..s.cells).map(|cell| dy[cell * out + r]).sum()).collect());
    }
    Outcome { value: if v.len() == 4 { y } else { round(&y) }, grads }
}

#[test]
fn on_the_gpu() {
    let case = |cells, e, block, out, bias| {
        let size = Size { cells, e, block, out };
        let op: Op = &|tape, t| bilinear(tape, &t[0], &t[1], &t[2], t.get(3), block);
        on_gpu_against(&inputs(size, bias), op, &|v, dy| eager(v, dy, size));
    };
    case(0, 64, 32, 8, true);
    case(1, 64, 64, 8, false);
    case(7, 64, 32, 19, true);
    // Tiles are 128 cells and 128 outputs; stages 32 cells, dW's tiles 64 outputs.
    case(63, 128, 64, 97, true);
    case(64, 64, 32, 128, false);
    case(65, 128, 32, 136, false);
    case(130, 64, 64, 136, false);
    case(129, 64, 64, 19, false); // rows of y that are not aligned
}

/// Small integers: every product and sum is exact, and so is each result up to its own rounding.
#[test]
fn on_the_gpu_exactly() {
    let Some((device, _turn)) = gpu() else { return };
    // Parts of 80 values of y: some begin amid a group, most span two, the last is shorter.
    let parts = [(130, 384, 64, 8, false), (65, 384, 32, 19, true)];
    let few = [(130, 128, 64, 136, false), (65, 64, 32, 97, true), (128, 128, 32, 128, true)];
    // In two launches; and so many tiles that dzo is not divided into parts, or that parts begin and end amid groups.
    let many = [(8900, 32, 32, 8, false), (6902, 96, 32, 8, false), (4600, 128, 64, 8, false)];
    for (cells, e, block, out, bias) in parts.into_iter().chain(few).chain(many) {
        let size = Size { cells, e, block, out };
        let op: Op = &|tape, t| bilinear(tape, &t[0], &t[1], &t[2], t.get(3), block);
        let integers = |values: &[f64]| values.iter().map(|x| (x * 1.5).round().clamp(-2.0, 2.0)).collect::<Vec<_>>();
        let whole = |i: Input| Input { values: integers(&random(i.name.len() as u64, i.values.len())), ..i };
        let inputs: Vec<Input> = inputs(size, bias).into_iter().map(whole).collect();
        let dy = |n: usize| integers(&random(5, n));
        let exact = run_from(&Device::cpu(2).unwrap(), DType::F64, &inputs, op, 0.0, &dy);
        let got = run_from(&device, DType::BF16, &inputs, op, 3.0, &dy);
        assert_same_bits("value", &got.value, &if bias { exact.value } else { round(&exact.value) });
        for ((input, got), exact) in inputs.iter().zip(&got.grads).zip(&exact.grads) {
            let exact = if input.parameter { exact.clone() } else { round(exact) };
            let differ = got.iter().zip(&exact).position(|(a, b)| a != b); // -0 and 0 are equal
            assert_eq!(differ, None, "d{}", input.name);
        }
    }
}

/// The cells of a mean document. Where few tiles would leave the GPU idle they are divided into parts, whose sums in
/// f32 are written and read once. That is the exception: of the floor at these sizes 75 % for y, 30 % for dzo, where W is
/// small; at BERT-base's own (E = 1024, 768 outs, five parts) 12 % for y of 406 cells.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let size = Size { cells: 406, e: 256, block: 64, out: 320 };
    let Size { cells, e, block: k, out } = size;
    let op: Op = &|tape, t| bilinear(tape, &t[0], &t[1], &t[2], None, k);
    let counted = counted(|| drop(run(&device, DType::BF16, &inputs(size, false), op, 0.0)));
    if counted.is_empty() {
        return; // a real GPU does not count
    }
    let grid = |name: &str| counted.iter().find(|c| c.kernel == name).map_or([1; 3], |c| c.grid);
    let (tiles, columns) = (cells.div_ceil(128), out.div_ceil(128));
    let (z, w, y) = (2 * cells * e, 2 * out * e * k, 2 * cells * out); // bytes of zs, of W, of y
    // Of bf16 results, or of their sums in f32, what the kernel of the products writes.
    let result = |parts: usize, bytes: usize| if parts == 1 { bytes } else { 2 * parts * bytes };
    let beyond = |parts: usize, values: usize, floor: usize, figure: f64| {
        let sums = if parts == 1 { 0 } else { 2 * 4 * parts * values - 2 * values };
        assert!(sums as f64 <= figure * floor as f64, "{parts} parts: {sums} bytes beyond the floor of {floor}");
    };
    let finish = |parts: usize, values: usize| {
        let grid = (values / 4).div_ceil(256);
        let own = counted.iter().filter(|c| c.kernel == "bilinear_finish_bf16" && c.grid[0] == grid);
        let (own, bytes) = (own.cloned().collect::<Vec<_>>(), 4 * parts * values + 2 * values);
        assert!(own.is_empty() == (parts == 1), "{parts} parts: {own:?}");
        gate(&own, "bilinear_finish_bf16", bytes, bytes);
    };

    // Each part reads the object values of the groups that it has a subject value of.
    let parts = grid("bilinear_forward_64")[2];
    let per = (e / 16).div_ceil(parts) * 16;
    let groups: usize = (0..e).step_by(per).map(|t| (t + per).min(e).div_ceil(k) - t / k).sum();
    let sums = result(parts, y);
    gate(&counted, "bilinear_forward_64", 2 * z + w + sums, columns * (z + 2 * cells * k * groups) + tiles * w + sums);
    finish(parts, cells * out);
    beyond(parts, cells * out, 2 * z + w + y, 0.75);

    // dy for every 8 subject values, the group's object values for every 64 outputs and 8 subject values.
    let (dw, blocks) = (4 * out * e * k, (e / 8, out / 64));
    gate(
        &counted,
        "bilinear_weight_64",
        y + 2 * z + 2 * dw,
        blocks.0 * y + blocks.1 * (z + blocks.0 * 2 * cells * k) + 2 * dw,
    );

    // dy for every two subject values; a part reads all values of its group.
    let parts = grid("bilinear_inputs_64")[1] / (e / k);
    let sums = result(parts, z);
    gate(&counted, "bilinear_inputs_64", y + 3 * z + w + sums, e / 2 * y + 2 * parts * z + tiles * w + z + sums);
    finish(parts, cells * e);
    beyond(parts, cells * e, y + 4 * z + w, 0.30);
}

#[test]
fn refused_on_the_gpu() {
    let size = Size { cells: 2, e: 64, block: 16, out: 8 };
    refused_on_gpu(&inputs(size, false), &|tape, t| bilinear(tape, &t[0], &t[1], &t[2], None, 16), "block 16");
}

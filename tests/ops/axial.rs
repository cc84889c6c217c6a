use crate::attention::{Line, check_on_gpu, part};
use crate::support::*;
use docre::device::Device;
use docre::dtype::DType;
use docre::error::Result;
use docre::layout::Tables;
use docre::ops::axial::{Axes, Axis, axial};
use docre::rng::Dropout;
use docre::tape::Tape;
use docre::tensor::Tensor;
use std::sync::Arc;

const AXES: [Axes; 3] = [Axes::Subject, Axes::Object, Axes::Both];

/// The axes' outputs side by side: `[cells, axes * d]`, as qkv is `[cells, axes * 3 d]`. By way of the host.
fn join(tape: &mut Tape, parts: Vec<Tensor>) -> Result<Tensor> {
    let (device, dtype) = (parts[0].device().clone(), parts[0].dtype());
    let (cells, d, width) = (parts[0].rows(), parts[0].dim(), parts.len() * parts[0].dim());
    let values = parts.iter().map(Tensor::to_f64).collect::<Result<Vec<_>>>()?;
    let row = |cell: usize| values.iter().flat_map(move |part| &part[cell * d..][..d]).copied();
    let joined = tensor(&device, dtype, &[cells, width], &(0..cells).flat_map(row).collect::<Vec<_>>());
    let out = joined.clone();
    tape.record(move |grads| {
        let Some(dy) = grads.take(&out) else { return Ok(()) };
        let dy = dy.to_f64()?;
        parts.iter().enumerate().try_for_each(|(a, part)| {
            let own: Vec<f64> = dy.chunks(width).flat_map(|row| &row[a * d..][..d]).copied().collect();
            grads.put(part, tensor(&device, dtype, &[cells, d], &own))
        })
    });
    Ok(joined)
}

/// The op with its outputs side by side.
fn joined(tape: &mut Tape, qkv: &Tensor, tables: &Arc<Tables>, heads: usize, axes: Axes) -> Result<Tensor> {
    let outs = axial(tape, qkv, tables, heads, axes)?;
    join(tape, outs)
}

/// The cells that cell (s, o) attends to.
fn line(base: usize, n: usize, s: usize, o: usize, axis: Axis) -> Vec<usize> {
    let cell = |i: usize| if axis == Axis::Subject { base + i * n + o } else { base + s * n + i };
    (0..n).map(cell).collect()
}

/// Attention with the last key of a table with a pad index counted `repeat` times. Of `[cells, axes, 3 d]` and
/// `[cells, axes, d]` a row of the former is a (cell, axis).
fn plain<T: Plain>(qkv: &[T], tables: &Tables, heads: usize, dim: usize, axes: Axes) -> Vec<T> {
    let each: Vec<(usize, Axis)> = axes.each().iter().copied().enumerate().collect();
    let mut out = Vec::new();
    let scale = T::ONE / T::of(dim as f64).sqrt();
    for d in 0..tables.len() {
        let (n, base) = (tables.side[d], tables.cells.starts[d]);
        let places = (0..n * n).flat_map(|cell| each.iter().map(move |&(a, axis)| (cell, a, axis)));
        for ((cell, a, axis), head) in places.flat_map(|place| (0..heads).map(move |head| (place, head))) {
            let row = |cell: usize| cell * each.len() + a;
            let keys = line(base, n, cell / n, cell % n, axis);
            let q = part(qkv, row(base + cell), 0, head, heads, dim);
            let key = |&j: &usize| part(qkv, row(j), 1, head, heads, dim);
            let logit = |j| q.iter().zip(key(j)).fold(T::ZERO, |s, (&a, &b)| s + a * b) * scale;
            let logits: Vec<T> = keys.iter().map(logit).collect();
            let top = logits.iter().fold(T::NEG_INFINITY, |a, &b| a.max(b));
            let times = |i: usize| if i + 1 == n { T::of(tables.repeat[d].max(1) as f64) } else { T::ONE };
            let weights: Vec<T> = logits.iter().enumerate().map(|(i, &x)| times(i) * (x - top).std_exp()).collect();
            let total = weights.iter().fold(T::ZERO, |a, &w| a + w);
            let value = |j: usize, c: usize| part(qkv, row(j), 2, head, heads, dim)[c];
            out.extend(
                (0..dim).map(|c| keys.iter().zip(&weights).fold(T::ZERO, |s, (&j, &w)| s + w / total * value(j, c))),
            );
        }
    }
    out
}

fn case(entities: &[usize], pad: usize, heads: usize, dim: usize) {
    let tables = Arc::new(Tables::padded(entities, pad));
    for axes in AXES {
        check(
            &[activation("qkv", &[tables.cells.rows(), axes.each().len() * 3 * heads * dim])],
            &|tape, t| joined(tape, &t[0], &tables, heads, axes),
            &|v| plain::<f64>(&v[0], &tables, heads, dim, axes),
            &|v| plain::<f32>(&v[0], &tables, heads, dim, axes),
        );
    }
}

#[test]
fn five_checks() {
    case(&[], 0, 2, 4);
    case(&[1], 0, 1, 1);
    case(&[0, 2, 1, 0, 7], 0, 2, 5);
    case(&[42], 42, 2, 2);
    // Register tiles are 12 or 6 rows and 32 or 16 columns; query rows come in blocks of 48.
    case(&[11, 12, 13], 0, 2, 3);
    case(&[31, 32, 33], 0, 1, 2);
    case(&[47, 49], 48, 1, 2);
    case(&[3, 2], 0, 12, 8); // 96 wide
    case(&[2], 0, 12, 64); // 768 wide
}

#[test]
fn five_checks_with_a_pad_index() {
    case(&[2, 1, 7], 42, 2, 5);
    case(&[0, 5, 6], 6, 3, 4);
    case(&[41], 42, 1, 2);
}

/// Which compact cell a cell of the really padded table of `pad x pad` stands for.
fn compact_cell(n: usize, pad: usize, cell: usize) -> usize {
    (cell / pad).min(n) * (n + 1) + (cell % pad).min(n)
}

/// Outputs equal those of the table with all its pad cells, and a pad cell's gradient is the sum over them.
#[test]
fn a_pad_index_equals_the_padded_table() {
    let (n, pad, heads, dim) = (5, 42, 2, 6);
    let (small, large) = (Arc::new(Tables::padded(&[n], pad)), Arc::new(Tables::exact(&[pad])));
    let (width, out, side) = (3 * heads * dim, heads * dim, n + 1);
    let row = |values: &[f64], cell: usize, width: usize| values[cell * width..(cell + 1) * width].to_vec();
    let compact = activation("qkv", &[side * side, width]);
    let places: Vec<usize> = (0..pad * pad).map(|cell| compact_cell(n, pad, cell)).collect();
    let values = places.iter().flat_map(|&c| row(&compact.values, c, width)).collect();
    let padded = Input { shape: vec![pad * pad, width], values, ..compact.clone() };
    let dy = random(5, pad * pad * out);
    let fold = |values: &[f64], width: usize| {
        let mut sums = vec![0.0; side * side * width];
        for (i, x) in values.iter().enumerate() {
            sums[places[i / width] * width + i % width] += x;
        }
        sums
    };
    for axes in [Axes::Subject, Axes::Object] {
        let device = poisoned(2);
        let ours = run_from(
            &device,
            DType::F64,
            std::slice::from_ref(&compact),
            &|tape, t| joined(tape, &t[0], &small, heads, axes),
            0.0,
            &|_| fold(&dy, out),
        );
        let theirs = run_from(
            &device,
            DType::F64,
            std::slice::from_ref(&padded),
            &|tape, t| joined(tape, &t[0], &large, heads, axes),
            0.0,
            &|_| dy.clone(),
        );
        let expanded: Vec<f64> = places.iter().flat_map(|&c| row(&ours.value, c, out)).collect();
        assert_close("value", &theirs.value, &expanded, 1e-12);
        assert_close("dqkv", &ours.grads[0], &fold(&theirs.grads[0], width), 1e-12);
    }
}

#[test]
fn a_document_has_the_same_bits_alone() {
    let (heads, dim) = (2, 16);
    for (axes, pad) in AXES.into_iter().flat_map(|axes| [(axes, 0), (axes, 9)]) {
        let out = axes.each().len() * heads * dim;
        let width = 3 * out;
        let (all, one) = (Arc::new(Tables::padded(&[3, 8, 13], pad)), Arc::new(Tables::padded(&[8], pad)));
        let cells = all.cells.range(1);
        check_alone(
            &[activation("qkv", &[all.cells.rows(), width])],
            &|tape, t| joined(tape, &t[0], &all, heads, axes),
            &|tape, t| joined(tape, &t[0], &one, heads, axes),
            cells.start * out,
            std::slice::from_ref(&(cells.start * width..cells.end * width)),
        );
    }
}

#[test]
fn shapes_are_checked() {
    let t = |shape: &[usize]| tensor(&poisoned(1), DType::F32, shape, &random(1, shape.iter().product()));
    let tables = Arc::new(Tables::exact(&[2]));
    let one = [([4, 10], 1), ([4, 12], 3), ([4, 12], 0), ([3, 12], 2)].map(|case| (case, Axes::Subject));
    let both = [([4, 15], 1), ([4, 18], 2), ([3, 24], 2)].map(|case| (case, Axes::Both));
    for ((shape, heads), axes) in one.into_iter().chain(both) {
        let error = axial(&mut Tape::inference(), &t(&shape), &tables, heads, axes).err();
        assert!(error.is_some_and(|e| e.to_string().contains("axial")), "{shape:?}, {heads} heads");
    }
}

/// Columns of the axis number `a` of `[rows, 2, width]`.
fn columns(values: &[f64], width: usize, a: usize) -> Vec<f64> {
    values.chunks(2 * width).flat_map(|row| &row[a * width..][..width]).copied().collect()
}

/// Both axes together are each alone, and an output that nobody uses gives no gradient.
fn both_are_each(device: &Device, dtype: DType) {
    let (tables, heads, dim) = (Arc::new(Tables::padded(&[3, 18, 33, 65], 5)), 2, 32);
    let (out, width) = (heads * dim, 3 * heads * dim);
    let qkv = activation("qkv", &[tables.cells.rows(), 2 * width]);
    let both: Op = &|tape, t| joined(tape, &t[0], &tables, heads, Axes::Both);
    let together = run(device, dtype, std::slice::from_ref(&qkv), both, 0.0);
    for (a, axes) in [Axes::Subject, Axes::Object].into_iter().enumerate() {
        let own =
            Input { shape: vec![tables.cells.rows(), width], values: columns(&qkv.values, width, a), ..qkv.clone() };
        let dy = |n: usize| columns(&output_gradient(2 * n), out, a);
        let one: Op = &|tape, t| Ok(axial(tape, &t[0], &tables, heads, axes)?.remove(0));
        let alone = run_from(device, dtype, &[own], one, 0.0, &dy);
        assert_same_bits("value", &columns(&together.value, out, a), &alone.value);
        assert_same_bits("dqkv", &columns(&together.grads[0], width, a), &alone.grads[0]);
        let used: Op = &|tape, t| Ok(axial(tape, &t[0], &tables, heads, Axes::Both)?.remove(a));
        let half = run_from(device, dtype, std::slice::from_ref(&qkv), used, 0.0, &dy);
        assert_same_bits("dqkv of one", &columns(&half.grads[0], width, a), &alone.grads[0]);
        assert!(columns(&half.grads[0], width, 1 - a).iter().all(|&x| x == 0.0));
    }
}

#[test]
fn both_axes_are_each() {
    both_are_each(&poisoned(2), DType::F32);
}

#[test]
fn both_axes_are_each_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    both_are_each(&device, DType::BF16);
}

/// The lines of table `d`; a row is a (cell, axis).
fn lines(tables: &Tables, d: usize, axes: Axes) -> Vec<Line> {
    let (base, n, count) = (tables.cells.starts[d], tables.side[d], axes.each().len());
    let last_key_bias = (tables.repeat[d].max(1) as f64).ln();
    let rows = |a: usize, axis, i| line(base, n, i, i, axis).into_iter().map(|cell| cell * count + a).collect();
    let of_axis = |(a, &axis): (usize, &Axis)| (0..n).map(move |i| Line { rows: rows(a, axis, i), last_key_bias });
    axes.each().iter().enumerate().flat_map(of_axis).collect()
}

fn gpu_case(entities: &[usize], pad: usize, heads: usize, dim: usize) {
    let tables = Arc::new(Tables::padded(entities, pad));
    for axes in AXES {
        let lines: Vec<Line> = (0..tables.len()).flat_map(|d| lines(&tables, d, axes)).collect();
        let shape = [tables.cells.rows(), axes.each().len() * 3 * heads * dim];
        let op: Op = &|tape, t| joined(tape, &t[0].clone().reshape(&shape)?, &tables, heads, axes);
        check_on_gpu(op, &lines, heads, dim, Dropout::default());
    }
}

#[test]
fn on_the_gpu() {
    gpu_case(&[], 0, 2, 32);
    gpu_case(&[1], 0, 1, 32);
    gpu_case(&[0, 2, 1, 0, 7], 0, 8, 96); // 768 wide
    // Lines of at most 16, 32 and 64 cells have kernels of their own; three heads do not fill a block of four.
    gpu_case(&[5, 1, 16, 17], 0, 3, 32);
    gpu_case(&[32, 33], 0, 1, 32);
    gpu_case(&[2, 42], 0, 1, 48);
    gpu_case(&[18, 1], 0, 2, 64);
    gpu_case(&[1, 5, 20, 34], 0, 1, 128);
    gpu_case(&[65], 0, 1, 32);
}

#[test]
fn on_the_gpu_with_a_pad_index() {
    gpu_case(&[2, 1, 5, 15, 16, 31], 42, 2, 32);
    gpu_case(&[41], 42, 1, 96);
    gpu_case(&[64, 3], 70, 1, 32);
}

#[test]
fn other_head_sizes_are_refused_on_the_gpu() {
    let tables = Arc::new(Tables::exact(&[2]));
    let op: Op = &|tape, t| Ok(axial(tape, &t[0], &tables, 2, Axes::Object)?.remove(0));
    for dim in [1, 16, 40, 256] {
        refused_on_gpu(&[activation("qkv", &[4, 6 * dim])], op, &format!("heads of {dim}"));
    }
}

/// Two documents of the mean size and the largest, E as released.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let (heads, dim) = (8, 96);
    let row = 2 * heads * dim; // of queries, keys, values, results or a gradient of them
    let tables = Arc::new(Tables::exact(&[19, 20, 42]));
    for axes in AXES {
        let count = axes.each().len();
        let inputs = [activation("qkv", &[tables.cells.rows(), count * 3 * heads * dim])];
        let op: Op = &|tape, t| joined(tape, &t[0], &tables, heads, axes);
        let counted = counted(|| drop(run(&device, DType::BF16, &inputs, op, 0.0)));
        for (longest, lines, cells) in [(32, 19 + 20, 19 * 19 + 20 * 20), (64, 42, 42 * 42)] {
            // 16 bytes say to each thread which line it has; a unit of a line and a head is 2 threads a possible cell.
            let (list, lists) = (count * 16 * lines, count * heads * lines * 2 * longest * 16);
            for (direction, parts) in [("forward", 3 + 1), ("backward", 4 + 3)] {
                let (tensors, name) = (count * row * parts * cells, format!("axial_{direction}_96_{longest}"));
                gate(&counted, &name, tensors + list, tensors + lists);
                let launches: u64 = counted.iter().filter(|c| c.kernel == name).map(|c| c.launches).sum();
                assert!(launches <= 1, "{name}: {launches} launches");
            }
        }
    }
}

use half::bf16;

use crate::check::{Random, Report};
use crate::gpu::{Failure, Gpu, grid, launch};
use crate::{Sample, Sizes, sample};

/// Lengths: one, a tile -1/0/+1, several tiles; the dims are 64, 128 and 768.
const SIZES: Sizes = Some(&[&[1, 1], &[1, 63, 64, 65], &[2, 1, 7, 130], &[12, 5, 66]]);

pub const SAMPLES: &[Sample] = &[sample("attention_forward", run, SIZES, "heads length...")];

const HEAD: usize = 64;
const TILE: usize = 64;
const THREADS: usize = 128;
const SCALE: f32 = 0.125;

/// size: heads, then the length of each sequence.
fn run(gpu: &Gpu, size: &[usize]) -> Result<Report, Failure> {
    let (heads, lengths) = (size[0], &size[1..]);
    let mut starts = vec![0];
    lengths.iter().for_each(|length| starts.push(starts[starts.len() - 1] + length));
    let rows = starts[lengths.len()];
    let mut random = Random(rows as u64 * 100 + heads as u64);
    // Scores of a few units each way, so that the softmax is neither flat nor a single one.
    let qkv = random.units(rows * 3 * heads * HEAD, |u| bf16::from_f32(2.5 * u));

    let function = gpu.function("attention", "attention_forward")?;
    let on_qkv = gpu.upload(&qkv)?;
    let on_starts = gpu.upload(&starts.iter().map(|&start| start as i32).collect::<Vec<_>>())?;
    let (mut out, mut lse) = (gpu.fresh::<bf16>(rows * heads * HEAD)?, gpu.fresh::<f32>(heads * rows)?);
    let longest = lengths.iter().max().copied().unwrap_or(0);
    let config = grid([longest.div_ceil(TILE), heads, lengths.len()], THREADS);
    let (rows_i, heads_i) = (rows as i32, heads as i32);
    launch!(gpu, function, config, &on_qkv, &on_starts, &mut out, &mut lse, &rows_i, &heads_i, &SCALE)?;

    let mut right = Outputs::new(rows, heads);
    let mut plain = Outputs::new(rows, heads);
    for bounds in starts.windows(2) {
        for head in 0..heads {
            let rows = Rows { qkv: &qkv, heads, head, start: bounds[0], length: bounds[1] - bounds[0] };
            (0..rows.length).for_each(|query| rows.attend(query, &mut right, |x| x));
            (0..rows.length).for_each(|query| rows.attend(query, &mut plain, |x| bf16::from_f64(x).to_f64()));
        }
    }
    let plain_out: Vec<bf16> = plain.out.iter().map(|&x| bf16::from_f64(x)).collect();
    let plain_lse: Vec<f32> = plain.lse.iter().map(|&x| x as f32).collect();
    let mut report = Report::default();
    report.close("out", &gpu.download(&out)?, &plain_out, &right.out, 0.0);
    // exp2 and log2 are approximate, to about 2^-22, and the maximum is a product of a few tens.
    let largest = right.lse.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
    let floor = 16.0 * f64::from(f32::EPSILON) * largest;
    report.close("lse", &gpu.download(&lse)?, &plain_lse, &right.lse, floor);
    Ok(report)
}

struct Outputs {
    /// [rows, heads, 64]
    out: Vec<f64>,
    /// [heads, rows]
    lse: Vec<f64>,
}

impl Outputs {
    fn new(rows: usize, heads: usize) -> Outputs {
        Outputs { out: vec![f64::NAN; rows * heads * HEAD], lse: vec![f64::NAN; heads * rows] }
    }
}

/// One head of one sequence.
struct Rows<'a> {
    qkv: &'a [bf16],
    heads: usize,
    head: usize,
    start: usize,
    length: usize,
}

impl Rows<'_> {
    /// part: 0 for queries, 1 for keys, 2 for values.
    fn row(&self, row: usize, part: usize) -> &[bf16] {
        let from = (((self.start + row) * 3 + part) * self.heads + self.head) * HEAD;
        &self.qkv[from..from + HEAD]
    }

    /// `round`: what the precision does to the weights between the two products, of which none is above 1.
    fn attend(&self, query: usize, to: &mut Outputs, round: impl Fn(f64) -> f64) {
        let q = self.row(query, 0);
        let dot = |k: &[bf16]| q.iter().zip(k).map(|(a, b)| a.to_f64() * b.to_f64()).sum::<f64>();
        let scores: Vec<f64> = (0..self.length).map(|key| dot(self.row(key, 1)) * f64::from(SCALE)).collect();
        let maximum = scores.iter().fold(f64::NEG_INFINITY, |most, &s| most.max(s));
        let sum: f64 = scores.iter().map(|s| (s - maximum).exp()).sum();
        let row = self.start + query;
        let rows = to.lse.len() / self.heads;
        to.lse[self.head * rows + row] = maximum + sum.ln();
        let out = &mut to.out[(row * self.heads + self.head) * HEAD..][..HEAD];
        out.fill(0.0);
        for (key, score) in scores.iter().enumerate() {
            let weight = round((score - maximum).exp() / sum);
            out.iter_mut().zip(self.row(key, 2)).for_each(|(o, v)| *o += weight * v.to_f64());
        }
    }
}

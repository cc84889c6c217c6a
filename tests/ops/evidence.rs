use crate::attention_rows::{Text, documents};
use crate::support::*;
use docre::device::Device;
use docre::dtype::DType;
use docre::error::Result;
use docre::layout::{Cell, Documents, EvidencePairs};
use docre::ops::context_pool::Pooling;
use docre::ops::evidence::{FLOOR, Gold, evidence, evidence_loss};
use docre::tape::Tape;
use docre::tensor::Tensor;
use std::sync::Arc;

/// A document: entities, tokens, and the length of each sentence. The first token is in none, nor are the last ones.
type Size<'a> = (usize, usize, &'a [usize]);

const KD_DOCRE: Pooling = Pooling { heads: 3, mean: false, epsilon: 1e-10 };
const ATLOP: Pooling = Pooling { heads: 4, mean: true, epsilon: 1e-5 };

struct Case {
    pooling: Pooling,
    pairs: Arc<EvidencePairs>,
    shares: Vec<f64>,
    /// Not the number of pairs: a part of a split batch.
    denominator: usize,
}

fn laid_out(sizes: &[Size]) -> Documents {
    let entities: Vec<Vec<&[usize]>> = sizes.iter().map(|&(n, ..)| vec![&[][..]; n]).collect();
    let texts: Vec<Text> = sizes.iter().zip(&entities).map(|(&(_, tokens, _), e)| Text::short(tokens, e)).collect();
    let mut documents = documents(&texts);
    for (_, _, lengths) in sizes {
        documents.sentences.push(lengths.len());
        let mut at = 1;
        for length in *lengths {
            documents.sentence.push(at..at + length);
            at += length;
        }
    }
    documents
}

/// Of each document some pairs in either order, one of an entity with itself, and one twice.
fn cells(sizes: &[Size]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (d, &(n, ..)) in sizes.iter().enumerate() {
        let some = (0..n * n).filter(|cell| cell % 5 != 3).take(23).chain(if n > 1 { Some(1) } else { None });
        cells.extend(some.map(|cell| [d, cell / n, cell % n].map(|x| x as u32)));
    }
    cells.into_iter().map(|[document, subject, object]| Cell { document, subject, object }).collect()
}

impl Case {
    fn new(sizes: &[Size], pooling: Pooling) -> Self {
        Self::of(&laid_out(sizes), cells(sizes), pooling)
    }
    /// Gold shares of one, two or all sentences of a pair, unequal ones.
    fn of(documents: &Documents, cells: Vec<Cell>, pooling: Pooling) -> Self {
        let pairs = EvidencePairs::new(&Arc::new(documents.clone()), cells).unwrap();
        let mut shares = vec![0.0; pairs.rows.rows()];
        for (i, row) in pairs.rows.iter().enumerate() {
            let n = row.len();
            let marked: Vec<usize> = if i % 3 == 2 { (0..n).collect() } else { (0..n).take(1 + i % 3).collect() };
            let total: usize = marked.iter().map(|s| 1 + s).sum();
            // Exact in f32, as the inputs are.
            marked.iter().for_each(|s| shares[row.start + (s + i) % n] = f64::from((1 + s) as f32 / total as f32));
        }
        let denominator = pairs.cells.len() + 2;
        Case { pooling, pairs: Arc::new(pairs), shares, denominator }
    }
    /// Attention is not negative.
    fn attention(&self) -> Input {
        let mut a = activation("a", &[self.pairs.documents.attention(self.pooling.heads).rows()]);
        a.values.iter_mut().for_each(|x| *x = x.abs());
        wide(a)
    }
    /// p of every pair, token by token.
    fn plain_p<T: Plain>(&self, a: &[T]) -> Vec<T> {
        let (documents, Pooling { heads, mean, epsilon }) = (&self.pairs.documents, self.pooling);
        let mut p = Vec::new();
        for cell in &self.pairs.cells {
            let d = cell.document as usize;
            let (block, tokens) = (documents.attention(heads).starts[d], documents.tokens.length(d));
            let at = |e: u32, h: usize, l: usize| a[block + (e as usize * heads + h) * tokens + l];
            let share = if mean { T::ONE / T::of(heads as f64) } else { T::ONE };
            let of_head = |l: usize, h: usize| at(cell.subject, h, l) * at(cell.object, h, l);
            let q: Vec<T> = (0..tokens).map(|l| (0..heads).fold(T::ZERO, |q, h| q + of_head(l, h)) * share).collect();
            let total = q.iter().fold(T::of(epsilon), |s, &q| s + q);
            p.extend(
                documents.sentences_of(d).iter().map(|s| q[s.clone()].iter().fold(T::ZERO, |s, &q| s + q) / total),
            );
        }
        p
    }
    fn plain_loss<T: Plain>(&self, a: &[T]) -> Vec<T> {
        let terms = self.plain_p(a).into_iter().zip(&self.shares).filter(|(_, v)| **v > 0.0);
        let term = |(p, v): (T, &f64)| {
            let p = if p <= T::of(FLOOR) { T::of(FLOOR) } else { p };
            T::of(*v) * (T::of(*v).std_ln() - p.std_ln())
        };
        vec![terms.fold(T::ZERO, |sum, one| sum + term(one)) / T::of(self.denominator as f64)]
    }
    /// The weight is in what is minimised, not in what is reported: the output of the op here is the former.
    fn loss(&self, tape: &mut Tape, a: &Tensor, weight: f64) -> Result<Tensor> {
        let gold = Gold { shares: &self.shares, weight, pairs: self.denominator };
        let term = evidence_loss(tape, a, &self.pairs, self.pooling, gold)?;
        Tensor::from_vec(a.device(), "test", &[1], vec![weight * term.to_f64()?[0]])
    }
    fn check(&self) {
        let inputs = [self.attention()];
        let weighted = |loss: f64| vec![0.75 * loss];
        check(
            &inputs,
            &|tape, t| self.loss(tape, &t[0], 0.75),
            &|v| weighted(self.plain_loss::<f64>(&v[0])[0]),
            &|v| self.plain_loss::<f32>(&v[0]).into_iter().map(|loss| 0.75 * loss).collect(),
        );
        let p =
            |device: &Device, dtype| value(device, dtype, &inputs, &|_, t| evidence(&t[0], &self.pairs, self.pooling));
        let exact = self.plain_p::<f64>(&inputs[0].values);
        assert_close("p", &p(&poisoned(2), DType::F64), &exact, 1e-12);
        let rounded: Vec<f32> = inputs[0].values.iter().map(|&x| x as f32).collect();
        let naive: Vec<f64> = self.plain_p::<f32>(&rounded).into_iter().map(f64::from).collect();
        let narrow = p(&poisoned(2), DType::F32);
        within("p in f32", &narrow, &naive, &exact);
        assert_same_bits("p on another number of threads", &p(&poisoned(1), DType::F32), &narrow);
    }
    /// On a GPU or, in its bf16 mode, the CPU, where all of this is f32 too.
    fn check_on_the_gpu(&self, size_of_a: f64) {
        let mut a = self.attention();
        a.values.iter_mut().for_each(|x| *x = f64::from((*x * size_of_a) as f32));
        let inputs = [a];
        on_gpu(&inputs, &|tape, t| self.loss(tape, &t[0], 0.75));
        let Some((device, _turn)) = gpu() else { return };
        let rounded: Vec<f32> = inputs[0].values.iter().map(|&x| x as f32).collect();
        let naive: Vec<f64> = self.plain_p::<f32>(&rounded).into_iter().map(f64::from).collect();
        let got = value(&device, DType::BF16, &inputs, &|_, t| evidence(&t[0], &self.pairs, self.pooling));
        within("p", &got, &naive, &self.plain_p::<f64>(&inputs[0].values));
    }
}

/// No entity, no sentence, an empty sentence, one entity.
const ODD: &[Size] = &[(0, 5, &[3]), (2, 7, &[2, 3]), (2, 4, &[]), (3, 12, &[4, 0, 6]), (1, 3, &[1])];

#[test]
fn five_checks() {
    let some: [&[Size]; 6] = [
        &[],
        &[(1, 3, &[1])],
        ODD,
        &[(7, 31, &[5, 24]), (4, 32, &[1; 30]), (5, 33, &[31])],
        &[(42, 13, &[3, 4, 4])],
        &[(3, 300, &[40; 7])],
    ];
    for (sizes, pooling) in some.into_iter().flat_map(|sizes| [(sizes, KD_DOCRE), (sizes, ATLOP)]) {
        Case::new(sizes, pooling).check();
    }
}

/// Two users of one activation: what they give is added up.
#[test]
fn gradients_of_two_losses_add_up() {
    let case = Case::new(&[(4, 32, &[9, 11, 10])], KD_DOCRE);
    let both = |tape: &mut Tape, t: &[Tensor]| {
        let first = case.loss(tape, &t[0], 0.25)?.to_f64()?[0];
        let second = case.loss(tape, &t[0], 0.5)?.to_f64()?[0];
        Tensor::from_vec(t[0].device(), "test", &[1], vec![first + second])
    };
    let once = run(&poisoned(2), DType::F64, &[case.attention()], &|tape, t| case.loss(tape, &t[0], 0.75), 0.0);
    let twice = run(&poisoned(2), DType::F64, &[case.attention()], &both, 0.0);
    assert_close("loss", &twice.value, &once.value, 1e-13);
    assert_close("gradient", &twice.grads[0], &once.grads[0], 1e-13);
}

/// Entity 1 has no attention (no mention), entity 2 none in the second sentence, the gold evidence of every pair.
fn unreached(device: &Device, dtype: DType) -> (Vec<f64>, Outcome) {
    let documents = laid_out(&[(3, 8, &[2, 3])]);
    let cell = |s, o| Cell { document: 0, subject: s, object: o };
    let pairs = EvidencePairs::new(&Arc::new(documents), vec![cell(0, 1), cell(0, 2)]).unwrap();
    let pooling = Pooling { heads: 1, mean: false, epsilon: 1e-10 };
    let case = Case { pooling, pairs: Arc::new(pairs), shares: vec![0.0, 1.0, 0.0, 1.0], denominator: 2 };
    let row = |of: [f64; 8]| of.map(|x| f64::from(x as f32));
    let a = [row([0.125; 8]), row([0.0; 8]), row([0.25, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0, 0.25])].concat();
    let input = [wide(Input { values: a, ..activation("a", &[24]) })];
    let p = value(device, dtype, &input, &|_, t| evidence(&t[0], &case.pairs, pooling));
    (p, run(device, dtype, &input, &|tape, t| case.loss(tape, &t[0], 1.0), 0.0))
}

fn gold_evidence_without_attention(device: &Device, dtype: DType) {
    let (p, got) = unreached(device, dtype);
    assert_close("p", &p, &[0.0, 0.0, 0.5, 0.0], 1e-6);
    assert_close("loss at the floor", &got.value, &[-FLOOR.ln()], 1e-6);
    assert!(got.grads[0].iter().all(|g| *g == 0.0), "no gradient at the floor: {:?}", got.grads[0]);
}

#[test]
fn gold_evidence_without_attention_costs_a_finite_loss() {
    [DType::F64, DType::F32].into_iter().for_each(|dtype| gold_evidence_without_attention(&poisoned(2), dtype));
}

/// The update must be refused, so no NaN may be lost.
fn bad_attention_has_a_bad_gradient(device: &Device, dtype: DType) {
    for bad in [f64::NAN, f64::INFINITY] {
        let case = Case::new(&[(3, 12, &[4, 6])], KD_DOCRE);
        let mut a = case.attention();
        a.values[13] = bad;
        let got = run(device, dtype, &[a], &|tape, t| case.loss(tape, &t[0], 1.0), 0.0);
        assert!(got.value[0].is_nan() && got.grads[0].iter().any(|g| g.is_nan()), "{bad}: {got:?}");
    }
}

#[test]
fn bad_attention_has_a_bad_gradient_on_the_cpu() {
    [DType::F64, DType::F32].into_iter().for_each(|dtype| bad_attention_has_a_bad_gradient(&poisoned(2), dtype));
}

#[test]
fn a_document_has_the_same_bits_alone() {
    let sizes: [Size; 3] = [(3, 9, &[4, 3]), (5, 40, &[12, 12, 13]), (2, 7, &[5])];
    let all = Case::new(&sizes, KD_DOCRE);
    let own = all.pairs.cells.iter().filter(|c| c.document == 1).map(|c| Cell { document: 0, ..*c });
    let alone = Case::of(&laid_out(&sizes[1..2]), own.collect(), KD_DOCRE);
    let (first, a) = (all.pairs.cells.iter().position(|c| c.document == 1).unwrap(), all.attention());
    let place = 3 * 3 * 9..3 * 3 * 9 + 5 * 3 * 40;
    let of_alone = Input { values: a.values[place.clone()].to_vec(), ..alone.attention() };
    let rows = all.pairs.rows.starts[first]..all.pairs.rows.starts[first + alone.pairs.cells.len()];
    let p = |case: &Case, a: &Input| {
        value(&poisoned(2), DType::F32, std::slice::from_ref(a), &|_, t| evidence(&t[0], &case.pairs, case.pooling))
    };
    assert_same_bits("p", &p(&alone, &of_alone), &p(&all, &a)[rows.clone()]);
    let alone = Case { shares: all.shares[rows].to_vec(), denominator: all.denominator, ..alone };
    let gradient = |case: &Case, a: Input| {
        run(&poisoned(2), DType::F32, &[a], &|tape, t| case.loss(tape, &t[0], 1.0), 0.0).grads.remove(0)
    };
    assert_same_bits("da", &gradient(&alone, of_alone), &gradient(&all, a)[place]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let cell = |document, subject, object| Cell { document, subject, object };
    let documents = Arc::new(laid_out(&[(2, 7, &[2, 3])]));
    for wrong in [cell(1, 0, 0), cell(0, 2, 0), cell(0, 0, 2)] {
        assert_eq!(EvidencePairs::new(&documents, vec![wrong]).unwrap_err().code(), "E-SHAPE");
    }
    let outside = Arc::new(laid_out(&[(2, 7, &[2, 5])]));
    assert_eq!(EvidencePairs::new(&outside, vec![]).unwrap_err().code(), "E-SHAPE");
    let case = Case::new(&[(2, 7, &[2, 3])], KD_DOCRE);
    let short = tensor(&poisoned(1), DType::F32, &[41], &[0.0; 41]);
    assert!(evidence(&short, &case.pairs, KD_DOCRE).unwrap_err().to_string().contains("attention must be 42"));
    let case = Case { shares: vec![0.0], ..case };
    let whole = tensor(&poisoned(1), DType::F32, &[42], &[0.0; 42]);
    assert!(case.loss(&mut Tape::inference(), &whole, 1.0).unwrap_err().to_string().contains("gold shares"));
}

#[test]
fn on_the_gpu() {
    let some: [&[Size]; 5] = [
        &[],
        &[(1, 3, &[1])],
        ODD,
        // More sentences than warps, than lanes; sentences and documents longer than a block takes at once.
        &[(7, 64, &[6; 10]), (4, 65, &[1; 40]), (3, 130, &[31, 33, 60])],
        &[(3, 300, &[40; 7]), (2, 270, &[260])],
    ];
    for (sizes, pooling) in some.into_iter().flat_map(|sizes| [(sizes, KD_DOCRE), (sizes, ATLOP)]) {
        Case::new(sizes, pooling).check_on_the_gpu(1.0);
    }
    // Attention of real documents: q is about 1e-5, and epsilon must not matter.
    Case::new(&[(3, 130, &[40; 3])], Pooling { heads: 12, ..KD_DOCRE }).check_on_the_gpu(0.003);
    Case::new(&[(42, 33, &[15, 15])], KD_DOCRE).check_on_the_gpu(1.0);
}

#[test]
fn the_floor_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    gold_evidence_without_attention(&device, DType::BF16);
    bad_attention_has_a_bad_gradient(&device, DType::BF16);
}

/// Mean documents, but for a number of tokens that lets every row of A begin with a sector, and sentences of whole warps.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let (docs, n, tokens, heads, pairs) = (2, 20, 288, 12, 12);
    let size: Size = (n, tokens, &[32; 8]);
    let mut documents = laid_out(&vec![size; docs]);
    documents.sentence.iter_mut().for_each(|s| *s = s.start + 31..s.end + 31);
    let cell = |i: u32| Cell { document: i / 12, subject: i % 12, object: 19 - i % 12 };
    let pooling = Pooling { heads, ..KD_DOCRE };
    let case = Case::of(&documents, (0..(docs * pairs) as u32).map(cell).collect(), pooling);
    let counted =
        counted(|| drop(run(&device, DType::BF16, &[case.attention()], &|tape, t| case.loss(tape, &t[0], 1.0), 0.0)));

    let (all, of_a) = (docs * pairs, docs * n * heads * tokens * 4);
    let row = heads * 4; // of a token
    let lists = 32 * all + 8 * 8 * docs;
    // Rows of both entities, for the sum and for the tokens of sentences; a thread asks for its pair, a warp's for
    // their sentence. p is written one by one.
    let asked = all * (2 * row * (tokens + 256) + 256 * 32 + 256 * 8 + 36);
    gate_but_stores(&counted, "evidence_forward", of_a + lists + all * 36, asked, 0.1);
    // p and gold twice. Rows of nine slopes do not begin with sectors.
    let small = 4 * (8 + 8 + 1 + 1 + 9) * all;
    gate_but_stores(&counted, "evidence_loss", small, all * (4 * 32 + 2 * 128 + 2 * 36), 0.5);
    let lists = 32 * docs * n + 2 * all * 8 + docs * tokens * 4;
    // For each use of an entity, every token asks for the use, a slope, and A; every thread for its entity.
    let asked = 2 * of_a + 2 * all * heads * tokens * (8 + 4 + 4) + docs * n * heads * 128 * 32;
    gate(&counted, "evidence_backward", 2 * of_a + 36 * all + lists, asked);
}

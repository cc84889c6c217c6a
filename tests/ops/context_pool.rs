use crate::attention_rows::{Text, documents};
use crate::support::*;
use docre::layout::Grid;
use docre::ops::context_pool::{Pooling, context_pool};
use std::sync::Arc;

/// (entities, tokens) of each document.
type Sizes = [(usize, usize)];

fn plain<T: Plain>(v: &[Vec<T>], sizes: &Sizes, width: usize, pooling: Pooling) -> Vec<T> {
    let (mut block, mut token, mut c) = (0, 0, Vec::new());
    let heads = pooling.heads;
    for &(n, tokens) in sizes {
        let a = |e: usize, head: usize, t: usize| v[0][block + (e * heads + head) * tokens + t];
        for (s, o) in (0..n).flat_map(|s| (s..n).map(move |o| (s, o))) {
            let share = if pooling.mean { T::ONE / T::of(heads as f64) } else { T::ONE };
            let product = |t| (0..heads).fold(T::ZERO, |q, h| q + a(s, h, t) * a(o, h, t)) * share;
            let q: Vec<T> = (0..tokens).map(product).collect();
            let total = q.iter().fold(T::ZERO, |s, &q| s + q) + T::of(pooling.epsilon);
            c.extend((0..width).map(|k| {
                q.iter().enumerate().fold(T::ZERO, |c, (t, &q)| c + q / total * v[1][(token + t) * width + k])
            }));
        }
        block += n * heads * tokens;
        token += tokens;
    }
    c
}

struct Setup {
    documents: Arc<docre::layout::Documents>,
    grid: Arc<Grid>,
    inputs: [Input; 2],
}

/// Attention is not negative; every fifth row of it is zero, as of an entity without a mention.
fn setup(sizes: &Sizes, width: usize, heads: usize, zeros: bool) -> Setup {
    let entities: Vec<Vec<&[usize]>> = sizes.iter().map(|&(n, _)| vec![&[][..]; n]).collect();
    let texts: Vec<Text> = sizes.iter().zip(&entities).map(|(&(_, tokens), e)| Text::short(tokens, e)).collect();
    let documents = Arc::new(documents(&texts));
    let counts: Vec<usize> = sizes.iter().map(|s| s.0).collect();
    let size = sizes.iter().map(|(n, tokens)| n * heads * tokens).sum();
    let mut a = activation("a", &[size]);
    a.values.iter_mut().for_each(|x| *x = x.abs());
    if zeros {
        a.values.chunks_mut(sizes[0].1 * heads).step_by(5).for_each(|row| row.fill(0.0));
    }
    let h = activation("h", &[documents.tokens.rows(), width]);
    Setup { documents, grid: Arc::new(Grid::new(&counts, 0)), inputs: [a, h] }
}

fn case(sizes: &Sizes, width: usize, pooling: Pooling, zeros: bool) {
    let Setup { documents, grid, inputs } = setup(sizes, width, pooling.heads, zeros);
    check(
        &inputs,
        &|tape, t| context_pool(tape, &t[0], &t[1], &documents, &grid, pooling),
        &|v| plain::<f64>(v, sizes, width, pooling),
        &|v| plain::<f32>(v, sizes, width, pooling),
    );
}

const KD_DOCRE: Pooling = Pooling { heads: 3, mean: false, epsilon: 1e-10 };
const ATLOP: Pooling = Pooling { heads: 4, mean: true, epsilon: 1e-5 };

#[test]
fn five_checks() {
    for pooling in [KD_DOCRE, ATLOP] {
        case(&[], 4, pooling, false);
        case(&[(1, 1)], 1, pooling, false);
        case(&[(0, 5), (2, 7), (0, 3), (1, 2)], 5, pooling, false);
        case(&[(7, 31), (4, 32), (5, 33)], 12, pooling, false);
        case(&[(42, 13)], 3, pooling, false);
    }
    case(&[(3, 11), (2, 12)], 96, KD_DOCRE, false);
    case(&[(2, 13)], 768, ATLOP, false);
    // The product over tokens goes in chunks of 512.
    case(&[(2, 513)], 4, KD_DOCRE, false);
}

/// A large epsilon keeps the differences accurate where q is zero.
#[test]
fn entities_without_attention() {
    case(&[(6, 9), (1, 9)], 5, Pooling { epsilon: 0.5, ..KD_DOCRE }, true);
}

/// A document without a single token: contexts are zero, and nothing is divided by its length.
#[test]
fn no_tokens() {
    case(&[(2, 3), (3, 0), (1, 2)], 5, KD_DOCRE, false);
}

#[test]
fn a_document_has_the_same_bits_alone() {
    let (sizes, width, heads) = ([(3, 9), (5, 40), (2, 7)], 32, KD_DOCRE.heads);
    let (all, one) = (setup(&sizes, width, heads, false), setup(&sizes[1..2], width, heads, false));
    let of = |s: &Setup| {
        let (documents, grid) = (s.documents.clone(), s.grid.clone());
        move |tape: &mut docre::tape::Tape, t: &[docre::tensor::Tensor]| {
            context_pool(tape, &t[0], &t[1], &documents, &grid, KD_DOCRE)
        }
    };
    let first = 3 * heads * 9;
    let places = [first..first + 5 * heads * 40, 9 * width..49 * width];
    check_alone(&all.inputs, &of(&all), &of(&one), 6 * width, &places);
}

fn gpu_case(sizes: &Sizes, width: usize, pooling: Pooling, size_of_a: f64) {
    let Setup { documents, grid, inputs: [mut a, h] } = setup(sizes, width, pooling.heads, false);
    a.values.iter_mut().for_each(|x| *x = f64::from((*x * size_of_a) as f32));
    on_gpu(&[wide(a), h], &|tape, t| context_pool(tape, &t[0], &t[1], &documents, &grid, pooling));
}

/// Weights are rounded to bf16, as in eager bf16 code; the sum of a row of them is 1 on the GPU.
#[test]
fn on_the_gpu() {
    for pooling in [KD_DOCRE, ATLOP] {
        gpu_case(&[], 32, pooling, 1.0);
        gpu_case(&[(1, 1)], 8, pooling, 1.0);
        gpu_case(&[(0, 5), (2, 7), (0, 3), (1, 2), (3, 0)], 40, pooling, 1.0);
        gpu_case(&[(7, 31), (8, 64), (9, 65), (3, 63)], 96, pooling, 1.0);
    }
    // Attention of real documents: q is about 1e-5, and epsilon must not matter.
    gpu_case(&[(3, 130)], 384, Pooling { heads: 12, ..KD_DOCRE }, 0.003);
    gpu_case(&[(2, 13), (1, 70)], 768, ATLOP, 0.01);
    gpu_case(&[(17, 20)], 264, KD_DOCRE, 1.0);
    gpu_case(&[(42, 33)], 32, KD_DOCRE, 1.0);
    let Setup { documents, grid, inputs: [a, h] } = setup(&[(2, 3)], 12, 3, false);
    let op: Op = &|tape, t| context_pool(tape, &t[0], &t[1], &documents, &grid, KD_DOCRE);
    refused_on_gpu(&[wide(a), h], op, "context_pool on the GPU: dim 12");
}

/// Mean documents, but for a number of tokens that lets every row of A begin with a sector.
#[test]
fn traffic_on_the_gpu() {
    let Some((device, _turn)) = gpu() else { return };
    let (docs, n, tokens, heads, dim) = (2, 20, 288, 12, 768);
    let pooling = Pooling { heads, ..KD_DOCRE };
    let Setup { documents, grid, inputs: [a, h] } = setup(&vec![(n, tokens); docs], dim, heads, false);
    let op: Op = &|tape, t| context_pool(tape, &t[0], &t[1], &documents, &grid, pooling);
    let counted = counted(|| drop(run(&device, docre::dtype::DType::BF16, &[wide(a), h], op, 0.0)));

    let pairs = docs * n * (n + 1) / 2;
    let (of_a, of_h, of_c) = (docs * n * heads * tokens * 4, docs * tokens * dim * 2, pairs * dim * 2);
    // Entities of the tiles of eight; tiles of pairs on and above the diagonal.
    let sides: Vec<usize> = (0..n).step_by(8).map(|e| 8.min(n - e)).collect();
    let upper: Vec<(usize, usize)> = (0..3).flat_map(|a| (a..3).map(move |b| (a, b))).collect();
    // A thread has two of the eight first entities and all of the second.
    let weights: usize = upper.iter().map(|&(a, b)| (sides[a] + 4 * sides[b]) * heads * tokens * 4 * docs).sum();
    let (columns, token_tiles) = (dim / 256, tokens.div_ceil(64));
    let forward = of_c + 4 * pairs;
    gate(&counted, "context_pool_forward", of_a + of_h + forward, columns * weights + upper.len() * of_h + forward);
    gate(&counted, "context_pool_means", 2 * of_c + 4 * pairs, 2 * of_c + 4 * pairs);
    // All ordered pairs of every tile of tokens; H again for each pair of tiles; A for each half of eight entities.
    let products = token_tiles * docs * n * n * dim * 2 + sides.len() * sides.len() * of_h;
    gate(
        &counted,
        "context_pool_attention_gradient",
        2 * of_a + of_h + of_c + 8 * pairs,
        products + 2 * sides.len() * of_a + of_a,
    );
    gate(
        &counted,
        "context_pool_hidden_gradient",
        of_a + of_h + of_c + 4 * pairs,
        columns * weights + token_tiles * of_c + of_h,
    );
}

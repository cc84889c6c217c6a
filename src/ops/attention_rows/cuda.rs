//! Launches of kernels/attention_rows.cu, and the lists that they work through.

use super::EPSILON;
use crate::device::cpu::attention::Heads;
use crate::device::cuda::attention::{of_head_size, refuse};
use crate::device::cuda::{Cuda, Launch, Words};
use crate::dtype::DType;
use crate::error::Result;
use crate::layout::{Documents, Segments};
use crate::rng::Dropout;
use crate::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// Keys of a tile, sources of a chunk, as in the kernels.
const KEYS: usize = 128;
const CHUNK: usize = 16;
/// Words of the kernels' `Window`, `Source`, `Tile`, `RowSource`.
const SOURCE: usize = 8;
const TILE: usize = 4;
/// Of attention_rows_queries.
const THREADS: usize = 256;

/// A mention in one of the windows that keep it; without a row: what stands for an entity without a mention.
#[derive(Clone, Copy)]
struct Source {
    window: usize,
    entity: usize,
    row: Option<usize>,
    /// Its number when counted by mention, then window.
    slot: usize,
    /// Slots of its mention.
    first: usize,
    count: usize,
}

/// All sources by slot.
fn by_slot(documents: &Documents) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for d in 0..documents.len() {
        let windows = documents.windows.range(d);
        for entity in documents.entities.range(d) {
            let before = sources.len();
            for &token in documents.mentions_of(entity) {
                let rows = windows.clone().filter_map(|w| Some((w, documents.window[w].row(token)?)));
                let (first, count) = (sources.len(), rows.clone().count());
                let source =
                    |(i, (window, row))| Source { window, entity, row: Some(row), slot: first + i, first, count };
                sources.extend(rows.enumerate().map(source));
            }
            if sources.len() == before && !windows.is_empty() {
                let window = windows.start;
                sources.push(Source { window, entity, row: None, slot: before, first: before, count: 1 });
            }
        }
    }
    sources
}

/// All sources by window, then entity; and those of each window.
fn by_window(documents: &Documents) -> (Vec<Source>, Segments) {
    let mut sources = by_slot(documents);
    sources.sort_by_key(|s| s.window);
    let mut counts = vec![0; documents.window.len()];
    sources.iter().for_each(|s| counts[s.window] += 1);
    (sources, Segments::from_lengths(counts))
}

/// Document of each window.
fn document_of(documents: &Documents) -> Vec<usize> {
    (0..documents.len()).flat_map(|d| documents.windows.range(d).map(move |_| d)).collect()
}

fn words<const N: usize>(fields: [usize; N]) -> [i32; N] {
    fields.map(|x| x as i32)
}

/// `Window`s.
fn windows(documents: &Documents) -> Vec<i32> {
    let (_, ranges) = by_window(documents);
    let fields = |((window, range), d): ((&crate::layout::Window, Range<usize>), usize)| {
        let (local, keep, tokens) = (window.local(), &window.keep, documents.tokens.length(d));
        words([
            window.rows.start,
            window.rows.len(),
            local.start,
            keep.start,
            keep.len(),
            range.start,
            range.len(),
            tokens,
        ])
    };
    documents.window.iter().zip(ranges.iter()).zip(document_of(documents)).flat_map(fields).collect()
}

/// `Source`s.
fn sources(documents: &Documents) -> Vec<i32> {
    let (sources, _) = by_window(documents);
    let document = document_of(documents);
    let mut opened = vec![false; documents.entities.rows()];
    let areas = documents.attention(1);
    let mut out = Vec::with_capacity(sources.len() * SOURCE);
    for (i, s) in sources.iter().enumerate() {
        let d = document[s.window];
        let number = s.entity - documents.entities.starts[d];
        let block = areas.starts[d] + number * documents.tokens.length(d);
        let first_here = i == 0 || (sources[i - 1].window, sources[i - 1].entity) != (s.window, s.entity);
        let last_here = sources.get(i + 1).is_none_or(|next| (next.window, next.entity) != (s.window, s.entity));
        // Of the sources of an entity in one window only the last one's mark is read.
        let opens = if first_here { !opened[s.entity] } else { out[(i - 1) * SOURCE + 3] == 1 };
        opened[s.entity] = true;
        let siblings = if documents.windows.length(d) < 2 { 0 } else { s.count };
        let mentions = documents.mentions.length(s.entity);
        out.push(s.row.map_or(-1, |row| row as i32));
        out.extend(words([block, mentions, opens.into(), last_here.into(), s.slot, s.first, siblings]));
    }
    out
}

/// `Tile`s of document positions.
fn positions(documents: &Documents) -> Vec<i32> {
    let tiles = |d: usize| {
        let windows = documents.windows.range(d);
        let starts = (0..documents.tokens.length(d)).step_by(KEYS);
        starts.map(move |first| words([windows.start, windows.len(), first, 0]))
    };
    (0..documents.len()).flat_map(tiles).flatten().collect()
}

/// `Tile`s of the keys of a window.
fn keys(documents: &Documents) -> Vec<i32> {
    let tiles = |(w, window): (usize, &crate::layout::Window)| {
        (0..window.rows.len()).step_by(KEYS).map(move |first| words([w, 1, first, 0]))
    };
    documents.window.iter().enumerate().flat_map(tiles).flatten().collect()
}

/// `Tile`s of sources of a window: of all documents, or of those of several windows.
fn chunks(documents: &Documents, all: bool) -> Vec<i32> {
    let (_, ranges) = by_window(documents);
    let document = document_of(documents);
    let wanted = |w: &usize| all || documents.windows.length(document[*w]) > 1;
    let tiles = |w: usize| {
        let range = ranges.range(w);
        range.clone().step_by(CHUNK).map(move |first| words([w, 1, first, CHUNK.min(range.end - first)]))
    };
    (0..documents.window.len()).filter(wanted).flat_map(tiles).flatten().collect()
}

/// Rows of qkv that belong to windows.
fn covered(documents: &Documents) -> usize {
    documents.window.last().map_or(0, |w| w.rows.end)
}

/// The sources of each row: where they start, and `RowSource`s.
fn rows(documents: &Documents) -> (Vec<i32>, Vec<i32>) {
    let mut of_row = vec![Vec::new(); covered(documents)];
    for s in by_slot(documents) {
        let tiles = documents.window[s.window].rows.len().div_ceil(KEYS);
        s.row.into_iter().for_each(|row| of_row[row].push(words([s.slot, tiles])));
    }
    let starts = Segments::from_lengths(of_row.iter().map(Vec::len)).starts;
    (starts.into_iter().map(|x| x as i32).collect(), of_row.into_iter().flatten().flatten().collect())
}

/// What all kernels are given first.
struct Layer<'a> {
    cuda: &'a Cuda,
    qkv: &'a Tensor,
    lse: &'a Tensor,
    documents: &'a Arc<Documents>,
    heads: usize,
    drop: Dropout,
    /// Of the kernels for this head size: sums, forward, backward.
    names: [&'static str; 3],
    windows: Words,
    sources: Words,
}

impl<'a> Layer<'a> {
    fn new(
        cuda: &'a Cuda,
        qkv: &'a Tensor,
        lse: &'a Tensor,
        documents: &'a Arc<Documents>,
        heads: usize,
        drop: Dropout,
    ) -> Result<Self> {
        let size = qkv.dim() / 3 / heads;
        let names = [
            of_head_size!(size, "attention_rows_sums", ""),
            of_head_size!(size, "attention_rows_forward", ""),
            of_head_size!(size, "attention_rows_backward", ""),
        ];
        let [Some(sums), Some(forward), Some(backward)] = names else {
            return Err(refuse(cuda, "attention_rows", Heads { count: heads, dim: size }));
        };
        let names = [sums, forward, backward];
        let area = documents.attention(1).rows();
        if i32::try_from(area).is_err() {
            let why = format!("{area} times an entity and a word piece: less than 2^31 is needed");
            return Err(cuda.refuse("attention_rows", why)); // A's places are words, here and in the ops behind
        }
        let windows = cuda.layout(documents, "attention_rows.windows", windows)?;
        let sources = cuda.layout(documents, "attention_rows.sources", sources)?;
        Ok(Layer { cuda, qkv, lse, documents, heads, drop, names, windows, sources })
    }
    fn width(&self) -> usize {
        self.qkv.dim() / 3
    }
    fn slots(&self) -> usize {
        self.sources.len() / SOURCE
    }
    fn scale(&self) -> f32 {
        (1.0 / ((self.width() / self.heads) as f64).sqrt()) as f32
    }
    fn kernel(&self, name: &'static str, tiles: &Words) -> Launch<'a> {
        let kernel = self.cuda.kernel(name).input(self.qkv).input(self.lse);
        kernel.words(&self.windows).words(&self.sources).words(tiles)
    }
    /// The numbers behind the tensors.
    fn sized(&self, kernel: Launch<'a>) -> Launch<'a> {
        kernel.value(self.slots() as i32).value(self.heads as i32).value(self.scale())
    }
    fn launch(&self, kernel: Launch, tiles: &Words) -> Result<()> {
        let shared = shared_bytes(self.width() / self.heads);
        kernel.dropout(self.drop).launch([tiles.len() / TILE, self.heads, 1], KEYS, shared)
    }
    /// Of each source the sum of its row over what the window keeps, and of that times dA; without `da` only of
    /// documents of several windows. `None`: nobody asks for it.
    fn sums(&self, da: Option<&Tensor>) -> Result<Option<Tensor>> {
        let chunks = match da {
            Some(_) => self.cuda.layout(self.documents, "attention_rows.chunks", |d| chunks(d, true))?,
            None => self.cuda.layout(self.documents, "attention_rows.long_chunks", |d| chunks(d, false))?,
        };
        if chunks.is_empty() {
            return Ok(None);
        }
        let mut sums = self.qkv.device().alloc("attention_rows.sums", DType::F32, &[self.heads, self.slots(), 2])?;
        let kernel = self.kernel(self.names[0], &chunks).maybe(da).output(&mut sums);
        self.launch(self.sized(kernel), &chunks)?;
        Ok(Some(sums))
    }
}

pub fn forward(
    cuda: &Cuda,
    qkv: &Tensor,
    lse: &Tensor,
    documents: &Arc<Documents>,
    heads: usize,
    drop: Dropout,
    a: &mut Tensor,
) -> Result<()> {
    let layer = Layer::new(cuda, qkv, lse, documents, heads, drop)?;
    let sums = layer.sums(None)?;
    let tiles = cuda.layout(documents, "attention_rows.positions", positions)?;
    let kernel = layer.kernel(layer.names[1], &tiles).maybe(sums.as_ref()).output(a);
    layer.launch(layer.sized(kernel).value(EPSILON as f32), &tiles)
}

#[allow(clippy::too_many_arguments)] // the op's tensors, by name
pub fn backward(
    cuda: &Cuda,
    qkv: &Tensor,
    lse: &Tensor,
    da: &Tensor,
    documents: &Arc<Documents>,
    heads: usize,
    drop: Dropout,
    dqkv: &mut Tensor,
) -> Result<()> {
    let layer = Layer::new(cuda, qkv, lse, documents, heads, drop)?;
    let (slots, width) = (layer.slots(), layer.width());
    let sums = layer.sums(Some(da))?;
    let longest = documents.window.iter().map(|w| w.rows.len().div_ceil(KEYS)).max().unwrap_or(0);
    let mut partial = qkv.device().alloc("attention_rows.dq", DType::F32, &[longest, slots, width])?;
    let tiles = cuda.layout(documents, "attention_rows.keys", keys)?;
    let kernel = layer.kernel(layer.names[2], &tiles).maybe(sums.as_ref()).input(da).output(dqkv).output(&mut partial);
    layer.launch(layer.sized(kernel).value(EPSILON as f32), &tiles)?;

    let starts = cuda.layout(documents, "attention_rows.row_starts", |d| rows(d).0)?;
    let of_row = cuda.layout(documents, "attention_rows.row_sources", |d| rows(d).1)?;
    let kernel = cuda.kernel("attention_rows_queries").input(&partial).words(&starts).words(&of_row).output(dqkv);
    let kernel = kernel.value(qkv.rows() as i32).value(covered(documents) as i32);
    let blocks = (qkv.rows() * width / 4).div_ceil(THREADS);
    kernel.value(slots as i32).value(width as i32).launch([blocks, 1, 1], THREADS, 0)
}

/// `Shared` of the kernels.
fn shared_bytes(dim: usize) -> usize {
    let (tiles, scores) = (2 * (KEYS + CHUNK) * dim + 2 * KEYS * CHUNK, 4 * CHUNK * (KEYS + 8));
    let (drawn, others) = (4 * CHUNK * (KEYS / 4 + 1), 4 * CHUNK * 9);
    tiles + scores + drawn + others
}

//! A batch of documents laid out for the model: windows, rows, cells. Made on the host, once.

use super::config::{Architecture, EncoderConfig, HeadConfig};
use crate::device::Booking;
use crate::device::ledger::Ledger;
use crate::error::{Error, Result};
use crate::layout::{Cell, Documents, Encoded, Grid, Segments, Sources, Window};
use std::ops::Range;
use std::sync::Arc;

/// What the encoder and the head need to know of some documents.
pub struct Batch {
    /// Word pieces and positions of all windows, packed.
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub windows: Arc<Segments>,
    pub documents: Arc<Documents>,
    /// Document rows from window rows; none: they are the same.
    pub merge: Option<Arc<Sources>>,
    /// Rows of the mentions of each entity.
    pub mentions: Arc<Sources>,
    pub grid: Arc<Grid>,
    /// Keeps all cells but those of the pad index; none: there is nothing to clear.
    pub clear_pads: Option<Arc<Sources>>,
    /// The rows of the logits from the cells of the tables.
    pub select: Arc<Sources>,
    /// The cell of each row of the logits.
    pub cells: Vec<Cell>,
    _booking: Booking,
}

/// Of a cell, in `select`, `cells` and, where there are pads, `clear_pads`.
const BYTES: usize = 36;

impl Batch {
    /// Errors: E-VOCAB and E-SHAPE for word pieces and mentions that are not there; E-OOM where what is laid out by cells
    /// passes the memory limit.
    pub fn new(
        documents: &[&Encoded],
        encoder: &EncoderConfig,
        head: &HeadConfig,
        ledger: &Arc<Ledger>,
    ) -> Result<Self> {
        let mut builder = Builder::default();
        documents.iter().try_for_each(|d| builder.push(d, encoder))?;
        let cells: usize = documents.iter().map(|d| d.mentions.len().pow(2)).sum();
        let parts = 1 + usize::from(head.pad_entities > 0);
        let booking = Booking::new(ledger, "layout", parts * cells * BYTES)?;
        Ok(builder.finish(head, booking))
    }
    /// Rows of the logits.
    pub fn rows(&self) -> usize {
        self.cells.len()
    }
}

#[derive(Default)]
struct Builder {
    ids: Vec<u32>,
    positions: Vec<u32>,
    windows: Segments,
    documents: Documents,
    mentions: Sources,
}

impl Builder {
    fn push(&mut self, document: &Encoded, encoder: &EncoderConfig) -> Result<()> {
        check(document, encoder)?;
        let length = document.ids.len();
        let plan = plan_windows(length, encoder.window(), encoder.end_tokens());
        let (cls, sep) = (document.ids.first().copied(), document.ids.last().copied());
        for window in &plan {
            let start = self.ids.len();
            self.ids.extend(cls.filter(|_| window.start > 0));
            let first = self.ids.len();
            self.ids.extend_from_slice(&document.ids[window.clone()]);
            let ends = if window.end < length { encoder.end_tokens() } else { 0 };
            self.ids.extend(sep.into_iter().cycle().take(ends));
            let rows = start..self.ids.len();
            let offset = encoder.position_offset();
            self.positions.extend((0..rows.len()).map(|i| (offset + i) as u32));
            self.windows.push(rows.len());
            self.documents.window.push(Window { rows, keep: window.clone(), first });
        }
        self.documents.windows.push(plan.len());
        let base = self.documents.tokens.rows();
        self.documents.tokens.push(length);
        self.documents.entities.push(document.mentions.len());
        for mentions in &document.mentions {
            self.documents.mentions.push(mentions.len());
            self.documents.mention.extend(mentions.iter().map(|&m| m as usize));
            self.mentions.rows.push(mentions.len());
            self.mentions.index.extend(mentions.iter().map(|m| base as u32 + m));
            self.mentions.weight.extend(mentions.iter().map(|_| 1.0));
        }
        self.documents.sentences.push(document.sentences.len());
        self.documents.sentence.extend(document.sentences.iter().map(|s| s.start as usize..s.end as usize));
        Ok(())
    }

    fn finish(self, head: &HeadConfig, booking: Booking) -> Batch {
        let documents = self.documents;
        let entities: Vec<usize> = documents.entities.iter().map(|r| r.len()).collect();
        let grid = Grid::new(&entities, head.pad_entities);
        let several = documents.windows.iter().any(|w| w.len() > 1);
        let clear = head.pad_cells == super::config::PadCells::Zero && grid.tables.repeat.iter().any(|&r| r > 0);
        let (select, cells) = logit_rows(&grid, head.architecture == Architecture::Atlop);
        Batch {
            ids: self.ids,
            positions: self.positions,
            windows: Arc::new(self.windows),
            merge: several.then(|| Arc::new(merge_windows(&documents))),
            documents: Arc::new(documents),
            mentions: Arc::new(self.mentions),
            clear_pads: clear.then(|| Arc::new(clear_pads(&grid))),
            grid: Arc::new(grid),
            select: Arc::new(select),
            cells,
            _booking: booking,
        }
    }
}

fn check(document: &Encoded, encoder: &EncoderConfig) -> Result<()> {
    let vocabulary = encoder.vocab_size as u32;
    if let Some(id) = document.ids.iter().find(|&&id| id >= vocabulary) {
        let what = format!("word piece {id} is outside the encoder's vocabulary of {vocabulary}");
        return Err(Error::model("E-VOCAB", what).fix("tokenizer.json and config.json must belong together"));
    }
    let last = document.mentions.iter().flatten().max();
    match last {
        Some(&m) if m as usize >= document.ids.len() => Err(Error::shape("batch", "mention", document.ids.len(), m)),
        _ => Ok(()),
    }
}

/// Tokens that two neighbouring windows of a long document share at least (spec §2).
const OVERLAP: usize = 128;

/// The document positions that each window keeps: `length` positions, windows of at most `window` rows,
/// one start token, `ends` end tokens (spec §2). Up to two windows the released behaviour, beyond it ours.
pub fn plan_windows(length: usize, window: usize, ends: usize) -> Vec<Range<usize>> {
    const START: usize = 1;
    if length <= window {
        return std::iter::once(0..length).collect();
    }
    let last = length - window + START;
    let inner = window - START - ends;
    let step = inner - OVERLAP.min(inner / 4);
    let gaps = if last <= window - ends { 1 } else { last.div_ceil(step) };
    let start = |j: usize| (2 * j * last + gaps) / (2 * gaps); // j * last / gaps, rounded
    let range = |j: usize| match j {
        0 => 0..window - ends,
        j if j == gaps => last..length,
        j => start(j)..start(j) + inner,
    };
    (0..=gaps).map(range).collect()
}

/// H of a position = sum over the windows that keep it / (their count + 1e-10); a document of one window as is.
fn merge_windows(documents: &Documents) -> Sources {
    let mut merge = Sources::default();
    for d in 0..documents.len() {
        let windows = documents.windows_of(d);
        for t in 0..documents.tokens.length(d) {
            let rows: Vec<u32> = windows.iter().filter_map(|w| w.row(t)).map(|r| r as u32).collect();
            let weight = if windows.len() == 1 { 1.0 } else { 1.0 / (rows.len() as f64 + 1e-10) };
            merge.rows.push(rows.len());
            merge.weight.extend(rows.iter().map(|_| weight));
            merge.index.extend(rows);
        }
    }
    merge
}

fn push_row(sources: &mut Sources, row: Option<usize>) {
    sources.rows.push(usize::from(row.is_some()));
    sources.index.extend(row.map(|r| r as u32));
    sources.weight.extend(row.map(|_| 1.0));
}

fn clear_pads(grid: &Grid) -> Sources {
    let mut sources = Sources::default();
    for d in 0..grid.tables.len() {
        let (n, side, base) = (grid.tables.entities(d), grid.tables.side[d], grid.tables.cells.starts[d]);
        for cell in 0..side * side {
            let real = cell / side < n && cell % side < n;
            push_row(&mut sources, real.then_some(base + cell));
        }
    }
    sources
}

/// KD-DocRE: every cell, those of the diagonal zero. ATLOP: the cells off the diagonal.
fn logit_rows(grid: &Grid, off_diagonal: bool) -> (Sources, Vec<Cell>) {
    let (mut sources, mut cells) = (Sources::default(), Vec::new());
    for d in 0..grid.tables.len() {
        let (n, side, base) = (grid.tables.entities(d), grid.tables.side[d], grid.tables.cells.starts[d]);
        for (s, o) in (0..n).flat_map(|s| (0..n).map(move |o| (s, o))) {
            if off_diagonal && s == o {
                continue;
            }
            push_row(&mut sources, (s != o).then_some(base + s * side + o));
            cells.push(Cell { document: d as u32, subject: s as u32, object: o as u32 });
        }
    }
    (sources, cells)
}

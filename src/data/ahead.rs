//! Documents read and split into word pieces ahead of the model, by threads of their own.

use super::{Document, Documents, Latest, Tokenizer};
use crate::error::Result;
use crate::layout::Encoded;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, spawn};

/// What was read where a document should stand.
pub struct Prepared {
    pub document: Result<(Document, Encoded)>,
    pub latest: Latest,
}

/// Documents that wait before and behind each thread that encodes, at most.
const AHEAD: usize = 16;
/// Bytes of their files that all documents read ahead may have. Parsed they are up to eight times as large.
const MOST_BYTES: usize = 8 << 20;

/// All of `documents` in their order, each as soon as it can be had. `encoders` threads split them, dealt round in turn,
/// so that order needs no numbers and no more is held than their channels, and [`MOST_BYTES`], hold.
///
/// The threads end with the documents, or when this is dropped: one that waits for a pipe holds up nobody.
pub fn read_ahead(documents: Documents, tokenizer: &Arc<Tokenizer>, encoders: usize) -> Ahead {
    let (mut deals, mut lanes, room) = (Vec::new(), Vec::new(), Arc::new(Room::default()));
    for _ in 0..encoders {
        let ((deal, dealt), (give, take)) = (sync_channel(AHEAD), sync_channel(AHEAD));
        let tokenizer = tokenizer.clone();
        let encoder = Some(spawn(move || encode(&tokenizer, &dealt, &give)));
        deals.push(deal);
        lanes.push(Lane { take, encoder });
    }
    let for_reader = room.clone();
    let reader = Some(spawn(move || deal_out(documents, &deals, &for_reader)));
    Ahead { lanes, next: 0, reader, room }
}

type Dealt = (Result<Document>, Latest);

fn deal_out(mut documents: Documents, deals: &[SyncSender<Dealt>], room: &Room) {
    for deal in deals.iter().cycle() {
        let Some(document) = documents.next() else { return };
        let latest = documents.latest().clone();
        if !room.enter(latest.length) || deal.send((document, latest)).is_err() {
            return;
        }
    }
}

fn encode(tokenizer: &Tokenizer, dealt: &Receiver<Dealt>, give: &SyncSender<Prepared>) {
    for (document, latest) in dealt {
        let document = document.and_then(|document| {
            let encoded = tokenizer.encode(&document)?;
            Ok((document, encoded))
        });
        if give.send(Prepared { document, latest }).is_err() {
            return;
        }
    }
}

/// Bytes of documents that were read and not taken yet.
#[derive(Default)]
struct Room {
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    bytes: usize,
    closed: bool,
}

impl Room {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Waits until there is room for so many bytes, or until nothing is held; false: nobody takes documents any more.
    fn enter(&self, bytes: usize) -> bool {
        let full = |held: &mut Held| !held.closed && held.bytes > 0 && held.bytes + bytes > MOST_BYTES;
        let mut held = self.changed.wait_while(self.held(), full).unwrap_or_else(PoisonError::into_inner);
        held.bytes += bytes;
        !held.closed
    }
    fn change(&self, change: impl FnOnce(&mut Held)) {
        change(&mut self.held());
        self.changed.notify_all();
    }
}

/// See [`read_ahead`].
pub struct Ahead {
    lanes: Vec<Lane>,
    next: usize,
    reader: Option<JoinHandle<()>>,
    room: Arc<Room>,
}

struct Lane {
    take: Receiver<Prepared>,
    encoder: Option<JoinHandle<()>>,
}

impl Iterator for Ahead {
    type Item = Prepared;

    fn next(&mut self) -> Option<Prepared> {
        let lane = &mut self.lanes[self.next];
        match lane.take.recv() {
            Ok(prepared) => {
                self.room.change(|held| held.bytes -= prepared.latest.length);
                self.next = (self.next + 1) % self.lanes.len();
                Some(prepared)
            }
            // The last one was taken, unless the encoder, or else the reader, gave up before it.
            Err(_) => {
                let ended = [lane.encoder.take(), self.reader.take()];
                let join = |thread: JoinHandle<()>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
                ended.into_iter().flatten().for_each(join);
                None
            }
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.room.change(|held| held.closed = true);
    }
}

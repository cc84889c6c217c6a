//! Documents read and split into word pieces ahead of the model, by threads of their own.

use super::{Document, Documents, Latest, Tokenizer};
use crate::error::Result;
use crate::layout::Encoded;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{JoinHandle, spawn};

/// What was read where a document should stand.
pub struct Prepared {
    pub document: Result<(Document, Encoded)>,
    pub latest: Latest,
}

/// Documents that wait before and behind each thread that encodes, at most.
const AHEAD: usize = 16;

/// All of `documents` in their order, each as soon as it can be had. `encoders` threads split them, dealt round in turn,
/// so that order needs no numbers and no more is held than their channels hold.
///
/// The threads end with the documents, or with the first that nobody takes: one that waits for a pipe holds up nobody.
pub fn read_ahead(documents: Documents, tokenizer: &Arc<Tokenizer>, encoders: usize) -> Ahead {
    let (mut deals, mut takes, mut threads) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..encoders {
        let ((deal, dealt), (give, take)) = (sync_channel(AHEAD), sync_channel(AHEAD));
        let tokenizer = tokenizer.clone();
        threads.push(spawn(move || encode(&tokenizer, &dealt, &give)));
        deals.push(deal);
        takes.push(take);
    }
    threads.push(spawn(move || deal_out(documents, &deals)));
    Ahead { takes, next: 0, threads }
}

type Dealt = (Result<Document>, Latest);

fn deal_out(mut documents: Documents, deals: &[SyncSender<Dealt>]) {
    for deal in deals.iter().cycle() {
        let Some(document) = documents.next() else { return };
        if deal.send((document, documents.latest().clone())).is_err() {
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

/// See [`read_ahead`].
pub struct Ahead {
    takes: Vec<Receiver<Prepared>>,
    next: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Iterator for Ahead {
    type Item = Prepared;

    fn next(&mut self) -> Option<Prepared> {
        let read = self.takes[self.next].recv();
        self.next = (self.next + 1) % self.takes.len();
        if read.is_err() {
            // The last one was taken, unless a thread gave up before it.
            self.threads.drain(..).for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        read.ok()
    }
}

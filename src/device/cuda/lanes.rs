//! Several threads that give the GPU work.

use super::Cuda;
use crate::error::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// While one thread lays out its work and one waits for results, the third keeps the GPU busy.
const LANES: usize = 3;

impl Cuda {
    /// See [`crate::device::Device::side_by_side`].
    pub fn side_by_side<R: Send>(
        &self,
        count: usize,
        f: &(impl Fn(usize) -> Result<R> + Sync),
        mut each: impl FnMut(R) -> Result<()>,
    ) -> Result<()> {
        let lanes = LANES.min(count);
        let _lanes = self.profile.lanes(lanes + 1); // and this thread's `each`
        let (next, (give, take)) = (AtomicUsize::new(0), mpsc::channel());
        // Ends when the others have nothing left, or nobody takes what it made.
        let lane = |give: mpsc::Sender<(usize, Result<R>)>| {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count || give.send((i, f(i))).is_err() {
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..lanes {
                let give = give.clone();
                scope.spawn(|| lane(give));
            }
            drop(give);
            let take = take; // dropped at the first error
            let (mut made, mut due) = ((0..count).map(|_| None).collect::<Vec<_>>(), 0);
            for (i, result) in &take {
                made[i] = Some(result);
                while let Some(result) = made.get_mut(due).and_then(Option::take) {
                    due += 1;
                    each(result?)?;
                }
            }
            Ok(())
        })
    }
}

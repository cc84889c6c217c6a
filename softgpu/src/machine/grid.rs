//! All blocks of a launch, on as many threads as there are.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::block::{Core, Job};
use super::{Class, Code};
use crate::counters::Instructions;
use crate::{Counters, Fault};

/// Runs the blocks and counts. A fault ends the launch: it is the one of the lowest block, because
/// blocks are begun in order and all that were begun are finished.
pub fn run(job: &Job<'_>, code: &std::sync::Arc<Code>) -> (Counters, Option<Fault>) {
    let blocks: u64 = job.grid.iter().map(|&n| n as u64).product();
    let next = AtomicU64::new(0);
    let found: Mutex<Option<(u64, Fault)>> = Mutex::new(None);
    let counters = Mutex::new(Counters::default());
    let work = || {
        let mut core = Core::new(job, code.clone());
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= blocks {
                break;
            }
            if let Err(fault) = core.run_block(number) {
                next.store(blocks, Relaxed);
                let mut found = found.lock().unwrap_or_else(|e| e.into_inner());
                if found.as_ref().is_none_or(|(first, _)| number < *first) {
                    *found = Some((number, *fault));
                }
                break;
            }
        }
        let mut total = counters.lock().unwrap_or_else(|e| e.into_inner());
        *total += counted(&core);
    };
    let threads = job.cores.min(blocks as usize).max(1);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let counters = counters.into_inner().unwrap_or_else(|e| e.into_inner());
    (counters, found.into_inner().unwrap_or_else(|e| e.into_inner()).map(|(_, fault)| fault))
}

/// The core's counters, with the instructions by class.
fn counted(core: &Core<'_>) -> Counters {
    let mut counters = core.counts;
    for (place, [warps, threads]) in core.code.places.iter().zip(&core.executed) {
        let Some(class) = class_of(&mut counters.instructions, place.class) else { continue };
        *class += warps;
        counters.thread_instructions += threads;
        match place.class {
            Class::Tensor => counters.tensor_flops += warps * place.flops as u64,
            _ => counters.flops += threads * place.flops as u64,
        }
    }
    counters
}

fn class_of(instructions: &mut Instructions, class: Class) -> Option<&mut u64> {
    Some(match class {
        Class::Integer => &mut instructions.integer,
        Class::Float => &mut instructions.float,
        Class::Special => &mut instructions.special,
        Class::Tensor => &mut instructions.tensor,
        Class::Conversion => &mut instructions.conversion,
        Class::Move => &mut instructions.moves,
        Class::LoadStore => &mut instructions.load_store,
        Class::Warp => &mut instructions.warp,
        Class::Control => &mut instructions.control,
        Class::Hidden => return None,
    })
}

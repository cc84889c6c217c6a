//! The 16 barriers of a block, and what their passing orders.

use super::block::Core;
use super::registers::{FULL, Mask};
use super::warp::State;
use super::{Barrier, Done, Guard, Reduction, ReductionKind, trouble};
use crate::FaultKind::{Deadlock, DivergentBarrier, Unsupported};

pub const BARRIERS: usize = 16;

/// One barrier between two passings.
#[derive(Clone, Default)]
pub struct Gate {
    /// Threads that arrived, whole warps as the hardware counts them.
    arrived: u32,
    /// Threads to wait for; None: all of the block that still live.
    expected: Option<u32>,
    /// Warps that wait, one bit each.
    waiting: u32,
    /// The instruction of the first arrival.
    pc: u32,
    count: u32,
    all: bool,
    any: bool,
    /// What the arrived have seen: the latest epoch of each warp.
    seen: [u32; 32],
    /// Where each warp wants the result.
    reductions: Vec<(usize, Mask, Reduction)>,
}

impl Core<'_> {
    /// A warp arrives. Whether it goes on at once.
    pub fn arrive(&mut self, barrier: &Barrier, mask: Mask) -> Result<bool, Box<super::Trouble>> {
        let warp = self.warp.index;
        let uniform = |core: &Core, slot| core.warp.registers.view::<u32>(slot)[mask.trailing_zeros() as usize];
        let number = uniform(self, barrier.number) as usize;
        let threads = barrier.threads.map(|slot| uniform(self, slot));
        if mask != self.warp.live {
            let missing = self.warp.absent(FULL, mask);
            let detail = "some threads of the warp do not reach this barrier together with the others";
            return trouble(DivergentBarrier, missing, detail);
        }
        if number >= BARRIERS {
            return trouble(Unsupported, None, format!("barrier {number}: there are {BARRIERS}"));
        }
        if threads.is_some_and(|n| n == 0 || n % 32 != 0) {
            let detail = format!("a barrier for {} threads: not a multiple of the warp size", threads.unwrap_or(0));
            return trouble(DivergentBarrier, None, detail);
        }
        self.counts.barriers += 1;
        let pc = self.warp.running();
        let gate = &mut self.gates[number];
        if gate.arrived == 0 {
            *gate = Gate { pc, expected: threads, all: true, ..Gate::default() };
        }
        if gate.expected != threads || (threads.is_none() && gate.pc != pc) {
            let other = self.code.places[gate.pc as usize].line;
            let detail = format!("other warps of the block wait at the barrier of PTX line {other}");
            return trouble(DivergentBarrier, None, detail);
        }
        gate.arrived += 32;
        if let Some(reduction) = barrier.reduction {
            let Guard { predicate, flip } = reduction.source;
            let votes = (self.warp.registers.predicates[predicate] ^ flip) & mask;
            gate.count += votes.count_ones();
            gate.all &= votes == mask;
            gate.any |= votes != 0;
            gate.reductions.push((warp, mask, reduction));
        }
        self.shared.arrive(warp, &mut self.gates[number].seen);
        if barrier.waits {
            self.gates[number].waiting |= 1 << warp;
            self.warp.state = State::Waiting(number);
        }
        self.open_if_full(number);
        Ok(self.warp.state == State::Ready)
    }

    /// Lets the waiting warps go when all have come.
    fn open_if_full(&mut self, number: usize) {
        let living = self.living_warps();
        let gate = &mut self.gates[number];
        let full = match gate.expected {
            Some(threads) => gate.arrived >= threads,
            None => gate.arrived > 0 && gate.waiting & living == living,
        };
        if !full {
            return;
        }
        let gate = std::mem::take(gate);
        self.shared.pass(gate.waiting, &gate.seen, gate.expected.is_none());
        for (warp, mask, reduction) in &gate.reductions {
            let registers = &mut self.warp_of(*warp).registers;
            let verdict = |yes: bool| if yes { FULL } else { 0 };
            let set = |old: &mut Mask, value: Mask| *old = *old & !mask | value & mask;
            match reduction.kind {
                ReductionKind::Count(slot) => registers.write(slot, *mask, &[gate.count; 32]),
                ReductionKind::And(predicate) => set(&mut registers.predicates[predicate], verdict(gate.all)),
                ReductionKind::Or(predicate) => set(&mut registers.predicates[predicate], verdict(gate.any)),
            }
        }
        for warp in 0..self.warps() {
            if gate.waiting >> warp & 1 == 1 {
                self.warp_of(warp).state = State::Ready;
            }
        }
    }

    /// A warp that ended is no longer waited for.
    pub fn open_after_exit(&mut self) {
        for number in 0..BARRIERS {
            if self.gates[number].arrived > 0 && self.gates[number].expected.is_none() {
                self.open_if_full(number);
            }
        }
    }

    /// Nobody can go on: says who waits where.
    pub fn deadlock(&mut self) -> Done {
        let mut waits = Vec::new();
        for warp in 0..self.warps() {
            if let State::Waiting(number) = self.warp_of(warp).state {
                let pc = self.warp_of(warp).running();
                let line = self.code.places[pc as usize].line;
                waits.push(format!("warp {warp} at barrier {number} (PTX line {line})"));
            }
        }
        let first = (0..self.warps()).find(|&warp| matches!(self.warp_of(warp).state, State::Waiting(_)));
        self.bring(first.unwrap_or(0));
        trouble(Deadlock, None, format!("all that live wait: {}", waits.join(", ")))
    }

    /// Warps of the block that have not ended, one bit each.
    fn living_warps(&mut self) -> u32 {
        (0..self.warps()).filter(|&warp| self.warp_of(warp).state != State::Ended).fold(0, |set, warp| set | 1 << warp)
    }
}

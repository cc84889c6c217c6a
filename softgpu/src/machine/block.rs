//! A core: runs one block after another.

use std::sync::Arc;

use super::barrier::{BARRIERS, Gate};
use super::registers::{FULL, Mask, lanes};
use super::shared::Shared;
use super::warp::{State, Warp};
use super::{Action, Code, Done, LaneMask, Preset, Trouble, trouble};
use crate::FaultKind::{DivergentBarrier, DivergentCollective, InstructionLimit, Unsupported};
use crate::memory::Range;
use crate::{Counters, Fault, Memory};

/// What all blocks of a launch have in common.
pub struct Job<'l> {
    pub kernel: &'l str,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub params: &'l [u8],
    pub memory: &'l Memory,
    pub checks: bool,
    pub seed: u64,
    /// Warp instructions that a block may execute.
    pub limit: u64,
    pub multiprocessors: u32,
    /// Cores that run blocks at the same time.
    pub cores: usize,
    /// Number of this launch, and of its first block, within the memory's shadows.
    pub launch: u8,
    pub first_block: Option<u32>,
    /// When blocks released what they wrote: see `global`.
    pub order: super::global::Order,
}

pub struct Core<'l> {
    pub job: &'l Job<'l>,
    pub code: Arc<Code>,
    /// The warp that runs; its place in `parked` holds an empty one.
    pub warp: Warp,
    parked: Vec<Warp>,
    pub shared: Shared,
    pub gates: Vec<Gate>,
    /// Index of the block, and its number in the grid.
    pub block: [u32; 3],
    pub number: u64,
    /// Everything but instructions.
    pub counts: Counters,
    /// Executions of each instruction, of warps and of threads.
    pub executed: Vec<[u64; 2]>,
    /// The allocations that were touched last; no kernel frees any.
    pub near: [Range; 4],
    random: u64,
    clock: u32,
}

impl<'l> Core<'l> {
    pub fn new(job: &'l Job<'l>, code: Arc<Code>) -> Core<'l> {
        let threads = job.block.iter().product::<u32>() as usize;
        let warp = |index| Warp::new(index, code.slots, code.predicates, code.local);
        let shared = Shared::new(code.shared + job.dynamic_shared as usize, job.checks);
        Core {
            job,
            warp: Warp::new(0, 0, 0, 0),
            parked: (0..threads.div_ceil(32)).map(warp).collect(),
            shared,
            gates: vec![Gate::default(); BARRIERS],
            block: [0; 3],
            number: 0,
            counts: Counters::default(),
            executed: vec![[0; 2]; code.instructions.len()],
            code,
            near: [Range { start: 0, bytes: 0 }; 4],
            random: 0,
            clock: 0,
        }
    }

    pub fn warps(&self) -> usize {
        self.parked.len()
    }

    /// Whichever warp, running or parked.
    pub fn warp_of(&mut self, index: usize) -> &mut Warp {
        if index == self.warp.index && self.warp.state != State::Ended {
            &mut self.warp
        } else {
            &mut self.parked[index]
        }
    }

    /// Runs a block to its end.
    pub fn run_block(&mut self, number: u64) -> Result<(), Box<Fault>> {
        let [x, y, _] = self.job.grid.map(u64::from);
        self.number = number;
        self.clock = 0;
        self.block = [number % x, number / x % y, number / x / y].map(|i| i as u32);
        self.random = self.job.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ number.wrapping_add(1).wrapping_mul(0xD134_2543_DE82_EF95);
        self.start();
        self.schedule().map_err(|trouble| Box::new(self.fault(*trouble)))
    }

    fn start(&mut self) {
        self.shared.clear();
        for &(from, to) in &self.code.clone().gaps {
            self.shared.set_gap(from, to);
        }
        self.gates.fill(Gate::default());
        let threads = self.job.block.iter().product::<u32>();
        for index in 0..self.parked.len() {
            let left = threads - index as u32 * 32;
            let live = if left >= 32 { FULL } else { (1 << left) - 1 };
            self.preset(index);
            self.parked[index].start(self.code.entry, live);
        }
    }

    /// Sets the registers that say where a thread is, and constants; poisons the others.
    fn preset(&mut self, index: usize) {
        let code = self.code.clone();
        let [x, y, _] = self.job.block;
        let static_shared = self.shared.bytes.len() as u64;
        let warps = self.parked.len() as u64;
        let number = self.number;
        let registers = &mut self.parked[index].registers;
        registers.poison();
        registers.predicates.fill(0);
        registers.predicates[0] = FULL;
        let thread = |lane: usize| (index * 32 + lane) as u32;
        for &(slot, preset) in &code.presets {
            let by_lane = |value: &dyn Fn(usize) -> u32| std::array::from_fn::<u32, 32, _>(value);
            let all = |value: u64| [value as u32; 32];
            *registers.view_mut::<u32>(slot) = match preset {
                Preset::Bits { bits, wide: true } => {
                    registers.broadcast(slot, true, bits);
                    continue;
                }
                Preset::Bits { bits, wide: false } => all(bits),
                Preset::ThreadIndex(axis) => {
                    by_lane(&|lane| [thread(lane) % x, thread(lane) / x % y, thread(lane) / x / y][axis])
                }
                Preset::BlockIndex(axis) => all(self.block[axis] as u64),
                Preset::BlockSize(axis) => all(self.job.block[axis] as u64),
                Preset::GridSize(axis) => all(self.job.grid[axis] as u64),
                Preset::Lane => by_lane(&|lane| lane as u32),
                Preset::Warp => all(index as u64),
                Preset::Warps => all(warps),
                Preset::Multiprocessor => all(number % self.job.multiprocessors as u64),
                Preset::Multiprocessors => all(self.job.multiprocessors as u64),
                Preset::GridId => all(self.job.launch as u64),
                Preset::LaneMask(kind) => by_lane(&|lane| lane_mask(kind, lane)),
                Preset::SharedBytes => all(static_shared),
                Preset::DynamicSharedBytes => all(self.job.dynamic_shared as u64),
            };
        }
    }

    /// Lets warps run in turns until all have ended.
    fn schedule(&mut self) -> Done {
        let mut budget = self.job.limit;
        let mut next = 0;
        loop {
            let ready = |core: &Core, index: usize| core.parked[index].state == State::Ready;
            let count = self.parked.len();
            next = if self.job.seed == 0 { next } else { self.draw() as usize % count };
            let Some(index) = (0..count).map(|i| (next + i) % count).find(|&index| ready(self, index)) else {
                let waits = self.parked.iter().any(|warp| warp.state != State::Ended);
                return if waits { self.deadlock() } else { Ok(()) };
            };
            next = index + 1;
            let turn = if self.job.seed == 0 { 4096 } else { 1 + self.draw() % 256 };
            self.bring(index);
            budget -= self.take_turn(turn.min(budget))?;
            if budget == 0 {
                let detail = format!("the block has executed {} warp instructions: an endless loop?", self.job.limit);
                return trouble(InstructionLimit, None, detail);
            }
            std::mem::swap(&mut self.warp, &mut self.parked[index]);
            self.warp.state = State::Ended;
        }
    }

    /// Makes a parked warp the running one; a fault is reported as its.
    pub fn bring(&mut self, index: usize) {
        std::mem::swap(&mut self.warp, &mut self.parked[index]);
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Runs the warp until it waits, ends, or has executed so many instructions; how many it did.
    fn take_turn(&mut self, turn: u64) -> Result<u64, Box<Trouble>> {
        let code = self.code.clone();
        let mut done = 0;
        while done < turn {
            let pc = self.warp.fetch();
            let ins = &code.instructions[pc as usize];
            let mask = self.warp.active(ins.guard);
            done += 1;
            if mask == 0 {
                continue;
            }
            let executed = &mut self.executed[pc as usize];
            executed[0] += 1;
            executed[1] += mask.count_ones() as u64;
            let result = match &ins.action {
                Action::Step(step) => step(self, mask).map(|()| true),
                other => self.control(other, mask),
            };
            match result {
                Ok(true) => {}
                Ok(false) => break,
                Err(trouble) => self.let_others_go_first(trouble, pc, mask)?,
            }
        }
        Ok(done)
    }

    /// Lanes that are missing at a barrier or a collective may be about to exit: after a branch that the others did
    /// not take. Nothing but this instruction's count has changed yet.
    #[cold]
    fn let_others_go_first(&mut self, trouble: Box<Trouble>, pc: u32, mask: Mask) -> Done {
        if !matches!(trouble.kind, DivergentBarrier | DivergentCollective) || !self.warp.step_aside() {
            return Err(trouble);
        }
        let executed = &mut self.executed[pc as usize];
        executed[0] -= 1;
        executed[1] -= mask.count_ones() as u64;
        Ok(())
    }

    /// Whether the warp goes on.
    fn control(&mut self, action: &Action, mask: Mask) -> Result<bool, Box<Trouble>> {
        match action {
            Action::Step(_) => {}
            Action::Branch { target, rejoin } => {
                self.counts.branches += 1;
                self.counts.divergent_branches += self.warp.branch(mask, *target, *rejoin) as u64;
            }
            Action::Table { index, targets, rejoin } => self.branch_by_table(*index, targets, *rejoin, mask)?,
            Action::Call { entry } => {
                if !self.warp.call(*entry, mask) {
                    return trouble(Unsupported, None, "calls too deep");
                }
            }
            Action::Leave => {
                if !self.warp.leave() {
                    self.end_threads(mask);
                    return Ok(self.warp.state == State::Ready);
                }
            }
            Action::Exit => {
                self.end_threads(mask);
                return Ok(self.warp.state == State::Ready);
            }
            Action::Barrier(barrier) => return self.arrive(barrier, mask),
            Action::WarpBarrier(members) => {
                let members = *self.warp.registers.view::<u32>(*members);
                self.all_present(&members, mask)?;
                self.shared.pass_warp(self.warp.index);
            }
            Action::Yield => return Ok(false),
        }
        Ok(true)
    }

    fn branch_by_table(&mut self, index: usize, targets: &[u32], rejoin: u32, mask: Mask) -> Done {
        let index = *self.warp.registers.view::<u32>(index);
        let mut groups: Vec<(u32, Mask)> = Vec::new();
        for lane in lanes(mask) {
            let Some(&target) = targets.get(index[lane] as usize) else {
                return trouble(
                    Unsupported,
                    Some(lane),
                    format!("entry {} of a table of {}", index[lane], targets.len()),
                );
            };
            match groups.iter_mut().find(|group| group.0 == target) {
                Some(group) => group.1 |= 1 << lane,
                None => groups.push((target, 1 << lane)),
            }
        }
        let others = self.warp.together() & !mask;
        if others != 0 {
            groups.push((self.warp.running() + 1, others));
        }
        self.counts.branches += 1;
        self.counts.divergent_branches += self.warp.spread(&groups, rejoin) as u64;
        Ok(())
    }

    fn end_threads(&mut self, mask: Mask) {
        self.warp.exit(mask);
        if self.warp.state == State::Ended {
            self.open_after_exit();
        }
    }

    /// Every lane of the mask must be among its own members, and every living member must be here.
    pub fn all_present(&self, members: &[u32; 32], mask: Mask) -> Done {
        for lane in lanes(mask) {
            if members[lane] >> lane & 1 == 0 {
                let detail = format!("member mask {:#010x} does not name this lane", members[lane]);
                return trouble(DivergentCollective, Some(lane), detail);
            }
            if let Some(absent) = self.warp.absent(members[lane], mask) {
                let detail = format!("member mask {:#010x} names lane {absent}, which is not here", members[lane]);
                return trouble(DivergentCollective, Some(lane), detail);
            }
        }
        Ok(())
    }

    /// .aligned instructions of tensor cores: all 32 lanes.
    pub fn whole_warp(&self, mask: Mask) -> Done {
        match mask {
            FULL => Ok(()),
            _ => {
                let missing = lanes(!mask).next();
                trouble(DivergentCollective, missing, format!("only the lanes {mask:#010x} are here; all 32 must be"))
            }
        }
    }

    /// Different each time it is asked for.
    pub fn tick(&mut self) -> u32 {
        self.clock += 1;
        self.clock
    }

    /// The 16-byte rows of so many 8x8 matrices that ldmatrix reads: lane i points to row i.
    pub fn matrix_rows(&mut self, offsets: &[u64; 32], matrices: usize) -> Result<[[u8; 16]; 32], Box<Trouble>> {
        let mask = u32::MAX >> (32 - 8 * matrices);
        self.shared_inside(mask, offsets, 16)?;
        let counts = &mut self.counts.ldmatrix;
        counts.requests += 1;
        counts.bytes += 128 * matrices as u64;
        counts.ideal += matrices as u64;
        for rows in offsets.chunks_exact(8).take(matrices) {
            counts.wavefronts += super::shared::passes(rows.iter().copied(), 4);
        }
        let mut out = [[0; 16]; 32];
        for lane in lanes(mask) {
            let at = offsets[lane] as usize;
            self.shared.note_read(self.warp.index, lane, at, 16, false)?;
            out[lane].copy_from_slice(&self.shared.bytes[at..at + 16]);
        }
        Ok(out)
    }

    /// Where the trouble was.
    fn fault(&self, trouble: Trouble) -> Fault {
        // An endless loop is found between two instructions: after a branch, say.
        let pc =
            if trouble.kind == InstructionLimit { self.warp.running().wrapping_add(1) } else { self.warp.running() };
        let place = &self.code.places[pc as usize % self.code.places.len()];
        let [x, y, _] = self.job.block;
        let thread = trouble.lane.map(|lane| {
            let thread = (self.warp.index * 32 + lane) as u32;
            [thread % x, thread / x % y, thread / x / y]
        });
        let text = self.code.text.lines().nth(place.line.saturating_sub(1) as usize).unwrap_or("");
        Fault {
            kind: trouble.kind,
            kernel: self.job.kernel.to_string(),
            ptx_line: place.line,
            instruction: text.trim().to_string(),
            source: place.source.clone(),
            block: self.block,
            thread,
            address: trouble.address,
            detail: trouble.detail,
        }
    }
}

fn lane_mask(kind: LaneMask, lane: usize) -> u32 {
    let own = 1u32 << lane;
    match kind {
        LaneMask::Equal => own,
        LaneMask::Less => own - 1,
        LaneMask::LessEqual => (own - 1) | own,
        LaneMask::Greater => !((own - 1) | own),
        LaneMask::GreaterEqual => !(own - 1),
    }
}

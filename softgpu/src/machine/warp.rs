//! A warp: its registers, which lanes are where, and what it waits for.

use super::copies::Copies;
use super::registers::{Mask, Registers, lanes};
use super::{Guard, NOWHERE};

/// Lanes that are somewhere together.
#[derive(Clone, Copy, Debug)]
struct Entry {
    pc: u32,
    mask: Mask,
    /// Where these lanes wait for the entry below.
    rejoin: u32,
    /// Waits for lanes of other entries, which have to end first.
    stuck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    /// At the barrier of this number.
    Waiting(usize),
    Ended,
}

pub struct Warp {
    pub registers: Registers,
    pub index: usize,
    /// Launched and not exited.
    pub live: Mask,
    pub state: State,
    pub local: Vec<u8>,
    pub copies: Copies,
    /// The entry that runs is kept apart from those below it.
    top: Entry,
    below: Vec<Entry>,
}

impl Warp {
    pub fn new(index: usize, slots: usize, predicates: usize, local: usize) -> Warp {
        Warp {
            registers: Registers::new(slots, predicates),
            index,
            live: 0,
            state: State::Ended,
            local: vec![0xFF; local * super::LANES],
            copies: Copies::default(),
            top: Entry { pc: 0, mask: 0, rejoin: NOWHERE, stuck: false },
            below: Vec::new(),
        }
    }

    /// Ready to start a block at `pc`.
    pub fn start(&mut self, pc: u32, live: Mask) {
        self.live = live;
        self.state = if live == 0 { State::Ended } else { State::Ready };
        self.local.fill(0xFF);
        self.copies.clear();
        self.top = Entry { pc, mask: live, rejoin: NOWHERE, stuck: false };
        self.below.clear();
    }

    /// The next instruction, after rejoining whoever waits there.
    #[inline(always)]
    pub fn fetch(&mut self) -> u32 {
        while self.top.pc == self.top.rejoin {
            self.top = self.below.pop().expect("a split entry lies above the one it came from");
        }
        let pc = self.top.pc;
        self.top.pc += 1;
        pc
    }

    /// The instruction that runs, for reports.
    pub fn running(&self) -> u32 {
        self.top.pc.wrapping_sub(1)
    }

    #[inline(always)]
    pub fn active(&self, guard: Guard) -> Mask {
        self.top.mask & (self.registers.predicates[guard.predicate] ^ guard.flip)
    }

    /// The lanes that are together here, whatever the instruction's guard says.
    pub fn together(&self) -> Mask {
        self.top.mask
    }

    /// Sends the lanes of the mask to the target; the others go on. Whether the warp split.
    pub fn branch(&mut self, taken: Mask, target: u32, rejoin: u32) -> bool {
        let stay = self.top.mask & !taken;
        if stay == 0 {
            self.top.pc = target;
            return false;
        }
        self.spread(&[(self.top.pc, stay), (target, taken)], rejoin)
    }

    /// Sends each group of lanes to a place of its own. Whether the warp split.
    pub fn spread(&mut self, targets: &[(u32, Mask)], rejoin: u32) -> bool {
        if let [(target, _)] = targets {
            self.top.pc = *target;
            return false;
        }
        // The running entry waits where all meet again; where an entry already waits there, it is not
        // needed: so loops do not pile up entries.
        if rejoin != NOWHERE && rejoin != self.top.rejoin {
            self.below.push(Entry { pc: rejoin, ..self.top });
        }
        let split = targets.iter().map(|&(pc, mask)| Entry { pc, mask, rejoin, stuck: false });
        self.below.extend(split);
        self.top = self.below.pop().expect("there are targets");
        true
    }

    /// The lanes that are together need others of the warp to go on: lets those go first that went another way, for
    /// they may exit, and repeats the instruction after. False: there are none that have not been tried.
    pub fn step_aside(&mut self) -> bool {
        let mut above = self.top.mask;
        for at in (0..self.below.len()).rev() {
            let Entry { mask, stuck, .. } = self.below[at];
            // What shares lanes with an entry above it waits for those to rejoin, or to return.
            if mask != 0 && mask & above == 0 && !stuck {
                let other = self.below.remove(at);
                self.below.push(Entry { pc: self.top.pc - 1, stuck: true, ..self.top });
                self.top = other;
                return true;
            }
            above |= mask;
        }
        false
    }

    /// Calls a function with some of the lanes that are together; the others wait. False: too deep.
    pub fn call(&mut self, entry: u32, mask: Mask) -> bool {
        self.below.push(self.top);
        self.top = Entry { pc: entry, mask, rejoin: NOWHERE, stuck: false };
        self.below.len() < 4096
    }

    /// Returns from a function, where all lanes that entered it have met again. False: there is no
    /// caller, the threads end.
    pub fn leave(&mut self) -> bool {
        let caller = self.below.pop();
        self.top = caller.unwrap_or(self.top);
        caller.is_some()
    }

    /// Ends threads, wherever they are.
    pub fn exit(&mut self, mask: Mask) {
        self.live &= !mask;
        self.top.mask &= !mask;
        self.below.iter_mut().for_each(|entry| entry.mask &= !mask);
        while self.top.mask == 0 {
            match self.below.pop() {
                Some(entry) => self.top = entry,
                None => return self.state = State::Ended,
            }
        }
    }

    /// Lanes that are named but not together here.
    pub fn absent(&self, named: Mask, present: Mask) -> Option<usize> {
        lanes(named & self.live & !present).next()
    }
}

//! The flow of control: basic blocks, and where lanes meet again.

use std::collections::HashMap;

use crate::machine::{Action, Ins, NOWHERE};

/// Finds the immediate post-dominator of each branch of a function, which starts at `start` and ends
/// with its Leave. A thread that exits counts as going there: it is gone when the others arrive.
pub fn find_rejoins(instructions: &mut [Ins], start: usize) {
    let blocks = Blocks::of(instructions, start);
    let above = blocks.post_dominators();
    for (number, &(_, end)) in blocks.spans.iter().enumerate() {
        // Lanes do not wait for each other to exit.
        let meeting = above[number].map(|meeting| blocks.spans[meeting].0);
        let place = match meeting.filter(|&pc| !exits(&instructions[pc])) {
            Some(pc) => pc as u32,
            None => NOWHERE,
        };
        if let Action::Branch { rejoin, .. } | Action::Table { rejoin, .. } = &mut instructions[end - 1].action {
            *rejoin = place;
        }
    }
}

struct Blocks {
    /// First instruction, and one past the last.
    spans: Vec<(usize, usize)>,
    next: Vec<Vec<usize>>,
}

impl Blocks {
    fn of(instructions: &[Ins], start: usize) -> Blocks {
        let end = instructions.len();
        let mut leads = vec![false; end + 1];
        leads[start] = true;
        leads[end - 1] = true;
        for (pc, ins) in instructions.iter().enumerate().skip(start) {
            let targets = targets(ins, end - 1);
            if !targets.is_empty() {
                leads[pc + 1] = true;
                targets.iter().for_each(|&target| leads[target] = true);
            }
        }
        let starts: Vec<usize> = (start..end).filter(|&pc| leads[pc]).collect();
        let ends = starts[1..].iter().copied().chain([end]);
        let spans: Vec<(usize, usize)> = starts.iter().copied().zip(ends).collect();
        let number: HashMap<usize, usize> = starts.iter().enumerate().map(|(i, &pc)| (pc, i)).collect();
        let next = |&(_, past): &(usize, usize)| {
            let last = &instructions[past - 1];
            let falls_through = past < end && !leaves_always(last);
            let mut next: Vec<usize> = targets(last, end - 1).iter().map(|target| number[target]).collect();
            next.extend(falls_through.then(|| number[&past]));
            next
        };
        let next = spans.iter().map(next).collect();
        Blocks { spans, next }
    }

    /// Immediate post-dominator of each block; None where no way leads to the end, and for the last block.
    /// Cooper, Harvey, Kennedy: A Simple, Fast Dominance Algorithm, on the reversed graph.
    fn post_dominators(&self) -> Vec<Option<usize>> {
        let last = self.spans.len() - 1;
        let order = self.order_from_end();
        let mut rank = vec![usize::MAX; self.spans.len()];
        order.iter().enumerate().for_each(|(i, &block)| rank[block] = i);
        let mut above: Vec<Option<usize>> = vec![None; self.spans.len()];
        above[last] = Some(last);
        let mut changed = true;
        while changed {
            changed = false;
            for &block in order.iter().skip(1) {
                let mut meeting = None;
                for &next in self.next[block].iter().filter(|&&next| above[next].is_some()) {
                    meeting = Some(match meeting {
                        None => next,
                        Some(other) => intersect(&above, &rank, other, next),
                    });
                }
                if above[block] != meeting {
                    above[block] = meeting;
                    changed = true;
                }
            }
        }
        above[last] = None;
        above
    }

    /// Blocks from which the end can be reached, the end first, in reverse post-order of the reversed graph.
    fn order_from_end(&self) -> Vec<usize> {
        let mut before = vec![Vec::new(); self.spans.len()];
        for (block, next) in self.next.iter().enumerate() {
            next.iter().for_each(|&next| before[next].push(block));
        }
        let last = self.spans.len() - 1;
        let mut seen = vec![false; self.spans.len()];
        seen[last] = true;
        let (mut stack, mut order) = (vec![(last, 0)], Vec::new());
        while let Some((block, at)) = stack.pop() {
            match before[block].get(at) {
                Some(&previous) => {
                    stack.push((block, at + 1));
                    if !seen[previous] {
                        seen[previous] = true;
                        stack.push((previous, 0));
                    }
                }
                None => order.push(block),
            }
        }
        order.reverse();
        order
    }
}

fn intersect(above: &[Option<usize>], rank: &[usize], mut a: usize, mut b: usize) -> usize {
    while a != b {
        while rank[a] > rank[b] {
            a = above[a].expect("ranked blocks lie above something");
        }
        while rank[b] > rank[a] {
            b = above[b].expect("ranked blocks lie above something");
        }
    }
    a
}

/// Where an instruction may go instead of on.
fn targets(ins: &Ins, leave: usize) -> Vec<usize> {
    match &ins.action {
        Action::Branch { target, .. } => vec![*target as usize],
        Action::Table { targets, .. } => targets.iter().map(|&target| target as usize).collect(),
        Action::Exit => vec![leave],
        _ => Vec::new(),
    }
}

fn always(ins: &Ins) -> bool {
    ins.guard.predicate == 0 && ins.guard.flip == 0
}

fn exits(ins: &Ins) -> bool {
    always(ins) && matches!(ins.action, Action::Exit)
}

/// Nothing comes after this one.
fn leaves_always(ins: &Ins) -> bool {
    always(ins) && matches!(ins.action, Action::Branch { .. } | Action::Table { .. } | Action::Exit | Action::Leave)
}

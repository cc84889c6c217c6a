//! What the lanes of a warp tell each other.

use crate::harness::{Form, Probe, check, together};
use crate::numbers::{Random, Want};

#[test]
fn follows_the_manual() {
    check(forms());
}

pub fn forms() -> Vec<Form> {
    [shuffles(), votes(), matches(), reductions(), vec![active_mask(), warp_barrier()], matrices()]
        .into_iter()
        .flatten()
        .collect()
}

const LANES: usize = 32;

/// Launches of one warp each, and a model of a whole warp.
pub fn warps(
    opcode: &str,
    probe: Probe,
    groups: Vec<Vec<Vec<u64>>>,
    model: impl Fn(&[Vec<u64>]) -> Vec<Vec<u64>> + 'static,
) -> Form {
    together(opcode, probe.threads(LANES as u32), groups.concat(), move |cases| {
        let outputs = cases.chunks(LANES).flat_map(&model);
        outputs.map(|lane| lane.into_iter().map(Want::bits).collect()).collect()
    })
}

fn lanes<T>(one: impl FnMut(usize) -> T) -> Vec<T> {
    (0..LANES).map(one).collect()
}

/// The lane that `lane` reads, if it is in range.
fn source(mode: &str, lane: i64, b: u64, c: u64) -> Option<usize> {
    let (b, clamp, mask) = ((b & 31) as i64, (c & 31) as i64, (c >> 8 & 31) as i64);
    let least = lane & mask;
    let most = least | (clamp & !mask & 31);
    let (j, valid) = match mode {
        "up" => (lane - b, lane - b >= most),
        "down" => (lane + b, lane + b <= most),
        "bfly" => (lane ^ b, lane ^ b <= most),
        _ => (least | (b & !mask), least | (b & !mask) <= most),
    };
    valid.then_some(j as usize)
}

fn shuffle(mode: &str, group: &[Vec<u64>]) -> Vec<Vec<u64>> {
    lanes(|lane| {
        let from = source(mode, lane as i64, group[lane][1], group[lane][2]);
        let value = group[from.unwrap_or(lane)][0];
        vec![value, from.is_some().into(), value]
    })
}

/// Whole warps and segments of 16, 8 and 2 lanes, every clamp that nvcc writes and some others.
fn shuffles() -> Vec<Form> {
    let mut random = Random(21);
    let mut forms = vec![];
    for mode in ["up", "down", "bfly", "idx"] {
        let opcode = format!("shfl.sync.{mode}.b32");
        let text = format!(
            "{opcode} %o0|%o1, %i0, %i1, %i2, 0xffffffff;\nmov.b32 %t1, -1;\n{opcode} %o2, %i0, %i1, %i2, %t1;"
        );
        let probe = Probe::new(&text, "b32 b32 b32", "b32 pred b32");
        let mut groups = vec![];
        for c in [0x1f, 0, 0x101f, 0x1000, 0x181f, 0x1e1f, 0x1e00, 0x0f, 0x1807] {
            for b in [0, 1, 2, 5, 8, 16, 31, 33] {
                groups.push(lanes(|_| vec![random.next() & 0xffff_ffff, b, c]));
            }
            groups.push(lanes(|_| vec![random.next() & 0xffff_ffff, random.next() & 0xff, c]));
        }
        forms.push(warps(&opcode, probe, groups, move |group| shuffle(mode, group)));
        forms.push(partial_shuffle(mode));
    }
    forms
}

/// Lanes 20 to 31 have branched away.
fn partial_shuffle(mode: &'static str) -> Form {
    let opcode = format!("shfl.sync.{mode}.b32");
    let text = format!(
        "mov.b32 %o0, 77;\nsetp.ge.u32 %p1, %thread, 20;\n@%p1 bra $skip;\n\
         {opcode} %o0, %i0, 1, {}, 0xfffff;\n$skip:",
        if mode == "up" { "0x1c00" } else { "0x1c1f" }
    );
    let groups = vec![lanes(|lane| vec![500 + lane as u64])];
    let c = if mode == "up" { 0x1c00 } else { 0x1c1f };
    warps(&opcode, Probe::new(&text, "b32", "b32"), groups, move |group| {
        lanes(|lane| {
            let from = source(mode, lane as i64, 1, c).unwrap_or(lane);
            vec![if lane < 20 { group[from][0] } else { 77 }]
        })
    })
}

/// Predicates: none, all, one, random.
fn ballots() -> Vec<Vec<Vec<u64>>> {
    let mut random = Random(22);
    let mut patterns = vec![0, u64::MAX, 1, 1 << 31, 0x7fff_ffff];
    patterns.extend((0..5).map(|_| random.next()));
    patterns.into_iter().map(|bits| lanes(|lane| vec![bits >> lane & 1])).collect()
}

fn ballot(group: &[Vec<u64>]) -> u64 {
    group.iter().enumerate().fold(0, |mask, (lane, value)| mask | value[0] << lane)
}

/// With all lanes, of the negated predicate, and with the lower half alone.
fn votes() -> Vec<Form> {
    let mut forms = vec![];
    type Vote = fn(u64, u64) -> u64;
    let table: [(&str, &str, Vote); 4] = [
        ("all.pred", "pred", |votes, members| u64::from(votes & members == members)),
        ("any.pred", "pred", |votes, members| u64::from(votes & members != 0)),
        ("uni.pred", "pred", |votes, members| u64::from(votes & members == members || votes & members == 0)),
        ("ballot.b32", "b32", |votes, members| votes & members),
    ];
    for (name, kind, vote) in table {
        let opcode = format!("vote.sync.{name}");
        let clear = if kind == "pred" { "setp.ne.s32 %o2, 0, 0;" } else { "mov.b32 %o2, 0;" };
        let text = format!(
            "{opcode} %o0, %i0, -1;\n{opcode} %o1, !%i0, 0xffffffff;\n{clear}\nsetp.ge.u32 %p1, %thread, 16;\n\
             @%p1 bra $skip;\nmov.b32 %t1, 0xffff;\n{opcode} %o2, %i0, %t1;\n$skip:"
        );
        let probe = Probe::new(&text, "pred", &[kind; 3].join(" "));
        forms.push(warps(&opcode, probe, ballots(), move |group| {
            let votes = ballot(group);
            let all = 0xffff_ffff;
            let low = |lane| if lane < 16 { vote(votes, 0xffff) } else { 0 };
            lanes(|lane| vec![vote(votes, all), vote(!votes & all, all), low(lane)])
        }));
    }
    forms
}

fn matches() -> Vec<Form> {
    let mut random = Random(23);
    let mut forms = vec![];
    for name in ["b32", "b64"] {
        let high = if name == "b64" { 1 << 40 } else { 1 << 20 };
        let groups: Vec<Vec<Vec<u64>>> =
            [1, 2, 4, 40].into_iter().map(|kinds| lanes(|_| vec![(random.next() % kinds) * high + 9])).collect();
        let any = format!("match.any.sync.{name}");
        let same = |group: &[Vec<u64>], value: u64| {
            group.iter().enumerate().fold(0, |mask, (lane, x)| mask | u64::from(x[0] == value) << lane)
        };
        let probe = Probe::new(&format!("{any} %o0, %i0, 0xffffffff;"), name, "b32");
        forms.push(warps(&any, probe, groups.clone(), move |group| lanes(|lane| vec![same(group, group[lane][0])])));
        let all = format!("match.all.sync.{name}");
        let text = format!("{all} %o0|%o1, %i0, 0xffffffff;\n{all} %o2, %i0, -1;");
        let probe = Probe::new(&text, name, "b32 pred b32");
        forms.push(warps(&all, probe, groups, move |group| {
            let equal = same(group, group[0][0]) == 0xffff_ffff;
            let mask = if equal { 0xffff_ffff } else { 0 };
            lanes(|_| vec![mask, equal.into(), mask])
        }));
    }
    forms
}

fn reductions() -> Vec<Form> {
    type Fold = fn(u32, u32) -> u32;
    let table: [(&str, Fold); 9] = [
        ("add.u32", u32::wrapping_add),
        ("add.s32", u32::wrapping_add),
        ("min.u32", u32::min),
        ("max.u32", u32::max),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
    ];
    let mut random = Random(24);
    let mut forms = vec![];
    for (name, fold) in table {
        let opcode = format!("redux.sync.{name}");
        let text = format!(
            "{opcode} %o0, %i0, 0xffffffff;\nmov.b32 %o1, 5;\nsetp.lt.u32 %p1, %thread, 8;\n@!%p1 bra $skip;\n\
             {opcode} %o1, %i0, 0xff;\n$skip:"
        );
        let word = |random: &mut Random| random.next() & 0xffff_ffff;
        let mut groups: Vec<_> = (0..4).map(|_| lanes(|_| vec![word(&mut random)])).collect();
        groups.push(lanes(|lane| vec![[0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff][lane % 5]]));
        groups.push(lanes(|_| vec![0xffff_fff0 | random.next() & 0xf]));
        forms.push(warps(&opcode, Probe::new(&text, "b32", "b32 b32"), groups, move |group| {
            let over =
                |count: usize| u64::from(group[..count].iter().map(|lane| lane[0] as u32).reduce(fold).expect("lanes"));
            lanes(|lane| vec![over(32), if lane < 8 { over(8) } else { 5 }])
        }));
    }
    forms
}

/// The lanes that take the same way; both sides of a branch.
fn active_mask() -> Form {
    let text = "activemask.b32 %o0;\nsetp.ne.s32 %p1, %i0, 0;\n@%p1 bra $odd;\nactivemask.b32 %o1;\nbra $end;\n\
        $odd:\nactivemask.b32 %o1;\nxor.b32 %o1, %o1, 0x10000;\n$end:\nbar.warp.sync 0xffffffff;";
    let groups = ballots();
    // Which lanes run together is up to the hardware: here those that agree.
    warps("activemask.b32", Probe::new(text, "b32", "b32 b32"), groups, |group| {
        let odd = ballot(group);
        lanes(|lane| vec![0xffff_ffff, if group[lane][0] == 1 { odd ^ 0x1_0000 } else { !odd & 0xffff_ffff }])
    })
}

/// Orders shared memory in a warp.
fn warp_barrier() -> Form {
    let text = "mov.u32 %t1, area;\nmad.lo.s32 %t1, %thread, 4, %t1;\nst.shared.b32 [%t1], %i0;\n\
        bar.warp.sync 0xffffffff;\nxor.b32 %t2, %thread, 7;\nmov.u32 %t3, area;\nmad.lo.s32 %t2, %t2, 4, %t3;\n\
        ld.shared.b32 %o0, [%t2];\nmov.b32 %t4, -1;\nbar.warp.sync %t4;\nst.shared.b32 [%t1], 1;";
    let probe = Probe::new(text, "b32", "b32").module(".shared .align 4 .b8 area[128];");
    let groups = vec![lanes(|lane| vec![lane as u64 * 3])];
    warps("bar.warp.sync", probe, groups, |group| lanes(|lane| vec![group[lane ^ 7][0]]))
}

/// The transposed 8x8 matrix: a lane holds two neighbours of row lane / 4.
fn matrices() -> Vec<Form> {
    let opcode = "movmatrix.sync.aligned.m8n8.trans.b16";
    let probe = Probe::new(&format!("{opcode} %o0, %i0;"), "b32", "b32");
    let mut random = Random(25);
    let groups = vec![lanes(|_| vec![random.next() & 0xffff_ffff])];
    vec![warps(opcode, probe, groups, |group| {
        let at = |row: usize, column: usize| group[4 * row + column / 2][0] >> (16 * (column % 2)) & 0xffff;
        lanes(|lane| {
            let (row, column) = (lane / 4, lane % 4 * 2);
            vec![at(column, row) | at(column + 1, row) << 16]
        })
    })]
}

//! Philox 4x32-10 (Salmon et al., SC 2011): counter-based random numbers, the same on every device.
//!
//! Dropout masks are a function of (seed, step, op, element), so they are recomputed and never stored.

use crate::dtype::Real;

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Four random words for a counter of 128 bits and a key of 64.
#[inline(always)]
pub fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    let mut c = counter;
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        let p0 = u64::from(MULTIPLIER[0]) * u64::from(c[0]);
        let p1 = u64::from(MULTIPLIER[1]) * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k1, p0 as u32];
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    c
}

/// Dropout of one op in one step: keeps an element iff its random word is at least `p 2^32`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dropout {
    /// Probability of dropping; 0 switches dropout off.
    pub p: f64,
    pub seed: u64,
    pub op: u32,
    pub step: u32,
}

impl Dropout {
    pub fn is_off(&self) -> bool {
        self.p <= 0.0
    }
    /// The least random word that is kept, and what a kept element is multiplied by; 0 and 1 if it is off.
    pub fn rule(&self) -> (u32, f64) {
        if self.is_off() {
            return (0, 1.0);
        }
        // At p = 1 no word is large enough but one in 2^32: 0 for it, not infinity.
        let scale = if self.p < 1.0 { 1.0 / (1.0 - self.p) } else { 0.0 };
        ((self.p * 4_294_967_296.0).min(4_294_967_295.0) as u32, scale)
    }
    /// Multiplies `values`, elements `first..` of the op's output, by their masks `0 | 1/(1-p)`.
    #[inline(always)]
    pub fn apply<T: Real>(&self, first: u64, values: &mut [T]) {
        if self.is_off() {
            return;
        }
        let (keep, scale) = self.rule();
        let scale = T::of(scale);
        let lead = ((4 - first % 4) % 4).min(values.len() as u64) as usize;
        let (head, body) = values.split_at_mut(lead);
        self.scale_group(first, head, keep, scale);
        // Sixteen counters side by side, so that the rounds become vector code.
        const LANES: usize = 16;
        let start = (first + lead as u64) / 4;
        let (blocks, tail) = body.as_chunks_mut::<{ 4 * LANES }>();
        for (b, block) in blocks.iter_mut().enumerate() {
            let words = self.words::<LANES>(start + (b * LANES) as u64);
            for (lane, group) in block.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                for j in 0..4 {
                    group[j] = if words[j][lane] >= keep { group[j] * scale } else { T::ZERO };
                }
            }
        }
        let done = first + (lead + blocks.len() * 4 * LANES) as u64;
        for (i, group) in tail.chunks_mut(4).enumerate() {
            self.scale_group(done + 4 * i as u64, group, keep, scale);
        }
    }
    #[inline(always)]
    fn scale_group<T: Real>(&self, first: u64, values: &mut [T], keep: u32, scale: T) {
        let words = self.words::<1>(first / 4);
        for (i, v) in values.iter_mut().enumerate() {
            *v = if words[(first % 4) as usize + i][0] >= keep { *v * scale } else { T::ZERO };
        }
    }
    /// `philox` of the counters `group..group + N`, word-major.
    #[inline(always)]
    fn words<const N: usize>(&self, group: u64) -> [[u32; N]; 4] {
        let mut out = [[0; N]; 4];
        // By index, so that the lanes become vector lanes.
        #[allow(clippy::needless_range_loop)]
        for lane in 0..N {
            let g = group + lane as u64;
            let w = philox(self.seed, [g as u32, (g >> 32) as u32, self.op, self.step]);
            for j in 0..4 {
                out[j][lane] = w[j];
            }
        }
        out
    }
}

/// A stream of random numbers for initial weights and shuffles.
#[derive(Clone, Debug)]
pub struct Stream {
    key: u64,
    name: u64,
    next: u64,
}

impl Stream {
    /// The stream `name` of `seed`; different names give independent streams.
    pub fn new(seed: u64, name: u64) -> Self {
        Stream { key: seed, name, next: 0 }
    }
    pub fn next_u32(&mut self) -> u32 {
        let (group, lane) = (self.next / 4, (self.next % 4) as usize);
        self.next += 1;
        // Step u32::MAX, which no training reaches, separates streams from dropout counters.
        philox(self.key ^ self.name.rotate_left(32), [group as u32, (group >> 32) as u32, self.name as u32, u32::MAX])
            [lane]
    }
    /// Uniform in [0, 1) with 32 bits.
    pub fn uniform(&mut self) -> f64 {
        f64::from(self.next_u32()) / 4_294_967_296.0
    }
    /// Uniform in `0..n` (n < 2^32), without bias worth the name: multiply and shift.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.next_u32()) * n as u64) >> 32) as usize
    }
    /// Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

//! Comparison of what a kernel wrote with what it should have written, and the random numbers for both.

use half::bf16;

/// A number that kernels write.
pub trait Value: Copy + PartialEq + std::fmt::Debug {
    fn wide(self) -> f64;
    fn bytes(self) -> u32;
}

impl Value for f32 {
    fn wide(self) -> f64 {
        self.into()
    }
    fn bytes(self) -> u32 {
        self.to_bits()
    }
}

impl Value for bf16 {
    fn wide(self) -> f64 {
        self.into()
    }
    fn bytes(self) -> u32 {
        self.to_bits().into()
    }
}

impl Value for i32 {
    fn wide(self) -> f64 {
        self.into()
    }
    fn bytes(self) -> u32 {
        self as u32
    }
}

impl Value for u32 {
    fn wide(self) -> f64 {
        self.into()
    }
    fn bytes(self) -> u32 {
        self
    }
}

/// The outcome of one sample.
pub struct Report {
    /// The first value that is wrong.
    pub wrong: Option<String>,
    /// The error that came nearest to what was allowed, or went furthest beyond.
    error: f64,
    allowed: f64,
    /// FNV-1a over all outputs' bits: equal runs give equal hashes.
    hash: u64,
}

impl Default for Report {
    fn default() -> Report {
        Report { wrong: None, error: 0.0, allowed: 0.0, hash: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Report {
    pub fn line(&self, title: &str) -> String {
        let Report { error, allowed, hash, .. } = self;
        let start = if self.wrong.is_some() { "WRONG" } else { "ok" };
        let rest = self.wrong.as_ref().map(|what| format!(": {what}")).unwrap_or_default();
        format!("{start} {title} max error {error:.2e} (allowed {allowed:.2e}) hash {hash:016x}{rest}")
    }

    fn add<T: Value>(&mut self, what: &str, got: &[T], reference: &[f64], allowed: f64) {
        assert_eq!(got.len(), reference.len(), "{what}");
        for (i, (value, &right)) in got.iter().zip(reference).enumerate() {
            for byte in value.bytes().to_le_bytes() {
                self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
            let error = (value.wide() - right).abs();
            let fits = error <= allowed; // a NaN does not
            if !fits && self.wrong.is_none() {
                self.wrong = Some(format!("{what}[{i}] is {value:?}, not {right:e}"));
            }
            if error.is_nan() || share(error, allowed) >= share(self.error, self.allowed) {
                (self.error, self.allowed) = (error, allowed);
            }
        }
    }

    pub fn exact<T: Value>(&mut self, what: &str, got: &[T], right: &[T]) {
        let right: Vec<f64> = right.iter().map(|value| value.wide()).collect();
        self.add(what, got, &right, 0.0);
    }

    /// At most twice the error of plain code of the kernel's precision, or `floor`, where that code was lucky.
    pub fn close<T: Value>(&mut self, what: &str, got: &[T], plain: &[T], reference: &[f64], floor: f64) {
        let errors = plain.iter().zip(reference).map(|(value, right)| (value.wide() - right).abs());
        self.add(what, got, reference, errors.fold(floor, |most, error| most.max(2.0 * error)));
    }

    pub fn require(&mut self, truth: bool, what: &str) {
        if !truth && self.wrong.is_none() {
            self.wrong = Some(what.into());
        }
    }
}

fn share(error: f64, allowed: f64) -> f64 {
    if error == 0.0 { 0.0 } else { error / allowed }
}

/// SplitMix64: the same numbers for the same seed, everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From -1 up to 1.
    pub fn unit(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// From `low` up to, and without, `high`.
    pub fn integer(&mut self, low: i32, high: i32) -> i32 {
        low + (self.word() >> 33) as i32 % (high - low)
    }

    pub fn units<T>(&mut self, count: usize, from: impl Fn(f32) -> T) -> Vec<T> {
        (0..count).map(|_| from(self.unit())).collect()
    }

    pub fn integers(&mut self, count: usize, low: i32, high: i32) -> Vec<i32> {
        (0..count).map(|_| self.integer(low, high)).collect()
    }
}

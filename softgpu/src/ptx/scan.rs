//! Characters, names and numbers of PTX text.

use crate::PtxError;

pub type Result<T> = std::result::Result<T, PtxError>;

pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    pub line: u32,
}

/// A number literal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Int(i128),
    Float32(u32),
    Float64(u64),
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Scanner { text: text.as_bytes(), at: 0, line: 1 }
    }

    pub fn fail<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(PtxError { line: self.line, what: what.into() })
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn step(&mut self) {
        if self.byte(0) == b'\n' {
            self.line += 1;
        }
        self.at += 1;
    }

    /// Skips spaces and comments, then shows the next byte; 0 at the end.
    pub fn peek(&mut self) -> Result<u8> {
        loop {
            match (self.byte(0), self.byte(1)) {
                (b' ' | b'\t' | b'\r' | b'\n', _) => self.step(),
                (b'/', b'/') => {
                    while self.at < self.text.len() && self.byte(0) != b'\n' {
                        self.at += 1;
                    }
                }
                (b'/', b'*') => self.block_comment()?,
                (byte, _) => return Ok(byte),
            }
        }
    }

    fn block_comment(&mut self) -> Result<()> {
        let start = self.line;
        self.at += 2;
        while (self.byte(0), self.byte(1)) != (b'*', b'/') {
            if self.at >= self.text.len() {
                return Err(PtxError { line: start, what: "a comment that does not end".into() });
            }
            self.step();
        }
        self.at += 2;
        Ok(())
    }

    pub fn at_end(&mut self) -> Result<bool> {
        self.peek()?;
        Ok(self.at >= self.text.len())
    }

    /// Takes the byte if it is next.
    pub fn take(&mut self, wanted: u8) -> Result<bool> {
        let found = self.peek()? == wanted && self.at < self.text.len();
        if found {
            self.step();
        }
        Ok(found)
    }

    pub fn expect(&mut self, wanted: u8) -> Result<()> {
        if self.take(wanted)? {
            return Ok(());
        }
        let found = self.here();
        self.fail(format!("expected '{}', found {found}", wanted as char))
    }

    /// What stands here, for messages.
    pub fn here(&self) -> String {
        let rest = &self.text[self.at.min(self.text.len())..];
        let end = rest.iter().position(|b| b.is_ascii_whitespace() || *b == b';').unwrap_or(rest.len()).clamp(1, 24);
        match rest.is_empty() {
            true => "the end of the text".into(),
            false => format!("\"{}\"", String::from_utf8_lossy(&rest[..end.min(rest.len())])),
        }
    }

    fn run(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.at < self.text.len() && wanted(self.text[self.at]) {
            self.at += 1;
        }
        std::str::from_utf8(&self.text[start..self.at]).unwrap_or("")
    }

    pub fn starts_name(byte: u8) -> bool {
        byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%')
    }

    /// A name without dots.
    pub fn name(&mut self) -> Result<&'a str> {
        if !Self::starts_name(self.peek()?) {
            let found = self.here();
            return self.fail(format!("expected a name, found {found}"));
        }
        Ok(self.run(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'%')))
    }

    /// `.name` with the dot taken; only if nothing stands between.
    pub fn suffix(&mut self) -> Option<&'a str> {
        let is_suffix = self.byte(0) == b'.' && self.byte(1).is_ascii_alphanumeric();
        is_suffix.then(|| {
            self.at += 1;
            self.run(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
    }

    /// A directive such as `.reg`: the name without the dot.
    pub fn directive(&mut self) -> Result<&'a str> {
        self.expect(b'.')?;
        Ok(self.run(|b| b.is_ascii_alphanumeric() || b == b'_'))
    }

    /// `::` and what follows, as in `L2::128B`.
    pub fn scope_suffix(&mut self) -> Option<&'a str> {
        (self.byte(0) == b':' && self.byte(1) == b':').then(|| {
            self.at += 2;
            self.run(|b| b.is_ascii_alphanumeric() || b == b'_')
        })
    }

    pub fn string(&mut self) -> Result<String> {
        self.expect(b'"')?;
        let text = self.run(|b| b != b'"' && b != b'\n').to_string();
        if self.byte(0) != b'"' {
            return self.fail("a string that does not end");
        }
        self.at += 1;
        Ok(text)
    }

    /// A decimal, hexadecimal, octal or binary integer, or a float; with its sign.
    pub fn number(&mut self) -> Result<Number> {
        let negative = self.take(b'-')?;
        if !self.peek()?.is_ascii_digit() {
            let found = self.here();
            return self.fail(format!("expected a number, found {found}"));
        }
        let text = self.run(|b| b.is_ascii_alphanumeric() || b == b'.');
        let exponent = text.ends_with(['e', 'E']) && !text.starts_with("0x") && matches!(self.byte(0), b'+' | b'-');
        let text = match exponent {
            true => {
                let sign = self.byte(0) as char;
                self.at += 1;
                format!("{text}{sign}{}", self.run(|b| b.is_ascii_digit()))
            }
            false => text.to_string(),
        };
        let Some(number) = literal(&text) else {
            return self.fail(format!("{text} is no number"));
        };
        Ok(if negative { negate(number) } else { number })
    }
}

fn literal(text: &str) -> Option<Number> {
    let digits = |prefix: usize, radix| i128::from_str_radix(text.get(prefix..)?, radix).ok().map(Number::Int);
    let text_without_u = text.trim_end_matches('U');
    match text.get(..2) {
        Some("0f" | "0F") if text.len() == 10 => u32::from_str_radix(&text[2..], 16).ok().map(Number::Float32),
        Some("0d" | "0D") if text.len() == 18 => u64::from_str_radix(&text[2..], 16).ok().map(Number::Float64),
        Some("0x" | "0X") => i128::from_str_radix(text_without_u.get(2..)?, 16).ok().map(Number::Int),
        Some("0b" | "0B") => digits(2, 2),
        _ if text.contains(['.', 'e', 'E']) => text.parse::<f64>().ok().map(|x| Number::Float64(x.to_bits())),
        _ if text.len() > 1 && text.starts_with('0') => i128::from_str_radix(text_without_u, 8).ok().map(Number::Int),
        _ => text_without_u.parse().ok().map(Number::Int),
    }
    .filter(|n| !matches!(n, Number::Int(i) if *i > u64::MAX as i128))
}

fn negate(number: Number) -> Number {
    match number {
        Number::Int(i) => Number::Int(-i),
        Number::Float32(bits) => Number::Float32(bits ^ 1 << 31),
        Number::Float64(bits) => Number::Float64(bits ^ 1 << 63),
    }
}

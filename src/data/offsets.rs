//! Offsets into a text: code points, bytes or UTF-16 units, each turned into the others.

/// What the offsets of a JSONL file count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Unit {
    /// Unicode code points (Python's `len`).
    #[default]
    Char,
    /// Bytes of UTF-8.
    Byte,
    /// UTF-16 code units (JavaScript, Java).
    Utf16,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Char => "code points",
            Unit::Byte => "bytes",
            Unit::Utf16 => "UTF-16 units",
        }
    }
}

/// The same place in a text, counted three ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub char: usize,
    pub byte: usize,
    pub utf16: usize,
}

impl Place {
    pub fn get(&self, unit: Unit) -> usize {
        match unit {
            Unit::Char => self.char,
            Unit::Byte => self.byte,
            Unit::Utf16 => self.utf16,
        }
    }
    fn advance(&mut self, c: char) {
        self.char += 1;
        self.byte += c.len_utf8();
        self.utf16 += c.len_utf16();
    }
}

/// Code points between two remembered places: 24 bytes of index for at least this many of text.
const STRIDE: usize = 64;

/// An index over a text that finds a place by any of its three counts in constant time.
pub struct Offsets<'a> {
    text: &'a str,
    marks: Vec<Place>,
    end: Place,
}

impl<'a> Offsets<'a> {
    pub fn new(text: &'a str) -> Self {
        let mut marks = Vec::with_capacity(text.len() / STRIDE + 1);
        let mut at = Place::default();
        for c in text.chars() {
            if at.char % STRIDE == 0 {
                marks.push(at);
            }
            at.advance(c);
        }
        Offsets { text, marks, end: at }
    }

    pub fn end(&self) -> Place {
        self.end
    }

    /// The place `offset` units from the start; None past the end or inside a character.
    pub fn find(&self, unit: Unit, offset: usize) -> Option<Place> {
        if offset == self.end.get(unit) {
            return Some(self.end);
        }
        let after = self.marks.partition_point(|mark| mark.get(unit) <= offset);
        let mut at = *self.marks.get(after.checked_sub(1)?)?;
        let mut rest = self.text[at.byte..].chars();
        while at.get(unit) < offset {
            at.advance(rest.next()?);
        }
        (at.get(unit) == offset).then_some(at)
    }
}

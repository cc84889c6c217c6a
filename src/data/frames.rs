//! Cuts a stream into documents without holding more than one of them.
//!
//! Four shapes: a top-level JSON array (DocRED), a JSON value a line (JSONL), runs of lines between blank ones
//! (PubTator) and one line a document. In JSON cutting looks only at brackets, commas and quotes, so a document that is
//! wrong inside costs that document and not the rest of the file.

use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

/// Longest document in bytes: 800 times the mean of DocRED. With the limits in `document` it
/// keeps the memory of reading below the file's size plus 64 MB, whatever the file holds.
pub const MAX_BYTES: usize = 8 << 20;
/// Deepest nesting of brackets in a document; the formats themselves need 5.
pub const MAX_DEPTH: u32 = 64;

/// Bytes in which the mark behind the first document's id is looked for.
const LONGEST_ID: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Array,
    Lines,
    Blocks,
    /// A line of columns between tabs.
    Columns,
}

/// Where a document stands in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Counted from 0 over all documents, refused ones included.
    pub index: usize,
    /// Line of the file, from 1.
    pub line: usize,
    /// Of its first byte, in bytes from the start of the stream.
    pub offset: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Within,
    /// The bracket of the array is closed; only white space may follow.
    Closed,
    Ended,
}

/// A file, or standard input for `-`. Error: E-IO.
pub fn stream(path: &Path) -> Result<Box<dyn Read + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin()));
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    Ok(Box::new(file))
}

pub struct Frames {
    input: Box<dyn BufRead + Send>,
    shape: Shape,
    state: State,
    next: Position,
    /// Bytes taken from the stream.
    consumed: u64,
    buffer: Vec<u8>,
}

/// What stopped the scan of an array element.
enum End {
    Comma,
    Bracket,
    Brace,
    File,
}

/// The brackets and quotes of one document so far, and what was wrong with it.
#[derive(Default)]
struct Scan {
    depth: u32,
    in_string: bool,
    escaped: bool,
    too_deep: bool,
    too_long: bool,
    lines: usize,
}

impl Scan {
    /// Takes in one byte. True where it ends an array element (and belongs to none).
    #[inline]
    fn step(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.too_deep |= self.depth > MAX_DEPTH;
            }
            b'}' | b']' if self.depth == 0 => return true,
            b'}' | b']' => self.depth -= 1,
            b',' => return self.depth == 0,
            b'\n' => self.lines += 1,
            _ => {}
        }
        false
    }

    fn keep(&mut self, buffer: &mut Vec<u8>, part: &[u8]) {
        self.too_long |= buffer.len() + part.len() > MAX_BYTES;
        if self.too_long {
            buffer.clear();
        } else {
            buffer.extend_from_slice(part);
        }
    }

    fn judge(&self) -> Result<()> {
        if self.too_long {
            let what = format!("a document of more than {} MB", MAX_BYTES >> 20);
            return Err(Error::data("E-SIZE", what).fix("split the document"));
        }
        if self.too_deep {
            let what = format!("brackets nested more than {MAX_DEPTH} deep");
            return Err(Error::data("E-JSON", what).fix("correct the document"));
        }
        Ok(())
    }
}

impl Frames {
    /// Without `shape` the beginning decides: `[` an array, `{` lines; else the first of `|` and tab, which end the id
    /// of a document: blocks or columns.
    pub fn open(input: impl Read + Send + 'static, shape: Option<Shape>) -> Result<Frames> {
        let input: Box<dyn BufRead + Send> = Box::new(BufReader::with_capacity(1 << 16, input));
        let next = Position { line: 1, ..Position::default() };
        let mut frames =
            Frames { input, shape: Shape::Lines, state: State::Start, next, consumed: 0, buffer: Vec::new() };
        frames.skip_mark()?;
        let first = frames.skip_space()?;
        frames.shape = match (shape, first) {
            (Some(shape), _) => shape,
            (None, Some(b'[')) => Shape::Array,
            (None, Some(b'{') | None) => Shape::Lines,
            _ => frames.shape_of_text()?,
        };
        Ok(frames)
    }

    /// By the mark behind the id.
    fn shape_of_text(&mut self) -> Result<Shape> {
        let mut begin = Vec::new();
        let mut shape = Shape::Lines;
        for byte in (&mut self.input).bytes().take(LONGEST_ID) {
            let byte = byte.map_err(unreadable)?;
            begin.push(byte);
            match byte {
                b'|' => shape = Shape::Blocks,
                b'\t' => shape = Shape::Columns,
                b'\n' => {}
                _ => continue,
            }
            break;
        }
        self.put_back(begin);
        Ok(shape)
    }

    fn put_back(&mut self, bytes: Vec<u8>) {
        let rest = std::mem::replace(&mut self.input, Box::new(std::io::empty()));
        self.input = Box::new(Cursor::new(bytes).chain(rest));
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The bytes of the next document. After an error go on: the next call gives the next document, or
    /// `None` where the file is too broken to find one.
    pub fn next_frame(&mut self) -> Option<(Position, Result<&[u8]>)> {
        if self.state == State::Ended {
            return None;
        }
        let found = match self.shape {
            Shape::Array => self.next_element(),
            Shape::Lines | Shape::Columns => self.next_line(),
            Shape::Blocks => self.next_block(),
        };
        let position = self.next;
        match found {
            Ok(None) => {
                self.state = State::Ended;
                None
            }
            Ok(Some(scan)) => {
                self.next.index += 1;
                self.next.line += scan.lines;
                Some((position, scan.judge().map(|()| self.buffer.as_slice())))
            }
            Err(error) => {
                self.state = State::Ended;
                Some((position, Err(error)))
            }
        }
    }

    fn next_line(&mut self) -> Result<Option<Scan>> {
        if self.skip_space()?.is_none() {
            return Ok(None);
        }
        let mut scan = Scan::default();
        self.buffer.clear();
        self.next.offset = self.consumed;
        loop {
            let chunk = self.input.fill_buf().map_err(unreadable)?;
            let stop = chunk.iter().position(|&b| b == b'\n').unwrap_or(chunk.len());
            let done = stop < chunk.len() || chunk.is_empty();
            if self.shape == Shape::Lines {
                for &byte in &chunk[..stop] {
                    scan.step(byte);
                }
            }
            scan.keep(&mut self.buffer, &chunk[..stop]);
            self.consume(stop);
            if done {
                // The line's end is left for `skip_space`, which counts it.
                return Ok(Some(scan));
            }
        }
    }

    /// Up to a line that holds nothing but white space; its end is left for `skip_space`.
    fn next_block(&mut self) -> Result<Option<Scan>> {
        if self.skip_space()?.is_none() {
            return Ok(None);
        }
        let mut scan = Scan::default();
        let mut blank = false;
        self.buffer.clear();
        self.next.offset = self.consumed;
        loop {
            let chunk = self.input.fill_buf().map_err(unreadable)?;
            let ends = |&byte: &u8| {
                let end = byte == b'\n' && blank;
                scan.lines += usize::from(byte == b'\n' && !blank);
                blank = byte == b'\n' || blank && byte.is_ascii_whitespace();
                end
            };
            let stop = chunk.iter().position(ends);
            let done = stop.is_some() || chunk.is_empty();
            let used = stop.unwrap_or(chunk.len());
            scan.keep(&mut self.buffer, &chunk[..used]);
            self.consume(used);
            if done {
                return Ok(Some(scan));
            }
        }
    }

    fn next_element(&mut self) -> Result<Option<Scan>> {
        let first = self.skip_space()?;
        if self.state == State::Start {
            if first != Some(b'[') {
                let error = Error::data("E-JSON", "a DocRED file is one array and begins with `[`").at("$");
                return Err(error.fix("--from jsonl, if there is one document a line"));
            }
            self.consume(1);
            self.state = State::Within;
            if self.skip_space()? == Some(b']') {
                self.consume(1);
                self.state = State::Closed;
            }
        }
        if self.state == State::Closed {
            return match self.skip_space()? {
                None => Ok(None),
                Some(_) => Err(self.broken("something follows the array")),
            };
        }
        self.skip_space()?;
        self.next.offset = self.consumed;
        let mut scan = Scan::default();
        let end = self.scan_element(&mut scan)?;
        if !scan.too_long && self.buffer.is_empty() && !matches!(end, End::File) {
            return Err(self.broken("a comma or bracket without a document before it"));
        }
        match end {
            End::File => return Err(self.broken("the file ends before the array does: cut off?")),
            End::Brace => return Err(self.broken("a `}` that closes nothing")),
            End::Bracket => self.state = State::Closed,
            End::Comma => {}
        }
        Ok(Some(scan))
    }

    /// Fills the buffer up to the comma or bracket behind the element and takes that byte, too.
    fn scan_element(&mut self, scan: &mut Scan) -> Result<End> {
        self.buffer.clear();
        loop {
            let chunk = self.input.fill_buf().map_err(unreadable)?;
            if chunk.is_empty() {
                return Ok(End::File);
            }
            match chunk.iter().position(|&byte| scan.step(byte)) {
                None => {
                    scan.keep(&mut self.buffer, chunk);
                    let used = chunk.len();
                    self.consume(used);
                }
                Some(stop) => {
                    scan.keep(&mut self.buffer, &chunk[..stop]);
                    let end = match chunk[stop] {
                        b',' => End::Comma,
                        b']' => End::Bracket,
                        _ => End::Brace,
                    };
                    self.consume(stop + 1);
                    return Ok(end);
                }
            }
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.input.consume(bytes);
        self.consumed += bytes as u64;
    }

    fn broken(&self, what: &str) -> Error {
        let place = format!("$[{}]", self.next.index);
        Error::data("E-JSON", what).at(place).fix("correct the file: nothing behind this place can be read")
    }

    /// The next byte that is not white space, left in the stream.
    fn skip_space(&mut self) -> Result<Option<u8>> {
        loop {
            let chunk = self.input.fill_buf().map_err(unreadable)?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let skip = chunk.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(chunk.len());
            self.next.line += chunk[..skip].iter().filter(|&&b| b == b'\n').count();
            let first = chunk.get(skip).copied();
            self.consume(skip);
            if first.is_some() {
                return Ok(first);
            }
        }
    }

    /// Windows editors put a byte order mark in front of UTF-8. A pipe may give its three bytes one by one.
    fn skip_mark(&mut self) -> Result<()> {
        const MARK: &[u8] = b"\xef\xbb\xbf";
        if self.input.fill_buf().map_err(unreadable)?.first() == MARK.first() {
            let mut begin = Vec::new();
            (&mut self.input).take(3).read_to_end(&mut begin).map_err(unreadable)?;
            if begin == MARK {
                self.consumed += 3;
            } else {
                self.put_back(begin);
            }
        }
        Ok(())
    }
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(Kind::Io, "E-IO", error.to_string())
}

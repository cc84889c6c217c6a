//! The one error type: what went wrong, where, and what to do next.
//!
//! `error[E-SPAN] dev.json: document 17 "Lark Force": mention ends past sentence 2`
//! `  at $[17].vertexSet[3][0].pos        fix: correct the file, or --on-error skip`

use std::fmt;

/// Groups errors by the exit code that the command line gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A wrong flag or configuration (exit 2).
    Usage,
    /// A malformed or inconsistent input document (exit 3).
    Data,
    /// A malformed or incomplete model directory (exit 4).
    Model,
    /// No such device, out of memory, or a size that no kernel takes (exit 5).
    Device,
    /// Reading or writing a file failed (exit 6).
    Io,
    /// NaN or infinity in a loss, gradient or weight (exit 7).
    NonFinite,
    /// Two shapes that do not fit: a mistake of the calling code (exit 70).
    Shape,
}

/// An error of docre. Cheap to return: one pointer.
#[derive(Debug)]
pub struct Error(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: Kind,
    code: &'static str,
    what: String,
    place: Option<String>,
    fix: Option<String>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, code: &'static str, what: impl Into<String>) -> Self {
        Error(Box::new(Parts { kind, code, what: what.into(), place: None, fix: None }))
    }
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, "E-USAGE", what)
    }
    pub fn data(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Kind::Data, code, what)
    }
    pub fn model(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Kind::Model, code, what)
    }
    pub fn device(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Kind::Device, code, what)
    }
    pub fn non_finite(what: impl Into<String>) -> Self {
        Self::new(Kind::NonFinite, "E-NONFINITE", what)
    }
    /// `op` was given `got` where it takes `want`.
    pub fn shape(op: &str, what: &str, want: impl fmt::Debug, got: impl fmt::Debug) -> Self {
        Self::new(Kind::Shape, "E-SHAPE", format!("{op}: {what} must be {want:?}, is {got:?}"))
    }
    pub fn io(path: impl AsRef<std::path::Path>, why: impl fmt::Display) -> Self {
        Self::new(Kind::Io, "E-IO", format!("{}: {why}", path.as_ref().display()))
    }

    /// Names the place inside the file, for example `$[17].vertexSet[3][0].pos`.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.0.place = Some(place.into());
        self
    }
    /// Says what the user can do about it.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.0.fix = Some(fix.into());
        self
    }
    /// Puts `context` (a file or document) in front of the message.
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.what = format!("{context}: {}", self.0.what);
        self
    }

    /// Adds another way out to the one already named, if any.
    pub fn or_fix(mut self, other: &str) -> Self {
        let fix = self.0.fix.take().unwrap_or_else(|| "correct the file".into());
        self.fix(format!("{fix}, or {other}"))
    }
    /// The same trouble seen by a caller who knows better whose fault it is.
    pub fn of_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }
    pub fn code(&self) -> &'static str {
        self.0.code
    }
    pub fn what(&self) -> &str {
        &self.0.what
    }
    pub fn place(&self) -> Option<&str> {
        self.0.place.as_deref()
    }
    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            Kind::Usage => 2,
            Kind::Data => 3,
            Kind::Model => 4,
            Kind::Device => 5,
            Kind::Io => 6,
            Kind::NonFinite => 7,
            Kind::Shape => 70,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = &self.0;
        write!(f, "error[{}] {}", p.code, p.what)?;
        match (&p.place, &p.fix) {
            (None, None) => Ok(()),
            (Some(place), None) => write!(f, "\n  at {place}"),
            (None, Some(fix)) => write!(f, "\n  fix: {fix}"),
            (Some(place), Some(fix)) => write!(f, "\n  at {place}        fix: {fix}"),
        }
    }
}

impl std::error::Error for Error {}

//! The header of a safetensors file, believed only after it has been checked.
//!
//! Layout: u64 little-endian length of the header, the header (JSON), the tensors. Format:
//! <https://huggingface.co/docs/safetensors>. The crate of that name accepts odd names and keeps
//! the last of two equal ones; a header is small, so we parse it ourselves.

use crate::text::one_line;
use crate::{Error, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// Longest header that is read. The largest models have headers of about 1 MB.
pub const MAX_HEADER: u64 = 64 << 20;
/// With the limits below this bounds what a hostile header can make us allocate.
const MAX_TENSORS: usize = 100_000;
const MAX_METADATA: usize = 4096;
const MAX_RANK: usize = 8;
const MAX_NAME: usize = 256;

/// Element types of a tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

/// Name in the header, type, bytes of an element.
const STORED: [(&str, Stored, u64); 13] = [
    ("F64", Stored::F64, 8),
    ("F32", Stored::F32, 4),
    ("F16", Stored::F16, 2),
    ("BF16", Stored::BF16, 2),
    ("I64", Stored::I64, 8),
    ("I32", Stored::I32, 4),
    ("I16", Stored::I16, 2),
    ("I8", Stored::I8, 1),
    ("U64", Stored::U64, 8),
    ("U32", Stored::U32, 4),
    ("U16", Stored::U16, 2),
    ("U8", Stored::U8, 1),
    ("BOOL", Stored::Bool, 1),
];

impl Stored {
    pub fn name(self) -> &'static str {
        STORED[self as usize].0
    }
    pub fn size(self) -> u64 {
        STORED[self as usize].2
    }
    fn parse(name: &str) -> Option<Self> {
        STORED.iter().find(|row| row.0 == name).map(|row| row.1)
    }
    pub fn is_float(self) -> bool {
        matches!(self, Stored::F64 | Stored::F32 | Stored::F16 | Stored::BF16)
    }
}

/// Where a tensor lies in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub stored: Stored,
    pub shape: Vec<usize>,
    /// Offset of the first byte, counted from the start of the file.
    pub start: u64,
    pub bytes: u64,
}

impl TensorInfo {
    pub fn elements(&self) -> usize {
        (self.bytes / self.stored.size()) as usize
    }
    /// The tensor as a matrix: first dimension by the product of the others.
    pub fn matrix(&self) -> (usize, usize) {
        match self.shape.split_first() {
            None => (1, 1),
            Some((rows, rest)) => (*rows, rest.iter().product()),
        }
    }
}

#[derive(Debug, Default)]
pub struct Header {
    pub tensors: BTreeMap<String, TensorInfo>,
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// `json` is the header's text, `data_start..file_length` where the tensors lie.
    pub fn parse(json: &[u8], data_start: u64, file_length: u64) -> Result<Self> {
        let raw: RawHeader = serde_json::from_slice(json)
            .map_err(|e| bad(format!("the header is not valid: {}", one_line(&e.to_string()))))?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in raw.tensors {
            let info = check(&name, &tensor, data_start)?;
            tensors.insert(name, info);
        }
        check_tiling(&tensors, data_start, file_length)?;
        Ok(Header { tensors, metadata: raw.metadata })
    }
}

fn bad(what: impl Into<String>) -> Error {
    Error::model("E-TENSORS", what)
}

/// A name that can be printed, matched and written back: visible ASCII, of moderate length.
pub fn check_name(name: &str) -> Result<()> {
    let visible = name.bytes().all(|b| b.is_ascii_graphic());
    if name.is_empty() || name.len() > MAX_NAME || !visible || name == "__metadata__" {
        return Err(bad(format!("refused tensor name '{}'", one_line(name))));
    }
    Ok(())
}

/// Bytes of a tensor; None when the product of its sides leaves 63 bits, an empty side counted as 1:
/// then the product of any of them cannot overflow either.
pub fn byte_length(stored: Stored, shape: &[usize]) -> Option<u64> {
    let times = |n: i64, side: usize| n.checked_mul(i64::try_from(side).ok()?);
    let full = shape.iter().try_fold(stored.size() as i64, |n, &side| times(n, side.max(1)))?;
    Some(if shape.contains(&0) { 0 } else { full as u64 })
}

fn check(name: &str, raw: &RawTensor, data_start: u64) -> Result<TensorInfo> {
    check_name(name)?;
    let stored = Stored::parse(&raw.dtype).ok_or_else(|| {
        bad(format!("tensor {name} has element type '{}', which is not supported", one_line(&raw.dtype)))
    })?;
    let [first, end] = raw.data_offsets;
    let wanted = byte_length(stored, &raw.shape.0)
        .ok_or_else(|| bad(format!("tensor {name} has an impossible shape {:?}", raw.shape.0)))?;
    if end.checked_sub(first) != Some(wanted) {
        return Err(bad(format!(
            "tensor {name}: {} {:?} takes {wanted} bytes, its offsets are {first}..{end}",
            stored.name(),
            raw.shape.0
        )));
    }
    let start = data_start.checked_add(first).ok_or_else(|| bad(format!("tensor {name} starts past the end")))?;
    Ok(TensorInfo { stored, shape: raw.shape.0.clone(), start, bytes: wanted })
}

/// The tensors must cover the data exactly: no overlap, no hole, nothing missing and nothing behind.
fn check_tiling(tensors: &BTreeMap<String, TensorInfo>, data_start: u64, file_length: u64) -> Result<()> {
    let mut order: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| (info.start, info.bytes));
    let mut at = data_start;
    for (name, info) in order {
        if info.start != at {
            let what = if info.start < at { "overlaps the tensor before it" } else { "leaves a hole before it" };
            return Err(bad(format!("tensor {name} {what}")));
        }
        at = at.checked_add(info.bytes).ok_or_else(|| bad(format!("tensor {name} ends past the end")))?;
    }
    if at != file_length {
        return Err(bad(format!("the header promises {at} bytes, the file has {file_length}"))
            .fix("copy or download the file again"));
    }
    Ok(())
}

#[derive(Default)]
struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
    metadata: BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Shape,
    data_offsets: [u64; 2],
}

struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Sides;
        impl<'de> Visitor<'de> for Sides {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_RANK} sizes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Shape, A::Error> {
                let mut sides = Vec::new();
                while let Some(side) = seq.next_element()? {
                    if sides.len() == MAX_RANK {
                        return Err(A::Error::custom("a tensor has too many dimensions"));
                    }
                    sides.push(side);
                }
                Ok(Shape(sides))
            }
        }
        from.deserialize_seq(Sides)
    }
}

/// String to string, with a bound on the count.
#[derive(Default)]
struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Metadata;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a map of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Metadata, A::Error> {
                let mut found = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if found.len() == MAX_METADATA {
                        return Err(A::Error::custom("too much metadata"));
                    }
                    found.insert(key, value);
                }
                Ok(Metadata(found))
            }
        }
        from.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a map of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
                let mut header = RawHeader::default();
                let mut seen = std::collections::BTreeSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("'{name}' stands there twice")));
                    }
                    if seen.len() > MAX_TENSORS {
                        return Err(A::Error::custom("too many tensors"));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value::<Metadata>()?.0;
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        from.deserialize_map(Entries)
    }
}

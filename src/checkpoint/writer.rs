//! Writing safetensors as a stream: the plan gives the header, then the tensors follow in its order.

use super::header::{Stored, byte_length, check_name};
use crate::dtype::Real;
use crate::text::shape_name;
use crate::{Error, Result};
use half::{bf16, f16};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Elements converted at a time.
const CHUNK: usize = 1 << 16;

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub name: String,
    pub stored: Stored,
    pub shape: Vec<usize>,
}

impl Planned {
    pub fn new(name: impl Into<String>, stored: Stored, shape: &[usize]) -> Self {
        Planned { name: name.into(), stored, shape: shape.to_vec() }
    }
}

/// Writes the tensors of a plan, in its order, each in one or several pieces.
pub struct TensorWriter<W: Write> {
    out: W,
    plan: Vec<Planned>,
    /// The tensor being written and how many of its elements are there.
    current: usize,
    done: usize,
    buffer: Vec<u8>,
}

impl<W: Write> TensorWriter<W> {
    pub fn new(mut out: W, plan: Vec<Planned>, metadata: &BTreeMap<String, String>) -> Result<Self> {
        let header = header(&plan, metadata)?;
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        out.write_all(&header).map_err(failed)?;
        let mut writer = TensorWriter { out, plan, current: 0, done: 0, buffer: Vec::new() };
        writer.step_over_full();
        Ok(writer)
    }

    /// The next weights, converted to the planned type: F64, F32, F16 or BF16, rounded to the nearest,
    /// ties to even. NaN, infinity and values that become infinite are refused: no file with them is
    /// ever left behind.
    pub fn write<T: Real>(&mut self, mut values: &[T]) -> Result<()> {
        while !values.is_empty() {
            let (name, stored, room) = self.next()?;
            if !stored.is_float() {
                return Err(Error::shape("TensorWriter", &name, "floating point", stored));
            }
            let (piece, rest) = values.split_at(values.len().min(room).min(CHUNK));
            self.buffer.clear();
            for (i, value) in piece.iter().enumerate() {
                if !encode(stored, value.f64(), &mut self.buffer) {
                    let at = self.done + i;
                    let what = format!("tensor {name} has {} at element {at}, not written", value.f64());
                    return Err(Error::non_finite(what));
                }
            }
            self.put(piece.len())?;
            values = rest;
        }
        Ok(())
    }

    /// The next integers, for the states of an optimizer or a random generator (U64).
    pub fn write_u64(&mut self, values: &[u64]) -> Result<()> {
        self.write_words(values.iter().map(|v| v.to_le_bytes()), Stored::U64)
    }

    pub fn write_u16(&mut self, values: &[u16]) -> Result<()> {
        self.write_words(values.iter().map(|v| v.to_le_bytes()), Stored::U16)
    }

    fn write_words<const BYTES: usize>(
        &mut self,
        words: impl ExactSizeIterator<Item = [u8; BYTES]>,
        kind: Stored,
    ) -> Result<()> {
        if words.len() == 0 {
            return Ok(());
        }
        let (name, stored, room) = self.next()?;
        let count = words.len();
        if stored != kind || count > room {
            return Err(Error::shape("TensorWriter", &name, (stored, room), (kind, count)));
        }
        self.buffer.clear();
        self.buffer.extend(words.flatten());
        self.put(count)
    }

    fn next(&self) -> Result<(String, Stored, usize)> {
        let tensor = self.plan.get(self.current);
        let tensor = tensor.ok_or_else(|| Error::shape("TensorWriter", "tensors", self.plan.len(), "more"))?;
        Ok((tensor.name.clone(), tensor.stored, elements(tensor) - self.done))
    }
    fn put(&mut self, count: usize) -> Result<()> {
        self.out.write_all(&self.buffer).map_err(failed)?;
        self.done += count;
        self.step_over_full();
        Ok(())
    }
    fn step_over_full(&mut self) {
        while self.plan.get(self.current).is_some_and(|t| elements(t) == self.done) {
            self.current += 1;
            self.done = 0;
        }
    }

    /// Checks that every planned element was written and gives the output back.
    pub fn finish(mut self) -> Result<W> {
        if let Some(tensor) = self.plan.get(self.current) {
            return Err(Error::shape("TensorWriter", &tensor.name, shape_name(&tensor.shape), self.done));
        }
        self.out.flush().map_err(failed)?;
        Ok(self.out)
    }
}

fn elements(tensor: &Planned) -> usize {
    tensor.shape.iter().product() // `header` checked that it fits
}

fn failed(error: io::Error) -> Error {
    Error::io("writing tensors", error)
}

/// The header, padded with spaces so that the tensors start at a multiple of 8 bytes.
fn header(plan: &[Planned], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".into(), json!(metadata));
    }
    let mut at = 0u64;
    for tensor in plan {
        check_name(&tensor.name)?;
        let end = byte_length(tensor.stored, &tensor.shape).and_then(|n| at.checked_add(n));
        let end = end.ok_or_else(|| Error::shape("TensorWriter", &tensor.name, "fewer elements", &tensor.shape))?;
        let entry = json!({"dtype": tensor.stored.name(), "shape": tensor.shape, "data_offsets": [at, end]});
        if entries.insert(tensor.name.clone(), entry).is_some() {
            return Err(Error::shape("TensorWriter", "a name", "used once", &tensor.name));
        }
        at = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}

/// False if the value is not finite in the stored type.
fn encode(stored: Stored, value: f64, out: &mut Vec<u8>) -> bool {
    match stored {
        Stored::F64 => {
            out.extend(value.to_le_bytes());
            value.is_finite()
        }
        Stored::F32 => {
            out.extend((value as f32).to_le_bytes());
            (value as f32).is_finite()
        }
        Stored::F16 => {
            out.extend(f16::from_f64(value).to_le_bytes());
            f16::from_f64(value).is_finite()
        }
        Stored::BF16 => {
            out.extend(bf16::from_f64(value).to_le_bytes());
            bf16::from_f64(value).is_finite()
        }
        _ => false, // `write` lets only the four above through
    }
}

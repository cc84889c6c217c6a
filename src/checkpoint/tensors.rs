//! Reading safetensors: one tensor, or a slice of one, at a time.
//!
//! Files are read with `pread` into a buffer of 1 MiB and never mapped: another program that
//! truncates a mapped file kills the reader. Beside what the caller asks for, memory is the header
//! plus that buffer.

use super::header::{Header, MAX_HEADER, Stored, TensorInfo};
use crate::dtype::Real;
use crate::text::{one_line, shape_name};
use crate::{Error, Result};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const CHUNK: usize = 1 << 20;

/// Rows and columns of a tensor seen as a matrix (first dimension by the product of the others).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Slice {
    pub fn all(info: &TensorInfo) -> Self {
        let (rows, columns) = info.matrix();
        Slice { rows: 0..rows, columns: 0..columns }
    }
    pub fn columns(info: &TensorInfo, columns: Range<usize>) -> Self {
        Slice { columns, ..Slice::all(info) }
    }
    pub fn rows(info: &TensorInfo, rows: Range<usize>) -> Self {
        Slice { rows, ..Slice::all(info) }
    }
}

/// One safetensors file, its header checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    header: Header,
}

impl TensorFile {
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, length) = open_regular(path)?;
        let header = read_header(&file, length).map_err(|e| e.context(path.display()))?;
        Ok(TensorFile { path: path.into(), file, header })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }
    /// In alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.tensors.keys().map(String::as_str)
    }
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors.get(name)
    }

    /// Reads a floating-point tensor of any width. NaN and infinity are refused.
    pub fn read<T: Real>(&self, name: &str) -> Result<(Vec<usize>, Vec<T>)> {
        let info = self.wanted(name)?;
        let mut values = zeros(info.elements())?;
        self.read_into(name, &Slice::all(info), &mut values)?;
        Ok((info.shape.clone(), values))
    }
    pub fn read_f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        self.read(name)
    }
    pub fn read_f64(&self, name: &str) -> Result<(Vec<usize>, Vec<f64>)> {
        self.read(name)
    }

    /// Reads `slice` of a floating-point tensor into `out`, row after row.
    pub fn read_into<T: Real>(&self, name: &str, slice: &Slice, out: &mut [T]) -> Result<()> {
        let info = self.wanted(name)?;
        let (rows, columns) = info.matrix();
        if !info.stored.is_float() {
            return Err(self.bad(format!("tensor {name} holds {}, not weights", info.stored.name())));
        }
        if slice.rows.end > rows || slice.columns.end > columns {
            return Err(Error::shape("read_into", name, &info.shape, slice));
        }
        let want = slice.rows.len() * slice.columns.len();
        if out.len() != want {
            return Err(Error::shape("read_into", "the output's length", want, out.len()));
        }
        if slice.columns.len() == columns {
            return self.read_run(name, info, slice.rows.start * columns, out);
        }
        let width = slice.columns.len().max(1);
        for (row, values) in slice.rows.clone().zip(out.chunks_exact_mut(width)) {
            self.read_run(name, info, row * columns + slice.columns.start, values)?;
        }
        Ok(())
    }

    /// Elements `first..first + out.len()`, converted and checked chunk by chunk.
    fn read_run<T: Real>(&self, name: &str, info: &TensorInfo, first: usize, out: &mut [T]) -> Result<()> {
        let size = info.stored.size() as usize;
        let mut buffer = vec![0u8; CHUNK.min(out.len() * size)];
        let mut done = first;
        for values in out.chunks_mut(CHUNK / size) {
            let bytes = &mut buffer[..values.len() * size];
            self.read_bytes(info.start + (done * size) as u64, bytes)?;
            decode(info.stored, bytes, values);
            if let Some(i) = first_non_finite(values) {
                return Err(Error::model("E-NONFINITE", self.non_finite(name, info, done + i, values[i].f64()))
                    .context(self.path.display())
                    .fix("the file is damaged or its training diverged: use an earlier checkpoint"));
            }
            done += values.len();
        }
        Ok(())
    }

    fn non_finite(&self, name: &str, info: &TensorInfo, index: usize, value: f64) -> String {
        format!("tensor {name} ({}) has {value} at element {index}", shape_name(&info.shape))
    }

    /// Reads an integer or boolean tensor whose values fit into an i64.
    pub fn read_i64(&self, name: &str) -> Result<(Vec<usize>, Vec<i64>)> {
        self.read_integers(name, |v| i64::try_from(v).ok())
    }
    pub fn read_u64(&self, name: &str) -> Result<(Vec<usize>, Vec<u64>)> {
        self.read_integers(name, |v| u64::try_from(v).ok())
    }

    fn read_integers<T>(&self, name: &str, fit: impl Fn(i128) -> Option<T>) -> Result<(Vec<usize>, Vec<T>)> {
        let info = self.wanted(name)?;
        if info.stored.is_float() {
            return Err(self.bad(format!("tensor {name} holds {}, not integers", info.stored.name())));
        }
        let size = info.stored.size() as usize;
        let mut values = Vec::new();
        values.try_reserve_exact(info.elements()).map_err(|_| self.bad(format!("no memory for {name}")))?;
        let mut buffer = vec![0u8; CHUNK.min(info.bytes as usize)];
        let mut at = 0;
        while at < info.bytes as usize {
            let bytes = &mut buffer[..CHUNK.min(info.bytes as usize - at)];
            self.read_bytes(info.start + at as u64, bytes)?;
            for element in bytes.chunks_exact(size) {
                let value = fit(integer(info.stored, element));
                values.push(value.ok_or_else(|| self.bad(format!("tensor {name}: a value is out of range")))?);
            }
            at += bytes.len();
        }
        Ok((info.shape.clone(), values))
    }

    /// Rows of a tensor as they are stored, unchecked (in little-endian order, as the host must have it).
    pub fn rows<T: bytemuck::Pod>(&self, name: &str, stored: Stored, rows: Range<usize>) -> Result<Vec<T>> {
        let info = self.wanted(name)?;
        let (count, columns) = info.matrix();
        if info.stored != stored || rows.end > count || size_of::<T>() != stored.size() as usize {
            return Err(self.bad(format!("tensor {name} is {} {}", info.stored.name(), shape_name(&info.shape))));
        }
        let mut values = vec![T::zeroed(); rows.len() * columns];
        let start = info.start + (rows.start * columns * size_of::<T>()) as u64;
        self.read_bytes(start, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    fn read_bytes(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(bytes, at).map_err(|e| Error::io(&self.path, e))
    }
    fn wanted(&self, name: &str) -> Result<&TensorInfo> {
        self.info(name).ok_or_else(|| self.bad(format!("no tensor {}", one_line(name))))
    }
    fn bad(&self, what: String) -> Error {
        Error::model("E-TENSORS", what).context(self.path.display())
    }
}

/// Opens a file that is a file: opening a pipe would wait for ever, a device has no length.
pub(super) fn open_regular(path: &Path) -> Result<(File, u64)> {
    let about = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !about.is_file() {
        return Err(Error::io(path, "not a regular file"));
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    Ok((file, about.len()))
}

/// Reads a small text file whose size is bounded before it is read.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, length) = open_regular(path)?;
    if length > limit {
        return Err(Error::io(path, format!("{length} bytes, at most {limit} are read")));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0).map_err(|e| Error::io(path, e))?;
    Ok(bytes)
}

fn read_header(file: &File, length: u64) -> Result<Header> {
    let bad = |what: String| Error::model("E-TENSORS", what);
    let short = || bad(format!("{length} bytes are too few for a safetensors file"));
    let mut prefix = [0u8; 8];
    file.read_exact_at(&mut prefix, 0).map_err(|_| short())?;
    let header_length = u64::from_le_bytes(prefix);
    if header_length > MAX_HEADER || header_length > length.saturating_sub(8) {
        return Err(bad(format!("a header of {header_length} bytes in a file of {length}: not a safetensors file")));
    }
    let mut json = vec![0; header_length as usize];
    file.read_exact_at(&mut json, 8).map_err(|_| short())?;
    Header::parse(&json, 8 + header_length, length)
}

pub(super) fn zeros<T: Real>(count: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values
        .try_reserve_exact(count)
        .map_err(|_| Error::device("E-OOM", format!("no memory for {count} weights of {} bytes", size_of::<T>())))?;
    values.resize(count, T::default());
    Ok(values)
}

fn decode<T: Real>(stored: Stored, bytes: &[u8], out: &mut [T]) {
    match stored {
        Stored::F64 => decode_each(bytes, out, f64::from_le_bytes),
        Stored::F32 => decode_each(bytes, out, |b| f32::from_le_bytes(b) as f64),
        Stored::F16 => decode_each(bytes, out, |b| f16::from_le_bytes(b).to_f64()),
        Stored::BF16 => decode_each(bytes, out, |b| bf16::from_le_bytes(b).to_f64()),
        _ => {} // `read_into` lets only the four above through
    }
}

/// Through f64, which holds each of the four types exactly; for F32 to f32 the compiler drops it.
#[inline(always)]
fn decode_each<const N: usize, T: Real>(bytes: &[u8], out: &mut [T], value: impl Fn([u8; N]) -> f64) {
    for (element, bytes) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *element = T::of(value(*bytes));
    }
}

fn integer(stored: Stored, bytes: &[u8]) -> i128 {
    let mut wide = [0u8; 16];
    wide[..bytes.len()].copy_from_slice(bytes);
    let unsigned = i128::from_le_bytes(wide);
    let signed = matches!(stored, Stored::I64 | Stored::I32 | Stored::I16 | Stored::I8);
    let bits = 8 * bytes.len();
    if signed && unsigned >> (bits - 1) & 1 == 1 { unsigned - (1 << bits) } else { unsigned }
}

/// A value beyond f32's range read into f32 counts as infinite too.
pub(super) fn first_non_finite<T: Real>(values: &[T]) -> Option<usize> {
    let all_finite = values.iter().fold(true, |ok, v| ok & v.is_finite()); // no branch: vectorised
    if all_finite { None } else { values.iter().position(|v| !v.is_finite()) }
}

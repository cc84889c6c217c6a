//! TensorBoard event files: TFRecord frames of `Event` messages, encoded by hand.
//!
//! Frame: length (u64, little endian), its masked CRC, the message, its masked CRC. Fields of the messages, from
//! TensorFlow's event.proto and summary.proto: `Event { double wall_time = 1; int64 step = 2; string file_version = 3;
//! Summary summary = 5; SessionLog session_log = 7 }`, `Summary { repeated Value value = 1 }`, `Value { string tag = 1;
//! float simple_value = 2 }`, `SessionLog { SessionStatus status = 1 }`.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file that grows.
pub struct Events {
    file: File,
    path: PathBuf,
}

impl Events {
    /// A new `events.out.tfevents.TIME.PROCESS` in `dir`; readers of the directory take all of them, in the order of
    /// their names. Steps from `step` on that an earlier file has count no more: the run does them again.
    ///
    /// Errors: E-IO.
    pub fn create(dir: &Path, step: u64) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name =
            format!("events.out.tfevents.{:010}.{:09}.{}", now.as_secs(), now.subsec_nanos(), std::process::id());
        let path = dir.join(name);
        let file = File::create_new(&path).map_err(|e| Error::io(&path, e))?;
        let mut events = Events { file, path };
        events.write(&message(now.as_secs_f64(), 0, 3, b"brain.Event:2"))?;
        events.write(&message(now.as_secs_f64(), step, 7, &[0x08, 1]))?; // status: START
        Ok(events)
    }

    /// Adds the values of one step, by tag. Errors: E-IO.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.write(&message(now.as_secs_f64(), step, 5, &summary(values)))
    }

    fn write(&mut self, message: &[u8]) -> Result<()> {
        self.file.write_all(&frame(message)).map_err(|e| Error::io(&self.path, e))
    }
}

/// An `Event` whose field `what` is `payload`.
pub fn message(wall_time: f64, step: u64, what: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x09]; // field 1, 64 bits
    out.extend(wall_time.to_le_bytes());
    if step > 0 {
        out.push(0x10); // field 2, a varint
        varint(step, &mut out);
    }
    bytes(what, payload, &mut out);
    out
}

/// A `Summary` of simple values.
pub fn summary(values: &[(&str, f64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, value) in values {
        let mut one = Vec::new();
        bytes(1, tag.as_bytes(), &mut one);
        one.push(0x15); // field 2, 32 bits
        one.extend((*value as f32).to_le_bytes());
        bytes(1, &one, &mut out);
    }
    out
}

/// Field `number`, below 16, of length and bytes.
fn bytes(number: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    varint(value.len() as u64, out);
    out.extend(value);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A TFRecord.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let sums = [&length[..], message].map(|part| masked(crc32c(part)).to_le_bytes());
    [&length[..], &sums[0], message, &sums[1]].concat()
}

fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli, RFC 3720), bit by bit: a few hundred bytes an update.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

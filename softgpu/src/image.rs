//! What cuModuleLoadData gets: PTX text, or a fat binary with PTX and, for the numbers of ptxas, machine code.
//!
//! The layout of fat binaries is not documented; what is read here was seen in the output of nvcc 12 and 13: a header
//! (magic, version, its own size, bytes that follow) and entries, each a header (kind, its own size, bytes that
//! follow, compressed size at 16, architecture at 28, flags at 40) and its contents.

use std::ffi::{CStr, c_char};

use crate::Profile;
use crate::elf::{self, Binary};

const FATBIN: u32 = 0xba55_ed50;
/// `__fatBinC_Wrapper_t`, which nvcc puts before the fat binary in host programs.
const WRAPPER: u32 = 0x4662_43b1;
const ELF_MAGIC: u32 = u32::from_le_bytes(*b"\x7fELF");
const HEADER: usize = 16;
const PTX: u16 = 1;
const ELF: u16 = 2;
/// Flags of an entry: LZ4, or since CUDA 12.4 Zstandard; and "this architecture alone" (sm_90a).
const COMPRESSED: u64 = 0x2000 | 0x8000;
const EXACT: u64 = 0x10_0000;
/// Larger than any image, small enough to stay inside of a process.
const MAX_BYTES: u64 = 1 << 32;

/// A module's image, with the parts that this profile uses.
#[derive(Debug, PartialEq)]
pub struct Image {
    pub ptx: String,
    /// The PTX's target: 80 for sm_80.
    pub ptx_arch: u32,
    /// What ptxas made of the same kernels, for the nearest architecture that the profile could run.
    pub binary: Option<Binary>,
}

/// Why an image cannot be used, and the CUresult that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageError {
    pub result: u32,
    pub why: String,
}

const INVALID_IMAGE: u32 = 200;
const NO_BINARY_FOR_GPU: u32 = 209;
const INVALID_PTX: u32 = 218;

fn error<T>(result: u32, why: impl Into<String>) -> Result<T, ImageError> {
    Err(ImageError { result, why: why.into() })
}

/// One entry of a fat binary.
struct Entry<'a> {
    kind: u16,
    arch: u32,
    flags: u64,
    contents: &'a [u8],
}

/// Reads an image whose length is known.
pub fn read(bytes: &[u8], profile: &Profile) -> Result<Image, ImageError> {
    match le32(bytes, 0) {
        Some(FATBIN) => read_fatbin(bytes, profile),
        Some(ELF_MAGIC) => lone_binary(bytes),
        _ => read_ptx(bytes, profile),
    }
}

/// Reads an image as the driver gets it: an address. PTX text ends with a NUL, a fat binary tells its own length.
///
/// # Safety
/// `image` is not null and points to one of these.
pub unsafe fn read_pointer(image: *const u8, profile: &Profile) -> Result<Image, ImageError> {
    // SAFETY: text ends at its NUL, and nothing is read beyond it; the other kinds have headers of the sizes read.
    unsafe {
        match magic(image) {
            Some(FATBIN) => {
                let follows = u64::from_le_bytes(*image.add(8).cast::<[u8; 8]>());
                if follows > MAX_BYTES {
                    return error(INVALID_IMAGE, format!("a fat binary of {follows} bytes"));
                }
                let own = u16::from_le_bytes(*image.add(6).cast::<[u8; 2]>());
                read(std::slice::from_raw_parts(image, own as usize + follows as usize), profile)
            }
            Some(WRAPPER) => {
                let inner = image.add(8).cast::<*const u8>().read_unaligned();
                match (!inner.is_null()).then(|| magic(inner)).flatten() {
                    Some(FATBIN) => read_pointer(inner, profile),
                    _ => error(INVALID_IMAGE, "a fat binary's wrapper that leads to no fat binary"),
                }
            }
            Some(ELF_MAGIC) => lone_binary(std::slice::from_raw_parts(image, 64)),
            _ => read_ptx(CStr::from_ptr(image.cast::<c_char>()).to_bytes(), profile),
        }
    }
}

/// The first four bytes, unless a NUL comes before.
unsafe fn magic(image: *const u8) -> Option<u32> {
    let mut bytes = [0; 4];
    for (index, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: the caller's text goes on at least to its NUL, at which this stops.
        *byte = unsafe { *image.add(index) };
        if *byte == 0 {
            return None;
        }
    }
    Some(u32::from_le_bytes(bytes))
}

fn lone_binary<T>(bytes: &[u8]) -> Result<T, ImageError> {
    let what = match elf::arch(bytes) {
        Some(arch) => format!("machine code for sm_{arch} alone"),
        None => "an ELF file that is no GPU's".to_string(),
    };
    error(
        NO_BINARY_FOR_GPU,
        format!("{what}; softgpu executes PTX: pass PTX, or a fat binary that holds it ({ADVICE})"),
    )
}

const ADVICE: &str = "nvcc -fatbin --no-compress -gencode=arch=compute_80,code=compute_80";

fn read_ptx(bytes: &[u8], profile: &Profile) -> Result<Image, ImageError> {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let Ok(ptx) = std::str::from_utf8(text) else {
        return error(INVALID_IMAGE, "neither PTX text nor a fat binary");
    };
    let Some((arch, exact)) = target(ptx) else {
        return error(INVALID_IMAGE, "neither a fat binary nor PTX text: no .target line");
    };
    if !runs(arch, exact, profile) {
        return error(INVALID_PTX, format!("PTX for {}, and this device is {}", sm(arch, exact), profile.key));
    }
    Ok(Image { ptx: ptx.to_string(), ptx_arch: arch, binary: None })
}

fn read_fatbin(bytes: &[u8], profile: &Profile) -> Result<Image, ImageError> {
    let entries = entries(bytes)?;
    let usable = |entry: &&Entry| entry.kind == PTX && runs(entry.arch, entry.flags & EXACT != 0, profile);
    let ptx = entries.iter().filter(usable).max_by_key(|entry| (entry.arch, entry.flags & EXACT));
    let Some(entry) = ptx else {
        let held: Vec<_> = entries.iter().map(Entry::describe).collect();
        let held = if held.is_empty() { "nothing".to_string() } else { held.join(", ") };
        let why = format!("the fat binary holds {held}: no PTX that {} may run; add it: {ADVICE}", profile.key);
        return error(NO_BINARY_FOR_GPU, why);
    };
    if entry.flags & COMPRESSED != 0 {
        let why = format!("the fat binary's {} is compressed: build it with `nvcc --no-compress`", entry.describe());
        return error(NO_BINARY_FOR_GPU, why);
    }
    let mut image = read_ptx(entry.contents, profile)?;
    let codes = entries.iter().filter(|entry| entry.kind == ELF && entry.flags & COMPRESSED == 0);
    let nearest = codes.filter(|entry| code_runs(entry, profile)).max_by_key(|entry| entry.arch);
    image.binary = nearest.and_then(|entry| elf::read(entry.contents, entry.arch));
    Ok(image)
}

impl Entry<'_> {
    fn describe(&self) -> String {
        let kind = match self.kind {
            PTX => "PTX",
            ELF => "machine code",
            _ => "something else",
        };
        format!("{kind} for {}", sm(self.arch, self.flags & EXACT != 0))
    }
}

fn entries(bytes: &[u8]) -> Result<Vec<Entry<'_>>, ImageError> {
    let read = || -> Option<Vec<Entry<'_>>> {
        let own = le16(bytes, 6)? as usize;
        let end = own.checked_add(usize::try_from(le64(bytes, 8)?).ok()?)?;
        let bytes = bytes.get(..end).filter(|_| own >= HEADER)?;
        let (mut entries, mut at) = (Vec::new(), own);
        while at < bytes.len() {
            let header = bytes.get(at..)?;
            let start = at.checked_add(le32(header, 4)? as usize).filter(|start| *start >= at + 48)?;
            at = start.checked_add(usize::try_from(le64(header, 8)?).ok()?)?;
            entries.push(Entry {
                kind: le16(header, 0)?,
                arch: le32(header, 28)?,
                flags: le64(header, 40)?,
                contents: bytes.get(start..at)?,
            });
        }
        Some(entries)
    };
    match read() {
        Some(entries) => Ok(entries),
        None => error(INVALID_IMAGE, "a damaged or cut fat binary"),
    }
}

/// PTX is compiled for its own architecture and every later one; for an `a` target, for that one alone.
fn runs(arch: u32, exact: bool, profile: &Profile) -> bool {
    if exact { arch == profile.arch() } else { arch <= profile.arch() }
}

/// Machine code runs on its own architecture and later ones of the same generation.
fn code_runs(entry: &Entry, profile: &Profile) -> bool {
    entry.arch / 10 == profile.major && runs(entry.arch, entry.flags & EXACT != 0, profile)
}

fn sm(arch: u32, exact: bool) -> String {
    format!("sm_{arch}{}", if exact { "a" } else { "" })
}

/// The architecture that `.target` names, and whether it is one of an `a` (or `f`) kind.
fn target(ptx: &str) -> Option<(u32, bool)> {
    let line = ptx.lines().find_map(|line| line.trim_start().strip_prefix(".target"))?;
    let name = line.trim_start().strip_prefix("sm_")?;
    let digits = name.find(|c: char| !c.is_ascii_digit()).unwrap_or(name.len());
    Some((name[..digits].parse().ok()?, name[digits..].starts_with(['a', 'f'])))
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..)?.get(..2)?.try_into().ok()?))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.get(..4)?.try_into().ok()?))
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..)?.get(..8)?.try_into().ok()?))
}

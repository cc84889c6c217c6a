//! What ptxas says of each kernel in the machine code that it wrote (a cubin, which is an ELF file).
//!
//! The sections are not documented; they were compared with the output of `ptxas -v` (see tests/image.rs).

use std::collections::HashMap;
use std::ops::Range;

use crate::profile::SHARED_RESERVED;

const CUDA: u16 = 190;
/// Attributes of .nv.info, as cuobjdump names them: EIATTR_FRAME_SIZE, EIATTR_MIN_STACK_SIZE, EIATTR_REGCOUNT.
const FRAME_SIZE: u8 = 0x11;
const MIN_STACK_SIZE: u8 = 0x12;
const REGISTERS: u8 = 0x2f;
/// Form of an attribute that carries its contents: their size is in the two bytes after.
const SIZED: u8 = 4;

/// One kernel's needs, as ptxas found them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// 32-bit registers of a thread.
    pub registers: u32,
    /// Bytes.
    pub static_shared: u32,
    /// Stack of a thread, bytes: local arrays and spilled registers.
    pub stack: u32,
}

#[derive(Debug, Default, PartialEq)]
pub struct Binary {
    /// 80 for sm_80.
    pub arch: u32,
    pub kernels: HashMap<String, Usage>,
    /// Bytes of the module's __constant__ variables.
    pub constants: u32,
}

struct Section<'a> {
    name: &'a str,
    bytes: Range<usize>,
    size: u64,
    link: u32,
    info: u32,
}

/// None if the file is damaged: its numbers are a service, never needed for execution.
pub fn read(file: &[u8], arch: u32) -> Option<Binary> {
    let sections = sections(file)?;
    let mut binary = Binary { arch, ..Binary::default() };
    // Since sm_90 a kernel's shared memory begins with the part that the driver keeps; this section says so.
    let reserved = sections.iter().any(|section| section.name == ".nv.shared.reserved.0");
    let reserved = if reserved { SHARED_RESERVED } else { 0 };
    for section in &sections {
        if let Some(name) = section.name.strip_prefix(".text.") {
            // Older files have the number of registers only here; newer ones here and in .nv.info.
            binary.kernels.entry(name.to_string()).or_default().registers = section.info >> 24;
        } else if let Some(name) = section.name.strip_prefix(".nv.shared.") {
            let size = u32::try_from(section.size).ok()?;
            binary.kernels.entry(name.to_string()).or_default().static_shared = size.saturating_sub(reserved);
        } else if section.name == ".nv.constant3" {
            binary.constants = u32::try_from(section.size).ok()?;
        }
    }
    let info = sections.iter().find(|section| section.name == ".nv.info")?;
    read_info(file, &sections, info, &mut binary)?;
    // What has shared memory and no code is no kernel (.nv.shared.reserved.0).
    let coded = |name: &String| sections.iter().any(|section| section.name.strip_prefix(".text.") == Some(name));
    binary.kernels.retain(|name, _| coded(name));
    Some(binary)
}

/// The architecture in an ELF header; None if it is no GPU's.
pub fn arch(file: &[u8]) -> Option<u32> {
    let version = *file.get(8)?;
    let flags = u32::from_le_bytes(part(file, 48)?);
    let is_gpu = file.starts_with(b"\x7fELF") && u16::from_le_bytes(part(file, 18)?) == CUDA;
    // Version 8 of the ABI (CUDA 13) moved the number up by a byte.
    is_gpu.then_some(if version >= 8 { flags >> 8 & 0xff } else { flags & 0xff })
}

fn read_info(file: &[u8], sections: &[Section], info: &Section, binary: &mut Binary) -> Option<()> {
    let symbols = sections.get(info.link as usize)?;
    let mut rest = file.get(info.bytes.clone())?;
    while rest.len() >= 4 {
        let (form, attribute) = (rest[0], rest[1]);
        let size = u16::from_le_bytes(part(rest, 2)?) as usize;
        rest = &rest[4..];
        if form != SIZED {
            continue;
        }
        let contents = rest.get(..size)?;
        rest = &rest[size..];
        if !matches!(attribute, FRAME_SIZE | MIN_STACK_SIZE | REGISTERS) {
            continue;
        }
        let name = symbol(file, sections, symbols, u32::from_le_bytes(part(contents, 0)?))?;
        let value = u32::from_le_bytes(part(contents, 4)?);
        if let Some(kernel) = binary.kernels.get_mut(name) {
            match attribute {
                REGISTERS => kernel.registers = value,
                // The stack of a kernel that calls functions is larger than its own frame.
                _ => kernel.stack = kernel.stack.max(value),
            }
        }
    }
    Some(())
}

fn symbol<'a>(file: &'a [u8], sections: &[Section], symbols: &Section, index: u32) -> Option<&'a str> {
    let names = file.get(sections.get(symbols.link as usize)?.bytes.clone())?;
    let entry = file.get(symbols.bytes.clone())?.get(24 * index as usize..)?;
    string(names, u32::from_le_bytes(part(entry, 0)?))
}

fn sections(file: &[u8]) -> Option<Vec<Section<'_>>> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let start = usize::try_from(u64::from_le_bytes(part(file, 40)?)).ok()?;
    let [size, count, names] = [58, 60, 62].map(|at| part(file, at).map(u16::from_le_bytes));
    let (size, count, names) = (size? as usize, count? as usize, names? as usize);
    let header = |index: usize| file.get(start.checked_add(size * index)?..);
    let names = file.get(range(header(names)?)?)?;
    let section = |index| {
        let header = header(index)?;
        let no_bits = u32::from_le_bytes(part(header, 4)?) == 8;
        Some(Section {
            name: string(names, u32::from_le_bytes(part(header, 0)?))?,
            bytes: if no_bits { 0..0 } else { range(header)? },
            size: u64::from_le_bytes(part(header, 32)?),
            link: u32::from_le_bytes(part(header, 40)?),
            info: u32::from_le_bytes(part(header, 44)?),
        })
    };
    (0..count).map(section).collect()
}

fn range(header: &[u8]) -> Option<Range<usize>> {
    let start = usize::try_from(u64::from_le_bytes(part(header, 24)?)).ok()?;
    let size = usize::try_from(u64::from_le_bytes(part(header, 32)?)).ok()?;
    Some(start..start.checked_add(size)?)
}

fn string(table: &[u8], at: u32) -> Option<&str> {
    let text = table.get(at as usize..)?;
    let end = text.iter().position(|&byte| byte == 0)?;
    std::str::from_utf8(&text[..end]).ok()
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.get(..N)?.try_into().ok()
}

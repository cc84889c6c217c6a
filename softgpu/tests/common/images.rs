//! Fat binaries and machine code made byte by byte.
#![allow(dead_code)]

use softgpu::elf::Usage;

pub const PTX: u16 = 1;
pub const ELF: u16 = 2;
pub const EXACT: u64 = 0x10_0011;
pub const PLAIN: u64 = 0x11;

pub fn entry(kind: u16, arch: u32, flags: u64, contents: &[u8]) -> Vec<u8> {
    let mut padded = contents.to_vec();
    padded.resize(contents.len().next_multiple_of(8), 0);
    let mut bytes = Vec::new();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(0x101_u16.to_le_bytes());
    bytes.extend(64_u32.to_le_bytes());
    bytes.extend((padded.len() as u64).to_le_bytes());
    bytes.extend([0; 12]);
    bytes.extend(arch.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(flags.to_le_bytes());
    bytes.resize(64, 0);
    bytes.extend(padded);
    bytes
}

pub fn fatbin(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(0xba55_ed50_u32.to_le_bytes());
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend(16_u16.to_le_bytes());
    bytes.extend((entries.iter().map(Vec::len).sum::<usize>() as u64).to_le_bytes());
    bytes.extend(entries.concat());
    bytes
}

/// A cubin with one kernel, of the sections that are read: names, symbols, code, shared memory, information.
pub fn cubin(kernel: &str, usage: Usage) -> Vec<u8> {
    let (text, shared) = (format!(".text.{kernel}"), format!(".nv.shared.{kernel}"));
    let names = [".shstrtab", ".strtab", ".symtab", ".nv.info", &text, &shared, ".nv.constant3"];
    let mut table = vec![0];
    let places: Vec<u32> = names
        .iter()
        .map(|name| {
            let at = table.len() as u32;
            table.extend(name.bytes().chain([0]));
            at
        })
        .collect();
    let strings = format!("\0{kernel}\0").into_bytes();
    let symbols: Vec<u8> = [[0; 24], std::array::from_fn(|at| u8::from(at == 0))].concat();
    let attribute =
        |number: u8, value: u32| [&[4, number, 8, 0][..], &1_u32.to_le_bytes(), &value.to_le_bytes()].concat();
    // A form without contents comes first: a reader must step over it.
    let info = [vec![3, 0x1b, 0xff, 0], attribute(0x2f, usage.registers), attribute(0x11, usage.stack)].concat();
    let contents = [table, strings, symbols, info, vec![0; 16], Vec::new(), vec![0; 12]];
    let mut file = vec![0; 64];
    let mut headers = vec![0; 64];
    for (index, contents) in contents.iter().enumerate() {
        let no_bits = index == 5;
        let size = if no_bits { usage.static_shared as usize } else { contents.len() };
        let mut header = Vec::new();
        header.extend(places[index].to_le_bytes());
        header.extend(if no_bits { 8_u32 } else { 1 }.to_le_bytes());
        header.extend([0; 16]);
        header.extend((file.len() as u64).to_le_bytes());
        header.extend((size as u64).to_le_bytes());
        // .symtab refers to .strtab (2), .nv.info to .symtab (3).
        header.extend([0, 0, 2, 3, 0, 0, 0_u32][index].to_le_bytes());
        header.extend(if index == 4 { usage.registers << 24 | 1 } else { 0 }.to_le_bytes());
        header.resize(64, 0);
        headers.extend(header);
        file.extend(contents);
    }
    let start = file.len() as u64;
    file.extend(headers);
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[7] = 0x41;
    file[8] = 8;
    file[18..20].copy_from_slice(&190_u16.to_le_bytes());
    file[40..48].copy_from_slice(&start.to_le_bytes());
    file[48..52].copy_from_slice(&0x0900_5004_u32.to_le_bytes());
    file[58..64].copy_from_slice(&[64, 0, 8, 0, 1, 0]);
    file
}

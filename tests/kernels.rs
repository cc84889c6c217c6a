//! What the compiler made of the kernels: no spills, the table in kernels/TABLE.md is of this build, and the inner
//! loops of the matrix products are mostly tensor-core instructions.

use docre::device::cuda::images::{IMAGES, NVCC, USAGE};
use std::collections::BTreeMap;
use std::process::Command;

/// False, and said, where the kernels were not compiled.
fn compiled() -> bool {
    let required = std::env::var("DOCRE_REQUIRE_CUDA_TESTS").is_ok_and(|value| value == "1");
    assert!(!IMAGES.is_empty() || !required, "DOCRE_REQUIRE_CUDA_TESTS=1, but there are no kernels: {NVCC}");
    if IMAGES.is_empty() {
        println!("SKIPPED: no kernels in this build: {NVCC}");
    }
    !IMAGES.is_empty()
}

#[test]
fn no_kernel_spills_or_has_a_stack() {
    if !compiled() {
        return;
    }
    for (image, usage) in USAGE {
        let clean = (usage.spill_stores, usage.spill_loads, usage.stack) == (0, 0, 0);
        assert!(clean, "kernels/{image}.cu: {usage:?}");
    }
    let arches: Vec<&str> = USAGE.iter().map(|(_, usage)| usage.arch).collect();
    assert!(["sm_80", "sm_90a"].iter().all(|arch| arches.contains(arch)), "{arches:?}");
}

#[test]
fn every_kernel_has_one_name() {
    let mut places = BTreeMap::new();
    for (image, usage) in USAGE {
        let place = places.entry(usage.kernel).or_insert(image);
        assert_eq!(place, &image, "{} is in two files: the program would take either", usage.kernel);
    }
}

/// Rows `| kernel | ... |` of the table, by kernel: the numbers in its columns `registers`, written by `make kernels`.
#[test]
fn the_table_is_of_these_kernels() {
    if !compiled() || !NVCC.contains("V13.0.88") {
        println!("SKIPPED: the table is of nvcc 13.0.88, this build of {NVCC}");
        return;
    }
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/TABLE.md")).unwrap();
    let mut listed = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let (Some(kernel), Some(Ok(registers))) = (cells.get(2), cells.get(4).map(|n| n.parse::<u32>())) {
            listed.insert(kernel.to_string(), registers);
        }
    }
    let of_sm_80 = USAGE.iter().filter(|(_, usage)| usage.arch == "sm_80");
    let wrong: Vec<String> = of_sm_80
        .filter_map(|(image, usage)| match listed.get(usage.kernel) {
            Some(&registers) if registers == usage.registers => None,
            found => Some(format!("{image}: {} has {} registers, table: {found:?}", usage.kernel, usage.registers)),
        })
        .collect();
    // Variants that BERT-base does not launch (other head sizes) have no row; most kernels have one.
    assert!(wrong.iter().all(|line| line.ends_with("None")), "`make kernels` renews the table: {wrong:#?}");
    assert!(listed.len() >= 30, "{} kernels in the table", listed.len());
}

/// The part of the instructions of the innermost loop with the most HMMA that are HMMA.
fn hmma_share(listing: &[(u64, String)]) -> Option<(usize, usize)> {
    let target = |text: &str| {
        text.split("BRA")
            .nth(1)?
            .split_whitespace()
            .find_map(|word| u64::from_str_radix(word.trim_end_matches(';').strip_prefix("0x")?, 16).ok())
    };
    let back = listing.iter().filter_map(|(at, text)| Some((target(text)?, *at))).filter(|(to, at)| to < at);
    let count = |(from, to): (u64, u64)| {
        let inside = listing.iter().filter(|(at, text)| (from..=to).contains(at) && !text.contains("NOP"));
        let all: Vec<&str> = inside.map(|(_, text)| text.as_str()).collect();
        (all.iter().filter(|text| text.contains("HMMA.")).count(), all.len())
    };
    let loops: Vec<_> = back.map(|place| (place, count(place))).filter(|(_, (hmma, _))| *hmma > 0).collect();
    let innermost =
        |(from, to): (u64, u64)| !loops.iter().any(|((f, t), _)| (*f, *t) != (from, to) && *f >= from && *t <= to);
    loops.iter().filter(|(place, _)| innermost(*place)).map(|(_, counts)| *counts).max()
}

#[test]
fn the_inner_loops_of_the_products_are_tensor_core_instructions() {
    let Some(tool) = std::env::var_os("CUOBJDUMP").filter(|_| compiled()) else {
        println!("SKIPPED: CUOBJDUMP names no disassembler (`make kernels` fetches one)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for (image, bytes) in IMAGES.iter().filter(|(image, _)| ["linear", "bilinear"].contains(image)) {
        let file = dir.path().join("image.fatbin");
        std::fs::write(&file, bytes).unwrap();
        let output = Command::new(&tool).arg("-sass").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for (kernel, listing) in functions(&String::from_utf8_lossy(&output.stdout)) {
            let Some((hmma, all)) = hmma_share(&listing) else { continue };
            println!("{image}: {kernel}: {hmma} of {all} instructions of the inner loop are HMMA");
            assert!(hmma * 100 >= all * 40, "{kernel}: {hmma} of {all}");
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} kernels with a loop of products");
}

/// Of each function of the listing its instructions: address and text.
fn functions(text: &str) -> Vec<(String, Vec<(u64, String)>)> {
    let mut found: Vec<(String, Vec<(u64, String)>)> = Vec::new();
    let mut arch = "";
    for line in text.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("code for ") {
            arch = rest;
        } else if let Some(name) = line.strip_prefix("Function : ") {
            found.push((format!("{name} ({arch})"), Vec::new()));
        } else if let Some((at, rest)) = line.strip_prefix("/*").and_then(|rest| rest.split_once("*/")) {
            let place = (u64::from_str_radix(at, 16), found.last_mut());
            let text = rest.split("/*").next().unwrap_or_default().trim();
            if let (Ok(at), Some((_, listing)), false) = (place.0, place.1, text.is_empty()) {
                listing.push((at, text.into()));
            }
        }
    }
    found
}

#[test]
fn the_reader_of_listings_finds_the_inner_loop() {
    let text = "code for sm_80\nFunction : f\n /*0000*/ MOV R1, R2 ; /* 0x1 */\n /*0010*/ HMMA.16816.F32 R0 ; /* 0x1 */\n\
                /*0020*/ LDSM R2 ; /* 0x2 */\n /* 0x0003 */\n /*0030*/ @P0 BRA 0x10 ; /* 0x4 */\n /*0040*/ @P1 BRA 0x0 ; /* 0x5 */\n";
    let found = functions(text);
    assert_eq!((found[0].0.as_str(), found[0].1.len()), ("f (sm_80)", 5));
    assert_eq!(hmma_share(&found[0].1), Some((1, 3)));
}

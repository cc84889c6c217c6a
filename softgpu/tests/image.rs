//! Images that cuModuleLoadData may get: text, fat binaries made here byte by byte, and what nvcc makes.

#[path = "common/images.rs"]
mod images;
use images::{ELF, EXACT, PLAIN, PTX, cubin, entry, fatbin};
use std::path::PathBuf;
use std::process::Command;

use softgpu::elf::Usage;
use softgpu::image::{self, Image, ImageError};
use softgpu::profile::{Profile, SM_80, SM_89, SM_90};

fn ptx(target: &str) -> String {
    format!("//\n.version 8.0\n.target {target}\n.address_size 64\n.visible .entry k() {{ ret; }}\n")
}

const USAGE: Usage = Usage { registers: 42, static_shared: 4000, stack: 864 };

fn refused(bytes: &[u8], profile: &Profile) -> (u32, String) {
    let ImageError { result, why } = image::read(bytes, profile).unwrap_err();
    (result, why)
}

#[test]
fn text() {
    let image = image::read(ptx("sm_80").as_bytes(), &SM_80).unwrap();
    assert_eq!(image, Image { ptx: ptx("sm_80"), ptx_arch: 80, binary: None });
    // Text from a pointer ends at its NUL; a buffer may go on after it.
    let bytes = [ptx("sm_80").as_bytes(), b"\0junk\xff"].concat();
    assert_eq!(image::read(&bytes, &SM_80).unwrap(), image);
    assert_eq!(unsafe { image::read_pointer(bytes.as_ptr(), &SM_80) }.unwrap(), image);
}

#[test]
fn text_for_another_device() {
    assert_eq!(refused(ptx("sm_90").as_bytes(), &SM_80), (218, "PTX for sm_90, and this device is sm_80".into()));
    assert_eq!(refused(ptx("sm_80a").as_bytes(), &SM_89).0, 218);
    assert_eq!(image::read(ptx("sm_90a").as_bytes(), &SM_90).unwrap().ptx_arch, 90);
    assert_eq!(image::read(ptx("sm_75, debug").as_bytes(), &SM_90).unwrap().ptx_arch, 75);
}

#[test]
fn neither_text_nor_binary() {
    for bytes in [&b""[..], b"\0", b"hello", b"\xff\xfe\xfd\xfc", b"\x7fE"] {
        assert_eq!(refused(bytes, &SM_80).0, 200, "{bytes:?}");
        let terminated = [bytes, &[0]].concat();
        assert_eq!(unsafe { image::read_pointer(terminated.as_ptr(), &SM_80) }.unwrap_err().result, 200);
    }
}

#[test]
fn the_newest_ptx_that_the_profile_may_run() {
    let arches = [("sm_80", 80, PLAIN), ("sm_90a", 90, EXACT), ("sm_75", 75, PLAIN), ("sm_86", 86, PLAIN)];
    let entries = arches.map(|(target, arch, flags)| entry(PTX, arch, flags, ptx(target).as_bytes()));
    let bytes = fatbin(&entries);
    let arch = |profile| image::read(&bytes, profile).unwrap().ptx_arch;
    assert_eq!([&SM_80, &SM_89, &SM_90].map(arch), [80, 86, 90]);
}

#[test]
fn numbers_from_the_machine_code() {
    let text = ptx("sm_80");
    let code = |arch, flags, registers| entry(ELF, arch, flags, &cubin("k", Usage { registers, ..USAGE }));
    let text = entry(PTX, 80, PLAIN, text.as_bytes());
    let bytes = fatbin(&[text, code(80, PLAIN, 42), code(90, EXACT, 168), code(86, PLAIN, 50)]);
    let found = |profile| {
        let image = unsafe { image::read_pointer(bytes.as_ptr(), profile) }.unwrap();
        let binary = image.binary.unwrap();
        assert_eq!((binary.constants, binary.kernels.len()), (12, 1));
        (binary.arch, binary.kernels["k"])
    };
    assert_eq!(found(&SM_80), (80, USAGE));
    assert_eq!(found(&SM_89), (86, Usage { registers: 50, ..USAGE }));
    assert_eq!(found(&SM_90), (90, Usage { registers: 168, ..USAGE }));
}

#[test]
fn a_wrapper_leads_to_its_fat_binary() {
    #[repr(C)]
    struct Wrapper {
        magic: u32,
        version: u32,
        data: *const u8,
        more: usize,
    }
    let bytes = fatbin(&[entry(PTX, 80, PLAIN, ptx("sm_80").as_bytes())]);
    let mut wrapper = Wrapper { magic: 0x4662_43b1, version: 1, data: bytes.as_ptr(), more: 0 };
    let read = |wrapper: &Wrapper| unsafe { image::read_pointer((wrapper as *const Wrapper).cast(), &SM_80) };
    assert_eq!(read(&wrapper).unwrap().ptx, ptx("sm_80"));
    wrapper.data = std::ptr::null();
    assert_eq!(read(&wrapper).unwrap_err().result, 200);
    wrapper.data = c"no fat binary".as_ptr().cast();
    assert_eq!(read(&wrapper).unwrap_err().result, 200);
    assert_eq!((wrapper.version, wrapper.more), (1, 0));
}

#[test]
fn refusals_say_what_to_do() {
    for compressed in [0x2011, 0x8011] {
        let (result, why) = refused(&fatbin(&[entry(PTX, 80, compressed, b"....")]), &SM_80);
        assert_eq!(result, 209);
        assert!(why.contains("PTX for sm_80 is compressed") && why.contains("nvcc --no-compress"), "{why}");
    }
    let code = cubin("k", USAGE);
    let (result, why) = refused(&fatbin(&[entry(ELF, 80, PLAIN, &code), entry(PTX, 90, PLAIN, b"")]), &SM_80);
    assert_eq!(result, 209);
    assert!(why.contains("holds machine code for sm_80, PTX for sm_90: no PTX that sm_80 may run"), "{why}");
    let (result, why) = refused(&code, &SM_80);
    assert_eq!(result, 209);
    assert!(why.contains("machine code for sm_80 alone"), "{why}");
    assert_eq!(unsafe { image::read_pointer(code.as_ptr(), &SM_80) }.unwrap_err().result, 209);
    assert_eq!(refused(&fatbin(&[]), &SM_80).0, 209);
}

/// Any cut of an image is refused, or leaves out what was lost; nothing reads beyond the end.
#[test]
fn cut_and_damaged_images() {
    let good = fatbin(&[entry(PTX, 80, PLAIN, ptx("sm_80").as_bytes()), entry(ELF, 80, PLAIN, &cubin("k", USAGE))]);
    for end in 4..good.len() {
        assert_eq!(refused(&good[..end], &SM_80).0, 200, "cut at {end}");
    }
    for at in 0..good.len() {
        for byte in [0, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let _ = image::read(&bytes, &SM_80);
        }
    }
}

const SOURCE: &str = r#"
__constant__ int table[4] = {1, 2, 3, 4};
extern "C" __global__ void __launch_bounds__(256) axpy(float *y, const float *x, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i] * table[i & 3];
}
extern "C" __global__ void staged(float *y, const float *x, int n) {
    __shared__ float s[1000];
    extern __shared__ float d[];
    s[threadIdx.x] = x[threadIdx.x];
    d[threadIdx.x] = x[threadIdx.x + n];
    __syncthreads();
    y[threadIdx.x] = s[n - threadIdx.x] + d[n - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(1024, 2) heavy(float *y, const int *index, int n) {
    float v[64], w[40];
    for (int i = 0; i < 64; i++) v[i] = y[i * n + threadIdx.x];
    #pragma unroll
    for (int i = 0; i < 40; i++) w[i] = y[i * 31 + n * 7 + threadIdx.x];
    for (int i = 0; i < n; i++) {
        v[index[i] & 63] += v[index[i + 1] & 63];
        #pragma unroll
        for (int j = 0; j < 40; j++) w[j] = w[j] * w[(j + 1) % 40] + y[j];
    }
    float sum = 0;
    for (int i = 0; i < 64; i++) sum += v[i];
    #pragma unroll
    for (int j = 0; j < 40; j++) sum += w[j];
    y[threadIdx.x] = sum;
}
"#;

/// What `ptxas -v` prints of one kernel for one architecture, e.g.
/// "Compiling entry function 'heavy' for 'sm_80'", "864 bytes stack frame", "Used 32 registers, 4000 bytes smem".
fn parse_verbose(log: &str, arch: &str) -> Vec<(String, Usage)> {
    let number = |line: &str, before: &str| -> u32 {
        let words: Vec<_> = line[..line.find(before).unwrap_or(0)].split_whitespace().collect();
        words.last().map_or(0, |word| word.parse().unwrap())
    };
    let mut found: Vec<(String, Usage)> = Vec::new();
    let mut open = false;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            open = rest.ends_with(&format!("'{arch}'"));
            if open {
                found.push((rest.split('\'').next().unwrap().to_string(), Usage::default()));
            }
        } else if let Some((_, usage)) = found.last_mut().filter(|_| open) {
            if line.contains("bytes stack frame") {
                usage.stack = number(line, " bytes stack frame");
            }
            if let Some((_, line)) = line.split_once("Used ") {
                usage.registers = number(line, " registers");
                usage.static_shared = number(line, " bytes smem");
            }
        }
    }
    found
}

/// nvcc, where NVCC names one; without it the comparison is skipped and says so.
fn compile() -> Option<(Vec<u8>, String)> {
    let Some(nvcc) = std::env::var_os("NVCC") else {
        eprintln!("SKIPPED: NVCC names no compiler");
        return None;
    };
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, output) = (folder.join("image.cu"), folder.join("image.fatbin"));
    std::fs::write(&source, SOURCE).unwrap();
    let run = Command::new(nvcc)
        .args(["-fatbin", "--no-compress", "-lineinfo", "-Xptxas", "-v"])
        .args(["-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90a,code=sm_90a"])
        .args(["-gencode=arch=compute_80,code=compute_80", "-o"])
        .args([&output, &source])
        .output()
        .unwrap();
    let log = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success(), "{log}");
    Some((std::fs::read(output).unwrap(), log))
}

#[test]
fn the_same_numbers_as_ptxas_prints() {
    let Some((bytes, log)) = compile() else { return };
    for (profile, name, arch) in [(&SM_80, "sm_80", 80), (&SM_89, "sm_80", 80), (&SM_90, "sm_90a", 90)] {
        let image = image::read(&bytes, profile).unwrap();
        assert!(image.ptx.contains(".visible .entry heavy(") && image.ptx_arch == 80);
        let binary = image.binary.unwrap();
        assert_eq!((binary.arch, binary.constants), (arch, 16));
        let expected = parse_verbose(&log, name);
        assert_eq!(expected.len(), 3, "{log}");
        for (kernel, usage) in expected {
            assert_eq!(binary.kernels.get(&kernel), Some(&usage), "{kernel} for {name}");
        }
    }
}

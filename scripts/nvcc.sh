#!/bin/sh
# Prints the path of an nvcc of version 12.0 or newer: one that is there already (looked for where build.rs looks), or
# NVIDIA's own packages from PyPI, installed into $1 (default target/cuda; 104 MB to download, 271 MB on disk, under
# NVIDIA's licence). Messages go to stderr. Exit 1 with the reason where there is none.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-$root/target/cuda}

# One minor version: pip's newest of each do not fit together ("Unsupported .version 9.5"). x86_64, then aarch64.
packages='
nvidia-cuda-nvcc==13.0.88 \
    --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03 \
    --hash=sha256:c7ff28f86a24effdc6c034fa15230c549a273e4771b10a7fec14996f8cf3307f
nvidia-nvvm==13.0.88 \
    --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0 \
    --hash=sha256:c4376a291d72d22a315d9d2f69bdae8f8cd83a627f75bad395cee49a0fe65dc1
nvidia-cuda-crt==13.0.88 \
    --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4 \
    --hash=sha256:ee2ea2a97073e02ee62bb27841f437332be2c248e3eac013df07997ada39c003
nvidia-cuda-runtime==13.0.96 \
    --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548 \
    --hash=sha256:ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55
nvidia-cuda-cccl==13.0.85 \
    --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649 \
    --hash=sha256:6f0203e29fed809ee2b7fe9b1344df66ecab990c37d6a2e0e189b26d6c97ed7c
'

say() { echo "nvcc.sh: $*" >&2; }
fail() { say "$@"; exit 1; }

# Prints $1 and leaves, if it is an nvcc that is new enough.
try() {
    [ -f "$1" ] && [ -x "$1" ] || return 0
    release=$("$1" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
    if [ "${release:-0}" -ge 12 ]; then echo "$1" && exit 0; fi
    say "$1 is of release ${release:-unknown}; 12.0 or newer is needed: looking on"
}

try "${NVCC:-}"
try "${CUDA_HOME:-}/bin/nvcc"
try "${CUDA_PATH:-}/bin/nvcc"
for place in "${VIRTUAL_ENV:-}"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc; do try "$place"; done
try "$(command -v nvcc || true)"
try /usr/local/cuda/bin/nvcc
try "$dir/bin/nvcc"

case $(uname -s)-$(uname -m) in
    Linux-x86_64 | Linux-aarch64) ;;
    *) fail "no nvcc, and PyPI has it for Linux on x86_64 and aarch64 only: install the CUDA toolkit and set NVCC" ;;
esac
python3 -m pip --version >/dev/null 2>&1 || fail "no nvcc, and no python3 with pip to fetch it: set NVCC or CUDA_HOME"
command -v gcc >/dev/null || fail "nvcc needs gcc"

# Everything is made beside $dir and moved there when it works, so that an interrupted run leaves nothing half done.
mkdir -p "$(dirname "$dir")"
find "$(dirname "$dir")" -maxdepth 1 -name "$(basename "$dir").part.*" -mmin +60 -exec rm -rf {} + # of killed runs
part=$(mktemp -d "$dir.part.XXXXXX")
trap 'rm -rf "$part"' EXIT
trap 'exit 130' INT TERM HUP
say "installing NVIDIA's compiler, 104 MB from PyPI, into $dir"
echo "$packages" >"$part/packages.txt"
python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location --root-user-action=ignore \
    --retries 2 --no-deps --no-compile --only-binary=:all: --require-hashes --target "$part/site" \
    -r "$part/packages.txt" >"$part/log" 2>&1 ||
    fail "PyPI cannot be reached, or has not what is needed: $(grep . "$part/log" | tail -n 1)"

home=$part/site/nvidia/cu13
echo '__global__ void nothing() {}' >"$part/nothing.cu"
"$home/bin/nvcc" -ptx -arch=compute_80 -o "$part/nothing.ptx" "$part/nothing.cu" >"$part/log" 2>&1 ||
    fail "the compiler was installed but does not work: $(grep . "$part/log" | tail -n 1)"
rm -rf "$dir"
mv -T "$home" "$dir" 2>/dev/null || [ -x "$dir/bin/nvcc" ] || fail "cannot write $dir" # or another run was first
echo "$dir/bin/nvcc"

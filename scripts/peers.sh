#!/bin/sh
# Prints the path of a python that has what the programs in benches/peers need: PyTorch on the CPU, onnxruntime, onnx,
# tokenizers. It is a virtual environment in $1 (default target/peers), made from PyPI on the first call: 600 MB to
# download, 2 GB on disk. Messages go to stderr. Exit 1 with the reason where that fails.
#
# PyPI's wheel of PyTorch is the one for CUDA, whose dependencies are another 2 GB. A program on the CPU calls
# none of them, but the loader wants them all: the two small ones that are touched at start are installed, the rest are
# shared objects of the same name with nothing in them.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-$root/target/peers}

packages='torch==2.15.0 filelock==4.3.1 fsspec==2026.9.0 jinja2==3.1.6 markupsafe==3.0.4 mpmath==1.4.1 networkx==3.6.1
    sympy==1.14.0 typing-extensions==4.16.0 nvidia-cuda-runtime==13.2.86 nvidia-cuda-cupti==13.2.86 numpy==2.4.6
    onnx==1.23.2 ml-dtypes==0.6.0 onnxruntime==1.32.0 flatbuffers==25.12.19 packaging==26.4 protobuf==7.36.2
    tokenizers==0.23.3'
empty='libcublas.so.13 libcublasLt.so.13 libcudnn.so.9 libcufft.so.12 libcufile.so.0 libcusolver.so.12 libcusparse.so.12
    libcusparseLt.so.0 libnccl.so.2 libnvrtc.so.13 libnvshmem_host.so.3'

say() { echo "peers.sh: $*" >&2; }
fail() { say "$@"; exit 1; }

# The marker is written last, by the list of packages it was made from.
stamp=$(echo "$packages $empty" | cksum)
if [ "$(cat "$dir/made-from" 2>/dev/null)" = "$stamp" ]; then echo "$dir/bin/python" && exit 0; fi

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "made for Linux on x86_64: set up PyTorch and onnxruntime yourself"
command -v python3 >/dev/null || fail "python3 is needed"
command -v gcc >/dev/null || fail "gcc is needed, for the empty libraries"

say "installing PyTorch and onnxruntime, 600 MB from PyPI, into $dir"
rm -rf "$dir"
mkdir -p "$(dirname "$dir")"
python3 -m venv "$dir" >&2 || fail "python3 cannot make virtual environments (Debian: apt-get install python3-venv)"
# shellcheck disable=SC2086 # a list of words
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --retries 2 --no-deps --no-compile \
    --only-binary=:all: $packages >"$dir/log" 2>&1 ||
    fail "PyPI cannot be reached, or has not what is needed: $(grep . "$dir/log" | tail -n 1)"

site=$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for name in $empty; do
    # The two names that the loader wants at start; functions are looked up when they are first called.
    echo 'void *nvshmem_selected_device_transport, *nvshmem_init;' |
        gcc -shared -nostdlib -x c - -Wl,-soname,"$name" -o "$site/torch/lib/$name" || fail "gcc cannot make $name"
done
echo 'import os, sys; sys.setdlopenflags(os.RTLD_LAZY)' >"$site/lazy_libraries.pth"
"$dir/bin/python" -c 'import torch, onnxruntime, onnx, tokenizers; torch.ones(2, 2) @ torch.ones(2, 2)' \
    >"$dir/log" 2>&1 ||
    fail "PyTorch was installed but does not work: $(grep . "$dir/log" | tail -n 1)"
echo "$stamp" >"$dir/made-from"
echo "$dir/bin/python"

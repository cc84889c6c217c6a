#!/bin/sh
# Prints the path of cuobjdump: CUOBJDUMP, one on the PATH, or NVIDIA's packages from PyPI in target/sass (about
# 10 MB). A newer one reads the machine code of an older nvcc. Exit 1 with the reason where there is none.
set -eu
cd "$(dirname "$0")/.."
for place in "${CUOBJDUMP:-}" "$(command -v cuobjdump || true)" "$PWD/target/sass/nvidia/cu13/bin/cuobjdump"; do
    [ ! -x "$place" ] || [ -d "$place" ] || { echo "$place" && exit 0; }
done
python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target target/sass \
    nvidia-cuda-cuobjdump==13.2.78 nvidia-cuda-nvdisasm==13.2.78 >&2
chmod +x target/sass/nvidia/cu13/bin/*
echo "$PWD/target/sass/nvidia/cu13/bin/cuobjdump"

#!/bin/sh
# Prints what softgpu, the CUDA driver in software, makes of full-size work: four mean documents through every kernel
# of BERT-base, and the memory of a training step, with and without recomputation. Needs `make softgpu` and a release
# build with kernels.
set -eu
cd "$(dirname "$0")/.."
export LD_LIBRARY_PATH="$PWD/target/softgpu:${LD_LIBRARY_PATH:-}" SOFTGPU_CHECKS=bounds
docre=target/release/docre
printf "# Full-size kernels on softgpu, %s\n\nWritten by \`make gpu-model\`.\n" "$(date -u +%Y-%m-%d)"
echo
"$docre" bench kernels --device cuda --modelled h100 --documents 4 2>/dev/null
for recompute in "" --recompute; do
    printf '\n## Memory of a training step of BERT-base, four mean documents, E = 1024 %s\n\n```\n' "$recompute"
    # shellcheck disable=SC2086 # one word, or none
    "$docre" bench train --device cuda --documents 4 --repeats 1 --warm-up 0 --no-peak $recompute 2>&1 >/dev/null |
        grep -v '^warning'
    echo '```'
done

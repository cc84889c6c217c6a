#!/bin/sh
# For the first person with a GPU: all tests of the kernels on it, all benches, PyTorch beside them where it is
# installed. One report: $1, or gpu-report.md.
set -eu
cd "$(dirname "$0")/.."
report=${1:-gpu-report.md}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
NVCC=$(scripts/nvcc.sh)
export NVCC
cargo build --release
docre=target/release/docre
"$docre" doctor --json >"$work/doctor.json"
if grep -q '"software": true' "$work/doctor.json"; then
    echo "gpu-check.sh: this is softgpu, no GPU: take it off LD_LIBRARY_PATH" >&2 && exit 1
fi

section() { printf '\n## %s\n\n' "$1" >>"$report"; }
code() { printf '```\n' >>"$report" && cat "$1" >>"$report" && printf '```\n' >>"$report"; }

echo "# docre on a GPU, $(date -u +%Y-%m-%d), $(git rev-parse --short HEAD 2>/dev/null || echo 'no git')" >"$report"
"$docre" doctor >"$work/doctor" && code "$work/doctor"

section Tests
failed=0
DOCRE_TEST_DEVICE=cuda cargo test --release -p docre --test ops --test gpu --test golden --test cuda \
    --no-fail-fast -- --show-output on_the_gpu >"$work/tests" 2>&1 || failed=1
grep 'test result' "$work/tests" >"$work/summary" || failed=1 # no result is none to trust
code "$work/summary"
[ $failed = 0 ] || { section "What failed" && tail -n 200 "$work/tests" >"$work/tail" && code "$work/tail"; }

torch=
if python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    python3 benches/peers/torch_kernels.py --device cuda >"$work/torch.json" && torch="--compare $work/torch.json"
else
    echo "gpu-check.sh: python3 has no torch with CUDA: no comparison" >&2
fi
section Kernels
# shellcheck disable=SC2086 # two words, or none
"$docre" bench kernels --device cuda $torch >>"$report"
section "Models, BERT-base with the released head, mean documents"
head='| case | engine | ms | spread | TFLOP/s | GB/s | of peak | a second | times docre |'
printf '%s\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n' "$head" >>"$report"
for documents in 1 4 16; do
    for what in encoder extract train; do
        "$docre" bench $what --device cuda --documents $documents --no-peak 2>"$work/ledger" >"$work/table"
        grep '^| [a-z]* [0-9]' "$work/table" >>"$report"
    done
done
section "Memory of the last"
code "$work/ledger"
echo "gpu-check.sh: see $report" >&2
exit $failed

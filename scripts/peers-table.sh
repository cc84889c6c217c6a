#!/bin/sh
# Prints the table of docre beside PyTorch and onnxruntime on this CPU: the same documents, the same model (MiniLM, E =
# 1024, block 64, 97 classes, 6 axial layers; random head), then BERT-base's shape with random weights; two threads, turn
# by turn in one run.
#
#   scripts/peers-table.sh FILE.json [ROUNDS] > benches/peers/MACHINE.md
#
# FILE.json: a DocRED array, e.g. Re-DocRED's. Needs a release build; about 45 minutes, 10 GB of memory.
set -eu
cd "$(dirname "$0")/.."
file=$1
rounds=${2:-3}
python=$(scripts/peers.sh)
minilm=$(scripts/minilm.sh)
threads=2
bert=target/bert-base
[ -f $bert/model.safetensors ] || "$python" benches/peers/bert_base.py "$minilm" $bert
docre() { echo "target/release/docre bench $1 --serve --device cpu --threads $threads --encoder ${encoder:-$minilm} --input $file --documents $2 --precision $3 ${4:-}"; }
torch() { echo "$python benches/peers/torch_model.py --encoder $minilm --documents $file --threads $threads --what $1 --count $2 --precision $3 --layout $4 --batch 4 ${5:-}"; }
onnx() { echo "$python benches/peers/onnx_encoder.py --encoder $minilm --documents $file --threads $threads --count $1 --precision $2"; }
table() { python3 benches/peers/interleave.py --rounds "$rounds" "$@"; echo; }

printf '# docre beside PyTorch and onnxruntime on a CPU\n\nWritten by `scripts/peers-table.sh`.\n\n'
target/release/docre bench kernels --filter none --device cpu --threads $threads --precision bf16 | head -1
target/release/docre bench kernels --filter none --device cpu --threads $threads --precision f32 | head -1
echo
table --name "extract, 64 documents" \
    --engine "docre bf16=$(docre extract 64 bf16)" --engine "docre f32=$(docre extract 64 f32)" \
    --engine "docre int8=$(docre extract 64 int8)" --engine "torch strongest bf16=$(torch extract 64 bf16 strongest)" \
    --engine "torch strongest f32=$(torch extract 64 f32 strongest)"
table --name "extract, 16 documents" \
    --engine "docre bf16=$(docre extract 16 bf16)" --engine "docre f32=$(docre extract 16 f32)" \
    --engine "torch as released bf16=$(torch extract 16 bf16 released)" \
    --engine "torch as released f32=$(torch extract 16 f32 released)"
table --name "encoder, 64 documents" \
    --engine "docre bf16=$(docre encoder 64 bf16)" --engine "docre f32=$(docre encoder 64 f32)" \
    --engine "torch strongest bf16=$(torch encoder 64 bf16 strongest)" \
    --engine "torch strongest f32=$(torch encoder 64 f32 strongest)" \
    --engine "onnxruntime f32=$(onnx 64 f32)" --engine "onnxruntime int8=$(onnx 64 int8)"
table --name "train, 32 documents, 4 an update" \
    --engine "docre bf16=$(docre train 32 bf16)" --engine "docre bf16, recomputing=$(docre train 32 bf16 --recompute)" \
    --engine "docre f32=$(docre train 32 f32)" --engine "torch strongest bf16=$(torch train 32 bf16 strongest)" \
    --engine "torch strongest f32=$(torch train 32 f32 strongest)"
encoder=$bert
table --name "extract, 16 documents, BERT-base's shape" \
    --engine "docre bf16=$(docre extract 16 bf16)" --engine "docre f32=$(docre extract 16 f32)" \
    --engine "docre int8=$(docre extract 16 int8)" \
    --engine "torch strongest bf16=$(torch extract 16 bf16 strongest "--model bert-base")" \
    --engine "torch strongest f32=$(torch extract 16 f32 strongest "--model bert-base")" \
    --engine "torch as released bf16=$(torch extract 16 bf16 released "--model bert-base")" \
    --engine "torch as released f32=$(torch extract 16 f32 released "--model bert-base")"
encoder=
rounds=1
table --name "train, 4 documents, one update" \
    --engine "docre bf16=$(docre train 4 bf16)" --engine "torch as released f32=$(torch train 4 f32 released)"

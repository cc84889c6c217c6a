#!/bin/sh
# Prints the table of every op on this CPU beside the machine's peaks: scripts/ops-table.sh > benches/ops/TABLE.md
# Needs a release build; two minutes.
set -eu
cd "$(dirname "$0")/.."
cat <<'TEXT'
# Every op on a CPU, beside the machine's peaks

Written by `scripts/ops-table.sh`; the same ops as in `cargo bench --bench ops`, at the sizes of BERT-base on four mean
documents. Peaks are measured first: of the product's innermost loop with everything in the first-level cache, and of
memory. `of peak` is of the first where an op counts products, else of memory, counting each operand once.

What is below 70 %, and why:

- classifier: its 97 columns fill three panels of 32 and one of 1, so 76 % is the most.
- axial qkv in f32, forward: 29 MB of results and 14 MB of weights go through memory, which products are not counted with.
- layernorm, dropout: what takes the time is the generator of dropout (Philox, ten rounds for four elements, made again in
  the backward pass instead of stored); inference has none.
- attention, attention_rows: exponentials and dropout are not counted, and the products are only as deep as a head is wide
  (64). attention_rows recomputes one row of probabilities a mention, with hardly any product.
- axial: tables of 20 x 20, so products of 20 x 96 by 96 x 20: 20 columns in panels of 32, rows in tiles of 12 and 8,
  and operands so small that packing them is not lost beside the products.
- context_pool: its left operand is made from the attention of two entities while it multiplies, and normalised.
- pair_combine, entity_pool, evidence, loss, gelu by itself: tanh, exp and log of every element rather than memory.
- embedding: single rows of a table that is in no cache.
- gather: less than a tenth of a millisecond, of which waking the threads is a part.
- optim: a square root and a division an element, and seven streams at once; its peak is one stream's.

TEXT
for precision in bf16 f32; do
    target/release/docre bench kernels --device cpu --precision $precision
    echo
done
echo "$(uname -sm), $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -1), $(date -u +%Y-%m-%d)"

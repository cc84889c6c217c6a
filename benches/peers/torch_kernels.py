#!/usr/bin/env python3
"""The cases of `docre bench kernels` through libtorch: the same shapes and names, the same JSON (docre.bench.v1).

    python3 benches/peers/torch_kernels.py --device cuda > torch.json
    docre bench kernels --device cuda --compare torch.json

Uses whatever PyTorch is installed. Each case is written as one would in PyTorch today: fused calls where there are
any (linear, layer_norm, scaled_dot_product_attention, AdamW(fused=True)), the outer product of the bilinear form
materialised, as the released program does. bf16 activations and weights; f32 in --precision f32.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

TOKENS, ENTITIES, DIM, HEADS, INNER = 290, 20, 768, 12, 3072
EXTRACTOR, BLOCK, AXIAL_HEADS, CLASSES = 1024, 64, 8, 97
VOCABULARY = 28_996


class Bench:
    def __init__(self, args):
        self.args = args
        self.device = torch.device(args.device)
        self.dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
        self.rows = []

    def tensor(self, *shape, wide=False, grad=True):
        dtype = torch.float32 if wide else self.dtype
        return torch.randn(*shape, device=self.device, dtype=dtype).requires_grad_(grad)

    def seconds(self, run):
        for _ in range(self.args.warm_up):
            run()
        found = []
        for _ in range(self.args.repeats):
            if self.device.type == "cuda":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                run()
                end.record()
                end.synchronize()
                found.append(start.elapsed_time(end) / 1e3)
            else:
                start = time.perf_counter()
                run()
                found.append(time.perf_counter() - start)
        return found

    def add(self, name, flops, run):
        if self.args.filter not in name:
            return
        ms = [1e3 * s for s in self.seconds(run)]
        self.rows.append({
            "engine": f"torch {torch.__version__} {self.args.precision}", "name": name,
            "median_ms": statistics.median(ms), "low_ms": min(ms), "high_ms": max(ms), "repeats": len(ms),
            "flops": flops, "bytes": 0.0, "items": 0.0,
        })

    def op(self, name, flops, run):
        """`run` gives the output; its inputs ask for gradients."""

        def forward():
            with torch.no_grad():
                run()

        with torch.no_grad():
            dy = torch.randn_like(run())
        self.add(f"{name} forward", flops, forward)
        self.add(f"{name} forward+backward", 3 * flops, lambda: run().backward(dy))


def linears(b, rows, pairs):
    for what, n, inputs, out, form in [
        ("qkv", rows, DIM, 3 * DIM, "linear"), ("attention out", rows, DIM, DIM, "linear"),
        ("up", rows, DIM, INNER, "linear_gelu"), ("down", rows, INNER, DIM, "linear"),
        ("down", rows, INNER, DIM, "linear_norm"),
        ("extractor", pairs, DIM, EXTRACTOR, "linear"), ("axial qkv", pairs, DIM, 6 * DIM, "linear"),
        ("classifier", pairs, DIM, CLASSES, "linear_wide"),
    ]:
        x, w, bias = b.tensor(n, inputs), b.tensor(out, inputs), b.tensor(out)
        residual, weight, shift = b.tensor(n, out), b.tensor(out), b.tensor(out)
        after = {
            "linear_gelu": F.gelu,
            "linear_norm": lambda y: F.layer_norm(residual + y, (out,), weight, shift, 1e-12),
        }.get(form, lambda y: y)
        b.op(f"{form} {what} {n}x{inputs}x{out}", 2.0 * n * inputs * out, lambda: after(F.linear(x, w, bias)))


def rowwise(b, count):
    rows = count * TOKENS
    x, branch, weight, bias = b.tensor(rows, DIM), b.tensor(rows, DIM), b.tensor(DIM), b.tensor(DIM)
    b.op(f"layernorm {rows}x{DIM}", 0.0,
         lambda: F.layer_norm(x + F.dropout(branch, 0.1), (DIM,), weight, bias, 1e-12))
    word, position, kind = b.tensor(VOCABULARY, DIM), b.tensor(512, DIM), b.tensor(2, DIM)
    ids = torch.tensor([1008 if i % 10 == 0 else i * 97 % VOCABULARY for i in range(rows)], device=b.device)
    places = torch.arange(rows, device=b.device) % TOKENS
    b.op(f"embedding {rows}x{DIM}", 0.0, lambda: word[ids] + position[places] + kind[0])


def attentions(b, count):
    def attend(qkv, batch, length, heads, p):
        q, k, v = qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p).transpose(1, 2).reshape(batch * length, -1)

    qkv = b.tensor(count * TOKENS, 3 * DIM)
    b.op(f"attention {count}x{TOKENS}", 4.0 * count * TOKENS**2 * DIM, lambda: attend(qkv, count, TOKENS, HEADS, 0.1))

    mentions = sum(1 + e % 2 for e in range(ENTITIES))
    places = torch.arange(mentions, device=b.device) * 7 % TOKENS
    owner = torch.tensor([e for e in range(ENTITIES) for _ in range(1 + e % 2)], device=b.device)
    mean = F.one_hot(owner, ENTITIES).T.to(b.dtype) / torch.bincount(owner)[:, None]

    def rows_of_entities():
        q, k, _ = qkv.view(count, TOKENS, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        p = (q[:, :, places] @ k.transpose(2, 3) * (DIM // HEADS) ** -0.5).softmax(-1)
        return mean @ p

    b.op(f"attention_rows {count}x{TOKENS}", 2.0 * count * mentions * TOKENS * DIM, rows_of_entities)
    cells = b.tensor(count * ENTITIES**2, 6 * DIM)

    def lines(table):
        out = attend(table.reshape(-1, 3 * DIM), count * ENTITIES, ENTITIES, AXIAL_HEADS, 0.0)
        return out.view(count, ENTITIES, ENTITIES, DIM)

    def axial():
        subject, object_ = cells.view(count, ENTITIES, ENTITIES, 6 * DIM).chunk(2, -1)
        return torch.cat([lines(subject.transpose(1, 2)).transpose(1, 2), lines(object_)], -1)

    b.op(f"axial {count}x{ENTITIES}x{ENTITIES}", 8.0 * count * ENTITIES**3 * DIM, axial)


def pairs(b, count):
    n_pairs, cells = count * ENTITIES * (ENTITIES + 1) // 2, count * ENTITIES**2
    h = b.tensor(count * TOKENS, DIM)
    places = [[m % TOKENS for m in range(e, e + 1 + e % 2)] for e in range(ENTITIES)]

    def pool():
        documents = h.view(count, TOKENS, DIM)
        return torch.stack([documents[:, p].float().logsumexp(1) for p in places], 1).to(b.dtype)

    b.op(f"entity_pool {count * ENTITIES}x{DIM}", 0.0, pool)
    a = b.tensor(count, ENTITIES, HEADS, TOKENS, wide=True)
    first, second = torch.triu_indices(ENTITIES, ENTITIES, device=b.device)

    def contexts():
        positive = a.abs()
        q = (positive[:, first] * positive[:, second]).sum(2)
        return (q / (q.sum(-1, keepdim=True) + 1e-10)).to(b.dtype) @ h.view(count, TOKENS, DIM)

    b.op(f"context_pool {count}x{ENTITIES}x{TOKENS}", 2.0 * n_pairs * TOKENS * (DIM + HEADS), contexts)
    u, c, bias = b.tensor(count, ENTITIES, EXTRACTOR), b.tensor(count, len(first), EXTRACTOR), b.tensor(EXTRACTOR)
    row = torch.zeros(ENTITIES, ENTITIES, dtype=torch.long, device=b.device)
    row[first, second] = row[second, first] = torch.arange(len(first), device=b.device)
    b.op(f"pair_combine {cells}x{EXTRACTOR}", 0.0,
         lambda: torch.tanh(u[:, :, None] + c[:, row] + bias).view(cells, EXTRACTOR))
    zs, zo, w = b.tensor(cells, EXTRACTOR), b.tensor(cells, EXTRACTOR), b.tensor(DIM, EXTRACTOR * BLOCK)

    def bilinear():
        s, o = (z.view(cells, EXTRACTOR // BLOCK, BLOCK) for z in (zs, zo))
        return F.linear((s.unsqueeze(3) * o.unsqueeze(2)).view(cells, EXTRACTOR * BLOCK), w)

    b.op(f"bilinear {cells}x{EXTRACTOR}x{DIM}", 2.0 * cells * DIM * EXTRACTOR * BLOCK, bilinear)


def loss_and_optimizer(b, count):
    cells = count * ENTITIES**2
    logits = b.tensor(cells, CLASSES, wide=True)
    labels = torch.zeros(cells, CLASSES, device=b.device)
    for cell in range(0, cells, 12):
        labels[cell, 1 + cell % (CLASSES - 1)] = 1.0

    def focal():
        delta = logits - logits[:, :1]
        log_p = F.logsigmoid(delta)
        gold = (-(1 + (1 - log_p.exp())) * log_p * labels).sum(1)
        others = logits.masked_fill(labels.bool(), float("-inf"))
        (gold + others.logsumexp(1) - logits[:, 0]).mean().backward()

    b.add(f"loss {cells}x{CLASSES}", 0.0, focal)
    n = 8 << 20
    weight = b.tensor(n, wide=True)
    weight.grad = torch.randn_like(weight)
    optimizer = torch.optim.AdamW([weight], lr=1e-5, eps=1e-6, weight_decay=0.0, fused=b.device.type == "cuda")

    def step():
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()
        weight.detach().to(torch.bfloat16)

    b.add(f"optim adamw {n}", 0.0, step)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--filter", default="")
    args = parser.parse_args()
    b = Bench(args)
    linears(b, args.documents * TOKENS, args.documents * ENTITIES**2)
    rowwise(b, args.documents)
    attentions(b, args.documents)
    pairs(b, args.documents)
    loss_and_optimizer(b, args.documents)
    name = torch.cuda.get_device_name() if b.device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    json.dump({"schema": "docre.bench.v1", "device": name, "peak": None, "rows": b.rows}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()

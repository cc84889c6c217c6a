#!/usr/bin/env python3
"""Do both layouts compute the model? Against the golden numbers, and against each other on real documents.

    python3 benches/peers/check.py --golden tests/golden
    python3 benches/peers/check.py --golden tests/golden --encoder MINILM --documents FILE.json --count 4
"""

import argparse
import pathlib

import numpy as np
import torch

import documents
import onnx_encoder
import weights
from documents import Document
from objective import adaptive_focal
from released import Released
from strongest import Strongest, arrange


def say(what, ours, golden, tolerance):
    """The error relative to the largest golden value, which must stay within `tolerance`."""
    error, scale = (ours.double() - golden.double()).abs().max().item(), max(golden.abs().max().item(), 1e-3)
    print(f"{what:58} max abs error {error:.2e} of {scale:.2e}")
    if not error <= tolerance * scale:
        raise SystemExit(f"{what}: more than {tolerance:.0e} of the largest value")


def torch_weights(found):
    return {name: torch.from_numpy(value.copy()) for name, value in found.items()}


def golden_documents(stored):
    count = sum(name.endswith(".input_ids") for name in stored)
    for i in range(count):
        mentions = {}
        for entity, start, _ in stored[f"doc{i}.mentions"].tolist():
            mentions.setdefault(entity, []).append(start + 1)
        yield Document(stored[f"doc{i}.input_ids"].tolist(), [mentions[e] for e in sorted(mentions)], [])


def positive(table):
    table = table.bool()
    table[:, 0] = False
    return table


def check_golden(directory):
    config, found = weights.golden(directory / "gpu.weights.safetensors")
    exact, pad42 = (torch_weights(weights.read_safetensors(directory / f"gpu.{name}.safetensors")[0])
                    for name in ["exact", "pad42"])
    all_documents = list(golden_documents(exact))
    released = Released(config, torch_weights(found), "f32")
    for i, logits in enumerate(released.logits(all_documents)):
        say(f"golden doc{i}: released, 42 x 42, one batch", logits, pad42[f"doc{i}.logits"], 1e-4)
    strongest = Strongest(config, arrange(config, torch_weights(found))).pack()
    for i, document in enumerate(all_documents):
        exactly = Released(config, released.w, "f32", table=document.entities)
        say(f"golden doc{i}: released, n x n", exactly.logits([document])[0], exact[f"doc{i}.logits"], 1e-4)
        say(f"golden doc{i}: strongest", strongest.logits(document), exact[f"doc{i}.logits"], 1e-4)


def check_gradients(directory):
    """Of the golden loss (focal and mean square to the teacher), through both layouts."""
    config, found = weights.golden(directory / "gpu.weights.safetensors")
    for layout, name in [("released", "pad42"), ("strongest", "exact")]:
        stored = torch_weights(weights.read_safetensors(directory / f"gpu.{name}.safetensors")[0])
        leaves = {name: w.requires_grad_() for name, w in torch_weights(found).items()}
        all_documents = list(golden_documents(stored))
        if layout == "released":
            logits = torch.cat(Released(config, leaves, "f32").logits(all_documents))
        else:
            model = Strongest(config, arrange(config, leaves))
            logits = torch.cat([model.logits(document) for document in all_documents])
        table = torch.cat([positive(stored[f"doc{i}.labels"]) for i in range(len(all_documents))])
        focal = adaptive_focal(logits, table) / len(logits)
        say(f"golden loss: {layout}", focal, stored["loss.focal"], 1e-4)
        (focal + (logits - stored["teacher_logits"]).square().mean()).backward()
        names = [name for name in leaves if not name.endswith("key.bias")]  # zero in theory, noise in fact
        worst = max(names, key=lambda name: error_of(leaves[name].grad, stored[f"grad.{name}"]))
        say(f"golden gradients, the worst: {layout}", leaves[worst].grad, stored[f"grad.{worst}"], 1e-3)


def error_of(ours, golden):
    return ((ours - golden).abs().max() / golden.abs().max().clamp(min=1e-3)).item()


def check_encoder(directory, encoder):
    """MiniLM's hidden states, through all three encoders; that of onnxruntime in 8 bits by its least cosine."""
    config, found = weights.load("minilm", encoder)
    stored = torch_weights(weights.read_safetensors(directory / "minilm_encoder.safetensors")[0])
    released = Released(config, torch_weights(found), "f32")
    strongest = Strongest(config, arrange(config, released.w)).pack()
    onnx, int8 = (onnx_encoder.session(onnx_encoder.encoder(config, found), precision) for precision in ["f32", "int8"])
    for i in range(2):  # the third has two windows
        document, hidden = Document(stored[f"doc{i}.input_ids"].tolist(), [[1]], []), stored[f"doc{i}.hidden"]
        what, ids = f"MiniLM on doc{i}", np.array([document.ids])
        say(f"{what}: released", released.encode([document])[0][0], hidden, 1e-4)
        say(f"{what}: strongest", strongest.encode(document, rows=False)[0], hidden, 1e-4)
        say(f"{what}: onnxruntime", torch.from_numpy(onnx.run(["hidden"], {"ids": ids})[0][0]), hidden, 1e-4)
        eight = torch.from_numpy(int8.run(["hidden"], {"ids": ids})[0][0])
        print(f"{what}: onnxruntime int8, least cosine {torch.cosine_similarity(eight, hidden, 1).min().item():.4f}")


def check_documents(args):
    config, found = weights.load("minilm", args.encoder)
    found = torch_weights(found)
    halves = {name: w.bfloat16() for name, w in arrange(config, found).items()}
    strongest, half = Strongest(config, arrange(config, found)).pack(), Strongest(config, halves).pack()
    for i, document in enumerate(documents.load(args.documents, args.encoder / "tokenizer.json", args.count)):
        ours = Released(config, found, "f32", table=document.entities).logits([document])[0]
        what = f"document {i}, {len(document.ids)} pieces, {document.entities} entities"
        say(f"{what}: strongest", strongest.logits(document), ours, 1e-4)
        say(f"{what}: strongest bf16", half.logits(document), ours, 0.2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=pathlib.Path, required=True)
    parser.add_argument("--encoder", type=pathlib.Path, help="a directory with MiniLM")
    parser.add_argument("--documents", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=4)
    args = parser.parse_args()
    torch.manual_seed(1)
    check_gradients(args.golden)
    with torch.inference_mode():
        check_golden(args.golden)
        if args.encoder:
            check_encoder(args.golden, args.encoder)
        if args.encoder and args.documents:
            check_documents(args)


if __name__ == "__main__":
    main()

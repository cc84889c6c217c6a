#!/usr/bin/env python3
"""A worker that times the model in PyTorch: see worker.py for what it reads and writes.

    torch_model.py --layout strongest --precision bf16 --what extract --encoder MINILM --documents FILE.json

`extract` goes from token ids to predictions; `train` does updates, `--batch` documents each; `encoder` stops at the
hidden states, and its items are tokens. One pass is all `--count` documents."""

import argparse
import pathlib
from concurrent.futures import ThreadPoolExecutor

import torch

import documents
import weights
from objective import predict
from released import Released
from strongest import Strongest, arrange
from training import ReleasedTraining, StrongestTraining
from worker import serve


def batches(items, size):
    return [items[i:i + size] for i in range(0, len(items), size)]


def released(args, config, found, all_documents):
    if args.what == "train":
        training = ReleasedTraining(config, found, args.precision)
        return lambda: [training.update(batch) for batch in batches(all_documents, args.batch)]
    model = Released(config, found, args.precision)

    @torch.inference_mode()
    def extract():
        for batch in batches(all_documents, args.batch):
            for logits in model.logits(batch):
                predict(logits)

    @torch.inference_mode()
    @torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")
    def encode():
        for batch in batches(all_documents, args.batch):
            model.encode(batch)

    return extract if args.what == "extract" else encode


def strongest(args, config, found, all_documents):
    pool = Threads(args.threads)
    arranged = arrange(config, found)
    if args.what == "train":
        training = StrongestTraining(config, arranged, args.precision, pool)
        return lambda: [training.update(batch) for batch in batches(all_documents, args.batch)]
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    model = Strongest(config, {name: w.to(dtype) for name, w in arranged.items()}).pack()

    @torch.inference_mode()
    def extract(document):
        predict(model.logits(document))

    @torch.inference_mode()
    def encode(document):
        model.encode(document, rows=False)

    return lambda: list(pool.map(extract if args.what == "extract" else encode, all_documents))


class Threads:
    """One document a thread, the long ones first: on a few cores faster than threads inside the operations."""

    def __init__(self, count):
        torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=[1])

    def map(self, run, all_documents):
        order = sorted(all_documents, key=lambda document: -document.entities)
        return self.pool.map(run, order)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=["released", "strongest"], required=True)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--what", choices=["extract", "train", "encoder"], default="extract")
    parser.add_argument("--model", choices=["minilm", "bert-base"], default="minilm")
    parser.add_argument("--encoder", type=pathlib.Path, default="target/minilm", help="a directory with MiniLM")
    parser.add_argument("--documents", type=pathlib.Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda with --layout released")
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    torch.set_default_device(args.device)
    all_documents = documents.load(args.documents, args.encoder / "tokenizer.json", args.count)
    config, found = weights.load(args.model, args.encoder)
    found = {name: torch.from_numpy(value.copy()).to(args.device) for name, value in found.items()}
    run = (released if args.layout == "released" else strongest)(args, config, found, all_documents)
    items = sum(len(d.ids) for d in all_documents) if args.what == "encoder" else len(all_documents)

    def once():
        run()
        if args.device == "cuda":
            torch.cuda.synchronize()
        return items

    serve(f"torch {torch.__version__.split('+')[0]} {args.layout} {args.precision}", once)


if __name__ == "__main__":
    main()

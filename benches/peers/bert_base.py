"""An encoder of BERT-base's shape for `docre bench --encoder`: bert_base.py MINILM DIR

The random weights of `--model bert-base`, with MiniLM's vocabulary; 440 MB.
"""

import json
import pathlib
import shutil
import struct
import sys

import weights


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(value.tobytes())


minilm, out = map(pathlib.Path, sys.argv[1:])
out.mkdir(parents=True, exist_ok=True)
config, found = weights.load("bert-base", minilm)
with open(minilm / "config.json", encoding="utf-8") as file:
    raw = json.load(file)
raw |= {"hidden_size": config.hidden, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "intermediate_size": config.inner}
(out / "config.json").write_text(json.dumps(raw))
shutil.copy(minilm / "tokenizer.json", out)
encoder = {name.removeprefix("model."): value for name, value in found.items() if name.startswith("model.")}
write_safetensors(out / "model.safetensors", encoder)

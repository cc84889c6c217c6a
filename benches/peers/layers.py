"""An encoder of some of MiniLM's layers: layers.py MINILM DIR 1 3 5 (counted from 0)."""

import pathlib
import re
import sys

import weights

minilm, out, *layers = sys.argv[1:]
minilm, out = pathlib.Path(minilm), pathlib.Path(out)
found, _ = weights.read_safetensors(minilm / "model.safetensors")
kept = {}
for name, value in found.items():
    layer = re.search(r"layer\.(\d+)\.", name)
    if layer and layer[1] in layers:
        kept[name.replace(layer[0], f"layer.{layers.index(layer[1])}.")] = value
    elif not layer and value.dtype == "float32":
        kept[name] = value
weights.write_encoder(minilm, out, {"num_hidden_layers": len(layers)}, kept)

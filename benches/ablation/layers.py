"""An encoder of some of another's layers: layers.py MINILM OUT 1 3 5 (counted from 0)."""

import json
import pathlib
import re
import shutil
import struct
import sys

source, out, *layers = sys.argv[1:]
source, out = pathlib.Path(source), pathlib.Path(out)
new_place = {layer: str(place) for place, layer in enumerate(layers)}
data = (source / "model.safetensors").read_bytes()
length = struct.unpack_from("<Q", data)[0]
header, body, kept, at = json.loads(data[8:8 + length]), [], {}, 0
for name, info in header.items():
    layer = re.search(r"layer\.(\d+)\.", name)
    if name == "__metadata__" or layer and layer[1] not in new_place:
        continue
    begin, end = (8 + length + offset for offset in info["data_offsets"])
    body.append(data[begin:end])
    if layer:
        name = name.replace(layer[0], f"layer.{new_place[layer[1]]}.")
    kept[name] = {**info, "data_offsets": [at, at + end - begin]}
    at += end - begin
out.mkdir(parents=True, exist_ok=True)
text = json.dumps(kept).encode()
(out / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(body))
config = json.loads((source / "config.json").read_text()) | {"num_hidden_layers": len(layers)}
(out / "config.json").write_text(json.dumps(config))
shutil.copy(source / "tokenizer.json", out)

"""An encoder of BERT-base's shape for `docre bench --encoder`: bert_base.py MINILM DIR

The random weights of `--model bert-base`, with MiniLM's vocabulary; 440 MB.
"""

import pathlib
import sys

import weights

minilm, out = map(pathlib.Path, sys.argv[1:])
config, found = weights.load("bert-base", minilm)
encoder = {name.removeprefix("model."): value for name, value in found.items() if name.startswith("model.")}
weights.write_encoder(minilm, out, {
    "hidden_size": config.hidden, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
    "intermediate_size": config.inner,
}, encoder)

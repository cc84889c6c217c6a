#!/usr/bin/env python3
"""A worker that times the encoder in onnxruntime: see worker.py for what it reads and writes. Items are tokens.

    onnx_encoder.py --precision int8 --encoder MINILM --documents FILE.json

The graph is made of onnxruntime's own fused operators (MultiHeadAttention, SkipLayerNormalization, BiasGelu), one
document a thread and without padding. `int8` quantises the weights of all products to 8 bits, activations as they
come."""

import argparse
import os
import pathlib
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import documents
import weights
from worker import serve

FUSED = {"domain": "com.microsoft"}


class Graph:
    """Nodes and weights; every operator has one output, named after it."""

    def __init__(self, found):
        self.found, self.nodes, self.initializers = found, [], []

    def weight(self, name, change=lambda w: w):
        value = np.ascontiguousarray(change(self.found[name]))
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def op(self, kind, inputs, name, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def product(self, x, layer):
        return self.op("MatMul", [x, self.weight(f"{layer}.weight", np.transpose)], f"{layer}.product")

    def linear(self, x, layer):
        return self.op("Add", [self.product(x, layer), self.weight(f"{layer}.bias")], layer)

    def skip_layer_norm(self, x, branch, layer, norm, eps):
        """LayerNorm of x + (branch + the bias of its layer)."""
        inputs = [x, branch, self.weight(f"{norm}.weight"), self.weight(f"{norm}.bias"), self.weight(f"{layer}.bias")]
        return self.op("SkipLayerNormalization", inputs, norm, epsilon=eps, **FUSED)


def encoder(config, found):
    """Input `ids` [1, length], output `hidden` [1, length, d]."""
    g, eps, embeddings = Graph(found), config.layer_norm_eps, "model.embeddings"
    words = g.op("Gather", [g.weight(f"{embeddings}.word_embeddings.weight"), "ids"], "words")
    places = g.weight(f"{embeddings}.position_embeddings.weight",
                      lambda w: w + found[f"{embeddings}.token_type_embeddings.weight"][0])
    g.initializers += [numpy_helper.from_array(np.array([value]), name) for name, value in [("zero", 0)]]
    shape = g.op("Shape", ["ids"], "length", start=1, end=2)
    positions = g.op("Slice", [places, "zero", shape, "zero"], "positions")
    x = g.op("Add", [words, positions], "embedded")
    norm = [g.weight(f"{embeddings}.LayerNorm.{kind}") for kind in ["weight", "bias"]]
    x = g.op("LayerNormalization", [x, *norm], "start", epsilon=eps)
    for i in range(config.layers):
        layer = f"model.encoder.layer.{i}"
        q, k, v = (g.linear(x, f"{layer}.attention.self.{part}") for part in ["query", "key", "value"])
        mixed = g.op("MultiHeadAttention", [q, k, v], f"{layer}.mixed", num_heads=config.heads, **FUSED)
        out = f"{layer}.attention.output"
        x = g.skip_layer_norm(x, g.product(mixed, f"{out}.dense"), f"{out}.dense", f"{out}.LayerNorm", eps)
        up, down = f"{layer}.intermediate.dense", f"{layer}.output.dense"
        inner = g.op("BiasGelu", [g.product(x, up), g.weight(f"{up}.bias")], f"{layer}.inner", **FUSED)
        x = g.skip_layer_norm(x, g.product(inner, down), down, f"{layer}.output.LayerNorm", eps)
    hidden = g.op("Identity", [x], "hidden")
    graph = helper.make_graph(
        g.nodes, "encoder", [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "length"])],
        [helper.make_tensor_value_info(hidden, TensorProto.FLOAT, [1, "length", config.hidden])], g.initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def session(model, precision):
    """It computes in the thread that calls it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "encoder.onnx"
        onnx.save(model, path)
        if precision == "int8":
            path = quantised(path)
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])


def quantised(path):
    """The path of the model with the weights of its products in 8 bits, a scale for every column."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    to = path.with_name("int8.onnx")
    quantize_dynamic(path, to, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"],
                     extra_options={"DefaultTensorType": TensorProto.FLOAT})
    return to


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["f32", "int8"], default="f32")
    parser.add_argument("--model", choices=["minilm", "bert-base"], default="minilm")
    parser.add_argument("--encoder", type=pathlib.Path, default="target/minilm", help="a directory with MiniLM")
    parser.add_argument("--documents", type=pathlib.Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    all_documents = documents.load(args.documents, args.encoder / "tokenizer.json", args.count)
    config, found = weights.load(args.model, args.encoder)
    run = session(encoder(config, found), args.precision).run
    sequences = [np.array([window.ids]) for document in all_documents
                 for window in documents.windows(document, config.positions)]
    pool = ThreadPoolExecutor(args.threads)

    def once():
        list(pool.map(lambda ids: run(["hidden"], {"ids": ids}), sequences))
        return sum(len(document.ids) for document in all_documents)

    serve(f"onnxruntime {onnxruntime.__version__} {args.precision}", once)


if __name__ == "__main__":
    main()

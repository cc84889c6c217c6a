"""Weights by their released names, as numpy arrays: MiniLM's encoder or one of BERT-base's shape, and a random head."""

import json
import pathlib
import shutil
import struct
from dataclasses import dataclass

import numpy as np

SEED = 1
TYPES = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "U8": np.uint8}


@dataclass(frozen=True)
class Config:
    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int = 512
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1
    extractor: int = 1024
    block: int = 64
    classes: int = 97
    axial_layers: int = 6
    axial_heads: int = 8


BERT_BASE = Config(hidden=768, layers=12, heads=12, inner=3072, vocabulary=30522)


def read_safetensors(path):
    """Its tensors by name, and its metadata."""
    data = pathlib.Path(path).read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__", {})

    def tensor(info):
        begin, end = (8 + length + offset for offset in info["data_offsets"])
        return np.frombuffer(data[begin:end], TYPES[info["dtype"]]).reshape(info["shape"])

    return {name: tensor(info) for name, info in header.items()}, metadata


def write_encoder(minilm, out, changes, tensors):
    """A directory as `minilm`, with `changes` in its configuration and other tensors, in f32."""
    header, at = {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header).encode()
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(value.tobytes())
    config = json.loads((minilm / "config.json").read_text(encoding="utf-8")) | changes
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(minilm / "tokenizer.json", out)


def load(model, directory):
    """(config, weights): `minilm` from a Hugging Face directory, or `bert-base` with random weights."""
    if model == "bert-base":
        return BERT_BASE, random(shapes(BERT_BASE))
    with open(pathlib.Path(directory) / "config.json", encoding="utf-8") as file:
        raw = json.load(file)
    config = Config(hidden=raw["hidden_size"], layers=raw["num_hidden_layers"], heads=raw["num_attention_heads"],
                    inner=raw["intermediate_size"], vocabulary=raw["vocab_size"],
                    positions=raw["max_position_embeddings"], layer_norm_eps=raw["layer_norm_eps"],
                    dropout=raw["hidden_dropout_prob"])
    found, _ = read_safetensors(pathlib.Path(directory) / "model.safetensors")
    found = {f"model.{name}": value for name, value in found.items()}
    return config, {name: found[name] if name.startswith("model.") else value
                    for name, value in random(shapes(config)).items()}


def golden(path):
    """(config, weights) of a file of golden weights, which carries its sizes."""
    weights, metadata = read_safetensors(path)
    raw = json.loads(metadata["config"])
    config = Config(hidden=raw["hidden_size"], layers=raw["num_hidden_layers"], heads=raw["num_attention_heads"],
                    inner=raw["intermediate_size"], vocabulary=raw["vocab_size"],
                    positions=raw["max_position_embeddings"], layer_norm_eps=raw["layer_norm_eps"], dropout=0.0,
                    extractor=raw["extractor_size"], block=raw["block_size"], classes=raw["classes"],
                    axial_layers=raw["axial_layers"], axial_heads=raw["axial_heads"])
    return config, {name: weights[name] for name in shapes(config)}


def shapes(config):
    d, inner, e = config.hidden, config.inner, config.extractor
    found = {
        "model.embeddings.word_embeddings.weight": (config.vocabulary, d),
        "model.embeddings.position_embeddings.weight": (config.positions, d),
        "model.embeddings.token_type_embeddings.weight": (2, d),
        **layer_norm("model.embeddings.LayerNorm", d),
    }
    for i in range(config.layers):
        layer = f"model.encoder.layer.{i}"
        for part in ["query", "key", "value"]:
            found |= linear(f"{layer}.attention.self.{part}", d, d)
        found |= linear(f"{layer}.attention.output.dense", d, d)
        found |= layer_norm(f"{layer}.attention.output.LayerNorm", d)
        found |= linear(f"{layer}.intermediate.dense", inner, d)
        found |= linear(f"{layer}.output.dense", d, inner)
        found |= layer_norm(f"{layer}.output.LayerNorm", d)
    found |= linear("head_extractor", e, 2 * d) | linear("tail_extractor", e, 2 * d)
    found["projection.weight"] = (d, e * config.block)
    for i in range(config.axial_layers):
        for axis in range(2):
            attention = f"axial_transformer.axial_attns.{i}.axial_attentions.{axis}.fn"
            found |= {f"{attention}.to_q.weight": (d, d), f"{attention}.to_kv.weight": (2 * d, d)}
            found |= linear(f"{attention}.to_out", d, d)
        found |= linear(f"axial_transformer.ffns.{i}", d, d) | layer_norm(f"axial_transformer.lns.{i}", d)
    return found | linear("classifier", config.classes, d)


def linear(name, out, inputs):
    return {f"{name}.weight": (out, inputs), f"{name}.bias": (out,)}


def layer_norm(name, dim):
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def random(shapes):
    """Linear layers uniform within 1/sqrt(fan in), embeddings as in BERT, LayerNorm 1 and 0."""
    generator = np.random.default_rng(SEED)
    found, fan_in = {}, 1
    for name, shape in shapes.items():
        if "LayerNorm" in name or ".lns." in name:
            found[name] = np.full(shape, float(name.endswith("weight")), np.float32)
        elif "embeddings" in name:
            found[name] = 0.02 * generator.standard_normal(shape, np.float32)
        else:  # the bias of a layer follows its weight
            fan_in = shape[-1] if name.endswith("weight") else fan_in
            found[name] = (generator.random(shape, np.float32) * 2 - 1) / np.float32(np.sqrt(fan_in))
    return found

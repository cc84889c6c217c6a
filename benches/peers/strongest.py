"""The same model as fast as plain PyTorch goes on a CPU: nothing padded, one document at a time, projections of one
input fused, fused attention, attention probabilities of the mentions only, the first half of an extractor once an
entity and the second once an unordered pair, the bilinear form group by group without its outer product in memory.

At inference weights are packed for oneDNN once and GELU and residuals run inside the products: the calls that
torch.compile makes with frozen weights."""

import torch
import torch.nn.functional as F

from documents import windows

MKLDNN = torch.ops.mkldnn
USUAL_ROWS = 256
"""The number of rows that weights are packed for."""


def arrange(config, weights):
    """The weights of `Released`, with those that share an input side by side."""
    found = {name: w for name, w in weights.items() if "embeddings" in name or "LayerNorm" in name or ".lns." in name}

    def joined(name, parts, dim=0):
        found[name] = torch.cat([weights[part] for part in parts], dim)

    for i in range(config.layers):
        layer = f"model.encoder.layer.{i}"
        for kind in ["weight", "bias"]:
            joined(f"{i}.qkv.{kind}", [f"{layer}.attention.self.{part}.{kind}" for part in ["query", "key", "value"]])
            found[f"{i}.out.{kind}"] = weights[f"{layer}.attention.output.dense.{kind}"]
            found[f"{i}.up.{kind}"] = weights[f"{layer}.intermediate.dense.{kind}"]
            found[f"{i}.down.{kind}"] = weights[f"{layer}.output.dense.{kind}"]
    extractors = [weights[f"{side}_extractor.weight"].split(config.hidden, 1) for side in ["head", "tail"]]
    for half, name in enumerate(["of_entity", "of_pair"]):
        found[f"{name}.weight"] = torch.cat([extractor[half] for extractor in extractors])
    joined("of_pair.bias", ["head_extractor.bias", "tail_extractor.bias"])
    groups = config.extractor // config.block
    found["projection"] = weights["projection.weight"].view(config.hidden, groups, -1).transpose(0, 1).contiguous()
    for i in range(config.axial_layers):
        axes = [f"axial_transformer.axial_attns.{i}.axial_attentions.{axis}.fn" for axis in range(2)]
        joined(f"axial.{i}.qkv.weight", [f"{axis}.{part}.weight" for axis in axes for part in ["to_q", "to_kv"]])
        joined(f"axial.{i}.out.weight", [f"{axis}.to_out.weight" for axis in axes], 1)
        joined(f"axial.{i}.out.biases", [f"{axis}.to_out.bias" for axis in axes])
        for kind in ["weight", "bias"]:
            found[f"axial.{i}.after.{kind}"] = weights[f"axial_transformer.ffns.{i}.{kind}"]
    return found | {name: weights[name] for name in ["classifier.weight", "classifier.bias"]}


class Strongest:
    """`weights` as `arrange` gives them, of the type to compute in."""

    def __init__(self, config, weights):
        self.config, self.w, self.packed = config, weights, {}

    def pack(self):
        """For inference: weights of linear layers in oneDNN's own order. Those of the bilinear form stay."""
        with torch.no_grad():
            names = [name for name in self.w if name.endswith(".weight") and self.w[name].dim() == 2]
            for name in names:
                if "embeddings" not in name:
                    self.packed[name] = MKLDNN._reorder_linear_weight(self.w.pop(name), USUAL_ROWS)
            groups = self.w.pop("projection")
            self.packed["projection"] = [MKLDNN._reorder_linear_weight(group, USUAL_ROWS) for group in groups]
        return self

    def logits(self, document, training=False):
        """`[entities ** 2, classes]`"""
        n = document.entities
        hidden, rows = self.encode(document, training)
        entities, context = self.pool(document, hidden, rows)
        zs, zo = self.pairs(entities, context)
        table = self.axial(self.bilinear(zs, zo), n)
        scores = self.linear("classifier", table)
        return scores.float() * (1.0 - torch.eye(n)).view(-1, 1)

    def linear(self, name, x, bias=True, gelu=False, residual=None):
        bias = self.w[f"{name}.bias"] if bias is True else bias
        packed = self.packed.get(f"{name}.weight")
        if packed is not None and residual is not None:
            return MKLDNN._linear_pointwise.binary(x, residual, packed, bias, "add")
        if packed is not None:
            return MKLDNN._linear_pointwise(x, packed, bias, "gelu" if gelu else "none", [], "none" if gelu else "")
        y = F.linear(x, self.w[f"{name}.weight"], bias)
        y = F.gelu(y) if gelu else y
        return y if residual is None else y + residual

    def layer_norm(self, name, x, eps):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def encode(self, document, training=False, rows=True):
        """Hidden states; with `rows` also the last layer's attention of every mention, `[mentions, heads, length]`."""
        cut = windows(document, self.config.positions)
        places = torch.tensor([place for entity in document.mentions for place in entity]) if rows else None
        if len(cut) == 1:
            return self.encode_window(document.ids, places, training)
        return self.encode_windows(len(document.ids), cut, places, training)

    def encode_windows(self, length, cut, places, training):
        """Windows merged: hidden states averaged, attention summed and normalised again."""
        places = torch.zeros(0, dtype=torch.long) if places is None else places
        states, count, attention = 0, torch.zeros(length, 1), 0
        for window in cut:
            kept, shift = slice(window.start, window.stop), window.start - window.offset
            beside = (window.offset, length - window.stop + shift)
            inside = (window.start <= places + shift) & (places + shift < window.stop)
            h, a = self.encode_window(window.ids, (places + shift).clamp(0, len(window.ids) - 1), training)
            states = states + F.pad(h[kept], (0, 0, *beside))
            count[beside[0]:length - beside[1]] += 1
            attention = attention + F.pad(a[:, :, kept] * inside.to(a.dtype)[:, None, None], beside)
        return (states / (count + 1e-10)).to(h.dtype), attention / (attention.sum(-1, keepdim=True) + 1e-10)

    def encode_window(self, ids, places, training):
        config, w, length = self.config, self.w, len(ids)
        x = F.embedding(torch.tensor(ids), w["model.embeddings.word_embeddings.weight"])
        x = x + w["model.embeddings.position_embeddings.weight"][:length]
        x = x + w["model.embeddings.token_type_embeddings.weight"][0]
        x = self.layer_norm("model.embeddings.LayerNorm", x, config.layer_norm_eps)
        x = F.dropout(x, config.dropout, True) if training else x
        rows = None
        for i in range(config.layers):
            wanted = places if i + 1 == config.layers else None
            x, rows = self.encoder_layer(i, x, wanted, training)
        return x, rows

    def encoder_layer(self, i, x, places, training):
        config, layer = self.config, f"model.encoder.layer.{i}"
        length, drop = len(x), config.dropout if training else 0.0
        qkv = self.linear(f"{i}.qkv", x).view(length, 3, config.heads, -1).permute(1, 2, 0, 3)
        mix = self.attend_dropping if drop else self.attend
        mixed, rows = mix(*qkv, places)
        x = self.add(f"{i}.out", mixed.transpose(0, 1).reshape(length, -1), x, drop)
        x = self.layer_norm(f"{layer}.attention.output.LayerNorm", x, config.layer_norm_eps)
        x = self.add(f"{i}.down", self.linear(f"{i}.up", x, gelu=True), x, drop)
        return self.layer_norm(f"{layer}.output.LayerNorm", x, config.layer_norm_eps), rows

    def add(self, name, x, residual, drop):
        if drop:
            return residual + F.dropout(self.linear(name, x), drop, True)
        return self.linear(name, x, residual=residual)

    def attend(self, q, k, v, places):
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        if places is None:
            return mixed, None
        rows = (q[:, places] @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1)
        return mixed, rows.transpose(0, 1)

    def attend_dropping(self, q, k, v, places):
        """With dropout the fused form is not to be had on a CPU; the rows come for nothing."""
        p = F.dropout(((q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)).softmax(-1), self.config.dropout, True)
        return p @ v, p[:, places].transpose(0, 1) if places is not None else None

    def pool(self, document, hidden, rows):
        """Entities `[n, d]` and the contexts of the unordered pairs."""
        counts = [len(places) for places in document.mentions]
        most, n = max(counts), len(counts)
        index = torch.tensor([places + places[:1] * (most - len(places)) for places in document.mentions])
        there = torch.arange(most) < torch.tensor(counts)[:, None]
        entities = hidden[index].float().masked_fill(~there[..., None], float("-inf")).logsumexp(1)
        owner = torch.repeat_interleave(torch.arange(n), torch.tensor(counts))
        mean = (owner == torch.arange(n)[:, None]).float() / torch.tensor(counts)[:, None]
        attention = (mean @ rows.flatten(1).float()).view(n, *rows.shape[1:]).permute(2, 0, 1)
        first, second = torch.triu_indices(n, n)
        together = (attention @ attention.transpose(1, 2)).flatten(1)[:, first * n + second].t()
        together = together / (together.sum(1, keepdim=True) + 1e-10)
        return entities.to(hidden.dtype), together.to(hidden.dtype) @ hidden

    def pairs(self, entities, context):
        n = len(entities)
        first, second = torch.triu_indices(n, n)
        pair = torch.empty(n, n, dtype=torch.long)
        pair[first, second] = pair[second, first] = torch.arange(len(first))
        of_entity = self.linear("of_entity", entities, bias=None)
        of_pair = self.linear("of_pair", context)
        cells = F.embedding(pair, of_pair)
        (subjects, objects), (with_s, with_o) = of_entity.chunk(2, -1), cells.chunk(2, -1)
        zs, zo = torch.tanh(with_s + subjects[:, None]), torch.tanh(with_o + objects[None])
        return zs.view(n * n, -1), zo.view(n * n, -1)

    def bilinear(self, zs, zo):
        block = self.config.block
        if "projection" not in self.packed:
            return Bilinear.apply(zs, zo, self.w["projection"], block)
        y = torch.zeros(len(zs), self.config.hidden)
        for group, weight in enumerate(self.packed["projection"]):
            y += MKLDNN._linear_pointwise(outer(zs, zo, group, block), weight, None, "none", [], "")
        return y.to(zs.dtype)

    def axial(self, table, n):
        x, heads = table, self.config.axial_heads
        for i in range(self.config.axial_layers):
            qkv = self.linear(f"axial.{i}.qkv", x, bias=None).view(n, n, 2, 3, heads, -1)
            along_subjects = attend_small(*qkv[:, :, 0].permute(2, 1, 3, 0, 4)).permute(2, 0, 1, 3)
            along_objects = attend_small(*qkv[:, :, 1].permute(2, 0, 3, 1, 4)).permute(0, 2, 1, 3)
            both = torch.cat([along_subjects.reshape(n * n, -1), along_objects.reshape(n * n, -1)], 1)
            bias = self.w[f"axial.{i}.out.biases"].view(2, -1).sum(0)
            x = self.linear(f"axial.{i}.out", both, bias, residual=x)
            x = self.layer_norm(f"axial_transformer.lns.{i}", self.linear(f"axial.{i}.after", x), 1e-5)
        return x + table


def attend_small(q, k, v):
    """Plain products: on tables of 20 x 20 torch's fused attention is slower, its backward pass several times."""
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)).softmax(-1) @ v


def outer(zs, zo, group, block):
    at = slice(group * block, (group + 1) * block)
    return (zs[:, at, None] * zo[:, None, at]).view(len(zs), -1)


class Bilinear(torch.autograd.Function):
    """The grouped bilinear form, its outer product made again in the backward pass."""

    @staticmethod
    def forward(ctx, zs, zo, weight, block):
        ctx.save_for_backward(zs, zo, weight)
        ctx.block = block
        y = torch.zeros(len(zs), weight.shape[1])
        for group, w in enumerate(weight):
            y += outer(zs, zo, group, block) @ w.t()
        return y.to(zs.dtype)

    @staticmethod
    def backward(ctx, dy):
        (zs, zo, weight), block = ctx.saved_tensors, ctx.block
        dzs, dzo, dweight = (torch.empty_like(x) for x in (zs, zo, weight))
        for group, w in enumerate(weight):
            at = slice(group * block, (group + 1) * block)
            torch.mm(dy.t(), outer(zs, zo, group, block), out=dweight[group])
            d = (dy @ w).view(len(zs), block, block)
            dzs[:, at] = (d @ zo[:, at, None])[:, :, 0]
            dzo[:, at] = (zs[:, None, at] @ d)[:, 0]
        return dzs, dzo, dweight, None

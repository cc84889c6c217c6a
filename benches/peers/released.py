"""The model as the released program lays it out: padded batches, eager attention whose probabilities are kept, one
42 x 42 table a document, the outer product of the bilinear form in memory, separate weights for every projection."""

import torch
import torch.nn.functional as F

from documents import windows

TABLE = 42


class Released:
    """`weights` are torch tensors by released name. `table` is the side of a document's table."""

    def __init__(self, config, weights, precision, table=TABLE):
        self.config, self.w, self.precision, self.table = config, weights, precision, table
        self.device = next(iter(weights.values())).device.type

    def parameters(self):
        return list(self.w.values())

    def logits(self, documents, training=False):
        """One `[entities ** 2, classes]` a document."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
            pooled = [self.pool(d, h, a) for d, (h, a) in zip(documents, self.encode(documents, training))]
            heads, tails, contexts = (torch.stack(parts) for parts in zip(*pooled))
            zs = torch.tanh(self.linear("head_extractor", torch.cat([heads, contexts], -1)))
            zo = torch.tanh(self.linear("tail_extractor", torch.cat([tails, contexts], -1)))
            if training:  # in training padded cells are zero
                real = self.real_cells(documents)
                zs, zo = zs * real, zo * real
            table = self.axial(self.bilinear(zs, zo))
            scores = self.linear("classifier", table)
        return [self.real(scores[i], d) for i, d in enumerate(documents)]

    def linear(self, name, x):
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def layer_norm(self, name, x, eps):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def dropout(self, x, training):
        return F.dropout(x, self.config.dropout, training)

    def encode(self, documents, training=False):
        """For each document its hidden states and the last layer's attention, padded where it has one window."""
        cut = [windows(document, self.config.positions) for document in documents]
        flat = [window for of_document in cut for window in of_document]
        hidden, attentions = self.encode_batch([window.ids for window in flat], training)
        found, at = [], 0
        for document, of_document in zip(documents, cut):
            span = slice(at, at + len(of_document))
            found.append(merge(len(document.ids), of_document, hidden[span], attentions[-1][span]))
            at = span.stop
        return found

    def encode_batch(self, sequences, training):
        """Hidden states, and the attention probabilities of all layers."""
        config, w = self.config, self.w
        length = max(map(len, sequences))
        ids = torch.tensor([s + [0] * (length - len(s)) for s in sequences])
        mask = torch.tensor([[1.0] * len(s) + [0.0] * (length - len(s)) for s in sequences])
        bias = (1.0 - mask)[:, None, None, :] * torch.finfo(torch.float32).min
        x = F.embedding(ids, w["model.embeddings.word_embeddings.weight"])
        x = x + F.embedding(torch.arange(length), w["model.embeddings.position_embeddings.weight"])
        x = x + F.embedding(torch.zeros_like(ids), w["model.embeddings.token_type_embeddings.weight"])
        x = self.dropout(self.layer_norm("model.embeddings.LayerNorm", x, config.layer_norm_eps), training)
        attentions = []
        for i in range(config.layers):
            x, probabilities = self.encoder_layer(f"model.encoder.layer.{i}", x, bias, training)
            attentions.append(probabilities)
        return x, attentions

    def encoder_layer(self, layer, x, bias, training):
        batch, length, dim = x.shape
        heads, eps = self.config.heads, self.config.layer_norm_eps
        q, k, v = (self.linear(f"{layer}.attention.self.{part}", x).view(batch, length, heads, -1).transpose(1, 2)
                   for part in ["query", "key", "value"])
        scores = q @ k.transpose(2, 3) / (dim // heads) ** 0.5 + bias
        probabilities = self.dropout(scores.softmax(-1), training)
        mixed = (probabilities @ v).transpose(1, 2).reshape(batch, length, dim)
        branch = self.dropout(self.linear(f"{layer}.attention.output.dense", mixed), training)
        x = self.layer_norm(f"{layer}.attention.output.LayerNorm", x + branch, eps)
        inner = F.gelu(self.linear(f"{layer}.intermediate.dense", x))
        branch = self.dropout(self.linear(f"{layer}.output.dense", inner), training)
        return self.layer_norm(f"{layer}.output.LayerNorm", x + branch, eps), probabilities

    def pool(self, document, hidden, attention):
        """Entities as heads, as tails and their contexts, each `[table, table, d]`, zero in padded cells."""
        n, pad = document.entities, self.table - document.entities
        if pad < 0:
            raise SystemExit(f"a document of {n} entities, the released table has {self.table}")
        entities = torch.stack([hidden[places].float().logsumexp(0) for places in document.mentions])
        rows = torch.stack([attention[:, places].float().mean(1) for places in document.mentions])
        first, second = torch.cartesian_prod(torch.arange(n), torch.arange(n)).unbind(1)
        together = (rows[first] * rows[second]).sum(1)
        together = together / (together.sum(1, keepdim=True) + 1e-10)
        context = torch.einsum("pl,ld->pd", together, hidden.to(together.dtype))

        def laid(x):
            return F.pad(x.view(n, n, -1), (0, 0, 0, pad, 0, pad))

        return laid(entities[first]), laid(entities[second]), laid(context)

    def real_cells(self, documents):
        mask = torch.zeros(len(documents), self.table, self.table, 1)
        for i, document in enumerate(documents):
            mask[i, :document.entities, :document.entities] = 1.0
        return mask

    def bilinear(self, zs, zo):
        block = self.config.block
        zs, zo = (z.view(*z.shape[:-1], -1, block) for z in (zs, zo))
        outer = (zs.unsqueeze(-1) * zo.unsqueeze(-2)).flatten(-3)
        return F.linear(outer, self.w["projection.weight"])

    def axial(self, table):
        x = table
        for i in range(self.config.axial_layers):
            attention = f"axial_transformer.axial_attns.{i}.axial_attentions"
            along_subjects = self.attend(f"{attention}.0.fn", x.transpose(1, 2)).transpose(1, 2)
            x = x + along_subjects + self.attend(f"{attention}.1.fn", x)
            x = self.layer_norm(f"axial_transformer.lns.{i}", self.linear(f"axial_transformer.ffns.{i}", x), 1e-5)
        return x + table

    def attend(self, name, x):
        """Along the second axis but one."""
        heads = self.config.axial_heads
        q = F.linear(x, self.w[f"{name}.to_q.weight"])
        k, v = F.linear(x, self.w[f"{name}.to_kv.weight"]).chunk(2, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(2, 3) for part in (q, k, v))
        probabilities = (q @ k.transpose(3, 4) * q.shape[-1] ** -0.5).softmax(-1)
        return self.linear(f"{name}.to_out", (probabilities @ v).transpose(2, 3).flatten(3))

    def real(self, scores, document):
        n = document.entities
        off_diagonal = 1.0 - torch.eye(n).unsqueeze(-1)
        return (scores[:n, :n].float() * off_diagonal).reshape(n * n, -1)


def merge(length, of_document, hidden, attention):
    """The windows of one document as one."""
    if len(of_document) == 1:
        return hidden[0], attention[0]
    states, count = hidden.new_zeros(length, hidden.shape[2]), hidden.new_zeros(length, 1)
    whole = attention.new_zeros(attention.shape[1], length, length)
    for window, h, a in zip(of_document, hidden, attention):
        kept = slice(window.start, window.stop)
        there = slice(window.offset, window.offset + window.stop - window.start)
        states[there] += h[kept]
        count[there] += 1
        whole[:, there, there] += a[:, kept, kept]
    return states / (count + 1e-10), whole / (whole.sum(-1, keepdim=True) + 1e-10)

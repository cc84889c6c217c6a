"""Documents of a DocRED file as the model reads them: word pieces with a `*` before and behind every mention."""

import json
from dataclasses import dataclass

import tokenizers

CLASSES = 97
"""Relations and the threshold class, which is 0."""


@dataclass
class Document:
    """Word pieces with `[CLS]` and `[SEP]`; for each entity the places of its mentions' opening markers."""

    ids: list[int]
    mentions: list[list[int]]
    labels: list[tuple[int, int, int]]
    """(head entity, tail entity, class)"""

    @property
    def entities(self):
        return len(self.mentions)


@dataclass
class Window:
    """What the encoder reads at once; its rows `start..stop` are the document's from `offset` on."""

    ids: list[int]
    start: int
    stop: int
    offset: int


def load(path, tokenizer, count):
    """The first `count` documents of a DocRED array. `tokenizer` is the path of a tokenizer.json (WordPiece)."""
    with open(path, encoding="utf-8") as file:
        raw = json.load(file)[:count]
    if len(raw) < count:
        raise SystemExit(f"{path}: {len(raw)} documents, {count} asked for")
    names = sorted({label["r"] for document in raw for label in document.get("labels", [])})
    if len(names) >= CLASSES:
        raise SystemExit(f"{path}: {len(names)} relations, there are {CLASSES - 1} classes for them")
    classes = {name: 1 + i for i, name in enumerate(names)}
    split = Splitter(tokenizer)
    return [encode(document, split, classes) for document in raw]


class Splitter:
    """Splits one token at a time and remembers it."""

    def __init__(self, path):
        self.tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.marker, self.start, self.end = (self.tokenizer.token_to_id(piece) for piece in ["*", "[CLS]", "[SEP]"])
        self.known = {}

    def __call__(self, token):
        if token not in self.known:
            self.known[token] = self.tokenizer.encode(token, add_special_tokens=False).ids
        return self.known[token]


def encode(raw, split, classes):
    starts = [0]
    for sentence in raw["sents"]:
        starts.append(starts[-1] + len(sentence))
    spans = [[(starts[m["sent_id"]] + m["pos"][0], starts[m["sent_id"]] + m["pos"][1]) for m in entity]
             for entity in raw["vertexSet"]]
    opens, closes = ({span[i] for entity in spans for span in entity} for i in range(2))
    ids, opened = [split.start], {}
    for t, token in enumerate(token for sentence in raw["sents"] for token in sentence):
        if t in opens:
            opened[t] = len(ids)
            ids.append(split.marker)
        ids += split(token)
        if t + 1 in closes:
            ids.append(split.marker)
    ids.append(split.end)
    labels = [(label["h"], label["t"], classes[label["r"]]) for label in raw.get("labels", [])]
    return Document(ids, [[opened[start] for start, _ in entity] for entity in spans], labels)


def windows(document, width):
    """One window, or two that overlap where the document is longer than the encoder is wide."""
    ids = document.ids
    if len(ids) <= width:
        return [Window(ids, 0, len(ids), 0)]
    if len(ids) > 2 * width - 2:
        raise SystemExit(f"a document of {len(ids)} word pieces: two windows of {width} leave a hole")
    offset = len(ids) - width + 1
    return [Window(ids[:width - 1] + ids[-1:], 0, width - 1, 0), Window(ids[:1] + ids[offset:], 1, width, offset)]

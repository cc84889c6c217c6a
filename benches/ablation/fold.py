"""Fold I of five of all documents: fold.py I FILE... TRAIN GOLD. By the SHA-1 of the title, so that it is the same everywhere."""

import hashlib
import json
import sys

fold, *files, train, gold = sys.argv[1:]
documents = [document for file in files for document in json.load(open(file))]
documents.sort(key=lambda document: hashlib.sha1(document["title"].encode()).hexdigest())
held_out = documents[int(fold) :: 5]
rest = [document for i, document in enumerate(documents) if i % 5 != int(fold)]
for path, part in [(train, rest), (gold, held_out)]:
    with open(path, "w") as out:
        json.dump(part, out)

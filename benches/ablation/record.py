"""One line of results.jsonl: record.py RUN DEVICE GOLD OUT LAST. Counts are made here, apart from `docre eval`, and must agree."""

import json
import sys

run, device, gold, out, last = sys.argv[1:]


def triples_of_gold(document):
    return {(label["h"], label["t"], label["r"]) for label in document["labels"]}


def triples_of_line(line):
    return {(int(r["h"].lstrip("e")), int(r["t"].lstrip("e")), r["r"]) for r in json.loads(line)["relations"]}


documents = json.load(open(gold))
row = {"run": run, "device": device}
for stage, directory in [("teacher", "teacher"), ("student", last)]:
    predicted = [triples_of_line(line) for line in open(f"{out}/{directory}.jsonl")]
    assert len(predicted) == len(documents)
    counts = [
        [len(p & triples_of_gold(d)), len(p), len(triples_of_gold(d))] for p, d in zip(predicted, documents)
    ]
    correct, guessed, there = (sum(column) for column in zip(*counts))
    f1 = 200 * correct / max(guessed + there, 1)
    figures = json.load(open(f"{out}/{directory}.json"))
    assert abs(f1 - figures["f1"]) < 1e-9, (stage, f1, figures["f1"])
    # Of each document [correct, predicted, gold], for paired comparisons.
    row[stage] = {"f1": round(f1, 3), "ign_f1": round(figures["ign_f1"], 3), "documents": counts}
print(json.dumps(row))

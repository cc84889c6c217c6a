"""results.jsonl as a table: table.py results.jsonl"""

import json
import random
import statistics
import sys

ORDERS = {
    "full": ("the unlabelled documents, then fine-tuning to the annotated ones", {
        "full": "full: axial attention, adaptive focal loss, distillation (MSE), fine-tuning",
        "hard-labels": "without distillation: the teacher's labels only",
        "no-axial": "without axial attention",
        "threshold": "adaptive threshold loss instead of adaptive focal",
        "three-layers": "a student of three encoder layers (MiniLM's second, fourth and sixth)",
    }),
    "together": ("unlabelled and annotated documents together, no fine-tuning", {
        "together": "axial attention, adaptive focal loss, distillation (MSE)",
        "together-hard-labels": "without distillation: the teacher's labels only",
        "together-weight-0.3": "distillation of weight 0.3 instead of 1",
        "together-weight-3.0": "distillation of weight 3",
        "together-weight-10.0": "distillation of weight 10",
        "together-kl": "distillation by KL instead of MSE",
        "together-no-axial": "without axial attention",
        "together-threshold": "adaptive threshold loss instead of adaptive focal",
        "together-atgl": "ATGL (alpha 2) instead of adaptive focal",
        "together-three-layers": "a student of three encoder layers",
    }),
}
SAMPLES = 2000

rows = {}
for line in open(sys.argv[1]):
    row = json.loads(line)
    rows[tuple(row["run"].split(":"))] = row


def f1(counts):
    correct, predicted, gold = (sum(column) for column in zip(*counts))
    return 200 * correct / max(predicted + gold, 1)


def paired(pairs):
    """Mean difference of F1 over runs (of lists of documents' counts), its 95 % interval over documents, drawn alike."""
    draw = random.Random(1)
    differences = []
    for _ in range(SAMPLES):
        per_run = []
        for ours, others in pairs:
            chosen = [draw.randrange(len(ours)) for _ in ours]
            per_run.append(f1([ours[i] for i in chosen]) - f1([others[i] for i in chosen]))
        differences.append(statistics.mean(per_run))
    differences.sort()
    mean = statistics.mean(f1(ours) - f1(others) for ours, others in pairs)
    return mean, differences[SAMPLES // 40], differences[-1 - SAMPLES // 40]


def difference(ours, others):
    """As text: of runs of the same seeds or folds."""
    mean, low, high = paired([(ours[seed]["documents"], others[seed]["documents"]) for seed in sorted(ours.keys() & others.keys())])
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def spread(values):
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation} ({len(values)})"


def runs(variant, fold, stage):
    return {key[1]: row[stage] for key, row in rows.items() if key[0] == variant and key[1].startswith("fold") == fold}


def table(base, variants, fold):
    """Rows of one order; each difference is to the order's first row, of that to the paper's order."""
    first, full = runs(base, fold, "student"), runs("full", fold, "student")
    lines = [(name, runs(variant, fold, "teacher"), runs(variant, fold, "student")) for variant, name in variants.items()]
    lines.insert(1, ("labels alone: the teacher, no fewer updates", {}, runs("full", fold, "teacher")))
    for name, teachers, own in lines:
        if not own.keys() & first.keys():
            continue
        figures = [spread([row[what] for row in of.values()]) if of else ""
                   for of, what in [(teachers, "f1"), (own, "f1"), (own, "ign_f1")]]
        other = full if own is lines[0][2] else first
        print(f"| {name} | {' | '.join(figures)} | {'' if own == other else difference(own, other)} |")


print("# Ablations in miniature\n")
print("Written by `benches/ablation/run.sh`: MiniLM with the demo's head, 450 documents of Re-DocRED, 999 without labels, the")
print(f"schedule of config.toml for all, bf16 on {' and '.join(sorted({row['device'] for row in rows.values()}))}. F1 of the last "
      "weights in percent, mean ± standard deviation (runs). Differences")
print("are to the first row of the same table on the same seeds or folds (of the second table's first row to the first table's),")
print("in brackets their 95 % interval over documents (paired bootstrap, a fresh draw for each run).")
for fold, title in [(False, "tune50, seeds 66 to 68"), (True, "Five-fold cross-validation over 500 documents, seed 66")]:
    for base, (order, variants) in ORDERS.items():
        if runs(base, fold, "student"):
            print(f"\n## {title}: {order}\n")
            print("| | its teacher's F1 | F1 | Ign F1 | difference |")
            print("|---|---|---|---|---|")
            table(base, variants, fold)

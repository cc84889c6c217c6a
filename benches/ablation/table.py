"""results.jsonl as a table: table.py results.jsonl"""

import json
import random
import statistics
import sys

NAMES = {
    "full": "full: axial attention, adaptive focal loss, distillation (MSE)",
    "hard-labels": "without distillation: the teacher's labels only",
    "no-axial": "without axial attention",
    "threshold": "adaptive threshold loss instead of adaptive focal",
    "atgl": "ATGL (alpha 2) instead of adaptive focal",
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
    mean, low, high = paired([(ours[seed]["documents"], others[seed]["documents"]) for seed in sorted(ours.keys() & others)])
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def spread(values):
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation} ({len(values)})"


def runs(variant, fold, stage):
    return {key[1]: row[stage] for key, row in rows.items() if key[0] == variant and key[1].startswith("fold") == fold}


print("# Ablations in miniature\n")
print("`benches/ablation/run.sh`: MiniLM with the demo's head, 450 documents of Re-DocRED, 999 without labels, the schedule of")
print("config.toml for all, bf16 on CPU. F1 of the last weights in percent, mean ± standard deviation (runs); differences to")
print("full on the same seeds or folds, in brackets their 95 % interval over documents (paired bootstrap, a fresh draw for each run).")
for fold, title in [(False, "tune50, seeds 66 to 68"), (True, "five-fold cross-validation over 500 documents, seed 66")]:
    full = runs("full", fold, "student")
    if not full:
        continue
    print(f"\n## {title}\n")
    print("| | its teacher's F1 | F1 | Ign F1 | difference |")
    print("|---|---|---|---|---|")
    lines = [(name, runs(variant, fold, "teacher"), runs(variant, fold, "student")) for variant, name in NAMES.items()]
    lines.insert(1, ("labels alone: the teacher of full, as many updates", {}, runs("full", fold, "teacher")))
    for name, teachers, own in lines:
        if not own.keys() & full.keys():
            continue
        figures = [spread([row[what] for row in of.values()]) if of else ""
                   for of, what in [(teachers, "f1"), (own, "f1"), (own, "ign_f1")]]
        print(f"| {name} | {' | '.join(figures)} | {'' if own is lines[0][2] else difference(own, full)} |")

"""results.jsonl as a table: table.py results.jsonl"""

import json
import random
import statistics
import sys

NAMES = {
    "full": "full: axial attention, adaptive focal loss, distillation (MSE)",
    "hard-labels": "without distillation: the teacher's labels only",
    "supervised": "450 documents alone, as many updates as the student",
    "no-axial": "without axial attention",
    "threshold": "adaptive threshold loss instead of adaptive focal",
    "atgl": "ATGL (alpha 2) instead of adaptive focal",
}
FIGURES = [("teacher", "f1"), ("student", "f1"), ("last", "f1"), ("last", "ign_f1")]
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


def spread(values):
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation} ({len(values)})"


def runs(variant, fold):
    return {key[1]: row for key, row in rows.items() if key[0] == variant and key[1].startswith("fold") == fold}


print("# Ablations in miniature\n")
print("`benches/ablation/run.sh`: MiniLM with the demo's head, 450 documents of Re-DocRED, 999 without labels, the schedule of")
print("config.toml for all, bf16 on CPU. F1 of the last weights in percent, mean ± standard deviation (runs); differences to")
print("full on the same seeds or folds, in brackets their 95 % interval over documents (paired bootstrap, a fresh draw for each run).")
for fold, title in [(False, "tune50, seeds 66 to 68"), (True, "five-fold cross-validation over 500 documents, seed 66")]:
    full = runs("full", fold)
    if not full:
        continue
    print(f"\n## {title}\n")
    print("| | teacher F1 | student F1 | F1 | Ign F1 | difference | minutes a run |")
    print("|---|---|---|---|---|---|---|")
    for variant, name in NAMES.items():
        own = runs(variant, fold)
        if not own:
            continue
        difference = ""
        both = sorted(set(own) & set(full))
        if variant != "full" and both:
            mean, low, high = paired([(own[s]["documents"], full[s]["documents"]) for s in both])
            difference = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
        figure = [spread([row[stage][what] for row in own.values() if stage in row]) for stage, what in FIGURES]
        minutes = statistics.mean(row["seconds"] for row in own.values()) / 60
        print(f"| {name} | {' | '.join(figure)} | {difference} | {minutes:.0f} |")

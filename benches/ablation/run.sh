#!/bin/sh
# The ablations: trains and measures what results.jsonl does not have yet, one run after another, and can be stopped
# anywhere. DATA (default data) holds redocred/, docred/ and minilm/ as in examples/distill-demo.toml; RUNS (default
# runs/ablation) the models, of which only figures stay. BUDGET: begin no run after so many seconds.
#   benches/ablation/run.sh [variant:seed ...]      seed 66 67 68 on tune50; fold0 .. fold4: cross-validation, seed 66
set -eu
cd "$(dirname "$0")/../.."
here=benches/ablation
DATA=${DATA:-data} RUNS=${RUNS:-runs/ablation} DOCRE=${DOCRE:-target/release/docre} BUDGET=${BUDGET:-1000000}
results=$here/results.jsonl
begin=$(date +%s)

# Variants of one seed follow each other: those that share a teacher find it there.
all=''
for seed in 66 67 68; do
    for variant in full hard-labels no-axial threshold atgl; do all="$all $variant:$seed"; done
done
for fold in 0 1 2 3 4; do
    for variant in full hard-labels; do all="$all $variant:fold$fold"; done
done

settings() { # of a variant
    case $1 in
        full) ;;
        hard-labels) echo '-s student.distillation.weight=0.0' ;;
        no-axial) echo '-s model.axial_layers=0' ;;
        threshold) echo '-s objective.kind="adaptive-threshold"' ;;
        atgl) echo '-s objective.kind="atgl"' ;;
        *) echo "no variant $1" >&2; exit 2 ;;
    esac
}

for run in ${*:-$all}; do
    variant=${run%:*} seed=${run#*:}
    touch "$results"
    if grep -q "\"run\": \"$run\"" "$results"; then continue; fi
    if [ $(($(date +%s) - begin)) -gt "$BUDGET" ]; then break; fi
    out=$RUNS/$variant-$seed
    train=$DATA/redocred/fit450.json gold=$DATA/redocred/tune50.json number=$seed epochs=13
    case $seed in
        fold*)
            number=66 epochs=14 # 1,400 updates, as the student's
            train=$RUNS/$seed-train.json gold=$RUNS/$seed-gold.json
            mkdir -p "$RUNS"
            python3 $here/fold.py "${seed#fold}" "$DATA/redocred/fit450.json" "$DATA/redocred/tune50.json" "$train" "$gold"
            ;;
    esac
    if [ "$variant" = hard-labels ] && [ -d "$RUNS/full-$seed/teacher" ] && [ ! -d "$out" ]; then
        mkdir -p "$out"
        cp -r "$RUNS/full-$seed/teacher" "$RUNS/full-$seed/logits" "$out"
    fi
    start=$(date +%s)
    # shellcheck disable=SC2046 # the settings are words
    "$DOCRE" distill $here/config.toml --out "$out" $(settings "$variant") -s "schedule.seed=$number" \
        -s "teacher.schedule.epochs=$epochs" -s "data.train=[\"$train\"]" \
        -s "student.data.train=[\"$DATA/docred/unlabelled999.json\", \"$train\"]" \
        -s "data.relations=$DATA/redocred/rel2id.json" -s "data.relation_names=$DATA/redocred/rel_info.json" \
        -s "model.start=$DATA/minilm"
    seconds=$(($(date +%s) - start))
    for stage in teacher student; do
        "$DOCRE" extract "$gold" -m "$out/$stage/best" -o "$out/$stage.jsonl" --quiet
        "$DOCRE" eval --gold "$gold" --pred "$out/$stage.jsonl" --train-facts "$DATA/docred/train_facts.json" --json \
            > "$out/$stage.json"
    done
    python3 $here/record.py "$run" "$seconds" "$gold" "$out" >> "$results"
    rm -rf "$out/student"
    if [ "$variant" != full ]; then rm -rf "$out"; fi
done
python3 $here/table.py "$results" > $here/TABLE.md

#!/bin/sh
# The ablations: trains and measures what results.jsonl does not have yet, one run after another, and can be stopped
# anywhere. DATA (default data) holds redocred/, docred/ and minilm/ as in examples/distill-demo.toml, and minilm3/, made
# by `benches/peers/layers.py $DATA/minilm $DATA/minilm3 1 3 5`. RUNS (default runs/ablation) holds the models, of which
# those of full stay, 12 GB. BUDGET: begin no run after so many seconds.
#   benches/ablation/run.sh [variant:seed ...]      seed 66 67 68 on tune50; fold0 .. fold4: cross-validation, seed 66
# `full` is the order of the paper: a student of the unlabelled documents, then fine-tuned to the annotated ones.
# `together` has both kinds at once and no fine-tuning. Several may run at once, each with runs of its own.
set -eu
cd "$(dirname "$0")/../.."
here=benches/ablation
DATA=${DATA:-data} RUNS=${RUNS:-runs/ablation} DOCRE=${DOCRE:-target/release/docre} BUDGET=${BUDGET:-1000000}
results=$here/results.jsonl
begin=$(date +%s)
device=$("$DOCRE" doctor | sed -n 's/^GPU *\([^,]*\),.*/\1/p' | head -n 1)
if [ -z "$device" ] || [ "${DOCRE_DEVICE:-auto}" = cpu ]; then device=CPU; fi

# Of one seed full comes first: others share its teacher.
all=''
for seed in 66 67 68; do
    all="$all full:$seed hard-labels:$seed no-axial:$seed threshold:$seed three-layers:$seed together:$seed"
    for variant in hard-labels weight-0.3 weight-3.0 weight-10.0 kl no-axial threshold atgl three-layers; do
        all="$all together-$variant:$seed"
    done
done
for fold in 0 1 2 3 4; do
    for variant in full hard-labels together together-hard-labels; do all="$all $variant:fold$fold"; done
done

# Of a variant: its settings, and whether its teacher is that of full.
choose() {
    settings='' same_teacher=true
    case $1 in
        full) ;;
        hard-labels) settings='-s student.distillation.weight=0.0' ;;
        weight-*) settings="-s student.distillation.weight=${1#weight-}" ;;
        kl) settings='-s student.distillation.kind="kl"' ;;
        three-layers) settings="-s student.model.start=\"$DATA/minilm3\"" ;;
        no-axial) settings='-s model.axial_layers=0' same_teacher=false ;;
        threshold) settings='-s objective.kind="adaptive-threshold"' same_teacher=false ;;
        atgl) settings='-s objective.kind="atgl"' same_teacher=false ;;
        *) echo "no variant $1" >&2; exit 2 ;;
    esac
}

for run in ${*:-$all}; do
    variant=${run%:*} seed=${run#*:}
    touch "$results"
    if grep -q "\"run\": \"$run\"" "$results"; then continue; fi
    if [ $(($(date +%s) - begin)) -gt "$BUDGET" ]; then break; fi
    out=$RUNS/$variant-$seed
    train=$DATA/redocred/fit450.json gold=$DATA/redocred/tune50.json number=$seed epochs=20
    case $seed in
        fold*)
            number=66 epochs=21 # 2,100 updates, no fewer than the student's
            train=$RUNS/$seed-train.json gold=$RUNS/$seed-gold.json
            mkdir -p "$RUNS"
            python3 $here/fold.py "${seed#fold}" "$DATA/redocred/fit450.json" "$DATA/redocred/tune50.json" "$train" "$gold"
            ;;
    esac
    case $variant in together) choose full ;; *) choose "${variant#together-}" ;; esac
    documents=\"$DATA/docred/unlabelled999.json\"
    case $variant in # 2,178 or 1,000 and 1,130 updates
        together*) last=student documents="$documents, \"$train\"" settings="$settings -s student.schedule.epochs=6" ;;
        *) last=finetune settings="$settings -s student.schedule.epochs=4 -s finetune.schedule.epochs=10" ;;
    esac
    if $same_teacher && [ -d "$RUNS/full-$seed/teacher" ] && [ ! -d "$out" ]; then
        mkdir -p "$out"
        cp -r "$RUNS/full-$seed/teacher" "$out"
    fi
    # shellcheck disable=SC2086 # the settings are words
    "$DOCRE" distill $here/config.toml --out "$out" $settings -s "schedule.seed=$number" \
        -s "teacher.schedule.epochs=$epochs" -s "data.train=[\"$train\"]" \
        -s "student.data.train=[$documents]" \
        -s "data.relations=$DATA/redocred/rel2id.json" -s "data.relation_names=$DATA/redocred/rel_info.json" \
        -s "model.start=$DATA/minilm"
    for stage in teacher $last; do
        "$DOCRE" extract "$gold" -m "$out/$stage/best" -o "$out/$stage.jsonl" --quiet
        "$DOCRE" eval --gold "$gold" --pred "$out/$stage.jsonl" --train-facts "$DATA/docred/train_facts.json" --json \
            > "$out/$stage.json"
    done
    python3 $here/record.py "$run" "$device" "$gold" "$out" "$last" >> "$results"
    if [ "$variant" != full ]; then rm -rf "$out"; fi
done
python3 $here/table.py "$results" > $here/TABLE.md

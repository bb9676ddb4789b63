#!/usr/bin/env bash
# The quick start keeps its promises: it ends well, the last logged loss is below half of the first, and the model answers a question of the data.
. "$(dirname "$0")/common.sh"
make_scratch
cd "$scratch"
scripts/quickstart | tee quickstart.out

log=output/quickstart/trainer_log.jsonl
[[ -s $log ]] || fail "$log is missing"
losses=$(sed -n 's/.*"loss": *\([0-9.eE+-]*\).*/\1/p' "$log")
awk 'NR == 1 { first = $1 } { last = $1 }
     END { printf "first loss %s, last loss %s, %d lines\n", first, last, NR; exit !(NR >= 2 && last < first / 2) }' <<<"$losses" || fail "the last loss is not below half of the first"
answer=$(sed -n 's/^Answer: *//p' quickstart.out)
grep -qi 'shard' <<<"$answer" || fail "the answer is '$answer'"
for file in config.json generation_config.json model.safetensors tokenizer.json trainer_state.json train_results.json all_results.json training_loss.png; do
  [[ -s output/quickstart/$file ]] || fail "output/quickstart/$file is missing"
done

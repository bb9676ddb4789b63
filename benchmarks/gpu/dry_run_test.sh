#!/usr/bin/env bash
# benchmarks/gpu/run from end to end on the CPU with tiny shapes: every phase ends with a figure or says why not, results are there after each, a phase that
# hangs or fails ends alone.   SOURCE BUILD SCRATCH
set -euo pipefail
source_dir=$1 build_dir=$2 scratch=$3
fail() {
  echo "FAILED: $*" >&2
  exit 1
}
rm -rf "$scratch"
mkdir -p "$scratch"
run=("$source_dir/benchmarks/gpu/run" --build "$build_dir" --out "$scratch" --device cpu --tiny)

"${run[@]}" --stem all || fail "the dry run"
cat "$scratch/all.md"
for phase in 'accumulation 1' 'whole row' 'where time goes'; do
  grep -qE "^\| tiny \| $phase \| passed \| [0-9.]+ \|" "$scratch/all.md" || fail "no figure for: $phase"
done
# The peer runs where python3 has torch and transformers, and is named as not run elsewhere.
if python3 -c 'import torch, transformers' 2>/dev/null; then
  grep -qE '^\| tiny \| peer: PyTorch \| passed \| [0-9.]+ \|' "$scratch/all.md" || fail "the peer has no figure"
  grep -q 'tiny, accumulation 1: [0-9.]* times the peer' "$scratch/all.md" || fail "no ratio to the peer"
else
  grep -q '^| tiny | peer: PyTorch | not run |' "$scratch/all.md" || fail "the peer is not named as not run"
fi
grep -qE '^\| largest \| 4 layers of tiny train \| passed \| [0-9.]+ \|' "$scratch/all.md" || fail "no largest model"
grep -q 'llmtrain.* bench .*--accumulate 2' "$scratch/all.md" || fail "the commands are not named"
grep -q 'limit: copy within the device' "$scratch/all.md" || fail "no kernels"
grep -q '"result": {' "$scratch/all.json" || fail "no results in the JSON"
if command -v python3 >/dev/null; then python3 -m json.tool "$scratch/all.json" >/dev/null || fail "the JSON cannot be read"; fi

# Cut off in the middle: the phases that had ended are there.
"${run[@]}" --stem cut --no-peer 2>"$scratch/cut.log" &
pid=$!
for _ in {1..600}; do
  if grep -q 'accumulation 1' "$scratch/cut.md" 2>/dev/null; then break; fi
  sleep 0.1
done
kill "$pid" 2>/dev/null || true
wait "$pid" 2>/dev/null || true
grep -qE '^\| tiny \| accumulation 1 \| passed \| [0-9.]+ \|' "$scratch/cut.md" || fail "a run that was cut off left no figure"
if command -v python3 >/dev/null; then python3 -m json.tool "$scratch/cut.json" >/dev/null || fail "the JSON of a run that was cut off cannot be read"; fi
# The ratios of a dry run are no ratios; a result that is worse than what was kept is an error.
if command -v python3 >/dev/null; then
  ratios=$source_dir/benchmarks/regression
  [[ $("$ratios" "$scratch/all.json") == "no ratios"* ]] || fail "ratios out of a dry run"
  "$ratios" cpu/tokenize/hugging-face=22 >/dev/null || fail "an equal ratio is called worse"
  if "$ratios" cpu/tokenize/hugging-face=11 >/dev/null; then fail "half the ratio is accepted"; fi
fi

# Nothing chosen, and no time: said, not run.
code=0
"${run[@]}" --stem none --only nothing-like-this 2>/dev/null || code=$?
[[ $code -eq 3 ]] || fail "exit code $code where nothing is chosen"
"${run[@]}" --stem late --only tiny --seconds 5 --no-peer || fail "a run without time"
[[ $(grep -c '| not run |.*no time was left' "$scratch/late.md") -eq 3 ]] || fail "phases without time are not named: $(cat "$scratch/late.md")"
# Without a GPU: 77.
if ! "$build_dir/tests/gpu_probe" >/dev/null; then
  code=0
  "$source_dir/benchmarks/gpu/run" --build "$build_dir" --out "$scratch" --stem gpu || code=$?
  [[ $code -eq 77 ]] || fail "exit code $code without a GPU"
fi

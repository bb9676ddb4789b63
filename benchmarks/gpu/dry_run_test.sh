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
grep -qE '^\| tiny \| peer: PyTorch \| (passed|not run) \|' "$scratch/all.md" || fail "the peer's row"
grep -q 'limit: copy within the device' "$scratch/all.md" || fail "no kernels"
grep -q '"result": {' "$scratch/all.json" || fail "no results in the JSON"
if command -v python3 >/dev/null; then python3 -m json.tool "$scratch/all.json" >/dev/null || fail "the JSON cannot be read"; fi

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

#!/usr/bin/env bash
# scripts/gpu-check: says that there is no GPU and ends with 77; on the emulated plugin it runs a part of its tests and writes the report that it
# promises, with what did not run named.   SOURCE BUILD SCRATCH
. "$(dirname "$0")/common.sh"
rm -rf "$scratch"
mkdir -p "$scratch/none"
check=("$source_dir/scripts/gpu-check" --build "$build_dir")

code=0
"${check[@]}" --minutes 0 2>/dev/null || code=$?
[[ $code -eq 2 ]] || fail "--minutes 0: exit code $code"
if ! "$build_dir/tests/gpu_probe" >/dev/null; then
  code=0
  said=$("${check[@]}" --out "$scratch/none" 2>&1) || code=$?
  [[ $code -eq 77 && $said == *GPU* && -z $(ls "$scratch/none") ]] || fail "without a GPU: exit code $code, $said"
fi

plugin=$build_dir/tests/libllmtrain-cuda-emulated.so
[[ -e $plugin ]] || { printf 'SKIPPED: gpu-check on the emulator\tno emulated plugin in this build\n'; exit 77; }
export LLMTRAIN_CUDA_PLUGIN=$plugin
# One kernel test that passes and the shared reference that is absent: not run, named, and so no success.
code=0
GTEST_FILTER='*Sum*' "${check[@]}" --out "$scratch/report" --shared "$scratch/absent" --minutes 3 --only '^kernels-cuda-flash$|^gpu-reference-shared$' || code=$?
report=("$scratch"/report/*-emulated-gpu.md)
[[ -s ${report[0]} ]] || fail "no report"
cat "${report[0]}"
[[ $code -eq 1 ]] || fail "exit code $code where a reference test did not run"
grep -q '^| kernels-cuda-flash | passed |' "${report[0]}" || fail "the kernel tests"
grep -q '^| gpu-reference-shared | not run |.*shared reference data absent' "${report[0]}" || fail "the reference test is not 'not run'"
tail -n 1 "${report[0]}" | grep -q 'did not run, and so show nothing.*gpu-reference-shared' || fail "the summary does not name it at the end"
grep -q "Commit [0-9a-f]" "${report[0]}" || fail "no commit"
(($(ls "$scratch/report" | wc -l) <= 8)) || fail "too many files"
if command -v python3 >/dev/null; then python3 -m json.tool "${report[0]%.md}.json" >/dev/null || fail "the JSON cannot be read"; fi

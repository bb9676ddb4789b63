#!/usr/bin/env bash
# The bundle of `make dist-check`: small enough, and its tests run from another folder with an empty environment, out of the bundle alone.
# SOURCE BUILD SCRATCH
. "$(dirname "$0")/common.sh"
rm -rf "$scratch"
mkdir -p "$scratch/a folder"
cd "$source_dir"
scripts/dist --check "$build_dir" "$scratch/out"
bytes=$(stat -c %s "$scratch"/out/llmtrain-*-check.tar.xz)
((bytes <= 34 << 20)) || fail "the bundle with tests takes $bytes bytes, more than 34 MiB"
tar -xf "$scratch"/out/llmtrain-*-check.tar.xz -C "$scratch/a folder"
cd "$scratch/a folder"/llmtrain-*
bundle=$PWD
cd /
empty=(env -i PATH=/usr/bin:/bin HOME="$scratch" LLMTRAIN_SHARED="$scratch/absent")
grep -q $'^gpu-golden\t' "$bundle/share/tests.list" || fail "the list has no tests for a GPU"
if grep -v '^#' "$bundle/share/tests.list" | grep -qF -e "$build_dir" -e "$source_dir/"; then fail "the list names the build tree or the checkout"; fi
listed=$("${empty[@]}" "$bundle/scripts/run-listed-tests" --list | wc -l)
((listed >= 30)) || fail "the list has $listed tests"
"${empty[@]}" "$bundle/scripts/run-listed-tests" --only '^(core|config|zero-mpi-2|reference-own|train-wrong-input)$' || fail "tests of the bundle"
code=0
"${empty[@]}" "$bundle/scripts/gpu-check" --out "$scratch/gpu" || code=$?
if ! "${empty[@]}" LD_LIBRARY_PATH="$bundle/lib" "$bundle/libexec/gpu_probe" >/dev/null; then [[ $code -eq 77 ]] || fail "gpu-check without a GPU: exit code $code"; fi
"${empty[@]}" "$bundle/benchmarks/gpu/run" --device cpu --tiny --no-peer --only tiny --out "$scratch/bench" --stem dry || fail "the benchmarks of the bundle"

#!/usr/bin/env bash
# check_reference over all models of a folder of reference values, both styles of config.json where there are two.
#   run.sh own|shared [options of check_reference --] CHECK_REFERENCE [launcher words…]       working directory: the checkout
# `shared` skips (77) where the shared reference data is absent.
set -euo pipefail
which=$1
shift
options=(--quiet)
if [[ $1 == --* ]]; then
  while [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  shift
fi
program=$1
shift
folder=tests/data/reference
if [[ $which == shared ]]; then
  shared=${LLMTRAIN_SHARED:-../shared}
  folder=$shared/reference
  if [[ ! -d $folder ]]; then
    printf 'SKIPPED: reference-shared\tshared reference data absent: put it beside the checkout (../shared) or set LLMTRAIN_SHARED\n'
    exit 77
  fi
fi
models=("$folder"/*/)
[[ -e ${models[0]}/reference.safetensors ]] || { echo "no reference models in $folder" >&2; exit 1; }
"$@" "$program" "${models[@]}" "${options[@]}"
older=()
for model in "${models[@]}"; do
  if [[ -e $model/config.v4.json ]]; then older+=("$model"); fi
done
if [[ ${#older[@]} -gt 0 ]]; then "$@" "$program" "${older[@]}" --config config.v4.json "${options[@]}"; fi

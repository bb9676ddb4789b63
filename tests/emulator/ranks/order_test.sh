#!/usr/bin/env bash
# Ranks that issue collectives in different orders hang; the watchdog names what each is in. Arguments: the program order_probe, mpirun and its options.
set -euo pipefail
probe=$1
shift
dumps=$(mktemp -d)
trap 'rm -rf "$dumps"' EXIT
status=0
"$@" 2 "$probe" "$dumps" > "$dumps/out" 2>&1 || status=$?
cat "$dumps/out"
[[ $status -eq 1 ]] || { echo "exit code $status, expected 1"; exit 1; }
for words in "waited in: all_gather 'layers." "the ranks do different things there: rank 0 is in all_gather 'layers.0' of 4096 bytes, rank 1 is in all_gather 'layers.1' of 1024 bytes"; do
  grep -qF "$words" "$dumps/out" || { echo "not said: $words"; exit 1; }
done

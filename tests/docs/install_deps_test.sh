#!/usr/bin/env bash
# scripts/install-deps --check names what is missing with the exact line, installs nothing and ends with 2; with everything there it ends with 0.
# A dpkg-query that knows no package, put first on PATH, plays the bare machine.
. "$(dirname "$0")/common.sh"
rm -rf "$scratch"
mkdir -p "$scratch/bin"
cd "$source_dir"
printf '#!/bin/sh\nexit 1\n' >"$scratch/bin/dpkg-query"
printf '#!/bin/sh\ntouch "%s/installed"\nexit 1\n' "$scratch" >"$scratch/bin/apt-get"
chmod +x "$scratch"/bin/*
status=0
output=$(PATH="$scratch/bin:$PATH" scripts/install-deps --check 2>&1) || status=$?
[[ $status -eq 2 ]] || fail "exit code $status instead of 2"
grep -q 'apt-get install -y --no-install-recommends .*libhdf5-dev' <<<"$output" || fail "no line to copy: $output"
[[ ! -e $scratch/installed ]] || fail "--check ran apt-get"
output=$(PATH="$scratch/bin:/usr/bin:/bin" scripts/install-deps --check --tests 2>&1) || true
command -v slurmctld >/dev/null || [[ -x /usr/sbin/slurmctld ]] || grep -q 'slurm-wlm' <<<"$output" || fail "--tests does not ask for Slurm: $output"
status=0
scripts/install-deps --nonsense >/dev/null 2>&1 || status=$?
[[ $status -eq 2 ]] || fail "an unknown option gives $status instead of 2"
status=0
output=$(PATH="$scratch/bin:$PATH" scripts/build --build-dir "$scratch/tree" --preset no-such-preset 2>&1) || status=$?
[[ $status -ne 0 ]] || fail "scripts/build went on without being configured"
grep -qx '    scripts/install-deps' <<<"$output" || fail "scripts/build does not end with the line that installs: $output"
[[ ! -e $scratch/installed ]] || fail "scripts/build installed something without --install-missing"

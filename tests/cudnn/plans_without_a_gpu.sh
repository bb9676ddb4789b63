#!/usr/bin/env bash
# Runs a test that compiles cuDNN's plans where there is no GPU. cuDNN wants a loadable libcuda.so.1: where the system has none, Debian's libcuda1 is
# downloaded (from the mirror that the system's own sources name) and unpacked beside the test, never installed.
#
#   tests/cudnn/plans_without_a_gpu.sh FOLDER COMMAND...     FOLDER keeps the library for later runs
# Exit codes: those of the command; 77 with the reason where the library cannot be had.
set -euo pipefail
folder=$1
shift
skip() {
  echo "skipped: $1"
  exit 77
}

library=$folder/libcuda1/usr/lib/x86_64-linux-gnu/nvidia/current
if ! ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1' && [[ ! -e $library/libcuda.so.1 ]]; then
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || skip "no libcuda.so.1 here, and no apt-get to download Debian's libcuda1 with"
  [[ $(dpkg --print-architecture) == amd64 ]] || skip "no libcuda.so.1 here, and Debian's libcuda1 is taken for amd64 only"
  . /etc/os-release
  [[ ${ID:-} == debian && -n ${VERSION_CODENAME:-} ]] || skip "no libcuda.so.1 here, and this is no Debian whose libcuda1 could be downloaded"
  mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -oE 'https?://[^ ]*/debian/?( |$)' | head -n 1 | tr -d ' ' || true)
  [[ -n $mirror ]] || skip "no libcuda.so.1 here, and apt's sources name no Debian mirror"
  work=$(mktemp -d "$folder/libcuda1.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/tree"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $VERSION_CODENAME non-free" >"$work/sources.list"
  apt=(timeout 60 apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$work/lists"
       -o Dir::Cache="$work" -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=1)
  { "${apt[@]}" update && cd "$work" && "${apt[@]}" download libcuda1; } >"$work/log" 2>&1 ||
    skip "libcuda1 could not be downloaded from $mirror: $(tail -n 1 "$work/log")"
  cd "$OLDPWD"
  dpkg-deb -x "$work"/libcuda1_*.deb "$work/tree" || skip "libcuda1 could not be unpacked"
  mv -T "$work/tree" "$folder/libcuda1" 2>/dev/null || [[ -e $library/libcuda.so.1 ]] || skip "libcuda1 could not be put into $folder"
fi
if [[ -e $library/libcuda.so.1 ]]; then export LD_LIBRARY_PATH=$library${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}; fi
for cuda in "${CUDA_HOME:-}" /usr/local/cuda; do  # where cuDNN may lie
  if [[ -n $cuda && -d $cuda/lib64 ]]; then export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$cuda/lib64; fi
done
if [[ -n ${work:-} ]]; then
  rm -rf "$work"
  trap - EXIT
fi
exec "$@"

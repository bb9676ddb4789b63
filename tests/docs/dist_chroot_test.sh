#!/usr/bin/env bash
# The bundle of `make dist` in an empty Debian 12 that has neither Open MPI nor HDF5 nor oneDNN: two ranks train. Needs root, debootstrap and a mirror of
# Debian (that of the system's sources); skipped (77) without.   SOURCE BUILD SCRATCH
. "$(dirname "$0")/common.sh"
skip() {
  printf 'SKIPPED: dist in a chroot\t%s\n' "$*"
  exit 77
}
[[ $(id -u) -eq 0 ]] || skip "needs root"
command -v debootstrap >/dev/null || skip "debootstrap is not installed"
rm -rf "$scratch"
mkdir -p "$scratch"
# The system's own mirror: its sources may name other archives too.
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^ *#' | grep -oE 'https?://[^ ]*/debian/?( |$)' | head -n 1 | tr -d ' ' || true)
debootstrap --variant=minbase bookworm "$scratch/root" ${mirror:+"$mirror"} >"$scratch/debootstrap.log" 2>&1 ||
  skip "debootstrap could not make a Debian: $(tail -n 1 "$scratch/debootstrap.log")"
# /dev and /proc of their own where mounting is allowed; taken away again whatever happens.
trap 'umount "$scratch/root/proc" "$scratch/root/dev/shm" 2>/dev/null || true' EXIT
mount -t proc proc "$scratch/root/proc" || skip "mounting is not allowed here"
mkdir -p "$scratch/root/dev/shm"
mount -t tmpfs tmpfs "$scratch/root/dev/shm" || skip "mounting is not allowed here"
cd "$source_dir"
scripts/dist "$build_dir" "$scratch/out"
mkdir "$scratch/root/llmtrain"
tar -xf "$scratch"/out/llmtrain-*.tar.xz -C "$scratch/root/llmtrain" --strip-components=1
! chroot "$scratch/root" /bin/sh -c 'ls /usr/lib/*/libmpi.so* /usr/lib/*/libhdf5* /usr/lib/*/libdnnl*' 2>/dev/null || fail "the chroot is not empty"
inside() { chroot "$scratch/root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/tmp OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 /bin/sh -c "cd /llmtrain && $1"; }
inside "./llmtrain --version"
inside "./llmtrain init configs/quickstart-model.json output/quickstart-init --tokenizer-from data/quickstart/llmtrain_qa.json --seed 1" || fail "init"
inside "bin/mpirun --oversubscribe -np 2 bin/llmtrain train --config configs/quickstart.yaml max_steps=2 logging_steps=1 output_dir=output/chroot" ||
  fail "two ranks do not train in an empty Debian"
[[ -s $scratch/root/llmtrain/output/chroot/model.safetensors ]] || fail "no model was written"

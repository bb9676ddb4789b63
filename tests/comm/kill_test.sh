#!/bin/sh
# A killed rank ends the job within seconds and leaves nothing in /dev/shm. Arguments: mpirun, the probe.
mpirun=$1
probe=$2
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
for way in memfd files; do
  ls /dev/shm >"${TMPDIR:-/tmp}/kill_test.$$.before"
  begin=$(date +%s)
  timeout 60 "$mpirun" --oversubscribe -np 3 "$probe" $way >/dev/null 2>&1
  code=$?
  took=$(($(date +%s) - begin))
  [ $code -ne 0 ] && [ $code -ne 124 ] || { echo "$way: exit code $code of a job whose rank was killed"; exit 1; }
  [ $took -le 8 ] || { echo "$way: the job took $took s to end"; exit 1; }
  left=$(ls /dev/shm | grep '^llmtrain-window-' | grep -vxF -f "${TMPDIR:-/tmp}/kill_test.$$.before")
  rm -f "${TMPDIR:-/tmp}/kill_test.$$.before"
  [ -z "$left" ] || { echo "$way: left in /dev/shm: $left"; exit 1; }
  echo "$way: ended in $took s, nothing left"
done

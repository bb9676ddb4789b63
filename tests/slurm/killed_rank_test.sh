#!/usr/bin/env bash
# A rank of a job over two nodes is killed (SIGKILL), then in the second start another one is stopped (SIGSTOP): each time the job ends by itself, is
# requeued and goes on from its last checkpoint; at the end losses and weights are those of an undisturbed run, bit for bit. A job that fails at once each
# time, or stops without having got anywhere, is given up after three starts; a new checkpoint in between would start the count again.
. "$(dirname "$0")/cluster.sh"
run=(max_steps=2000 save_steps=100 save_total_limit=2 logging_steps=20 hang_timeout=3)
job=$(submit --nodes=2 --ntasks-per-node=1 slurm/train.sbatch train.yaml "${run[@]}" output_dir=slurm-run) || exit 1
rank_process() {  # RANK: the process of this job
  local process
  for process in /proc/[0-9]*; do
    [ "$(cat "$process/comm" 2>/dev/null)" = llmtrain ] || continue
    grep -qzxF "SLURM_CONF=$SLURM_CONF" "$process/environ" 2>/dev/null && grep -qzxF "SLURM_PROCID=$1" "$process/environ" && echo "${process#/proc/}" && return
  done
}
undisturbed "${run[@]}" output_dir=plain &
plain=$!
has_steps() { [ -f "llmtrain-$job.out" ] && [ "$(grep -c '^step' "llmtrain-$job.out")" -ge "$1" ]; }
disturb() {  # SIGNAL RANK
  local process
  process=$(rank_process "$2")
  [ -n "$process" ] || fail "rank $2 is not running"
  kill -"$1" "$process"
  local begin=$SECONDS
  wait_for_requeue "$job" 60
  echo "killed rank: SIG$1 of rank $2: the job had ended and was in the queue again after $((SECONDS - begin)) s"
}
wait_until 30 has_steps 8 || fail "no steps"
disturb KILL 1
start_now "$job"
before=$(grep -c '^step' "llmtrain-$job.out")
wait_until 30 has_steps $((before + 8)) || fail "no steps after the first restart"
disturb STOP 0
grep -q 'the laggard: rank 0' "llmtrain-$job.out" || fail "the stopped rank is not named"
start_now "$job"
wait_for_end "$job" 180
[ "$(job_field "$job" Restarts)" -eq 2 ] || fail "it was requeued $(job_field "$job" Restarts) times"
[ "$(grep -c 'resuming from slurm-run/checkpoint-' "llmtrain-$job.out")" -eq 2 ] || fail "it did not resume twice"
wait "$plain" || fail "$(cat undisturbed.log)"
same_bits slurm-run plain

# The later starts say 85, as a run does that is asked to stop, but leave no checkpoint either.
printf '%s\n' '#!/bin/sh' '[ "$1" = config ] && exec ./llmtrain "$@"' '[ -z "$SLURM_RESTART_COUNT" ] || exit 85' 'exit 1' >fails && chmod +x fails
restarts_seen=0
hopeless=$(LLMTRAIN=./fails submit --nodes=1 --ntasks-per-node=1 slurm/train.sbatch train.yaml output_dir=hopeless) || exit 1
for _ in 1 2; do
  wait_for_requeue "$hopeless" 30
  start_now "$hopeless"
done
wait_until 30 has_ended "$hopeless" || fail "a job that fails each time goes on: $(job_state "$hopeless")"
[ "$(job_field "$hopeless" Restarts)" -eq 2 ] || fail "it was requeued $(job_field "$hopeless" Restarts) times"
grep -q '3 starts in a row ended without a new checkpoint' "llmtrain-$hopeless.out" || fail "it does not say why it gave up"
echo "killed rank: requeued twice, resumed twice, bitwise as undisturbed; $SECONDS s"

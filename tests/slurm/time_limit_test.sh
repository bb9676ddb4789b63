#!/usr/bin/env bash
# A job over two nodes that its time limit cuts short: Slurm sends USR1 before the limit, the ranks save and end with 85, the script requeues the job, which
# goes on from that checkpoint and ends. Losses and weights are those of an undisturbed run, bit for bit.
. "$(dirname "$0")/cluster.sh"
# Slurm looks at time limits every 30 seconds: the first start has more steps than any machine does in that time, and while the job waits to start again
# the end is moved to 100 steps after what was saved. The learning rate does not depend on the number of steps.
sed -i '/^max_steps\|^lr_scheduler_type\|^save_steps\|^logging_steps/d' train.yaml
printf '%s\n' 'lr_scheduler_type: constant' 'save_steps: 100000' 'logging_steps: 20' >>train.yaml
cp train.yaml common.yaml
echo 'max_steps: 1000000' >>train.yaml
job=$(submit --nodes=2 --ntasks-per-node=1 --time=2 --signal=B:USR1@110 slurm/train.sbatch train.yaml output_dir=slurm-run) || exit 1
wait_for_requeue "$job" 90
log=llmtrain-$job.out
grep -q 'stopped on request (SIGUSR1): a checkpoint is committed' "$log" || fail "no rank heard the signal"
grep -q 'ended with 85' "$log" || fail "the ranks did not end with 85"
saved=$(cd slurm-run && echo checkpoint-*)
saved=${saved#checkpoint-}
[[ "$saved" =~ ^[0-9]+$ ]] || fail "not one checkpoint: $saved"
(cat common.yaml && echo "max_steps: $((saved + 100))") >train.yaml
start_now "$job"
wait_for_end "$job" 180
undisturbed output_dir=plain
[ "$(job_field "$job" Restarts)" -eq 1 ] || fail "it was requeued $(job_field "$job" Restarts) times"
grep -q 'start 2, nodes' "$log" || fail "the log of the second start is not appended"
grep -q "resuming from slurm-run/checkpoint-$saved" "$log" || fail "the second start did not resume"
same_bits slurm-run plain
echo "time limit: USR1 at step $saved, requeued, resumed, ended at step $((saved + 100)): bitwise as undisturbed; $SECONDS s"

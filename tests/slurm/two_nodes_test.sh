#!/usr/bin/env bash
# sbatch slurm/train.sbatch over two nodes runs to the end, and computes what mpirun computes.
. "$(dirname "$0")/cluster.sh"
job=$(submit --nodes=2 --ntasks-per-node=1 slurm/train.sbatch train.yaml output_dir=slurm-run) || exit 1
undisturbed output_dir=plain
wait_for_end "$job" 60
grep -q 'nodes n\[1-2\]' "llmtrain-$job.out" || fail "not on two nodes"
grep -q '2 ranks of 1 thread' "llmtrain-$job.out" || fail "not two ranks"
same_bits slurm-run plain
echo "two nodes: job $job ran to its end in $SECONDS s, bitwise as under mpirun"

#!/usr/bin/env bash
# A job array of four variants by slurm/array.sbatch, two at a time; `llmtrain report` tabulates them.
. "$(dirname "$0")/cluster.sh"
mkdir sweeps
touch 'run_name=a file'  # no pattern of a line becomes this
printf '%s\n' '# learning rates' 'learning_rate=1e-3' '' $'learning_rate=3e-3 run_name=*\r' 'learning_rate=1e-2 max_steps=6' 'learning_rate=3e-2' >sweeps/lr.txt
job=$(submit --array=0-3%2 slurm/array.sbatch train.yaml sweeps/lr.txt) || exit 1
array_ended() {
  local task
  for task in 0 1 2 3; do [ "$(job_state "${job}_$task")" = COMPLETED ] || return 1; done
}
array_failed() { scontrol --oneliner show job "$job" | grep -q 'JobState=\(FAILED\|CANCELLED\|TIMEOUT\)'; }
either() { array_ended || array_failed; }
wait_until 60 either && array_ended || fail "the array has not ended: $(squeue)"
for task in 0 1 2 3; do
  [ -f "output/array-$job/$task/all_results.json" ] || fail "task $task left no results"
  [ -f "llmtrain-array-${job}_$task.out" ] || fail "task $task has no log of its own"
done
grep -q '^learning_rate: 0.01 ' "output/array-$job/2/resolved_config.yaml" || grep -q '^learning_rate: 0.01$' "output/array-$job/2/resolved_config.yaml" || fail "task 2 did not train its variant: $(grep learning_rate "output/array-$job/2/resolved_config.yaml")"
grep -q '^run_name: "\{0,1\}\*' "output/array-$job/1/resolved_config.yaml" || fail "task 1 was given other words: $(grep run_name "output/array-$job/1/resolved_config.yaml")"
./llmtrain report output/array-"$job"/* >report.txt || fail "llmtrain report"
[ "$(grep -c ' done ' report.txt)" -eq 4 ] || fail "the report is: $(cat report.txt)"
grep -q "array-$job/2 *done *6/6" report.txt || fail "the report is: $(cat report.txt)"
cat report.txt
# A task beyond the variants is wrong input: it fails, says why, and is not requeued.
beyond=$(submit --array=7 slurm/array.sbatch train.yaml sweeps/lr.txt) || exit 1
is_failed() { [ "$(job_state "${beyond}_7")" = FAILED ]; }
wait_until 30 is_failed || fail "a task without a line is $(job_state "${beyond}_7")"
grep -q 'no line for task 7' "llmtrain-array-${beyond}_7.out" || fail "it does not say why"
echo "array: four tasks, $SECONDS s"

# A real Slurm of two nodes on this one machine, for the tests beside it: slurmctld and two slurmd with folders, ports and a configuration of their own,
# without systemd, munge or control groups. Sourced by the tests; their arguments: SOURCE (the checkout), BUILD (the build tree), SCRATCH (a folder that
# may be overwritten).
#
#   . "$(dirname "$0")/cluster.sh"       # skips with 77 and the reason where Slurm cannot be started; tears everything down at exit
#   job=$(submit …words of sbatch…)      # then wait_for_end, wait_for_requeue, …
#
# Two nodes on one host: messages go by TCP over the loopback (Open MPI's shared-memory transport takes two ranks with the same host name and the same
# local rank for one), and each node has a temporary folder of its own for PMIx.
set -uo pipefail
source_dir=$1 build_dir=$2 scratch=$3

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_btl=self,tcp OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_pml=ob1 OMP_NUM_THREADS=1 PATH=$PATH:/usr/sbin:/sbin
unset SLURM_JOB_ID SLURM_RESTART_COUNT SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID

skip() {
  echo "SKIPPED: $(basename "$0" .sh): $*"
  exit 77
}
fail() {
  echo "FAILED: $*" >&2
  for log in "$scratch"/jobs/*.out "$scratch"/slurmctld.log "$scratch"/slurmd-*.log; do
    [ -s "$log" ] && echo "--- ${log##*/} (end)" >&2 && tail -n 40 "$log" >&2
  done
  exit 1
}

for program in slurmctld slurmd sbatch srun scontrol squeue; do
  command -v $program >/dev/null || skip "Slurm is not installed ($program is missing): scripts/install-deps --tests installs it"
done
[ "$(id -u)" -eq 0 ] || skip "slurmd starts other people's jobs, so it needs root"

daemons=()
start_daemon() {  # LOG WORDS…: in the foreground of a background job of ours, so that we know its process id
  local log=$1
  shift
  "$@" >"$log.start" 2>&1 &
  daemons+=($!)
}
tear_down() {
  trap - EXIT INT TERM
  if [ ${#daemons[@]} -gt 0 ]; then
    scontrol ping >/dev/null 2>&1 && scancel --user="$(id -un)" >/dev/null 2>&1 && wait_until 10 no_jobs
    kill "${daemons[@]}" 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      kill -0 "${daemons[@]}" 2>/dev/null || break
      sleep 0.3
    done
    kill -9 "${daemons[@]}" 2>/dev/null
    wait "${daemons[@]}" 2>/dev/null
  fi
  for process in $(step_daemons); do kill -9 "$process" 2>/dev/null; done  # what a failed test left
}
step_daemons() {  # the process ids of slurmstepd that belong to this cluster
  local process
  for process in /proc/[0-9]*; do
    [ "$(cat "$process/comm" 2>/dev/null)" = slurmstepd ] && grep -qzxF "SLURM_CONF=$scratch/slurm.conf" "$process/environ" 2>/dev/null && echo "${process#/proc/}"
  done
}
trap 'status=$?; tear_down; exit $status' EXIT
trap 'exit 130' INT TERM

wait_until() {  # SECONDS COMMAND…: true once the command is
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}
no_jobs() { [ -z "$(squeue --noheader 2>/dev/null)" ]; }
port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_ports() {  # COUNT: a row of free ports, the first of them
  local base i
  for _ in $(seq 50); do
    base=$((20000 + RANDOM % 10000)) i=0
    while [ $i -lt "$1" ] && port_is_free $((base + i)); do i=$((i + 1)); done
    [ $i -eq "$1" ] && echo $base && return
  done
  return 1
}

rm -rf "$scratch"
mkdir -p "$scratch"/{state,spool-n1,spool-n2,tmp-n1,tmp-n2,jobs}
base=$(free_ports 3) || skip "no free ports"
cat >"$scratch/slurm.conf" <<CONF
ClusterName=llmtrain-test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$base
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=pmix
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
KillWait=5
MinJobAge=600
SlurmctldPidFile=$scratch/slurmctld.pid
SlurmdPidFile=$scratch/slurmd-%n.pid
SlurmctldLogFile=$scratch/slurmctld.log
SlurmdLogFile=$scratch/slurmd-%n.log
StateSaveLocation=$scratch/state
SlurmdSpoolDir=$scratch/spool-%n
TmpFS=$scratch/tmp-%n
NodeName=n1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((base + 1)) CPUs=4 RealMemory=2000
NodeName=n2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((base + 2)) CPUs=4 RealMemory=2000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
CONF
export SLURM_CONF=$scratch/slurm.conf
start_daemon "$scratch/slurmctld.log" slurmctld -D -i -f "$SLURM_CONF"
for node in n1 n2; do start_daemon "$scratch/slurmd-$node.log" slurmd -D -N $node -f "$SLURM_CONF"; done
both_idle() { [ "$(sinfo --noheader --Node --format=%T 2>/dev/null | sort -u)" = idle ]; }
wait_until 30 both_idle || skip "Slurm does not start here: $(cat "$scratch"/*.start "$scratch/slurmctld.log" "$scratch"/slurmd-*.log 2>/dev/null | grep -E 'error|fatal' | tail -n 1)"
srun --mpi=list 2>&1 | grep -q pmix || skip "this Slurm has no pmix: $(srun --mpi=list 2>&1 | tr '\n' ' ')"

# ---- a workplace for jobs: what a person has who unpacked the program and wrote a YAML

cd "$scratch/jobs" || exit 1
ln -s "$build_dir/llmtrain" llmtrain
ln -s "$source_dir/slurm" slurm
mkdir data
cat >config.json <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 320, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
 "tie_word_embeddings": false, "initializer_range": 0.05}
JSON
for i in $(seq 0 35); do
  printf '%s{"instruction": "What comes after %d?%s", "output": "%d comes after it."}' "$([ "$i" -eq 0 ] && echo '[' || echo ',')" "$i" "$(printf '%*s' $((i % 5)) '' | tr ' ' '!')" $((i + 1))
done >data/rows.json
echo ']' >>data/rows.json
echo '{"rows": {"file_name": "rows.json"}}' >data/dataset_info.json
cat >train.yaml <<'YAML'
model_name_or_path: model
stage: sft
do_train: true
finetuning_type: full
template: llama3
dataset_dir: data
dataset: rows
cutoff_len: 96
output_dir: out
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
learning_rate: 0.005
lr_scheduler_type: cosine
max_steps: 8
logging_steps: 1
save_strategy: steps
save_steps: 4
progress: lines
YAML
./llmtrain init config.json model --tokenizer-from data/rows.json --vocab-size 320 --seed 5 >init.log 2>&1 || fail "llmtrain init: $(cat init.log)"

submit() { sbatch --parsable "$@" || fail "sbatch $*"; }
job_state() { scontrol --oneliner show job "$1" 2>/dev/null | head -n 1 | sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p'; }
job_field() { scontrol --oneliner show job "$1" 2>/dev/null | head -n 1 | sed -n "s/.* $2=\([^ ]*\).*/\1/p"; }
has_ended() { [[ "$(job_state "$1")" =~ ^(COMPLETED|FAILED|TIMEOUT|CANCELLED|NODE_FAIL|OUT_OF_MEMORY|BOOT_FAIL)$ ]]; }
wait_for_end() {  # JOB SECONDS: and its state must be COMPLETED
  wait_until "$2" has_ended "$1" || fail "job $1 has not ended in $2 s: $(job_state "$1")"
  [ "$(job_state "$1")" = COMPLETED ] || fail "job $1 ended as $(job_state "$1")"
}
wait_for_requeue() {  # JOB SECONDS: until the job is in the queue again
  back_or_over() { { [ "$(job_state "$1")" = PENDING ] && [ "$(job_field "$1" Restarts)" -gt "${restarts_seen:-0}" ]; } || has_ended "$1"; }
  wait_until "$2" back_or_over "$1" && ! has_ended "$1" || fail "job $1 was not requeued: $(job_state "$1"), Restarts=$(job_field "$1" Restarts)"
  restarts_seen=$(job_field "$1" Restarts)
}
# A requeued job waits for two minutes before it may start again, so that its nodes can clean up: here until they have, and two seconds more (Slurm
# compares in whole seconds when a job was started and when its earlier start was revoked).
no_steps() { [ -z "$(step_daemons)" ]; }
start_now() {
  wait_until 20 no_steps || fail "the steps of job $1 have not ended"
  scontrol update JobId="$1" StartTime=now+2 || fail "scontrol update"
}
# What a run computed: each step's loss and norm as written, and the weights.
bits() { sed -n 's/^ *"\(loss\|grad_norm\|step\)": /\1 /p' "$1/trainer_state.json" | tr -d ',' && sha256sum <"$1/model.safetensors"; }
same_bits() {  # FOLDER FOLDER
  [ "$(bits "$1" | wc -l)" -gt 8 ] || fail "$1 holds no run"
  [ "$(bits "$1")" = "$(bits "$2")" ] || fail "$1 and $2 differ: $(diff <(bits "$1") <(bits "$2") | head -n 5)"
}
undisturbed() { (unset OMPI_MCA_btl OMPI_MCA_pml; mpirun --oversubscribe -np 2 ./llmtrain train --config train.yaml "$@") >undisturbed.log 2>&1 || fail "$(cat undisturbed.log)"; }

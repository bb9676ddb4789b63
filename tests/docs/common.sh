# Shared by quickstart.sh and run_commands.sh: a scratch copy of what a person has after `make`, and the environment of a small machine.
# Arguments of both: SOURCE (the checkout), BUILD (the build tree), SCRATCH (a folder that may be overwritten).
set -euo pipefail
source_dir=$1 build_dir=$2 scratch=$3

# Containers run as root and have fewer cores than ranks: mpirun is told so here, as README.md tells people.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

make_scratch() {
  rm -rf "$scratch"
  mkdir -p "$scratch/tests/data"
  cp -r "$source_dir"/{README.md,docs,configs,data,scripts} "$scratch/"
  cp -r "$source_dir/tests/data/reference" "$scratch/tests/data/"
  ln -s "$build_dir/llmtrain" "$build_dir/check_reference" "$scratch/"
}

# Shared by scripts/gpu-check, scripts/run-listed-tests and benchmarks/gpu/run; they run from a bundle (`make dist-check`) or from a build tree. Needs
# bash and coreutils only. Sourced after `root` was set to the checkout or the unpacked bundle.

say() { printf '%s\n' "$*" >&2; }

# Where programs, mpirun and the list of tests are. $1: the build tree, where this is no bundle.
locate() {
  if [[ -e $root/libexec/environment ]]; then
    bundle=$root programs=$root/libexec test_programs=$root/libexec mpirun=$root/bin/mpirun
    . "$root/libexec/environment"
  else
    bundle="" programs=$1 test_programs=$1/tests mpirun=$(command -v mpirun || true)
    [[ -d $programs ]] || { say "$programs is no build tree. Type: make"; exit 2; }
    programs=$(cd "$programs" && pwd) test_programs=$programs/tests
  fi
  [[ -x $programs/llmtrain ]] || { say "$programs holds no llmtrain"; exit 2; }
  # Containers run as root and have fewer cores than ranks.
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
  export LLMTRAIN_TEST_BINARY=$programs/llmtrain LLMTRAIN_TEST_MPIEXEC=$mpirun
}

# Prints the list (cmake/TestList.cmake), paths filled in.
list_tests() {
  if [[ -n $bundle ]]; then
    local place=${bundle//\'/\'\\\'\'}
    sed "s|@bundle@|${place//&/\\&}|g" "$bundle/share/tests.list"
  else
    local list
    list=$(mktemp)
    cmake "-DBUILD=$programs" "-DSOURCE=$root" "-DMPIEXEC=$mpirun" "-DOUT=$list" -P "$root/cmake/TestList.cmake" >&2
    cat "$list"
    rm -f "$list"
  fi | grep -v '^#'
}

# Text as a string of JSON, its control characters left out.
json_text() {
  local text
  text=$(printf '%s' "$1" | tr '\n\t' '  ' | tr -d '\000-\037')
  text=${text//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

# A number of JSON, or null where it is none.
json_number() { if [[ $1 =~ ^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$ ]]; then printf '%s' "$1"; else printf null; fi; }

seconds_now() { date +%s.%N; }
seconds_since() { awk -v a="$1" -v b="$(seconds_now)" 'BEGIN { printf "%.1f", b - a }'; }

# run_limited LIMIT LOG COMMAND…: the command (words of the shell) in $root; sets `code`, `seconds` and `outcome`: passed, failed, crashed (signal N),
# time limit, not run. What it left running is ended with it.
run_limited() {
  local limit=$1 log=$2 begin
  shift 2
  begin=$(seconds_now)
  code=0
  (cd "$root" && exec timeout --kill-after=10 "$limit" bash -c "$*") >"$log" 2>&1 </dev/null || code=$?
  seconds=$(seconds_since "$begin")
  case $code in
    0) outcome=passed ;;
    77) outcome="not run" ;;
    124 | 137) outcome="time limit" ;;
    *) if ((code > 128)); then outcome="crashed (signal $((code - 128)))"; else outcome=failed; fi ;;
  esac
}

# What a test's log says about parts that were skipped: "3 skipped: reason", or nothing.
skipped_in() {
  awk '
    /^\[ RUN      \]/ { reason = "" }
    /Skipped$/ { getline; reason = $0 }
    /^\[  SKIPPED \] [^ ]+ \([0-9]+ ms\)/ { ++n; if (reason != "") last = reason }
    /^SKIPPED: / { ++n; last = $0; sub(/^SKIPPED: [^\t]*\t?/, "", last) }
    END { if (n) printf "%d skipped: %s", n, last }
  ' "$1"
}

#!/usr/bin/env bash
# How fast a cold `llmtrain data` turns rows into token ids on one core: JSON, template and start-up included.
#
#   benchmarks/tokenize.sh TOKENIZER_FOLDER TEMPLATE [FOLDER_OF_TEXT …]
#
# Makes about 40 MB of alpaca rows from the source and text files below the given folders (default: /usr/include and /usr/share), each piece once, then runs
# `taskset -c 0 llmtrain data` on them. Prints MB of UTF-8 a second by wall clock and by CPU time, and the peak resident memory. Beside it, where the
# Python package `tokenizers` is installed (PYTHON=…), the same texts through Hugging Face tokenizers alone on one thread, and the ratio. At the end the same
# command with one and two threads and with one and two ranks, best of three.
set -euo pipefail
tokenizer=${1:?usage: benchmarks/tokenize.sh TOKENIZER_FOLDER TEMPLATE [FOLDER_OF_TEXT …]}
template=${2:?usage: benchmarks/tokenize.sh TOKENIZER_FOLDER TEMPLATE [FOLDER_OF_TEXT …]}
shift 2
[ $# -gt 0 ] || set -- /usr/include /usr/share
program=${LLMTRAIN:-./llmtrain}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" - "$work" "$@" <<'PY'
import json, os, sys
out, folders = sys.argv[1], sys.argv[2:]
rows, size, seen = [], 0, set()
for folder in folders:
    for root, dirs, files in os.walk(folder):
        dirs.sort()
        for name in sorted(files):
            if size > 40_000_000 or not name.endswith((".h", ".hpp", ".py", ".txt", ".md", ".rst", ".c", ".json", ".html", ".pl", ".pm", ".po", ".tcl")):
                continue
            try:
                text = open(os.path.join(root, name), encoding="utf-8").read()
            except (OSError, UnicodeDecodeError):
                continue
            for i in range(0, len(text), 2000):
                piece = text[i:i + 2000]
                if len(piece) < 200 or hash(piece) in seen:
                    continue
                seen.add(hash(piece))
                rows.append({"instruction": piece[:len(piece) // 2], "output": piece[len(piece) // 2:]})
                size += len(piece.encode())
json.dump(rows, open(f"{out}/rows.json", "w"), ensure_ascii=False)
json.dump({"rows": {"file_name": "rows.json"}}, open(f"{out}/dataset_info.json", "w"))
open(f"{out}/bytes", "w").write(str(size))
PY
cat >"$work/config.yaml" <<YAML
model_name_or_path: $tokenizer
stage: sft
template: $template
dataset: rows
dataset_dir: $work
cutoff_len: 4096
output_dir: $work/out
YAML
bytes=$(cat "$work/bytes")
/usr/bin/env bash -c "TIMEFORMAT='%R %U %S'; time OMP_NUM_THREADS=1 taskset -c 0 '$program' data --config '$work/config.yaml' >'$work/log' 2>&1" 2>"$work/time"
read -r wall user sys <"$work/time"
ours=$(awk -v b="$bytes" -v w="$wall" 'BEGIN { printf "%.1f", b / w / 1e6 }')
cpu=$(awk -v b="$bytes" -v u="$user" -v s="$sys" 'BEGIN { printf "%.1f", b / (u + s) / 1e6 }')
echo "llmtrain data: $ours MB/s wall, $cpu MB/s CPU ($bytes bytes, $wall s)"
if "$python" -c 'import tokenizers' 2>/dev/null; then
  RAYON_NUM_THREADS=1 taskset -c 0 "$python" - "$tokenizer/tokenizer.json" "$work/rows.json" "$cpu" <<'PY'
import json, sys, time
from tokenizers import Tokenizer
tok = Tokenizer.from_file(sys.argv[1])
rows = json.load(open(sys.argv[2]))[:4000]
texts = [v for r in rows for v in r.values()]
size = sum(len(t.encode()) for t in texts)
t = time.process_time()
tok.encode_batch(texts, add_special_tokens=False)
rate = size / (time.process_time() - t) / 1e6
print(f"Hugging Face tokenizers alone: {rate:.2f} MB/s CPU ({size} bytes); llmtrain is {float(sys.argv[3]) / rate:.1f} times as fast")
PY
fi

# How it scales: the whole command by wall clock, start-up included, best of three (other work on the machine only ever makes it slower).
scaled() {  # NAME CORES COMMAND…
  local name=$1 cores=$2 best="" t
  shift 2
  for _ in 1 2 3; do
    t=$({ TIMEFORMAT=%R; time taskset -c "$cores" "$@" data --config "$work/config.yaml" overwrite_cache=true >"$work/log" 2>&1; } 2>&1)
    best=$(awk -v a="${best:-$t}" -v b="$t" 'BEGIN { print a < b ? a : b }')
  done
  awk -v n="$name" -v b="$bytes" -v t="$best" 'BEGIN { printf "%-22s %6.1f MB/s wall (%s s, best of 3)\n", n, b / t / 1e6, t }'
}
cat >"$work/on_own_core" <<'SH'
#!/bin/sh
exec taskset -c "$OMPI_COMM_WORLD_LOCAL_RANK" "$@"
SH
chmod +x "$work/on_own_core"
scaled "1 process, 1 thread" 0 "$program"
if [ "$(nproc)" -gt 1 ]; then
  scaled "1 process, 2 threads" 0,1 "$program"
  if command -v mpirun >/dev/null; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    scaled "1 rank under mpirun" 0 mpirun -n 1 --bind-to none "$program"
    scaled "2 ranks, 1 thread each" 0,1 mpirun -n 2 --oversubscribe --bind-to none "$work/on_own_core" "$program"
  fi
fi

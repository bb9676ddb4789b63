#!/usr/bin/env bash
# The wall around CUDA: the program needs no library of it, and the plugin names only those that it calls (cuDNN and the driver are opened by name).
#   wall_test.sh PROGRAM [PLUGIN]
set -euo pipefail
needed() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }

if needed "$1" | grep -E 'libcuda|libcu|libnccl|libnv'; then
  echo "$1 needs a library of CUDA" >&2
  exit 1
fi
[[ $# -gt 1 && -e $2 ]] || exit 0
rc=0
for library in $(needed "$2"); do
  case $library in
    libcublasLt.so.* | libnccl.so.* | libxxhash.so.* | libstdc++.so.* | libm.so.* | libgcc_s.so.* | libc.so.* | ld-linux*) ;;
    *)
      echo "$2 needs $library, which docs/architecture.md does not name" >&2
      rc=1
      ;;
  esac
done
unused=$(ldd -u "$2" 2>/dev/null | grep -E '^\s+/' || true)
if [[ -n $unused ]]; then
  echo "$2 names libraries that it does not use: $unused" >&2
  rc=1
fi
exit $rc

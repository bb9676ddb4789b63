#!/usr/bin/env bash
# The bundle of `make dist` runs where it is unpacked: two ranks train from it with an empty environment, from another folder, and everything but
# glibc comes out of the bundle. glibc 2.36 (Debian 12's) is enough for what is built there.
. "$(dirname "$0")/common.sh"
rm -rf "$scratch"
mkdir -p "$scratch/a folder"
cd "$source_dir"
scripts/dist "$build_dir" "$scratch/out"
bytes=$(stat -c %s "$scratch"/out/llmtrain-*.tar.xz)
((bytes <= 28 << 20)) || fail "the bundle takes $bytes bytes, more than 28 MiB"
tar -xf "$scratch"/out/llmtrain-*.tar.xz -C "$scratch/a folder"
cd "$scratch/a folder"/llmtrain-*
bundle=$PWD

for program in libexec/llmtrain libexec/mpirun libexec/orted; do
  outside=$(LD_LIBRARY_PATH=$bundle/lib ldd $program | sed -n 's/.* => \(.*\) (0x.*/\1/p' | grep -v "^$bundle/lib/" |
    grep -vE '/lib(c|m|dl|rt|pthread|resolv|util|mvec)\.so[^/]*$' || true)
  [[ -z $outside ]] || fail "$program takes from outside of the bundle: $outside"
done
for library in libstdc++.so.6 libgcc_s.so.1 libgomp.so.1; do [[ -e lib/$library ]] || fail "lib/$library is missing"; done
# The GPU's half is there where it was built, and only that half names a library of CUDA: the program starts without them.
ours=(libexec/llmtrain libexec/check_reference)
if [[ -e $build_dir/libllmtrain-cuda.so ]]; then
  [[ -e lib/libllmtrain-cuda.so ]] || fail "the CUDA plugin is missing"
  ours+=(lib/libllmtrain-cuda.so)
fi
cuda='lib(cuda|cudart|cublas|cublasLt|cudnn[a-z_]*|nccl|nvrtc[a-z-]*)\.so'
if objdump -p libexec/* | grep NEEDED | grep -E "$cuda"; then fail "a program needs a library of CUDA to start"; fi
if compgen -G 'lib/*' | grep -E "/$cuda"; then fail "the bundle holds libraries of CUDA"; fi
if grep -q 'VERSION_ID="12"' /etc/os-release; then
  newest=$(objdump -T "${ours[@]}" | grep -oE 'GLIBC_[0-9.]+[0-9]' | sed 's/GLIBC_//' | sort -Vu | tail -n 1)
  [[ $(printf '%s\n' "$newest" 2.36 | sort -V | tail -n 1) == 2.36 ]] || fail "the program needs glibc $newest"
fi

# Neither PATH (so no ssh) nor LD_LIBRARY_PATH; the libraries that a rank has mapped are those of the bundle.
empty=(env -i HOME="$scratch" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1)
"${empty[@]}" ./llmtrain init configs/quickstart-model.json output/quickstart-init --tokenizer-from data/quickstart/llmtrain_qa.json --seed 1
for path in "" PATH=/nowhere; do
  "${empty[@]}" $path "$bundle/bin/mpirun" --oversubscribe -np 2 "$bundle/bin/llmtrain" train --config configs/quickstart.yaml max_steps=2 logging_steps=1 \
    output_dir="output/dist$path" || fail "two ranks do not train from the bundle (${path:-no PATH})"
  [[ -s output/dist$path/model.safetensors ]] || fail "the bundle wrote no model"
done
mapped=$("${empty[@]}" "$bundle/bin/mpirun" -np 1 /bin/sh -c 'cat /proc/$PPID/maps' | sed -n 's|^[^/]*\(/.*\.so.*\)$|\1|p' | sort -u)
outside=$(grep -v "^$bundle/" <<<"$mapped" | grep -vE '/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|util|mvec|nss_[a-z]+))[.-][^/]*$' || true)
grep -q "^$bundle/lib/openmpi/mca_" <<<"$mapped" || fail "mpirun maps no plugin of the bundle: $mapped"
[[ -z $outside ]] || fail "mpirun takes from outside of the bundle: $outside"

#!/usr/bin/env bash
# Every command that README.md and docs/ show runs: the blocks that begin with a line "```sh" are executed in order, document by document, in the
# scratch copy that quickstart.sh left. A block "```sh no-run (why)" is not run and must say why, or be one that the build itself runs.
. "$(dirname "$0")/common.sh"
[[ -d $scratch/output/quickstart ]] || fail "run quickstart.sh first"
cp -r "$source_dir"/{README.md,docs} "$scratch/"
cd "$scratch"
for document in README.md docs/*.md; do
  script=$(awk '/^```sh$/ { inside = 1; next } /^```$/ { if (inside) print ""; inside = 0 } inside' "$document")
  [[ -n $script ]] || continue
  echo "==== $document"
  bash -euxo pipefail -c "$script" </dev/null || fail "a command of $document (the last one above)"
done

# The links between the documents lead somewhere.
for document in README.md docs/*.md; do
  for link in $(grep -o ']([^)#:]*[)#]' "$document" | sed 's/^](//; s/[)#]$//'); do
    [[ -z $link || -e $(dirname "$document")/$link || -e $source_dir/$(dirname "$document")/$link ]] || fail "$document: the link $link leads nowhere"
  done
done

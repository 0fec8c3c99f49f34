#!/usr/bin/env bash
# Which lines of the decoders the corpora reach: fuzz/coverage.sh [LEAST]. Fails below LEAST percent (95).
#
# Only the committed corpora run, no mutations, on the toolchain of the workspace. Needs llvm-profdata and llvm-cov of at
# least the LLVM that rustc was built with: `rustup component add llvm-tools`, or Debian's llvm-22; LLVM_BIN says where
# else they are. --missed shows the lines that nothing reached.
set -euo pipefail
cd "$(dirname "$0")/.."
least=95 missed=
for word; do
  case "$word" in
    --missed) missed=yes ;;
    *) least="$word" ;;
  esac
done

# What turns bytes of strangers into values, whatever the door: frames, greetings, manifests in both spellings, what is
# said to and by trackers, links, and the journal on the disk. Whole files, with what is written back.
decoders=(
  protocol/src/{announce,bitfield,codec,handshake,id,link,message,path}.rs
  protocol/src/manifest/{binary,json,mod,strict}.rs
  peer/src/store/journal.rs
)

major="$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')"
host="$(rustc -vV | sed -n 's/^host: //p')"
tool() {
  local at
  for at in "${LLVM_BIN:-/nowhere}/$1" "$(rustc --print sysroot)/lib/rustlib/$host/bin/$1" "/usr/lib/llvm-$major/bin/$1"; do
    if [ -x "$at" ]; then
      echo "$at"
      return
    fi
  done
  echo "no $1 for LLVM $major: rustup component add llvm-tools, or apt-get install llvm-$major" >&2
  return 1
}
profdata="$(tool llvm-profdata)" cov="$(tool llvm-cov)"

target="${CARGO_TARGET_DIR:-target}/coverage"
profiles="$(mktemp -d)"
trap 'rm -rf "$profiles"' EXIT
export CARGO_TARGET_DIR="$target" RUSTFLAGS="-C instrument-coverage"
# Build scripts are instrumented, too, and write where they stand.
export LLVM_PROFILE_FILE="$profiles/built-%p.profraw"
binary="$(cargo test -p harness --test fuzz --locked --no-run --message-format=json |
  sed -n 's/.*"executable":"\([^"]*\/fuzz-[^"]*\)".*/\1/p' | tail -n 1)"
rm -f "$profiles"/*
LLVM_PROFILE_FILE="$profiles/ran-%p.profraw" CARGO_MANIFEST_DIR=tests SHOAL_CASES=0 "$binary" --quiet
"$profdata" merge -sparse "$profiles"/ran-*.profraw -o "$profiles/all.profdata"

if [ -n "$missed" ]; then
  "$cov" show "$binary" -instr-profile="$profiles/all.profdata" --show-instantiations=false "${decoders[@]}" |
    grep -E '^/|^ *[0-9]+\| +0\|' || true
fi
# Columns: name, regions, missed, %, functions, missed, %, lines, missed, %.
"$cov" report "$binary" -instr-profile="$profiles/all.profdata" "${decoders[@]}" |
  awk -v least="$least" '
    $1 ~ /\.rs$/ { printf "%-28s %5d lines %4d missed %6s\n", $1, $8, $9, $10; lines += $8; missed += $9; files++ }
    END {
      if (!files || !lines) { print "nothing was measured"; exit 2 }
      reached = 100 * (lines - missed) / lines
      printf "%d files, %d lines, %.2f %% reached by the corpora (at least %s)\n", files, lines, reached, least
      exit reached < least
    }'

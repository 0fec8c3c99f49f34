#!/usr/bin/env bash
# One of four sources stops dead half-way: how long until the fetch is done, against the fluid time with three from then on.
#
#   benches/stall.sh PEER_BINARY [MIB=2048] [RATE_MIB=20]
#
# Four seeds on loopback send RATE_MIB MiB/s each at most; one is SIGSTOPped when half of the content is there.
set -euo pipefail
peer=$(realpath "$1") mib=${2:-2048} rate=${3:-20}
dir=$(mktemp -d /dev/shm/stall.XXXX)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill -CONT "$pid" 2>/dev/null || true; kill -9 "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap cleanup EXIT
head -c $((mib << 20)) /dev/urandom >"$dir/content"
export XDG_STATE_HOME=$dir/state
"$peer" --no-config create "$dir/content" -o "$dir/manifest" -qq >/dev/null
sources=()
for i in 1 2 3 4; do
    "$peer" --no-config seed "$dir/content" -l 127.0.0.1:0 --max-upload "${rate}M" --json >"$dir/seed$i" 2>/dev/null &
    pids+=($!)
done
for i in 1 2 3 4; do
    until link=$(grep -o 'http://127[^"]*/m/' "$dir/seed$i" | head -1) && [ -n "$link" ]; do sleep 0.05; done
    sources+=(--peer "$(echo "$link" | sed 's|http://||; s|/m/||')")
done
start=$(date +%s.%N)
"$peer" --no-config fetch "$dir/manifest" -o "$dir/out" "${sources[@]}" --seed-for 0s --json >"$dir/fetch" 2>/dev/null &
fetch=$!
pids+=("$fetch")
total=$((mib << 20)) stopped= left=0
while kill -0 "$fetch" 2>/dev/null; do
    done=$(tail -n 1 "$dir/fetch" | grep -o '"done":[0-9]*' | cut -d: -f2 || true)
    if [ -z "$stopped" ] && [ "${done:-0}" -ge $((total / 2)) ]; then
        kill -STOP "${pids[1]}"
        stopped=$(date +%s.%N) left=$((total - done))
    fi
    sleep 0.05
done
end=$(date +%s.%N)
cmp "$dir/content" "$dir/out"
got=$(grep '"type":"result"' "$dir/fetch" | grep -o '"downloaded":[0-9]*' | cut -d: -f2)
awk -v s="$start" -v m="$stopped" -v e="$end" -v left="$left" -v rate="$rate" -v got="$got" -v total="$total" 'BEGIN {
    fluid = (m - s) + left / (3 * rate * 1048576)
    printf "stopped after %.2f s; done after %.2f s, fluid %.2f s, ratio %.3f; %.2f %% received for nothing\n", m - s, e - s, fluid, (e - s) / fluid, (got / total - 1) * 100
}'

#!/usr/bin/env bash
# Death, with default flags: the origin is killed (kill -9) as soon as the others hold one full copy between them; then the
# tracker is killed after all have joined, and a newcomer comes in by a fetching peer's own link.
#
#   benches/death.sh PEER_BINARY TRACKER_BINARY [N=8] [MIB=400]
set -euo pipefail
peer=$(realpath "$1") tracker=$(realpath "$2") n=${3:-8} mib=${4:-400}
dir=$(mktemp -d "${TMPDIR:-/tmp}/death.XXXX")
cleanup() {
    for pid in $(jobs -p); do
        disown "$pid" 2>/dev/null || true
        kill -9 "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
}
trap cleanup EXIT
head -c $((mib << 20)) /dev/urandom >"$dir/content"
link_of() { # file
    local link=
    until link=$(grep -o 'http://[^" ]*/m/[0-9a-f]*' "$1" 2>/dev/null | head -1) && [ -n "$link" ]; do sleep 0.05; done
    echo "$link"
}
fetches() { # link, prefix, words...
    local link=$1 prefix=$2
    shift 2
    for i in $(seq "$n"); do
        XDG_STATE_HOME=$dir/state$i "$peer" --no-config fetch "$link" -o "$dir/$prefix$i" --json "$@" \
            >"$dir/$prefix$i.json" 2>"$dir/$prefix$i.err" &
        pids[i]=$!
    done
}
finished() { # prefix, label
    local good=0
    for i in $(seq "$n"); do
        wait "${pids[i]}" && cmp -s "$dir/content" "$dir/$1$i" && good=$((good + 1)) || tail -3 "$dir/$1$i.err"
    done
    echo "$2: $good of $n finished with the right bytes"
}
pids=()

# The uplink is limited, so that the origin dies in the middle and not at the end.
XDG_STATE_HOME=$dir/s "$peer" --no-config seed "$dir/content" -l 127.0.0.1:0 --max-upload 60M --json \
    >"$dir/seed.json" 2>/dev/null &
origin=$!
fetches "$(link_of "$dir/seed.json")" a
until grep -q '"copies":[1-9]' "$dir/seed.json"; do sleep 0.02; done
disown $origin
kill -9 $origin
echo "the origin is dead; it had sent $(grep -o '"sent":[0-9]*' "$dir/seed.json" | tail -1 | cut -d: -f2) of $((mib << 20)) bytes when it last said so"
finished a "origin killed at one copy"

"$tracker" --no-config --listen 127.0.0.1:0 --admin-listen off --data "$dir/data" >"$dir/tracker.out" 2>"$dir/tracker.err" &
service=$!
until url=$(grep -o 'http://[^ "]*' "$dir/tracker.out" | head -1) && [ -n "$url" ]; do sleep 0.05; done
XDG_STATE_HOME=$dir/s2 "$peer" --no-config seed "$dir/content" -t "$url" -l 127.0.0.1:0 --max-upload 60M --json \
    >"$dir/seed2.json" 2>"$dir/seed2.err" &
fetches "$(link_of "$dir/seed2.json")" b --max-download 40M --listen 127.0.0.1:0
until [ "$(cat "$dir"/b*.json | grep -c '"peers":[1-9]')" -ge "$n" ]; do sleep 0.05; done
disown $service
kill -9 $service
port=$(ss -tlnp 2>/dev/null | grep "pid=${pids[1]}," | grep -o '127.0.0.1:[0-9]*' | head -1)
id=$("$peer" --no-config create "$dir/content" -o "$dir/m" -qq)
XDG_STATE_HOME=$dir/new "$peer" --no-config fetch "http://$port/m/$id" -o "$dir/new.out" --seed-for 0s -qq >/dev/null &
newcomer=$!
finished b "tracker killed after all joined"
wait $newcomer && cmp "$dir/content" "$dir/new.out" && echo "a newcomer by http://PEER:PORT/m/ID finished with the right bytes"

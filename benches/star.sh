#!/usr/bin/env bash
# A star of hosts in network namespaces: one seed, N fetchers started together, every uplink and downlink shaped.
#
#   benches/star.sh PEER_BINARY [N=8] [MIB=128] [UP_MBIT=40] [DOWN_MBIT=400]
#
# Needs root, iproute2 and ethtool. Prints the time from the start of the fetchers to the last final name, the bound
# max(F/u_seed, F/d_min, N*F/(u_seed + sum of u_peers)) on payload bytes (0.957 of the line rate at MTU 1500), and the
# copies that the seed sent. Data lies on tmpfs. Every copy is compared with the original.
set -euo pipefail
peer=$(realpath "$1") n=${2:-8} mib=${3:-128} up=${4:-40} down=${5:-400}
[ "$(id -u)" = 0 ] || { echo "skipped: network namespaces need root"; exit 0; }
tag=shoal$$
dir=$(mktemp -d /dev/shm/$tag.XXXX)
hosts=$(seq 0 "$n")
cleanup() {
    for i in $hosts; do
        ip netns pids $tag-"$i" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        ip netns del $tag-"$i" 2>/dev/null || true
    done
    ip netns del $tag-hub 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
ip netns add $tag-hub
ip -n $tag-hub link add br0 type bridge
ip -n $tag-hub link set br0 up
for i in $hosts; do
    ns=$tag-$i
    ip netns add $ns
    ip -n $ns link add eth0 type veth peer name v"$i" netns $tag-hub
    ip -n $ns addr add 10.77.0.$((i + 1))/24 dev eth0
    ip -n $ns link set lo up
    ip -n $ns link set eth0 up
    ip -n $tag-hub link set v"$i" master br0 up
    # Segments, not super-packets, must pass the shapers.
    ip netns exec $ns ethtool -K eth0 tso off gso off gro off >/dev/null
    ip netns exec $tag-hub ethtool -K v"$i" tso off gso off gro off >/dev/null
    ip netns exec $ns tc qdisc add dev eth0 root tbf rate "${up}"mbit burst 16k latency 100ms
    ip netns exec $tag-hub tc qdisc add dev v"$i" root tbf rate "${down}"mbit burst 64k latency 100ms
done
head -c $((mib << 20)) /dev/urandom >"$dir/content"
run() { # host, words...
    local i=$1
    shift
    ip netns exec $tag-"$i" env XDG_STATE_HOME="$dir/state$i" "$peer" --no-config "$@"
}
run 0 seed "$dir/content" --json >"$dir/seed.json" 2>"$dir/seed.err" &
link=
for _ in $(seq 200); do
    link=$(grep -o '"link":"[^"]*"' "$dir/seed.json" 2>/dev/null | head -1 | cut -d'"' -f4 || true)
    [ -n "$link" ] && break
    sleep 0.05
done
[ -n "$link" ] || { cat "$dir/seed.err"; exit 1; }
start=$(date +%s.%N)
for i in $(seq "$n"); do
    { run "$i" fetch "$link" -o "$dir/out$i" --seed-for 60s --json >"$dir/fetch$i.json" 2>"$dir/fetch$i.err"; } &
done
for i in $(seq "$n"); do
    until [ -e "$dir/out$i" ]; do sleep 0.02; done
    echo "$(date +%s.%N) $start" | awk -v i="$i" '{printf "peer %d: seen complete after %.2f s\n", i, $1 - $2}'
done
end=$(date +%s.%N)
for i in $(seq "$n"); do cmp "$dir/content" "$dir/out$i"; done
ip netns pids $tag-0 | xargs -r kill -INT
for _ in $(seq 100); do grep -q '"type":"result"' "$dir/seed.json" && break; sleep 0.05; done
sent=$(grep '"type":"result"' "$dir/seed.json" | grep -o '"sent":[0-9]*' | cut -d: -f2)
awk -v s="$start" -v e="$end" -v n="$n" -v mib="$mib" -v up="$up" -v down="$down" -v sent="${sent:-0}" 'BEGIN {
    f = mib * 1048576; u = up * 125000 * 0.957; d = down * 125000 * 0.957
    bound = f / u; if (f / d > bound) bound = f / d
    t = n * f / (u * (n + 1)); if (t > bound) bound = t
    printf "last of %d after %.2f s, bound %.2f s, ratio %.3f; the seed sent %.2f copies\n", n, e - s, bound, (e - s) / bound, sent / f
}'
echo "congestion control of the system: $(sysctl -n net.ipv4.tcp_congestion_control); Shoal uses cubic where the round trip is below 5 ms"

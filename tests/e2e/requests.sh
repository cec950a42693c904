#!/usr/bin/env bash
# What a drive costs in requests, counted by a proxy in front of the server: untar of 5,000 small files and
# flush, the idle drive, reading the tree back cold; listing, renaming and removing a directory of 2,000 files.
source "$(dirname "$0")/../support/lib.sh"

readonly FILES=5000 WRITES_MAX=30 READS_MAX=60 IDLE_PER_S_MAX=0.1
readonly SMALL=2000 LIST_MAX=6 RENAME_MAX=3 UNLINK_MAX=6
# The first minute has what is left to do after the untar: its records become a table, compaction begins.
settle_s=65 idle_s=30
[ -z "$long" ] || settle_s=120 idle_s=600

start_proxy() {
    local manifest=$root/tests/bench/s3proxy/Cargo.toml line
    run cargo build --release --quiet --locked --manifest-path "$manifest" --target-dir "$tools/s3proxy"
    mkfifo "$work/proxy"
    setsid "$tools/s3proxy/release/s3proxy" --listen 127.0.0.1:0 --stats 127.0.0.1:0 --upstream "${S3_ENDPOINT#http://}" \
        >"$work/proxy" 2>"$work/out/proxy" </dev/null &
    processes+=($!)
    read -r -t 10 line <"$work/proxy" || fail "the proxy did not start: $(cat "$work/out/proxy")"
    read -r _ proxy _ stats <<<"$line"
}

# requests KIND: how many so far. Every request is a write or a read.
requests() {
    curl -fs "http://$stats/" | python3 -c '
import json, sys
counts = json.load(sys.stdin)["requests"]
reads = sum(n for name, n in counts.items() if name.startswith(("Get", "Head", "List")))
print({"reads": reads, "writes": sum(counts.values()) - reads, "all": sum(counts.values())}[sys.argv[1]])' "$1"
}

by_operation() { curl -fs "http://$stats/" | python3 -c 'import json, sys; print(json.load(sys.stdin)["requests"])'; }
reset() { curl -fs -X POST -o /dev/null "http://$stats/reset"; }

server ceph-rgw
start_proxy
python3 -c '
import sys; from pathlib import Path
sys.path.insert(0, sys.argv[1]); import dataset
dataset.write_tree(Path(sys.argv[2], "tree.tar"), Path(sys.argv[2], "tree.sha256"), int(sys.argv[3]))' \
    "$root/tests/bench" "$work" $FILES

new_bucket
direct=$S3_ENDPOINT
S3_ENDPOINT=http://$proxy
machine vol "s3://$bucket/volume"
S3_ENDPOINT=$direct
run "$lidfs" init -c "$conf"
mount_volume

reset
start=$SECONDS
tar -C "$mnt" -xf "$work/tree.tar"
flush_volume
writes=$(requests writes)
say "untar of $FILES files and flush: $writes writes in $((SECONDS - start)) s, $(by_operation)"

sleep $settle_s
reset
sleep $idle_s
all=$(requests all)
idle=$(awk -v n="$all" -v s=$idle_s 'BEGIN { print n / s }')
say "idle for $idle_s s: $idle requests a second, $(by_operation)"

umount_volume
lose_machine
reset
mount_volume
say "mount on a new machine: $(by_operation)"
reset
start=$SECONDS
(cd "$mnt" && run sha256sum --quiet -c "$work/tree.sha256")
reads=$(requests reads)
say "the tree read cold: $reads reads in $((SECONDS - start)) s, $(by_operation)"
mkdir "$mnt/small"
python3 -c '
import sys; from pathlib import Path
for number in range(int(sys.argv[2])):
    Path(sys.argv[1], f"f{number:05}").write_bytes(b"small" * 300)' "$mnt/small" $SMALL
umount_volume
lose_machine
mount_volume

reset
listed=$(ls -lR "$mnt/small")
[ "$(grep -c '^-' <<<"$listed")" -eq $SMALL ] || fail "not all $SMALL files are listed"
listing=$(requests all)
say "ls -lR of $SMALL files cold: $listing requests, $(by_operation)"
reset
mv "$mnt/small" "$mnt/renamed"
flush_volume
renaming=$(requests all)
say "their directory renamed: $renaming requests, $(by_operation)"
reset
find "$mnt/renamed" -type f -delete
flush_volume
removing=$(requests all)
say "all of them removed: $removing requests, $(by_operation)"
umount_volume

at_most "writes for the tree" "$writes" $WRITES_MAX
at_most "requests a second while idle" "$idle" $IDLE_PER_S_MAX
at_most "reads for the cold tree" "$reads" $READS_MAX
at_most "requests to list $SMALL files cold" "$listing" $LIST_MAX
at_most "requests to rename their directory" "$renaming" $RENAME_MAX
at_most "requests to remove them" "$removing" $UNLINK_MAX

#!/usr/bin/env bash
# `lidfs bench`: measures a store and a mount, leaves nothing behind, also when interrupted or refused, and its JSON and
# SVG are what they say. How fast anything is does not count here.
source "$(dirname "$0")/../support/lib.sh"

# bench OUT ARGS...: must succeed; standard output to that file.
bench() {
    local out=$1 code=0
    shift
    timeout 300 "$lidfs" bench --size "2 MiB" "$@" >"$out" 2>"$work/out/stderr" </dev/null || code=$?
    [ $code -eq 0 ] || fail "exit $code: bench $*: $(cat "$out" "$work/out/stderr")"
}

# figures FILE PARTS: the JSON holds together, and has store, mount or both.
figures() {
    python3 - "$@" <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
assert report["schema"] == 1, report
assert [part for part in ("store", "mount") if report[part]] == sys.argv[2].split(), report
store, mount = report["store"], report["mount"]
def times(latency, samples):
    assert latency["samples"] == samples, latency
    ordered = [latency[key] for key in ("p50_ms", "p90_ms", "p99_ms", "max_ms")]
    assert ordered == sorted(ordered) and ordered[0] > 0, latency
if store:
    for kind in ("put", "get", "head"):
        times(store["latency"][kind], 100)
    for kind in ("put", "get"):
        steps = store["throughput"][kind]
        assert [step["concurrency"] for step in steps] == [1, 2, 4, 8, 16, 32], steps
        for step in steps:
            assert step["bytes"] == 2 * step["concurrency"] * store["object_bytes"], step
            assert abs(step["bytes_per_second"] * step["seconds"] / step["bytes"] - 1) < 1e-6, step
if mount:
    assert mount["write"]["bytes"] == mount["read"]["bytes"] == 2 << 20, mount
    assert mount["write"]["flush_seconds"] <= mount["write"]["seconds"], mount
    assert mount["small_files"]["files"] == 200, mount
    times(mount["fsync"], 50)
for each in report["advice"]:
    assert set(each) == {"setting", "present", "value", "why"}, each
print("advice:", ", ".join(each["setting"] for each in report["advice"]) or "none")
PYTHON
}

# Nothing of a measurement is in the bucket or in the mount.
clean() {
    local left
    left=$(s3 list "$bucket" volume/probe/)
    [ -z "$left" ] || fail "$1: left in the bucket: $left"
    ! mountpoint -q "$mnt" || left=$(find "$mnt" -mindepth 1)
    [ "$left" = "${2:-}" ] || fail "$1: left in the mount: $left"
}

server s3s-fs
new_volume
s3 list "$bucket" volume/ | sort >"$work/out/before"

# The store, by its config file, in each way to name it.
bench "$work/out/json" --json -c "$conf"
figures "$work/out/json" store
grep -qE '^store s3://.* at http://.*: sends and fetches up to .* PUT, .* GET, .* HEAD at most, about .* USD' "$work/out/stderr" ||
    fail "the cost was not said: $(cat "$work/out/stderr")"
# As text and as a picture.
LC_ALL=C.UTF-8 bench "$work/out/text" "$conf" --svg "$work/store.svg"
head -n 1 "$work/out/text" | grep -q '^store s3://.*: sends' || fail "the cost does not come first: $(cat "$work/out/text")"
grep -q '█' "$work/out/text" || fail "no bars: $(cat "$work/out/text")"
LC_ALL=C bench "$work/out/ascii" -c "$conf" "s3://$bucket/volume" --object-size "32 KiB"
! LC_ALL=C grep -q '[^ -~]' "$work/out/ascii" || fail "not ASCII: $(cat "$work/out/ascii")"
cat "$work/out/text"
clean "the store"
s3 list "$bucket" volume/ | sort >"$work/out/after"
same "$work/out/before" "$work/out/after" "the volume"
say "a store: measured, and its volume is as it was"

# interrupt SIGNAL WHEN ARGS...: a bench that gets the signal once the command WHEN succeeds.
interrupt() {
    local signal=$1 when=$2 code=0 pid
    shift 2
    # In the background SIGINT is ignored, unless something sets it right.
    env --default-signal=INT "$lidfs" bench --size "4 GiB" "$@" >"$work/out/stdout" 2>"$work/out/stderr" </dev/null &
    pid=$!
    processes+=("$pid")
    until "$when"; do
        [ -e "/proc/$pid/exe" ] || fail "it ended before SIG$signal: $(cat "$work/out/stderr")"
        sleep 0.05
    done
    kill -s "$signal" "$pid"
    wait "$pid" || code=$?
    [ "$code $(cat "$work/out/stderr")" = "1 lidfs: interrupted; what was written has been removed" ] ||
        fail "SIG$signal: exit $code: $(cat "$work/out/stderr")"
}

small_objects() { s3 list "$bucket" volume/probe/ | grep -q small; }
large_objects() { s3 list "$bucket" volume/probe/ | grep -q x-; }
data_file() { [ -s "$(echo "$mnt"/.lidfs-bench-*/data)" ]; }

# Interrupted in the small requests, and later: what was written is gone.
interrupt INT small_objects "$conf"
clean "SIGINT"
interrupt TERM large_objects "$conf"
clean "SIGTERM"
say "interrupted: nothing left"

# The mount; its config file is known from the daemon.
mount_volume
echo theirs >"$mnt/file"
(cd "$mnt" && bench "$work/out/json" --json --svg "$work/both.svg" .)
figures "$work/out/json" "store mount"
clean "the mount" "$mnt/file"
[ "$(cat "$mnt/file")" = theirs ] || fail "a file of the mount has changed"
for picture in store both; do
    run python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$work/$picture.svg"
    run rsvg-convert -o "$work/$picture.png" "$work/$picture.svg"
    [ "$(head -c 4 "$work/$picture.png" | tail -c 3)" = PNG ] || fail "$picture.svg is not drawn"
done
interrupt INT data_file -o volume.url=s3://elsewhere/x "$mnt"
grep -q '^store of .*: not measured, .* give its config with -c$' "$work/out/stdout" || fail "a store of another volume: $(cat "$work/out/stdout")"
clean "an interrupted mount" "$mnt/file"
say "a mount: measured, and its content is as it was"

# What cannot be measured is told.
expect 3 "config names another volume than s3://$bucket/volume, which is mounted at" \
    "$lidfs" bench "$mnt" -c "$conf" -o "volume.url=s3://$bucket/other"
expect 2 'both config files; give one' "$lidfs" bench "$conf" -c "$conf"
expect 2 'at least 1 MiB' "$lidfs" bench "$conf" --size "1 KiB"
expect 2 'at least 1 MiB' "$lidfs" bench "$mnt" --size "1 KiB"
expect 2 'need a size of' "$lidfs" bench "$conf" --object-size "16 MiB"
expect 2 'is not a size' "$lidfs" bench "$conf" --size many
expect 3 'nowhere.toml' "$lidfs" bench "$work/nowhere.toml"
expect 15 'neither a config file nor a mount point' "$lidfs" bench "$work/nowhere"
expect 15 'no lidfs is mounted there' "$lidfs" bench "$work/out"
expect 1 'its directory does not exist' "$lidfs" bench "$conf" --svg "$work/none/x.svg"
expect 14 '127.0.0.1:9.*objects whose names begin with s3://.*/volume/probe/bench-' \
    "$lidfs" bench -c "$conf" -o store.endpoint=http://127.0.0.1:9 -o store.deadline=2s
umount_volume
mount_volume --read-only
expect 15 'mounted read-only, so nothing can be written' "$lidfs" bench "$mnt"
umount_volume
clean "the end"

# A directory in place of a bucket, which need not have a volume yet.
machine dir "file://$work/dir/objects"
bench "$work/out/json" --json "$conf"
figures "$work/out/json" store
left=$(find "$work/dir/objects" -mindepth 1 ! -name ".lidfs-*")
[ -z "$left" ] || fail "left in the directory: $left"
run "$lidfs" init -c "$conf"

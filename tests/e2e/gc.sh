#!/usr/bin/env bash
# Space comes back: of 2 GiB that are removed, of packs of which half is dead, of a writer that crashed.
# The bucket then holds what is live and at most 5 % more, and what is left is right byte for byte.
source "$(dirname "$0")/../support/lib.sh"

readonly LARGE_MIB=2048 SMALL_FILES=1600 SMALL_KIB=128

bucket_bytes() { s3 list "$bucket" | awk -F '\t' '{ sum += $2 } END { print sum + 0 }'; }

status() { "$lidfs" status --json "$mnt" | python3 -c "import json, sys; print(json.load(sys.stdin)$1)"; }

# Requests and bytes since the last call, for the next message.
spent() {
    local now
    now="$(status "['store']['requests']")"
    python3 - "$before" "$now" <<'PYTHON'
import ast, sys
before, now = (ast.literal_eval(text) for text in sys.argv[1:])
print(", ".join(f"{name} {now[name] - before[name]}" for name in now if now[name] > before[name]))
PYTHON
}

# Collects, and compares the bucket with what is live.
collect() {
    local said bytes live
    before="$(status "['store']['requests']")"
    said=$("$lidfs" gc --keep 0s "$mnt")
    bytes=$(bucket_bytes) live=$(status "['volume']['bytes']")
    say "$1: $said; requests: $(spent)"
    say "$1: $bytes bytes in the bucket for $live live ones"
    at_most "$1: bytes in the bucket" "$bytes" $((live + live / 20 + 2000000))
}

server ceph-rgw
new_volume
mount_volume

say "writing"
dd if=/dev/urandom of="$mnt/large" bs=1M count=$LARGE_MIB conv=fsync status=none
mkdir "$mnt/small"
for number in $(seq $SMALL_FILES); do
    dd if=/dev/urandom of="$mnt/small/$number" bs=${SMALL_KIB}K count=1 status=none
done
flush_volume
full=$(bucket_bytes)
say "$full bytes in the bucket"

rm "$mnt/large"
collect "2 GiB removed"

# Every second one: all packs are half dead.
for number in $(seq 1 2 $SMALL_FILES); do rm "$mnt/small/$number"; done
(cd "$mnt/small" && sha256sum -- *) >"$work/sums"
collect "every second file removed"
(cd "$mnt/small" && run sha256sum --quiet -c "$work/sums")

# What a writer had uploaded when it died is swept by the next one, without listing the bucket.
dd if=/dev/urandom of="$mnt/lost" bs=1M count=96 status=none &
writer=$!
while [ "$(status "['write']['uploading_bytes']")" = 0 ]; do sleep 0.02; done
sleep 0.3
crash
wait "$writer" || true
mount_after_crash
rm -f "$mnt/lost"
collect "after a crash"

umount_volume
lose_machine
mount_volume
(cd "$mnt/small" && run sha256sum --quiet -c "$work/sums")
umount_volume
say "what is left is right on another machine"

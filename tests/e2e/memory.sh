#!/usr/bin/env bash
# At default settings the daemon's peak resident memory stays bounded: while 4 GiB are written and read
# back, and while 100,000 files are created.
source "$(dirname "$0")/../support/lib.sh"

readonly RSS_MIB_MAX=600 GIB=4 FILES=100000

# Peak resident memory since the last reset, in MiB.
peak_mib() { awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$1/status"; }
reset_peak() { echo 5 >"/proc/$1/clear_refs"; }

# Incompressible, the same every time, faster than the drive.
stream() { openssl enc -aes-128-ctr -nosalt -K 00000000000000000000000000000001 -iv 0 </dev/zero 2>/dev/null | head -c "${GIB}G"; }

server ceph-rgw
new_volume
mount_volume
pid=$(daemon_pid)

start=$SECONDS
want=$({ stream || true; } | tee "$mnt/large" | sha256sum)
flush_volume
written=$(peak_mib "$pid")
say "writing $GIB GiB: peak $written MiB, $((SECONDS - start)) s"

umount_volume
lose_machine
mount_volume
pid=$(daemon_pid)
start=$SECONDS
have=$(sha256sum <"$mnt/large")
[ "$want" = "$have" ] || fail "the large file reads back as other content"
read_back=$(peak_mib "$pid")
say "reading them: peak $read_back MiB, $((SECONDS - start)) s"
rm "$mnt/large"

reset_peak "$pid"
start=$SECONDS
python3 - "$mnt" $FILES <<'PYTHON'
import os, sys
for number in range(int(sys.argv[2])):
    if number % 1000 == 0:
        folder = os.path.join(sys.argv[1], f"{number // 1000:03}")
        os.mkdir(folder)
    with open(os.path.join(folder, f"{number:06}"), "wb") as file:
        file.write(b"%d" % number)
PYTHON
flush_volume
created=$(peak_mib "$pid")
say "creating $FILES files: peak $created MiB, $((SECONDS - start)) s"
[ "$(find "$mnt" -type f | wc -l)" -eq $FILES ] || fail "not all files are listed"
umount_volume

for peak in "$written" "$read_back" "$created"; do at_most "peak resident memory in MiB" "$peak" $RSS_MIB_MAX; done

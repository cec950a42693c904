#!/usr/bin/env bash
# pjdfstest and fsx on the mount. What may be skipped: the tests that remount their file system read-only,
# which pjdfstest does not do by itself on any file system here.
source "$(dirname "$0")/../support/lib.sh"

readonly FSX_SEEDS="1 2 3" FSX_OPERATIONS=10000
# Of 398; the same count as on ext4.
readonly SKIPPED_EXPECTED=13

use_pjdfstest() {
    cat >"$work/pjdfstest.toml" <<-TOML
	[features]
	secondary_fs = "/dev/shm"
	posix_fallocate = {}
	rename_ctime = {}
	utime_now = {}
	utimensat = {}
	[settings]
	naptime = 0.01
	[dummy_auth]
	entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
	TOML
    local code=0 out=$work/out/pjdfstest
    (cd "$mnt" && NO_COLOR=1 pjdfstest -c "$work/pjdfstest.toml" -p "$mnt") >"$out" 2>&1 || code=$?
    say "pjdfstest: $(grep '^Summary' "$out" || tail -n 3 "$out")"
    if [ $code -ne 0 ]; then
        grep -aA 3 -E 'FAILED$' "$out" >&2 || true
        fail "pjdfstest: $(grep -cE 'FAILED$' "$out") tests fail"
    fi
    local skipped remounts
    skipped=$(grep -cE 'skipped$' "$out" || true)
    remounts=$(grep -c 'Remounts (allow_remount) are not allowed' "$out" || true)
    if [ "$skipped" -ne $SKIPPED_EXPECTED ] || [ "$remounts" -ne $SKIPPED_EXPECTED ]; then
        fail "pjdfstest: $skipped tests were skipped, $remounts of them because of a remount, $SKIPPED_EXPECTED expected"
    fi
}

# Every operation that fsx knows, mapped writes and hole punching included.
use_fsx() {
    cat >"$work/fsx.toml" <<-TOML
	[weights]
	close_open = 1
	invalidate = 0.5
	mapread = 1
	mapwrite = 1
	read = 1
	write = 1
	truncate = 1
	fsync = 0.05
	fdatasync = 0.05
	posix_fallocate = 1
	punch_hole = 1
	sendfile = 1
	posix_fadvise = 1
	copy_file_range = 1
	TOML
    local seed
    for seed in $FSX_SEEDS; do
        run fsx -q -f "$work/fsx.toml" -S "$seed" -N $FSX_OPERATIONS -P "$work/out" "$mnt/fsx.$seed"
        run fsx -q -S "$seed" -N $FSX_OPERATIONS -P "$work/out" "$mnt/fsx.default.$seed"
    done
    say "fsx: seeds $FSX_SEEDS, $FSX_OPERATIONS operations each, all kinds and the default kinds: pass"
}

server ceph-rgw
new_volume
mount_volume
use_fsx
use_pjdfstest
umount_volume

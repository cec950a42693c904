#!/usr/bin/env bash
# pjdfstest and fsx on the mount. What may be skipped is known by name and reason: what ext4 skips too, the
# tests that need leave to remount their file system read-only, and one that asks glibc for the most links.
source "$(dirname "$0")/../support/lib.sh"

readonly FSX_SEEDS="1 2 3" FSX_OPERATIONS=10000

# Of 398, as pjdfstest says it on ext4.
readonly REMOUNT_REASON="Remounts (allow_remount) are not allowed in the configuration file"
readonly REMOUNT_TESTS="chmod::erofs_named chown::erofs_named chown::lchown::erofs_named link::erofs_named
mkdir::erofs_new_file mkfifo::erofs_new_file open::erofs_named open::erofs_new_file rename::erofs_named
rmdir::erofs_named symlink::erofs_new_file truncate::erofs_named unlink::erofs_named"
# On ext4 it runs: pathconf(_PC_LINK_MAX) is a table in glibc, by the type of the file system, and what is not
# in it (every FUSE file system) has an "unknown" limit there. No file system can answer for itself.
readonly LINKS_REASON="Cannot get value for LINK_MAX: filesystem limit is unknown"
readonly LINKS_TEST=link::link_count_max

skips_expected() {
    local test
    {
        for test in $REMOUNT_TESTS; do echo "$test: $REMOUNT_REASON"; done
        echo "$LINKS_TEST: $LINKS_REASON"
    } | LC_ALL=C sort
}

# NAME: REASON, from what pjdfstest prints in two lines.
skips() { awk '/ skipped$/ { name = $1; getline; sub(/^[ \t]+/, ""); print name ": " $0 }' "$1" | LC_ALL=C sort; }

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
    skips "$out" >"$work/out/skipped"
    sed 's/^/posix: skipped: /' "$work/out/skipped"
    skips_expected >"$work/out/skips_expected"
    same "$work/out/skips_expected" "$work/out/skipped" "what pjdfstest skips"
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

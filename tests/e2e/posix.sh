#!/usr/bin/env bash
# pjdfstest, fsx, fio with O_DIRECT, stress-ng, dbench and fs_mark on the mount, and the edges that none of them looks
# at; remounted in between without anything local. What pjdfstest may skip is known by name and reason: what ext4 skips
# too, the tests that need leave to remount their file system read-only, and one that asks glibc for the most links.
source "$(dirname "$0")/../support/lib.sh"

fsx_seeds="1 2 3" fsx_operations=10000 stress_s=1 dbench_s=10 direct_mib=32 marks=1000
[ -z "$long" ] || fsx_seeds=$(seq -s ' ' 20) fsx_operations=50000 stress_s=30 dbench_s=300 direct_mib=1024 marks=20000

# Those of its class "filesystem" that work on files of their own, below the directory they are given. Not io: it opens
# every mount point of the machine, so that nobody could unmount anything meanwhile.
readonly STRESSORS="access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify dup fallocate fcntl fiemap
file-ioctl filename flock fpunch fsize fstat getdent handle hdd inode-flags inotify iomix link locka lockf lockofd mknod
open rename symlink sync-file touch utime xattr"

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
    say "pjdfstest, $1: $(grep '^Summary' "$out" || tail -n 3 "$out")"
    if [ $code -ne 0 ]; then
        grep -aA 3 -E 'FAILED$' "$out" >&2 || true
        fail "pjdfstest: $(grep -cE 'FAILED$' "$out") tests fail"
    fi
    skips "$out" >"$work/out/skipped"
    sed 's/^/posix: skipped: /' "$work/out/skipped"
    skips_expected >"$work/out/skips_expected"
    same "$work/out/skips_expected" "$work/out/skipped" "what pjdfstest skips"
}

# The same without root's rights: what needs them is skipped, nothing else fails.
use_pjdfstest_as_user() {
    local code=0 out=$work/out/pjdfstest
    mkdir "$mnt/of nobody"
    chown nobody:nogroup "$mnt/of nobody"
    (cd "$mnt/of nobody" && NO_COLOR=1 setpriv --reuid=nobody --regid=nogroup --clear-groups \
        "$(command -v pjdfstest)" -c "$work/pjdfstest.toml" -p "$mnt/of nobody") >"$out" 2>&1 || code=$?
    say "pjdfstest, as nobody: $(grep '^Summary' "$out" || tail -n 3 "$out")"
    [ $code -eq 0 ] || fail "pjdfstest as nobody: $(grep -aA 3 -E 'FAILED$' "$out")"
}

# use_fsx PROFILE TOML: with these weights, for each seed. What is left is kept for the remount.
use_fsx() {
    local seed
    cat >"$work/fsx.toml"
    mkdir -p "$mnt/fsx" "$work/fsx"
    for seed in $fsx_seeds; do
        run fsx -q -f "$work/fsx.toml" -S "$seed" -N "$fsx_operations" -P "$work/out" "$mnt/fsx/$1.$seed"
        cp "$mnt/fsx/$1.$seed" "$work/fsx/"
    done
    say "fsx $1: seeds $fsx_seeds, $fsx_operations operations each: pass"
}

use_fsx_profiles() {
    local everything='truncate = 1
posix_fallocate = 1
punch_hole = 1
sendfile = 1
posix_fadvise = 1
copy_file_range = 1'
    use_fsx default </dev/null
    use_fsx buffered <<-TOML
	[weights]
	close_open = 1
	invalidate = 0
	mapread = 0
	mapwrite = 0
	fsync = 0.1
	fdatasync = 0.1
	$everything
	TOML
    use_fsx mmap <<-TOML
	nomsyncafterwrite = true
	[weights]
	close_open = 1
	invalidate = 0.5
	mapread = 5
	mapwrite = 5
	fsync = 0.05
	fdatasync = 0.05
	$everything
	TOML
}

# fsx knows no O_DIRECT: random direct writes and reads of many sizes, each block with its own checksum.
use_direct() {
    mkdir -p "$mnt/direct"
    (cd "$work" && run fio --name=direct --filename="$mnt/direct/file" --size="${direct_mib}m" --rw=randrw --bsrange=4k-128k --direct=1 \
        --blockalign=4k --randseed=7 --verify=crc32c --verify_fatal=1 --end_fsync=1)
    sha256sum <"$mnt/direct/file" >"$work/direct.sha256"
    say "fio, O_DIRECT, $direct_mib MiB: pass"
}

# All load at once what they load; a fault of the file system is a non-zero exit.
use_stress_ng() {
    local name code=0 passed=0 skipped=
    mkdir "$mnt/stress"
    for name in $STRESSORS; do
        code=0
        stress-ng --temp-path "$mnt/stress" --timeout "${stress_s}s" --verify --hdd-bytes 16m --fallocate-bytes 32m --iomix-bytes 16m \
            --sync-file-bytes 8m --copy-file-bytes 128m "--$name" 2 >"$work/out/stress" 2>&1 </dev/null || code=$?
        case $code in
            0) passed=$((passed + 1)) ;;
            # Not possible here, on any file system or on FUSE.
            3 | 4) skipped+=" $name" ;;
            *) fail "stress-ng $name: exit $code: $(grep -E 'fail|error' "$work/out/stress" | head -n 5)" ;;
        esac
        if grep -qE 'skipping|skipped stressor' "$work/out/stress"; then skipped+=" $name"; fi
    done
    rm -rf "$mnt/stress"
    say "stress-ng: $passed stressors of $(wc -w <<<"$STRESSORS"), 2 at once for $stress_s s each: 0 failed, not possible here:${skipped:- none}"
}

use_dbench() {
    mkdir "$mnt/dbench"
    run dbench -c /usr/share/dbench/client.txt -D "$mnt/dbench" -t "$dbench_s" 4
    cp "$work/out/run" "$work/out/dbench"
    if grep -qiE 'fail|error|unlink .* wrong' "$work/out/dbench"; then fail "dbench: $(grep -iE 'fail|error' "$work/out/dbench" | head -n 5)"; fi
    say "dbench: $(grep -E '^Throughput' "$work/out/dbench")"
}

use_fs_mark() {
    mkdir "$mnt/fs_mark"
    # It takes no long paths.
    (cd "$mnt" && run fs_mark -d fs_mark -l fs_mark.log -n $((marks / 4)) -t 4 -s 4096 -S 1 -k -L 1)
    [ "$(find "$mnt/fs_mark" -type f -size 4096c | wc -l)" -eq $((marks / 4 * 4)) ] || fail "fs_mark: not all files are there"
    say "fs_mark: $marks files of 4 KiB, fsync each: $(awk '$1 ~ /^[0-9]+$/ && NF >= 5 { line = $0 } END { print "FSUse Count Size Files/s Overhead:" line }' "$work/out/run")"
}

elsewhere() {
    umount_volume
    lose_machine
    mount_volume
}

check_after_remount() {
    local file
    for file in "$work"/fsx/*; do same "$file" "$mnt/fsx/${file##*/}" "${file##*/} after the remount"; done
    sha256sum <"$mnt/direct/file" >"$work/direct.found"
    same "$work/direct.sha256" "$work/direct.found" "the file written with O_DIRECT"
    run python3 "$support/posix_edges.py" check "$mnt/edges"
    [ "$(find "$mnt/fs_mark" -type f -size 4096c | wc -l)" -eq $((marks / 4 * 4)) ] || fail "fs_mark: not all files are there after the remount"
}

# What adds to a full drive is refused to the program that writes; overwriting and removing go on.
use_quota() {
    local code=0 mib=1048576
    new_volume quota
    mount_volume -o write.quota="64 MiB"
    [ "$(stat -f -c '%b * %S' "$mnt" | xargs -I{} python3 -c 'print({})')" = $((64 * mib)) ] || fail "statfs: $(stat -f "$mnt")"
    head -c 60M /dev/urandom >"$work/large"
    run cp "$work/large" "$mnt/large"
    dd if=/dev/urandom of="$mnt/more" bs=1M count=10 >"$work/out/dd" 2>&1 || code=$?
    if [ $code -eq 0 ] || ! grep -q "No space left" "$work/out/dd"; then fail "the drive takes more than its quota: $(cat "$work/out/dd")"; fi
    [ "$(stat -f -c '%a' "$mnt")" -lt $((mib / 512)) ] || fail "statfs of a full drive: $(stat -f "$mnt")"
    run dd if="$work/large" of="$mnt/large" bs=1M count=60 conv=notrunc,fsync
    flush_volume
    rm "$mnt/more" "$mnt/large"
    run cp "$work/large" "$mnt/again"
    run sync "$mnt/again"
    same "$work/large" "$mnt/again" "what was written after the drive had been full"
    umount_volume
    say "quota of 64 MiB: ENOSPC beyond, statfs says so, overwritten in place, room again after rm: pass"
}

server ceph-rgw
new_volume
mount_volume
run python3 "$support/posix_edges.py" make "$mnt/edges"
say "edges: $(cat "$work/out/run"): pass"
use_fsx_profiles
use_direct
use_stress_ng
use_dbench
use_fs_mark
use_pjdfstest "plain"
elsewhere
check_after_remount
use_pjdfstest "after a remount"
use_pjdfstest_as_user
umount_volume
use_quota

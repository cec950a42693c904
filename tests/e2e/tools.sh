#!/usr/bin/env bash
# Real tools work on a mount of a real S3 server, and everything is there again on another machine:
# tar, git, rsync, SQLite, restic, borg, fio; contents, metadata and the tools' own checks.
source "$(dirname "$0")/../support/lib.sh"

readonly SOURCE_FILES=6000 SQLITE_TRANSACTIONS=300 FIO_MIB=1024

# Nothing that git or the backup tools keep outside the mount may help them later.
export GIT_CONFIG_GLOBAL=$work/gitconfig GIT_TERMINAL_PROMPT=0
printf '[user]\nname = A\nemail = a@example.com\n[safe]\ndirectory = *\n[maintenance]\nautoDetach = false\n' >"$GIT_CONFIG_GLOBAL"
export RESTIC_PASSWORD=restic BORG_BASE_DIR=$work/borg
export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes

untar() {
    local count
    count=$(python3 "$support/source_tree.py" "$root" "$work/tree.tar" $SOURCE_FILES)
    mkdir "$mnt/source"
    tar -C "$mnt/source" -xf "$work/tree.tar"
    run tar -C "$mnt/source" -df "$work/tree.tar"
    say "untarred $count files"
}

use_git() {
    run git clone "file://$root" "$mnt/clone"
    cp -r "$mnt/source" "$mnt/clone/vendor"
    run git -C "$mnt/clone" add -f vendor
    run git -C "$mnt/clone" commit -qm 'Add the sources'
    local number
    for number in {1..20}; do
        echo "$number" >>"$mnt/clone/counter"
        run git -C "$mnt/clone" add counter
        run git -C "$mnt/clone" commit -qm "Count to $number"
    done
    run git -C "$mnt/clone" gc --prune=now
    check_git
}

check_git() {
    local changes
    run git -C "$mnt/clone" fsck --strict --full
    changes=$(git -C "$mnt/clone" status --porcelain)
    [ -z "$changes" ] || fail "git: the clone is not clean: $(head -n 5 <<<"$changes")"
}

use_rsync() {
    mkdir "$work/torture"
    python3 "$support/torture.py" "$work/torture"
    run rsync -aHAXS --numeric-ids "$work/torture/" "$mnt/torture/"
    check_rsync
}

# What rsync would change is nothing, and our own look at both trees agrees.
check_rsync() {
    local changes
    changes=$(rsync -aHAXni --numeric-ids --checksum --delete "$work/torture/" "$mnt/torture/")
    [ -z "$changes" ] || fail "rsync still sees differences: $(head -n 5 <<<"$changes")"
    manifest "$work/torture" "$work/torture.want" --portable
    manifest "$mnt/torture" "$work/torture.have" --portable
    same_manifest "$work/torture.want" "$work/torture.have" "the rsynced tree"
    local blocks
    blocks=$(stat -c %b "$mnt/torture/sizes/sparse")
    at_most "512-byte blocks of a sparse file with 210 kB of data" "$blocks" 2000
}

use_sqlite() {
    local writer pids=()
    run python3 "$support/sqlite_load.py" "$mnt/database" make
    for writer in one two; do
        python3 "$support/sqlite_load.py" "$mnt/database" $writer $SQLITE_TRANSACTIONS >"$work/out/$writer" 2>&1 &
        pids+=($!)
    done
    for writer in "${pids[@]}"; do wait "$writer" || fail "sqlite: $(cat "$work/out/one" "$work/out/two")"; done
    check_sqlite
}

check_sqlite() { run python3 "$support/sqlite_load.py" "$mnt/database" check 2 $SQLITE_TRANSACTIONS; }

use_restic() {
    run restic -r "$mnt/restic" --no-cache init
    run restic -r "$mnt/restic" --no-cache backup "$mnt/source" "$mnt/torture/names"
    check_restic
}

check_restic() {
    run restic -r "$mnt/restic" --no-cache check --read-data
    rm -rf "$work/restored"
    run restic -r "$mnt/restic" --no-cache restore latest --target "$work/restored"
    run diff -r --no-dereference "$mnt/source" "$work/restored$mnt/source"
}

use_borg() {
    run borg init -e none "$mnt/borg"
    run borg create "$mnt/borg::first" "$mnt/source"
    run borg create "$mnt/borg::second" "$mnt/source" "$mnt/torture/sizes/size5000000"
    check_borg
}

check_borg() { run borg check --verify-data "$mnt/borg"; }

# Random writes in pieces of many sizes; every piece carries its own checksum.
fio_verify() {
    (cd "$work" && run fio --name=verify --filename="$mnt/fio" --size=${FIO_MIB}m --rw=randwrite --bsrange=4k-256k \
        --randseed=7 --verify=crc32c --verify_fatal=1 --end_fsync=1 "$@")
}

check_fio() { fio_verify --verify_only; }

server ceph-rgw
new_volume
mount_volume

for tool in untar use_git use_rsync use_sqlite use_restic use_borg fio_verify; do
    start=$SECONDS
    $tool
    took "$tool" "$start"
done

start=$SECONDS
manifest "$mnt" "$work/before"
took "manifest of $(grep -zc . "$work/before/find") entries" "$start"

umount_volume
lose_machine
mount_volume

start=$SECONDS
manifest "$mnt" "$work/after"
same_manifest "$work/before" "$work/after" "the drive on another machine"
took "the same manifest on another machine, read cold" "$start"
for check in check_git check_rsync check_sqlite check_restic check_borg check_fio; do $check; done
umount_volume
say "all the tools' own checks pass there too"

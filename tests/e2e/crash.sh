#!/usr/bin/env bash
# After kill -9 and the loss of everything local, the drive is what it was at one moment, not before the
# last acknowledged fsync, and mounting it is all the repair. Killed at random moments of a write load,
# and right after an fsync has returned.
source "$(dirname "$0")/../support/lib.sh"

readonly RANDOM_KILLS=20 KILLS_AFTER_FSYNC=5
# Every fifth load never calls fsync: there the five-second commit is what is tested.
readonly QUIET_EVERY=5
seed=${E2E_SEED:-$RANDOM$RANDOM}
load=$support/crashload.py

# One load into a directory of its own, ended by the death of the daemon; then the verdict.
round() {
    local name=$1 pid writer pause code=0
    shift
    mkdir "$mnt/$name"
    run python3 -c 'import os, sys; os.fsync(os.open(sys.argv[1], os.O_RDONLY))' "$mnt"
    pid=$(daemon_pid)
    if [ "${1:-}" = after-fsync ]; then
        python3 "$load" write "$mnt/$name" "$work/$name.log" "$seed-$name" --kill-after-fsync "$2" "$pid" \
            >"$work/out/writer" 2>&1 </dev/null || fail "the load ended early: $(cat "$work/out/writer")"
    else
        python3 "$load" write "$mnt/$name" "$work/$name.log" "$seed-$name" >"$work/out/writer" 2>&1 </dev/null &
        writer=$!
        pause=$(awk -v seed=$RANDOM 'BEGIN { srand(seed); print 0.2 + rand() * 8 }')
        sleep "$pause"
        kill -0 $writer 2>/dev/null || fail "the load ended early: $(cat "$work/out/writer")"
        kill -9 "$pid"
        wait $writer || code=$?
        [ $code -eq 0 ] || fail "the load: $(cat "$work/out/writer")"
    fi
    crash
    lose_machine
    mount_after_crash
    local shown
    shown=$(verdict "$name")
    say "$name: $shown"
    cp -a "$mnt/$name" "$work/kept.$name"
}

verdict() {
    python3 "$load" verify "$mnt/$1" "$work/$1.log" "$seed-$1" 2>"$work/out/verdict" ||
        fail "$1, seed $seed: $(cat "$work/out/verdict")"
}

server ceph-rgw
new_volume
mount_volume
say "seed $seed (E2E_SEED)"
for ((number = 1; number <= KILLS_AFTER_FSYNC; number++)); do
    round "synced$number" after-fsync $((number * number * 3))
done
for ((number = 1; number <= RANDOM_KILLS; number++)); do
    if ((number % QUIET_EVERY)); then round "random$number"; else round "random$number-quiet"; fi
done
# What one crash left, the later ones have not touched.
for kept in "$work"/kept.*; do
    run diff -r --no-dereference "$kept" "$mnt/${kept##*/kept.}"
done
umount_volume
say "$((RANDOM_KILLS + KILLS_AFTER_FSYNC)) crashes, each left a prefix that holds the last acknowledged fsync"

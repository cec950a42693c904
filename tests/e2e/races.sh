#!/usr/bin/env bash
# One writer. Two mounts that start at the same moment: never do both win. Each that thinks it has won writes and
# fsyncs; what was acknowledged, and only one writer's, is what another machine reads. Then a mount that was stopped
# (SIGSTOP, as a suspended machine) while another took over: it acknowledges nothing more and turns read-only.
source "$(dirname "$0")/../support/lib.sh"

races=${E2E_RACES:-200} stops=3
[ -z "$long" ] || races=1000 stops=20
both_mounted=0 refused=0 overtaken=0 acknowledged=0 nobody=0

# contend MACHINE NUMBER FLAGS...: mounts and, if that succeeds, writes and fsyncs at once. Leaves in MACHINE/outcome
# the exit code of the mount and what the fsync was answered.
contend() {
    local number=$2 code=0 told=-
    use_machine "$1"
    shift 2
    # The starting shot.
    until [ -e "$work/go" ]; do :; done
    try_mount "$@" || code=$?
    if [ $code -eq 0 ]; then told=$(write_and_fsync "$number-${vol##*/}-first"); fi
    echo "$code $told" >"$vol/outcome"
}

# Writes the file $1 with its own name in it: "acknowledged", or the errno.
write_and_fsync() {
    python3 - "$mnt/$1" "$1" <<'PYTHON'
import errno, os, sys
try:
    file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.write(file, sys.argv[2].encode() + b"\n")
    os.fsync(file)
    print("acknowledged")
except OSError as error:
    print(errno.errorcode[error.errno])
PYTHON
}

# race NUMBER FLAGS...: both at once. When both have been answered, each that is mounted writes once more: of two
# that hold the volume at the same time, one at most is acknowledged.
race() {
    local number=$1 pids=() name outcome told winners=0 final=0
    shift
    rm -f "$work/go" "$work"/{one,two}/outcome
    for name in one two; do
        contend "$name" "$number" "$@" &
        pids+=($!)
    done
    sleep 0.05
    touch "$work/go"
    wait "${pids[@]}"
    for name in one two; do
        outcome=$(cat "$work/$name/outcome")
        case $outcome in
            "0 "*) winners=$((winners + 1)) ;;
            "11 -") refused=$((refused + 1)) ;;
            # Overtaken before it was mounted.
            "1 -") grep -q 'newer writer' "$work/$name/log/mount.out" && overtaken=$((overtaken + 1)) ;;
            *) fail "race $number: $name: $outcome: $(cat "$work/$name/log/mount.out")" ;;
        esac
        if [ "$outcome" = "0 acknowledged" ]; then echo "$number-$name-first" >>"$work/acknowledged"; fi
    done
    [ $winners -lt 2 ] || both_mounted=$((both_mounted + 1))
    [ $winners -gt 0 ] || nobody=$((nobody + 1))
    for name in one two; do
        use_machine "$name"
        if [[ "$(cat "$vol/outcome")" == "0 "* ]]; then
            told=$(write_and_fsync "$number-$name-last")
            case $told in
                acknowledged)
                    final=$((final + 1))
                    echo "$number-$name-last" >>"$work/acknowledged"
                    ;;
                EIO | EROFS) ;;
                *) fail "race $number: $name: $told" ;;
            esac
        fi
    done
    [ $final -le 1 ] || fail "race $number: BOTH WIN"
    for name in one two; do end_quickly "$name"; done
}

# SIGTERM twice: a mount that was overtaken has nothing that could still be stored.
end_quickly() {
    use_machine "$1"
    local pid
    for pid in $(daemon_pids "$vol"); do
        kill -TERM "$pid" 2>/dev/null || true
        for _ in {1..100}; do
            [ -e "/proc/$pid/fd/0" ] || break
            sleep 0.05
        done
    done
    crash
}

# What was acknowledged is in the bucket, seen by a third machine that only reads.
check_acknowledged() {
    local file
    use_machine reader
    mount_volume --read-only
    while read -r file; do
        [ "$(cat "$mnt/$file" 2>&1)" = "$file" ] || fail "$file was acknowledged, but the drive has: $(cat "$mnt/$file" 2>&1)"
        acknowledged=$((acknowledged + 1))
    done <"$work/acknowledged"
    umount_volume
}

# A stopped mount wakes up after a takeover.
stopped_mount() {
    local pid told
    use_machine one
    mount_after_crash
    pid=$(daemon_pid)
    echo before >"$mnt/stopped-$1"
    run sync "$mnt/stopped-$1"
    kill -STOP "$pid"
    use_machine two
    mount_volume --takeover
    echo taken >"$mnt/taken-$1"
    run sync "$mnt/taken-$1"
    kill -CONT "$pid"
    use_machine one
    told=$(write_and_fsync "after-$1")
    case $told in EIO | EROFS) ;; *) fail "a mount that was overtaken while it was stopped: $told" ;; esac
    if touch "$mnt/more" 2>/dev/null; then fail "a mount that was overtaken is still writable"; fi
    "$lidfs" status --json "$mnt" | python3 -c '
import json, sys
status = json.load(sys.stdin)
sys.exit(not status["read_only"] or status["health"]["state"] != "fenced")' || fail "status of the overtaken mount: $("$lidfs" status "$mnt")"
    end_quickly one
    use_machine two
    [ "$(cat "$mnt/stopped-$1" "$mnt/taken-$1" | xargs)" = "before taken" ] || fail "the new mount lacks what was fsynced"
    [ ! -e "$mnt/after-$1" ] || fail "the overtaken mount has still stored something"
    umount_volume
    say "stopped, overtaken, continued: $told, read-only, fenced"
}

server ceph-rgw
new_volume one
machine two "$url" "$key"
machine reader "$url" "$key"
for ((number = 1; number <= races; number++)); do
    # Half of them without the courtesy of the lease, so that only the store decides.
    if ((number % 2)); then race "$number"; else race "$number" --takeover; fi
done
check_acknowledged
for ((number = 1; number <= stops; number++)); do stopped_mount "$number"; done
say "races $races: both mounted at first $both_mounted, refused by the lease $refused, overtaken while mounting $overtaken, nobody $nobody, both won in the end 0"
say "acknowledged fsyncs $acknowledged, lost 0; stopped mounts that came back $stops, acknowledged by them 0"
[ $both_mounted -gt 0 ] || fail "no two mounts ever held the volume at once, so the races show little"

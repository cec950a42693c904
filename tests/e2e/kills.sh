#!/usr/bin/env bash
# After kill -9 and the loss of everything local, the drive on another machine is what it was at one moment, not
# before what any acknowledged fsync has promised, and mounting it is all the repair. Several writers append,
# overwrite, replace, rename and remove at once; the daemon is killed at random moments of that, and right after an
# fsync has returned. What was acknowledged is noted outside the drive. The script fails if nothing was at risk.
source "$(dirname "$0")/../support/lib.sh"

kills=50
[ -z "$long" ] || kills=1000
readonly WRITERS=4
# Every fifth load never calls fsync: there the commit by time is what is tested. Every fifth is killed by a writer
# itself, right after its fsync has returned.
readonly EVERY=5
# So many loads stay on the drive through the crashes that follow, and are compared again before they go.
readonly KEPT=8
seed=${E2E_SEED:-$RANDOM$RANDOM}
RANDOM=$((seed % 32768))
load=$support/crashload.py
kept=()

between() { awk -v low="$1" -v span="$(($2 - $1))" -v random=$RANDOM 'BEGIN { print (low + span * random / 32768) / 1000 }'; }

# The other machine of the two, without any local trace. $1 is the commit interval there.
go_elsewhere() {
    if [ "$vol" = "$work/first" ]; then use_machine second; else use_machine first; fi
    rm -rf "$cache" "$state"
    mkdir -p "$cache" "$state"
    mount_after_crash -o write.commit_interval="$1" -o write.pack_size="1 MiB" -o write.dirty_max="16 MiB"
}

fsync_of() { run python3 -c 'import os, sys; os.fsync(os.open(sys.argv[1], os.O_RDONLY))' "$1"; }

# load_and_kill NAME: one load into a directory of its own, ended by the death of the daemon.
load_and_kill() {
    local name=$1 pid writer code=0
    mkdir "$mnt/$name"
    fsync_of "$mnt"
    pid=$(daemon_pid)
    case $name in
        *-synced)
            python3 "$load" write "$mnt/$name" "$work/$name.log" "$seed-$name" $WRITERS --kill-after-fsync $((RANDOM % 12 + 1)) "$pid" \
                >"$work/out/writer" 2>&1 </dev/null || fail "the load ended early: $(cat "$work/out/writer")"
            ;;
        *)
            # What the last load said must not be taken for this one's.
            : >"$work/out/writer"
            python3 "$load" write "$mnt/$name" "$work/$name.log" "$seed-$name" $WRITERS >"$work/out/writer" 2>&1 </dev/null &
            writer=$!
            until grep -q writing "$work/out/writer"; do
                kill -0 $writer 2>/dev/null || fail "the load ended early: $(cat "$work/out/writer")"
                sleep 0.05
            done
            case $name in *-quiet) sleep "$(between 1500 4500)" ;; *) sleep "$(between 200 2500)" ;; esac
            kill -0 $writer 2>/dev/null || fail "the load ended early: $(cat "$work/out/writer")"
            kill -9 "$pid"
            wait $writer || code=$?
            [ $code -eq 0 ] || fail "the load: $(cat "$work/out/writer")"
            ;;
    esac
    crash
}

verdict() {
    python3 "$load" verify "$mnt/$1" "$work/$1.log" "$seed-$1" $WRITERS 2>"$work/out/verdict" ||
        fail "$1, E2E_SEED=$seed: $(cat "$work/out/verdict")"
}

# What one crash left, the later ones have not touched. Then it is removed.
recheck() {
    run diff -r --no-dereference "$work/kept.$1" "$mnt/$1"
    rm -rf "$work/kept.$1" "${mnt:?}/$1" "$work/$1.log"
}

server ceph-rgw
new_volume first
machine second "$url" "$key"
use_machine first
say "$kills kills, E2E_SEED=$seed"
mount_volume
for ((number = 1; number <= kills; number++)); do
    name=kill$number
    case $((number % EVERY)) in 0) name+=-quiet ;; 1) name+=-synced ;; esac
    load_and_kill "$name"
    # The next load without fsync is to see some commits.
    if (((number + 1) % EVERY)); then go_elsewhere "$((RANDOM % 5 + 1))s"; else go_elsewhere 700ms; fi
    verdict "$name" >"$work/verdict"
    cat "$work/verdict" >>"$work/verdicts"
    cp -a "$mnt/$name" "$work/kept.$name"
    kept+=("$name")
    if [ ${#kept[@]} -gt $KEPT ]; then
        recheck "${kept[0]}"
        kept=("${kept[@]:1}")
    fi
done
for name in "${kept[@]}"; do recheck "$name"; done
umount_volume

python3 - "$work/verdicts" $kills <<'PYTHON' || fail "nothing was at risk, so nothing is shown"
import json, sys
rounds = [json.loads(line) for line in open(sys.argv[1])]
total = lambda field: sum(each[field] for each in rounds)
risky = sum(each["at_risk"] > 0 for each in rounds)
print(f"kills: kills {len(rounds)}, fsyncs acknowledged {total('fsyncs')}, lost 0")
print(f"kills: operations begun and not yet safe when killed {total('at_risk')}, of them gone {total('dropped')}, "
      f"kills with such operations {risky}, writers within an fsync {total('within_fsync')}")
sys.exit(len(rounds) != int(sys.argv[2]) or risky * 2 < len(rounds) or not total("dropped") or not total("within_fsync"))
PYTHON

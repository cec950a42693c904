#!/usr/bin/env bash
# Everything is sealed anew with a new key while programs write, with the daemon killed ten times on the way and
# everything local lost each time: the rekey goes on by itself, everything stays readable at every point, in the end
# no object of an older epoch is left, and the old key is gone. Fails if a kill did not meet a rekey under way.
source "$(dirname "$0")/../support/lib.sh"

kills=10 data_mib=40
[ -z "$long" ] || kills=50 data_mib=1024
readonly GC='[gc]
keep = "1s"
rekey_rate = "16 MiB"'
seed=${E2E_SEED:-$RANDOM$RANDOM}
RANDOM=$((seed % 32768))

field() { "$lidfs" status --json "$mnt" | python3 -c "import json, sys; print(json.load(sys.stdin)$1)"; }

# Appends to a file of its own, and notes each line outside once its fsync has returned.
write_load() {
    python3 - "$mnt" "$work/acknowledged" "$1" >"$work/out/load" 2>&1 <<'PYTHON' &
import os, sys
mnt, noted, name = sys.argv[1:]
file = os.open(os.path.join(mnt, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
number = 0
while True:
    number += 1
    text = f"{name} {number} " + os.urandom(2000).hex() + "\n"
    try:
        os.write(file, text.encode())
        os.fsync(file)
    except OSError:
        break  # The mount has ended.
    with open(noted, "a") as note:
        note.write(text)
PYTHON
    load_pid=$!
}

# Everything that was there before, and every acknowledged line.
all_readable() {
    run diff -r --no-dereference "$work/data" "$mnt/data"
    python3 - "$mnt" "$work/acknowledged" <<'PYTHON' || fail "what was acknowledged is not there"
import os, sys
mnt, noted = sys.argv[1:]
files, lines = {}, 0
# Whole, before anything is read: the load goes on.
acknowledged = open(noted).read()
for line in acknowledged[: acknowledged.rfind("\n") + 1].splitlines(keepends=True):
    name = line.split()[0]
    if name not in files:
        files[name] = set(open(os.path.join(mnt, name)))
    if line not in files[name]:
        sys.exit(f"lost: {line[:40]}")
    lines += 1
print(f"rekey: acknowledged fsyncs read back: {lines}")
PYTHON
}

# Begins one unless it goes on already.
rekey_under_way() {
    case $(field '["rekey"]["stage"]') in
        none | done) run "$lidfs" key rekey "$mnt" --background ;;
    esac
}

go_elsewhere() {
    if [ "$vol" = "$work/first" ]; then use_machine second; else use_machine first; fi
    lose_machine
    mount_after_crash
}

server ceph-rgw
new_volume first "$GC"
machine second "$url" "$key" "$GC"
use_machine first
mount_volume
mkdir -p "$work/data/random"
cp -r "$root/src" "$work/data/src"
for number in 1 2 3 4; do head -c $((data_mib / 4))M /dev/urandom >"$work/data/random/$number"; done
cp -r "$work/data" "$mnt/data"
: >"$work/acknowledged"
echo acknowledged >"$mnt/first"
flush_volume
say "$kills kills, $data_mib MiB, E2E_SEED=$seed"

declare -A stages=()
for ((number = 1; number <= kills; number++)); do
    write_load "load$number"
    rekey_under_way
    sleep "$(awk -v random=$RANDOM 'BEGIN { print 0.3 + random / 32768 * 3 }')"
    stage=$(field '["rekey"]["stage"]')
    # One that was quick is followed by another.
    for ((tries = 0; tries < 50; tries++)); do
        [ "$stage" = "done" ] || break
        run "$lidfs" key rekey "$mnt" --background
        stage=$(field '["rekey"]["stage"]')
    done
    stages[$stage]=$((${stages[$stage]:-0} + 1))
    crash
    wait "$load_pid" || fail "the load: $(cat "$work/out/load")"
    go_elsewhere
    all_readable >"$work/out/readable"
done
cat "$work/out/readable"
say "killed while: $(for stage in "${!stages[@]}"; do echo -n "$stage ${stages[$stage]}, "; done)"
[ -z "${stages[done]:-}${stages[none]:-}" ] || fail "not every kill met a rekey under way"

# Under load to its end.
write_load last
run timeout 600 "$lidfs" key rekey "$mnt" --rate "200 MiB"
epoch=$(field '["rekey"]["epoch"]')
all_readable
# The load ends with the mount.
crash
wait "$load_pid" || fail "the load: $(cat "$work/out/load")"
go_elsewhere
all_readable
umount_volume

s3 dump "$bucket" "$work/new" >/dev/null
python3 - "$work/new" "$epoch" <<'PYTHON' || fail "something of an older epoch is left"
import base64, json, os, sys
top, epoch = sys.argv[1], int(sys.argv[2])
sealed = 0
for folder, _, names in os.walk(top):
    for name in names:
        path = os.path.join(folder, name)
        data = open(path, "rb").read()
        if data[:5] == b"LIDFS":
            sealed += 1
            found = int.from_bytes(data[8:12], "little")
            if found != epoch:
                sys.exit(f"{os.path.relpath(path, top)}: epoch {found}, not {epoch}")
        elif name == "lidfs.json":
            keyring = len(base64.b64decode(json.loads(data)["keyring"]))
            # Header 96, tag 16, version 1, names key 32, count 4, and 36 for each epoch.
            if keyring != 96 + 16 + 37 + 36:
                sys.exit(f"the keyring has {(keyring - 149) / 36} epochs")
print(f"rekey: {sealed} sealed objects, all of epoch {epoch}; the keyring has that one alone")
PYTHON

say "kills $kills, lost 0"

#!/usr/bin/env bash
# No secret of a run is told: not by any command, not in the most talkative log, not in what the system shows of the
# daemon, not on the disk or in the bucket. In memory, keys stand in locked pages that no core file has, and none is left.
source "$(dirname "$0")/../support/lib.sh"
# shellcheck source=tests/support/secrets.sh
source "$support/secrets.sh"

python=
for each in python3 /usr/bin/python3; do
    "$each" -c 'import cryptography' 2>/dev/null && python=$each && break
done
[ -n "$python" ] || fail "no Python with the package cryptography"

# derived_keys VOLUME DIR: the keys that the keyfile leads to, each into a file, by the second implementation.
derived_keys() {
    "$python" - "$root/tests/decoder" "$key" "$1" "$2" <<'PYTHON'
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from volume import Volume, keyfile_secret
volume = Volume.open(sys.argv[3], "keyfile", keyfile_secret(pathlib.Path(sys.argv[2]).read_text()))
out = pathlib.Path(sys.argv[4])
out.mkdir(exist_ok=True)
(out / "volume-key").write_bytes(volume.volume_key)
(out / "names-key").write_bytes(volume.names_key)
for epoch, key in volume.data_keys.items():
    (out / f"data-key-{epoch}").write_bytes(key)
PYTHON
}

# said NAME COMMAND...: keeps all that a command says, whether it succeeds or not.
said() {
    local name=$1 code=0
    shift
    timeout 120 "$@" >"$spoken/$name.stdout" 2>"$spoken/$name.stderr" </dev/null || code=$?
    codes+=("$code")
    echo "$name: exit $code" >>"$work/codes"
}

# Every needle is found if it is there: in the middle of a line, in a file like those that are searched.
control() {
    local planted=$work/planted name needle
    mkdir "$planted"
    while read -r name needle; do
        {
            printf 'level=trace something '
            xxd -r -p <<<"$needle"
            printf ' and more\n'
        } >"$planted/log"
        if python3 "$support/search.py" <(echo "$name $needle") "$planted" >/dev/null; then
            fail "the search does not find $name where it was planted"
        fi
    done <"$work/needles"
    if answer=$(python3 "$support/search.py" "$work/needles" "$planted"); then fail "the search finds nothing planted: $answer"; fi
    rm -r "$planted"
    say "control: each of $(wc -l <"$work/needles") needles is found where it is planted"
}

# ---------------------------------------------------------------- secrets of this run

server s3s-fs
# The daemon has them from a file, so that its environment need not have them. The tests' own client takes variables.
readonly ACCESS=$AWS_ACCESS_KEY_ID SECRET=$AWS_SECRET_ACCESS_KEY
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
s3() { AWS_ACCESS_KEY_ID=$ACCESS AWS_SECRET_ACCESS_KEY=$SECRET AWS_ENDPOINT_URL=$S3_ENDPOINT python3 "$support/bucket.py" "$@"; }
secrets=$work/secrets spoken=$work/spoken
mkdir "$secrets" "$spoken"
printf '%s' "$SECRET" >"$secrets/aws-secret"
printf 'FwoGZXIvYXdzE%s' "$(openssl rand -hex 60)" >"$secrets/aws-token"
printf 'pass %s phrase' "$(openssl rand -hex 12)" >"$secrets/passphrase"
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = %s\n' \
    "$ACCESS" "$SECRET" "$(cat "$secrets/aws-token")" >"$work/credentials"
export AWS_SHARED_CREDENTIALS_FILE=$work/credentials
# As talkative as it gets, of every library, too.
export LIDFS_LOG=trace RUST_LOG=trace RUST_BACKTRACE=full

new_bucket
machine vol "s3://$bucket/volume"
grep -oE '^[A-Za-z0-9+/]{43}=' "$key" | base64 -d >"$secrets/keyfile"
run "$lidfs" key generate "$work/other.key"
grep -oE '^[A-Za-z0-9+/]{43}=' "$work/other.key" | base64 -d >"$secrets/other-keyfile"

# ---------------------------------------------------------------- everything that can be said

codes=()
said generate "$lidfs" key generate "$work/third.key"
said init "$lidfs" init -c "$conf"
said add-passphrase "$lidfs" key add -c "$conf" --label paper --new-passphrase-fd 3 3<"$secrets/passphrase"
said add-keyfile "$lidfs" key add -c "$conf" --label other --new-keyfile "$work/other.key"
said list "$lidfs" key list -c "$conf"
mount_volume
cp "$log/mount.out" "$spoken/mount.stdout"
# At this level the log is full and begun anew in seconds: what it says of the start is kept.
cp "$log/lidfs.log" "$spoken/log.start"
echo "content" >"$mnt/file"
head -c 3000000 /dev/urandom >"$mnt/large"
pid=$(daemon_pid)
said status "$lidfs" status "$mnt"
said status-json "$lidfs" status --json "$mnt"
said flush "$lidfs" flush "$mnt"
cp "$log/lidfs.log" "$spoken/log.flush"
said gc "$lidfs" gc "$mnt"
said doctor "$lidfs" doctor -c "$conf"
said doctor-json "$lidfs" doctor --json -c "$conf"
said selftest "$lidfs" doctor --selftest -c "$conf"
said selftest-json "$lidfs" doctor --selftest --json -c "$conf"
said fsck "$lidfs" fsck -c "$conf"
said fsck-json "$lidfs" fsck --json -c "$conf"
said scrub "$lidfs" scrub --json -c "$conf"
# Its keys before and after: data-key-1 is destroyed, data-key-2 takes its place.
bucket_files() {
    rm -rf "$work/bucket"
    mkdir "$work/bucket"
    s3 dump "$bucket" "$work/bucket"
}
bucket_files
derived_keys "$work/bucket/volume" "$work/derived"
said rekey "$lidfs" key rekey --keep 0s "$mnt"
bucket_files
derived_keys "$work/bucket/volume" "$work/derived"
[ -e "$work/derived/data-key-2" ] || fail "there is no new data key: $(ls "$work/derived")"
for code in "${codes[@]}"; do [ "$code" -eq 0 ] || fail "a command that should succeed did not: $(cat "$work/codes")"; done

# What fails says why, and no more than that.
said second-mount "$lidfs" mount -c "$conf" "$work/home"
said by-passphrase "$lidfs" key list -c "$conf" --passphrase-fd 3 3<"$secrets/passphrase"
said wrong-keyfile "$lidfs" key list -c "$conf" --keyfile "$work/third.key"
# Only names are leaked by an option; the value may be a secret that does not belong there.
said option "$lidfs" key list -c "$conf" -o "key.passphrase=$(cat "$secrets/passphrase")"
said mount-option "$lidfs" mount -c "$conf" -o "passphrase=$(cat "$secrets/passphrase")" "$work/out"
sed "s|$(base64 <"$secrets/keyfile")|x&|" "$key" >"$work/damaged.key"
chmod 600 "$work/damaged.key"
said damaged-keyfile "$lidfs" key list -c "$conf" --keyfile "$work/damaged.key"
for line in "passphrase = \"$(cat "$secrets/passphrase")\"" "passphrase_command = \"echo $(cat "$secrets/passphrase")" \
    "passphrase_command = [\"$(cat "$secrets/passphrase")\"]" "passphrase_command = \"exit 7 # $(cat "$secrets/passphrase")\"" \
    "keyfile = \"$(base64 <"$secrets/keyfile")\""; do
    printf '[volume]\nurl = "%s"\n[key]\n%s\n' "$url" "$line" >"$work/wrong.toml"
    said "config-${#codes[@]}" "$lidfs" key list -c "$work/wrong.toml"
done
for code in "${codes[@]: -5}"; do [ "$code" -ne 0 ] || fail "a wrong configuration was accepted: $(cat "$work/codes")"; done
said bad-variable env LIDFS_KEY_PASSPHRASE="$(cat "$secrets/passphrase")" "$lidfs" key list -c "$conf"

# What the system tells everybody, or this user, of the daemon.
for part in cmdline environ status maps; do cat "/proc/$pid/$part" >"$spoken/proc.$part"; done
[ -s "$spoken/proc.environ" ] || fail "/proc/$pid/environ is empty, so it shows nothing"
ls -l "/proc/$pid/fd" >"$spoken/proc.fd"

for file in "$secrets"/* "$work/derived"/*; do secret "$(basename "$file")" "$file"; done >"$work/needles"
[ "$(wc -l <"$work/needles")" -eq $(($(find "$secrets" "$work/derived" -type f | wc -l) * 9)) ] || fail "needles are missing"
control

# ---------------------------------------------------------------- memory

# Raw and in base64, as it would be read from the keyfile.
grep -E '\.(raw|base64-0) ' "$work/needles" >"$work/in-memory"
look() {
    python3 "$support/memory_image.py" "$work/in-memory" "$pid" >"$work/image"
    cat "$work/image"
}
only_locked() {
    local wrong
    wrong=$(grep -vE '^aws-' "$work/image" | grep -v 'dumped 0' || true)
    [ -z "$wrong" ] || fail "a core file would have: $wrong"
}
look
counted() { awk -v name="$1" -F '[\t ]' '$1 == name { print $'"$2"' }' "$work/image"; }
# The SDK keeps the account's key in ordinary memory: it shows that the search finds what is there, and why core files are off.
[ "$(counted aws-secret.raw 3)" -gt 0 ] || fail "the account's key was not found in memory, so the search shows nothing"
for name in volume-key names-key data-key-2; do
    [ "$(counted $name.raw 5)" -gt 0 ] || fail "$name is not in locked memory, where it must be"
    [ "$(counted $name.raw 7)" -eq 0 ] || fail "$name stands in pages that may be swapped out"
done
only_locked
say "memory: volume key, names key and data key stand in locked pages that no core file has, and nowhere else; keyfile and passphrase are gone"

# ---------------------------------------------------------------- a crash

cores=$work/cores
mkdir "$cores"
pattern=$(cat /proc/sys/kernel/core_pattern)
at_end "echo '$pattern' >/proc/sys/kernel/core_pattern"
echo "$cores/core.%p" >/proc/sys/kernel/core_pattern
(ulimit -c unlimited; bash -c 'kill -ABRT $$' || true) 2>/dev/null
[ -n "$(ls "$cores")" ] || fail "core files are not written on this machine, so their absence shows nothing"
rm -f "$cores"/*
# Not even where root lifts the limit on its size, which a container may not be allowed to.
lifted="with its limit of 0"
if prlimit --core=unlimited:unlimited --pid "$pid" 2>/dev/null; then lifted="with its limit lifted"; fi
kill -ABRT "$pid"
sleep 1
crash
[ -z "$(ls "$cores")" ] || fail "SIGABRT left a core file, although the daemon is not dumpable"
say "SIGABRT leaves no core file, $lifted"

# Opened by the passphrase, nothing of that stays either.
write_config "[key]
passphrase_command = \"cat $secrets/passphrase\""
mount_after_crash
pid=$(daemon_pid)
cat "$mnt/file" >/dev/null
cp "$log/lidfs.log" "$spoken/log.passphrase"
look
only_locked
[ "$(counted volume-key.raw 5)" -gt 0 ] || fail "the volume key is not in locked memory, where it must be"
say "memory after opening with a passphrase: keys in locked pages alone, the passphrase is gone"
said umount "$lidfs" umount "$mnt"
said selftest-after "$lidfs" doctor --selftest -c "$conf"

# ---------------------------------------------------------------- and nothing was told

[ "$(cat "$log"/lidfs.log* | grep -c TRACE)" -gt 100 ] || fail "the log has no lines at trace level, so it shows nothing"
nothing_in "what commands said, and what the system shows of the daemon" "$spoken"
nothing_in "logs at trace level" "$log"
nothing_in "cache, state and home" "$cache" "$state" "$HOME"
nothing_in "the bucket" "$work/bucket"

#!/usr/bin/env bash
# `lidfs doctor --selftest`: passes beside a running mount and without one, leaves nothing behind, asks nothing, and
# ends with exit code 16 and the check that failed when something is wrong.
source "$(dirname "$0")/../support/lib.sh"

# verdict CHECK: how a check of the last self-test went; several of one name in one line.
verdict() {
    python3 - "$work/out/stdout" "$1" <<'PYTHON'
import json, sys
findings = [each for each in json.load(open(sys.argv[1])) if each["check"] == sys.argv[2]]
print(" ".join(each["verdict"] for each in findings))
PYTHON
}

selftest() { "$lidfs" doctor --selftest --json -c "$conf" "$@" >"$work/out/stdout" 2>"$work/out/stderr" </dev/null; }

passes() {
    local code=0 check
    selftest || code=$?
    [ $code -eq 0 ] || fail "$1: exit $code: $(cat "$work/out/stdout" "$work/out/stderr")"
    for check in store volume sealing lease key config; do
        [ "$(verdict "$check")" = ok ] || fail "$1: $check: $(cat "$work/out/stdout")"
    done
    say "$1: all well"
}

# fails WHAT CHECK REGEX: exit 16, and that check has failed and says why.
fails() {
    local code=0 detail
    selftest || code=$?
    [ $code -eq 16 ] || fail "$1: exit $code: $(cat "$work/out/stdout" "$work/out/stderr")"
    detail=$(python3 -c 'import json, sys
for each in json.load(open(sys.argv[1])):
    if each["verdict"] == "fail": print(each["check"] + ": " + each["detail"])' "$work/out/stdout")
    grep -qE "^$2: .*($3)" <<<"$detail" || fail "$1: $detail"
    [ "$(wc -l <"$work/out/stderr")" -eq 1 ] || fail "$1: stderr: $(cat "$work/out/stderr")"
    say "$1: exit 16: $detail"
}

no_probe() { [ -z "$(s3 list "$bucket" volume/probe/)" ] || fail "probes are left: $(s3 list "$bucket" volume/probe/)"; }

server s3s-fs
new_volume
passes "a new volume"
[ "$(verdict pin)" = ok ] || fail "init did not pin: $(verdict pin)"

# Slots: one that the config opens, one of another keyfile, one of a passphrase.
run "$lidfs" key generate "$work/other.key"
run "$lidfs" key add -c "$conf" --label "kept at home" --new-keyfile "$work/other.key"
printf 'correct horse' >"$work/passphrase"
run "$lidfs" key add -c "$conf" --label spoken --new-passphrase-fd 3 3<"$work/passphrase"
passes "a volume with three slots"
[ "$(verdict slot)" = "ok ok ok" ] || fail "slots: $(verdict slot)"
for answer in 'keyfile .*: opens"' 'keyfile ."kept at home.".*not verified: another keyfile' 'passphrase ."spoken.".*not verified: needs a passphrase'; do
    grep -q "$answer" "$work/out/stdout" || fail "no slot with $answer: $(cat "$work/out/stdout")"
done
cp "$conf" "$work/keyfile.toml"
write_config "[key]
passphrase_command = \"cat $work/passphrase\""
passes "opened by a passphrase command"
grep -q 'spoken.*: opens"' "$work/out/stdout" || fail "the passphrase's slot: $(cat "$work/out/stdout")"
write_config '[key]'
fails "without a key that opens unasked" volume "asks no questions|key"
cp "$work/keyfile.toml" "$conf"

# Beside a mount, which goes on writing.
mount_volume
echo before >"$mnt/file"
flush_volume
passes "beside a mount"
grep -q "held by $(uname -n) (process $(daemon_pid)" "$work/out/stdout" || fail "lease: $(cat "$work/out/stdout")"
echo after >"$mnt/file"
flush_volume
no_probe
umount_volume
"$lidfs" doctor --selftest -c "$conf" >"$work/out/text" </dev/null || fail "as text: $(cat "$work/out/text")"
say "as text:"
cat "$work/out/text"
lose_machine
selftest || fail "a machine that never mounted it: $(cat "$work/out/stdout")"
[ "$(verdict pin)" = warn ] || fail "no pin, and no warning: $(cat "$work/out/stdout")"
mount_volume
umount_volume

# What is wrong is told.
s3 get "$bucket" volume/lease "$work/lease"
printf 'LIDFS nonsense' >"$work/junk"
s3 put "$bucket" volume/lease "$work/junk"
fails "a lease that nobody with the key wrote" lease "cannot be read"
s3 put "$bucket" volume/lease "$work/lease"
s3 get "$bucket" volume/lidfs.json "$work/header"
sed 's/"spoken"/"broken"/' "$work/header" >"$work/changed"
s3 put "$bucket" volume/lidfs.json "$work/changed"
fails "a changed header" volume "tampered|changed|MAC|authentic"
s3 put "$bucket" volume/lidfs.json "$work/header"
slot=$("$lidfs" key list -c "$conf" | awk '/spoken/ { print $1 }')
run "$lidfs" key remove -c "$conf" --slot "$slot"
s3 put "$bucket" volume/lidfs.json "$work/header"
fails "a header put back, with a key that was removed" volume "rolled back|older|behind"
lose_machine
cp "$key" "$work/kept.key"
rm "$key"
run "$lidfs" key generate "$key"
fails "a key that opens nothing" volume "opens? no|wrong|none of"
rm "$key"
fails "no keyfile" key "$key"
install -m 600 "$work/kept.key" "$key"
passes "all mended"
no_probe
code=0
"$lidfs" doctor --selftest --json -c "$work/nowhere.toml" >"$work/out/stdout" 2>/dev/null || code=$?
[ "$code $(verdict config)" = "16 fail" ] || fail "no config: exit $code"
write_config "[store]
endpoint = \"http://127.0.0.1:9\"
region = \"us-east-1\"
path_style = true
deadline = \"3s\""
fails "a store that is not there" store "127.0.0.1:9"

# A directory needs no TLS and no clock of its own.
machine dir "file://$work/dir/objects"
run "$lidfs" init -c "$conf"
passes "a directory"
grep -q 'not needed' "$work/out/stdout" || fail "tls: $(cat "$work/out/stdout")"
[ -z "$(find "$work/dir/objects/probe" -type f 2>/dev/null)" ] || fail "a probe is left in the directory"

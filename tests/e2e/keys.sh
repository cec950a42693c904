#!/usr/bin/env bash
# The life of key slots: KMS, keyfiles, passphrases, recovery sheets; added, listed, rotated, removed, attacked.
source "$(dirname "$0")/../support/lib.sh"

# kms OPERATION JSON [FIELD]: asks the KMS itself, past the proxy.
kms() {
    curl -fsS -H "X-Amz-Target: TrentService.$1" -H 'Content-Type: application/x-amz-json-1.1' \
        -H "Authorization: AWS4-HMAC-SHA256 Credential=$AWS_ACCESS_KEY_ID/20260101/us-east-1/kms/aws4_request, SignedHeaders=host, Signature=0" \
        -d "$2" "$kms_upstream/" | python3 -c 'import json, sys; d = json.load(sys.stdin)
for name in sys.argv[1:]: d = d[name]
print(d)' "${@:3}"
}

# refused EXIT REGEX: the current machine's mount is refused so, and says it.
refused() {
    E2E_MACHINE=$vol expect "$1" "$2" setsid "$lidfs" mount -c "$conf" "$mnt"
    say "exit $1: $(head -c 260 "$work/out/stderr")"
}

# The operations that KMS was asked since the last call.
asked() {
    cut -d ' ' -f 1 "$kms_log" | xargs
    : >"$kms_log"
}

# A machine named $1 for the same volume, that has nothing but the KMS key named in its config.
kms_machine() {
    machine "$1" "$url" "$first_key" "[key]"$'\n'"kms_key = \"${2:-$arn}\""$'\n'"[key.kms]"$'\n'"endpoint = \"$kms_endpoint\""$'\n'"${3:-}"
    rm "$key"
}

put_header() { s3 put "$bucket" volume/lidfs.json "$1"; }
get_header() { s3 get "$bucket" volume/lidfs.json "$1"; }

# edit_header FILE PYTHON: changes the header in FILE; `slots` are its slots. Its MAC does not fit any more.
edit_header() {
    python3 - "$1" "$2" <<'PYTHON'
import base64, json, sys
path, code = sys.argv[1:]
header = json.load(open(path))
mac = header.pop("mac")
slots = header["slots"]
exec(code)
text = json.dumps(header, indent=2).removesuffix("\n}")
open(path, "w").write(text + ',\n  "mac": "' + mac + '"\n}\n')
PYTHON
}

# ---- servers: the bucket, KMS, and before it the proxy that counts
begin=$SECONDS
server moto
kms_upstream=$S3_ENDPOINT
server ceph-rgw
kms_log=$work/out/kms.log
: >"$kms_log"
mkfifo "$work/out/kms.port"
setsid python3 "$support/kms_proxy.py" "${kms_upstream#http://}" "$kms_log" >"$work/out/kms.port" 2>"$work/out/kms.err" </dev/null &
processes+=($!)
read -r -t 10 line <"$work/out/kms.port" || fail "the KMS proxy did not start: $(cat "$work/out/kms.err")"
kms_endpoint=http://$line
arn=$(kms CreateKey '{}' KeyMetadata Arn)
other_arn=$(kms CreateKey '{}' KeyMetadata Arn)
kms CreateAlias "{\"AliasName\": \"alias/e2e-$$\", \"TargetKeyId\": \"$arn\"}" >/dev/null
took "servers and keys" $begin

# ---- a volume with a KMS slot alone
new_bucket
url=s3://$bucket/volume
run "$lidfs" key generate "$work/first.key"
first_key=$work/first.key
kms_machine one
run "$lidfs" init -c "$conf"
[ "$(asked)" = Encrypt ] || fail "init asks KMS for something else than Encrypt"
mount_volume
[ "$(asked)" = Decrypt ] || fail "a mount is not one request to KMS"
echo sealed >"$mnt/file"
flush_volume
echo more >>"$mnt/file"
sync -f "$mnt/file"
run python3 -c "import os,sys; f=os.open(sys.argv[1], os.O_RDWR); os.fsync(f)" "$mnt/file"
[ -z "$(asked)" ] || fail "a mount asks KMS after it was opened"
crash
kms_machine two
mount_after_crash
[ "$(cat "$mnt/file")" = $'sealed\nmore' ] || fail "another machine with the KMS key reads: $(cat "$mnt/file")"
umount_volume
say "KMS slot alone: made, mounted, killed, mounted elsewhere"

# ---- an alias makes slots and opens none
kms_machine alias "alias/e2e-$$" 'region = "us-east-1"'
refused 3 "kms_key = \"$arn\""
asked >/dev/null

# ---- what is wrong with the key or the way to it
use_machine one
for code in AccessDeniedException:14:"access denied for kms:Decrypt" NotFoundException:14:"not found at"; do
    IFS=: read -r name exit text <<<"$code"
    echo "400 $name 1" >"$kms_log.fault"
    refused "$exit" "$text"
done
echo "400 ThrottlingException 2" >"$kms_log.fault"
asked >/dev/null
mount_volume
[ "$(asked)" = "Decrypt Decrypt Decrypt" ] || fail "a throttled request is not tried again"
umount_volume
# moto changes the state of a key by its bare id alone.
bare="{\"KeyId\": \"${arn##*/}\"}"
kms DisableKey "$bare" >/dev/null
refused 14 "is disabled"
kms EnableKey "$bare" >/dev/null
kms ScheduleKeyDeletion "$bare" >/dev/null
refused 14 "to be deleted"
kms CancelKeyDeletion "$bare" >/dev/null
kms EnableKey "$bare" >/dev/null
(
    unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
    expect 14 "credential" "$lidfs" key list -c "$conf"
)
kms_machine stranger "${arn%/*}/00000000-0000-0000-0000-000000000000"
refused 12 "which nobody has proven"
kms_machine remote "$arn"
sed -i '/^\[key.kms\]/,$ s|^endpoint = .*|endpoint = "http://kms.example.com"|' "$conf"
refused 3 "plain http to another machine"

# ---- what an attacker with the bucket can do
use_machine two
rm -rf "$state"
mkdir -p "$state"
get_header "$work/good.json"
kms_blob() { kms Encrypt "$(python3 -c 'import base64, json, sys
print(json.dumps({"KeyId": sys.argv[1], "Plaintext": base64.b64encode(bytes(32)).decode(), "EncryptionContext": json.loads(sys.argv[2])}))' "$1" "$2")" CiphertextBlob; }
volume_id=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["volume_id"])' "$work/good.json")
slot_id=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["slots"][0]["id"])' "$work/good.json")
context="{\"app\": \"lidfs\", \"volume\": \"$volume_id\", \"slot\": \"$slot_id\"}"
attack() {
    cp "$work/good.json" "$work/bad.json"
    edit_header "$work/bad.json" "$4"
    put_header "$work/bad.json"
    say "$1:"
    refused "$2" "$3"
}
attack "tampered blob" 13 "refuses the ciphertext" \
    'b = bytearray(base64.b64decode(slots[0]["unlock"]["ciphertext"])); b[-1] ^= 1; slots[0]["unlock"]["ciphertext"] = base64.b64encode(b).decode()'
attack "wrong context" 13 "refuses the ciphertext" "slots[0]['id'] = '0011223344556677'"
attack "another key's blob" 13 "made by another key" "slots[0]['unlock']['ciphertext'] = '$(kms_blob "$other_arn" "$context")'"
attack "another key's name" 12 "config names KMS key $arn" "slots[0]['unlock']['key'] = '$other_arn'"
attack "planted input" 12 "does not open the one kms slot" "slots[0]['unlock']['ciphertext'] = '$(kms_blob "$arn" "$context")'"
attack "planted slot" 13 "changed by somebody without the key" "slots.append(dict(slots[0], id='0011223344556677', label='mine'))"
attack "missing feature" 13 "not among the features" "header['features'] = []"
put_header "$work/good.json"
mount_volume
umount_volume
asked >/dev/null

# ---- every kind of slot on one volume
use_machine two
list() { run "$lidfs" key list --json "$@"; cp "$work/out/run" "$work/out/slots.json"; }
# slot LABEL: its id in the last list.
slot() { python3 -c 'import json, sys; print(*[s["id"] for s in json.load(open(sys.argv[1])) if s["label"] == sys.argv[2]])' "$work/out/slots.json" "$1"; }
printf 'correct horse\n' >"$work/passphrase"
# opening KIND COMMAND...: runs it with the options that open with a secret of that kind.
opening() {
    local kind=$1
    shift
    case $kind in
        keyfile) "$@" --keyfile "$first_key" ;;
        passphrase) "$@" --passphrase-fd 7 7<"$work/passphrase" ;;
        recovery) "$@" --recovery-words-fd 7 7<"$work/words" ;;
        kms) "$@" ;;
    esac
}
run "$lidfs" key add -c "$conf" --new-keyfile "$first_key" --label file
exec 7<"$work/passphrase"
"$lidfs" key add -c "$conf" --new-passphrase-fd 7 --label head >"$work/out/add" 2>&1 </dev/null || fail "add: $(cat "$work/out/add")"
exec 7<&-
run "$lidfs" key add -c "$conf" --recovery --svg "$work/sheet.svg" --label paper
cp "$work/out/run" "$work/sheet.txt"
expect 1 "sheet.svg.*exists" "$lidfs" key add -c "$conf" --recovery --svg "$work/sheet.svg"
[ "$(stat -c %a "$work/sheet.svg")" = 600 ] || fail "others may read the recovery sheet"

# ---- the sheet is read back from its picture
run rsvg-convert --width 1600 -o "$work/sheet.png" "$work/sheet.svg"
zbarimg --quiet --raw --oneshot "$work/sheet.png" >"$work/words" 2>"$work/out/zbar" || fail "the picture is not read: $(cat "$work/out/zbar")"
[ "$(wc -w <"$work/words")" -eq 24 ] || fail "the picture has $(wc -w <"$work/words") words"
python3 - "$work/sheet.txt" "$work/words" <<'PYTHON' || fail "the sheet's words are not those of its picture"
import re, sys
printed = re.findall(r"\b\d+\. ([a-z]+)", open(sys.argv[1]).read())
sys.exit(printed != open(sys.argv[2]).read().lower().split())
PYTHON
say "recovery sheet: picture and words agree"
sed 's/^\([A-Z]* [A-Z]*\) [A-Z]*/\1 LIDFS/' "$work/words" >"$work/mistyped"
expect 12 "word 3 is not in the list" "$lidfs" key list -c "$conf" --recovery-words-fd 7 7<"$work/mistyped"
! grep -qi "$(cut -d ' ' -f 1 "$work/words")" "$work/out/stderr" || fail "the message has a recovery word"
machine paper "$url" "$first_key" $'[key]\n'"recovery_command = \"cat $work/words\""
mount_volume
[ "$(cat "$mnt/file")" = $'sealed\nmore' ] || fail "the recovery sheet opens another drive"
umount_volume

# ---- each opens it alone, and is listed
use_machine two
for kind in kms keyfile passphrase recovery; do
    asked >/dev/null
    opening $kind mount_volume
    [ "$(cat "$mnt/file")" = $'sealed\nmore' ] || fail "$kind opens another drive"
    umount_volume
    case $kind:$(asked) in kms:Decrypt | keyfile: | passphrase: | recovery:) ;; *) fail "$kind asks KMS: $(cat "$kms_log")" ;; esac
done
list -c "$conf"
python3 - "$work/out/slots.json" "$arn" <<'PYTHON' || fail "key list: $(cat "$work/out/slots.json")"
import json, sys
slots = json.load(open(sys.argv[1]))
assert [slot["kind"] for slot in slots] == ["kms", "keyfile", "passphrase", "recovery"], slots
assert [slot["strength"] for slot in slots] == [f"KMS {sys.argv[2]}", "256-bit file", "Argon2id 256 MiB x3", "256-bit words"], slots
assert all(slot["last_used"] and slot["age_s"] < 600 for slot in slots), slots
PYTHON
run "$lidfs" key list -c "$conf"
say "$(sed -n 2p "$work/out/run")"
s3 get "$bucket" volume/lidfs.json "$work/four.json"
python3 -c 'import json, sys; assert json.load(open(sys.argv[1]))["features"] == ["kms", "recovery"]' "$work/four.json"
use_machine one
list -c "$conf"
[ "$(python3 -c 'import json, sys; print(sum(s["last_used"] is not None for s in json.load(open(sys.argv[1]))))' "$work/out/slots.json")" -eq 1 ] ||
    fail "a machine that used one slot lists another as used"

# ---- rotation of each
use_machine two
opens() { opening "$1" run "$lidfs" key list -c "$conf"; }
wrong_for() { opening "$1" expect 12 "wrong key" "$lidfs" key list -c "$conf"; }
list -c "$conf"
run "$lidfs" key generate "$work/second.key"
run "$lidfs" key rotate -c "$conf" --slot "$(slot file)" --new-keyfile "$work/second.key"
wrong_for keyfile
first_key=$work/second.key
opens keyfile
opening keyfile run "$lidfs" key rotate -c "$conf" --slot "$(slot file)"
opens keyfile
expect 2 "was opened by another secret" "$lidfs" key rotate -c "$conf" --slot "$(slot file)"
expect 1 "keyfile slot cannot be rotated to a recovery" "$lidfs" key rotate -c "$conf" --slot "$(slot file)" --recovery
printf 'battery staple\n' >"$work/passphrase.new"
run "$lidfs" key rotate -c "$conf" --slot "$(slot head)" --new-passphrase-fd 7 7<"$work/passphrase.new"
wrong_for passphrase
mv "$work/passphrase.new" "$work/passphrase"
opens passphrase
run "$lidfs" key rotate -c "$conf" --slot "$(slot paper)" --recovery
cp "$work/out/run" "$work/sheet.txt"
wrong_for recovery
grep -oP '\b\d+\. \K[a-z]+' "$work/sheet.txt" >"$work/words"
opens recovery
kms_slot=$(slot "first key")
asked >/dev/null
opening keyfile run "$lidfs" key rotate -c "$conf" --slot "$kms_slot"
[ "$(asked)" = Encrypt ] || fail "a KMS slot that is wrapped anew is not one Encrypt"
opening keyfile run "$lidfs" key rotate -c "$conf" --slot "$kms_slot" --kms-key "$other_arn"
[ "$(asked)" = ReEncrypt ] || fail "a KMS slot that moves to another key is not one ReEncrypt"
wrong_for kms
sed -i "s|^kms_key = .*|kms_key = \"$other_arn\"|" "$conf"
asked >/dev/null
mount_volume
[ "$(asked)" = Decrypt ] || fail "a moved slot does not open with one Decrypt"
umount_volume
say "each slot rotated; old secrets open nothing"

# ---- a new volume key
sed -i "s|^kms_key = .*|kms_key = \"$other_arn\"|" "$work/one/lidfs.toml"
use_machine paper
mount_volume
s3 get "$bucket" volume/lidfs.json "$work/before.json"
use_machine two
expect 1 "nobody is here .*(keyfile, \"file\").*(passphrase, \"head\").*(recovery, \"paper\")" "$lidfs" key rotate -c "$conf" --volume-key
expect 1 "nobody is here .*(recovery, \"paper\")" "$lidfs" key rotate -c "$conf" --volume-key --with-keyfile "$first_key" --with-passphrase-fd 7 7<"$work/passphrase"
s3 get "$bucket" volume/lidfs.json "$work/now.json"
cmp -s "$work/before.json" "$work/now.json" || fail "a refused rotation has changed the header"
opening keyfile run "$lidfs" key rotate -c "$conf" --volume-key --with-passphrase-fd 8 --with-recovery-words-fd 9 8<"$work/passphrase" 9<"$work/words"
for kind in kms keyfile passphrase recovery; do opens $kind; done
use_machine paper
echo beside >"$mnt/beside"
flush_volume
sleep 2
umount_volume
mount_volume
[ "$(cat "$mnt/beside")" = beside ] || fail "what a mount of before the rotation wrote is lost"
umount_volume
use_machine one
mount_volume
[ "$(cat "$mnt/beside")" = beside ] || fail "another machine does not read on after the rotation"
umount_volume
grep -q "new volume key" "$log/lidfs.log" || fail "a machine that pinned the old volume key does not log the new one"
# Who kept the old volume key could bring it back with any version; here it is just the old header.
get_header "$work/rotated.json"
put_header "$work/before.json"
refused 13 "rotated away before"
put_header "$work/rotated.json"
say "new volume key: every slot opens, other machines go on, the old key does not come back"

# ---- removing one leaves the others; the last one stays
use_machine two
list -c "$conf"
for label in head paper file; do
    run "$lidfs" key remove -c "$conf" --slot "$(slot $label)"
    opens kms
    case $label in head) wrong_for passphrase && opens keyfile && opens recovery ;; paper) wrong_for recovery && opens keyfile ;; esac
done
get_header "$work/last.json"
python3 -c 'import json, sys; assert json.load(open(sys.argv[1]))["features"] == ["kms"]' "$work/last.json"
expect 1 "is the last one" "$lidfs" key remove -c "$conf" --slot "$(slot "first key")"
opens kms
run "$lidfs" key add -c "$conf" --new-keyfile "$first_key" --label file
opening keyfile run "$lidfs" key remove -c "$conf" --slot "$(slot "first key")"
get_header "$work/last.json"
python3 -c 'import json, sys; assert json.load(open(sys.argv[1]))["features"] == []' "$work/last.json"

# ---- no secret in logs, messages, arguments
use_machine two
run "$lidfs" key add -c "$conf" --keyfile "$first_key" --kms-key "alias/e2e-$$" --label cloud
grep -q "kms_key = \"$arn\"" "$work/out/run" || fail "key add does not tell the ARN of an alias: $(cat "$work/out/run")"
sed -i "s|^kms_key = .*|kms_key = \"$arn\"|" "$conf"
LIDFS_LOG=trace mount_volume
LIDFS_LOG=trace umount_volume
while IFS= read -r secret; do
    ! grep -rqF -- "$secret" "$work"/*/log "$work"/*/state || fail "what KMS decrypted stands in a log"
done <"$kms_log.secrets"
[ "$(wc -l <"$kms_log.secrets")" -ge 5 ] || fail "the proxy saw fewer secrets than there were"
for secret in $(tail -n 1 "$first_key") staple; do
    ! grep -rqF -- "$secret" "$work"/*/log "$work"/*/state || fail "a secret stands in a log"
done
took "all" $begin

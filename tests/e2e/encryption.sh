#!/usr/bin/env bash
# The store's own encryption beneath ours: every object has the kind that is asked for, a store that ignores
# it is refused, a key is never sent over plain http, and `lidfs rewrite` changes the kind of what is there.
source "$(dirname "$0")/../support/lib.sh"
# shellcheck source=tests/support/secrets.sh
source "$support/secrets.sh"

# The tables of a volume on Ceph RGW over TLS, $1 is the encryption.
over_tls() {
    printf '%s\n' '[store]' "endpoint = \"$RGW_HTTPS_URL\"" "ca_file = \"$RGW_CERTIFICATE\"" \
        'region = "us-east-1"' 'path_style = true' '[store.server_side_encryption]' "$1"
}

# The same where TLS is not to be had.
over_http() {
    printf '%s\n' '[store]' "endpoint = \"$S3_ENDPOINT\"" 'region = "us-east-1"' 'path_style = true' \
        '[store.server_side_encryption]' "$1"
}

fill() {
    mkdir "$mnt/small"
    local number
    for number in {1..200}; do echo "file $number" >"$mnt/small/$number"; done
    head -c 40M /dev/urandom >"$mnt/large"
    (cd "$mnt" && sha256sum small/* large) >"$work/$1.sums"
}

reads_back() { (cd "$mnt" && sha256sum --quiet -c "$work/$1.sums") || fail "$1: content differs"; }

# all_are MODE [KEYFILE]: of all objects in the bucket, whatever their names.
all_are() {
    local objects
    objects=$(s3 encryption "$bucket" ${2:+"$2"})
    for part in lidfs.json lease meta/ packs/; do
        grep -q "^volume/$part" <<<"$objects" || fail "no $part in the bucket: $objects"
    done
    if grep -vP "\t$1\$" <<<"$objects" >"$work/others"; then fail "not $1: $(head -n 5 "$work/others")"; fi
    say "$1: $(wc -l <<<"$objects") objects of $(wc -l <<<"$objects")"
}

# holds NAME CONFIG MODE [KEYFILE]: a volume under that encryption, all of it.
holds() {
    new_volume "$1" "$2"
    mount_volume
    fill "$1"
    umount_volume
    all_are "$3" "${4:-}"
    lose_machine
    mount_volume
    reads_back "$1"
    umount_volume
}

new_key() { head -c 32 /dev/urandom >"$1" && chmod 600 "$1"; }

server ceph-rgw
first=$work/first.key second=$work/second.key third=$work/third.key
new_key "$first"
run "$lidfs" key generate "$second"
new_key "$third"
customer="mode = \"sse-c\"
key_file = \"$first\""
service='mode = "sse-kms"
kms_key_id = "test-key-1"'

holds sse-c "$(over_tls "$customer")" sse-c "$first"
if s3 encryption "$bucket" "$third" | grep -qvP '\trefused$'; then fail "objects open under another key"; fi
write_config "$(over_tls "mode = \"sse-c\"
key_file = \"$third\"")"
expect 14 'check key_file and previous_key_file' "$lidfs" mount -c "$conf" "$mnt"
say "another key: $message"
chmod 644 "$third"
expect 3 'key_file of .store.server_side_encryption.*chmod 600' "$lidfs" mount -c "$conf" "$mnt"
chmod 600 "$third"

holds sse-kms "$(over_tls "$service")" 'aws:kms test-key-1'

# ---------------------------------------------------------------- rewrite

new_volume changing "$(over_tls 'mode = "none"')"
mount_volume
fill changing
umount_volume
all_are none

# From none to a key of ours, beside a mount, killed in between.
write_config "$(over_tls "$customer")"
mount_volume
reads_back changing
setsid "$lidfs" rewrite -c "$conf" --rate '1 MiB' >"$work/out/rewrite" 2>&1 </dev/null &
pid=$!
processes+=("$pid")
for _ in {1..200}; do
    s3 encryption "$bucket" "$first" >"$work/modes"
    if [ "$(grep -cP '^volume/packs/.*\tsse-c$' "$work/modes")" -ge 1 ]; then break; fi
    sleep 0.1
done
kill -9 "$pid" 2>/dev/null || fail "the rewrite ended before it could be killed: $(cat "$work/out/rewrite")"
wait "$pid" 2>/dev/null || true
s3 encryption "$bucket" "$first" >"$work/modes"
grep -qP '\tnone$' "$work/modes" || fail "nothing was left to rewrite when it was killed"
say "killed: $(cut -f 2 "$work/modes" | sort | uniq -c | xargs)"
drop_caches
reads_back changing
run "$lidfs" rewrite -c "$conf"
cat "$work/out/run"
grep -qE '[1-9][0-9]* objects .* written anew, [1-9][0-9]* were so already' "$work/out/run" || fail "nothing was resumed"
echo more >"$mnt/more"
umount_volume
all_are sse-c "$first"
lose_machine
mount_volume
reads_back changing
umount_volume

# To another key, and to the key service, with nothing mounted.
write_config "$(over_tls "mode = \"sse-c\"
key_file = \"$second\"
previous_key_file = \"$first\"")"
run "$lidfs" rewrite -c "$conf"
all_are sse-c "$second"
mount_volume
reads_back changing
umount_volume
write_config "$(over_tls "$service
previous_key_file = \"$second\"")"
run "$lidfs" rewrite -c "$conf"
all_are 'aws:kms test-key-1'
write_config "$(over_tls "$service")"
lose_machine
mount_volume
reads_back changing
[ "$(cat "$mnt/more")" = more ] || fail "what was written beside the rewrite is gone"
umount_volume
run "$lidfs" rewrite -c "$conf"
grep -q '^0 objects' "$work/out/run" || fail "rewritten again: $(cat "$work/out/run")"
run "$lidfs" scrub -c "$conf"

# ---------------------------------------------------------------- what the log tells

mkdir -p "$HOME/.aws"
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" >"$HOME/.aws/credentials"
(
    unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
    LIDFS_LOG=trace mount_volume
)
umount_volume
[ -s "$log/lidfs.log" ] || fail "there is no log"
if grep -q "$AWS_ACCESS_KEY_ID" "$log/lidfs.log"; then fail "the log tells the id of the access key"; fi
rm -r "$HOME/.aws"
# Keys of ours that go with requests: read with one, written anew with another.
write_config "$(over_tls "mode = \"sse-c\"
key_file = \"$first\"")"
LIDFS_LOG=trace run "$lidfs" rewrite -c "$conf"
cp "$work/out/run" "$log/rewrite"
LIDFS_LOG=trace mount_volume
reads_back changing
umount_volume
cp "$first" "$work/first.raw"
printf %s "$AWS_SECRET_ACCESS_KEY" >"$work/aws.raw"
for name in first aws; do secret $name "$work/$name.raw"; done >"$work/needles"
[ "$(cat "$log"/lidfs.log* | grep -c TRACE)" -gt 100 ] || fail "the log has no lines at trace level, so it shows nothing"
nothing_in "logs at trace level" "$log"

# ---------------------------------------------------------------- refusals

# Nothing may even connect.
python3 - "$work/port" "$work/connected" <<'PYTHON' &
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
open(sys.argv[1], "w").write(str(listener.getsockname()[1]) + "\n")
while True:
    peer = listener.accept()[1]
    open(sys.argv[2], "a").write(f"{peer}\n")
PYTHON
processes+=($!)
for _ in {1..100}; do [ -s "$work/port" ] && break; sleep 0.1; done
endpoint=http://127.0.0.1:$(cat "$work/port")
machine plain "s3://bucket/volume" '' "[store]
endpoint = \"$endpoint\"
allow_http = true
[store.server_side_encryption]
$customer"
for command in init rewrite mount scrub; do
    place=()
    [ $command != mount ] || place=("$mnt")
    expect 3 'plain http is refused; use https' "$lidfs" $command -c "$conf" "${place[@]}"
done
[ ! -e "$work/connected" ] || fail "a connection was made: $(cat "$work/connected")"
say "plain http: $message"

server moto
holds sse-s3 "$(over_http 'mode = "sse-s3"')" AES256
holds dsse-kms "$(over_http 'mode = "dsse-kms"
kms_key_id = "some-key"')" aws:kms:dsse

server s3s-fs
new_bucket
machine ignoring "s3://$bucket/volume"
for text in 'mode = "sse-s3"' 'mode = "sse-kms"' "$customer
allow_http_on_loopback = true"; do
    write_config "$(over_http "$text")"
    expect 14 'does not encrypt as the configuration asks.*use a store that has it, or another mode' "$lidfs" init -c "$conf"
    [ -z "$(s3 list "$bucket")" ] || fail "something was left: $(s3 list "$bucket")"
done
say "ignored: $message"

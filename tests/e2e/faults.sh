#!/usr/bin/env bash
# Faults of the network, of the account and of the disk, on a real mount of a real S3 server with a proxy in between
# that breaks things. Programs wait through what is short; past the deadline they get EIO, never a false success;
# a read gives the right bytes or an error; status says what is wrong; unmounting always ends. In the end another
# machine, without the proxy, finds every byte that was ever accepted.
source "$(dirname "$0")/../support/lib.sh"

rounds=1 copy_mib=512 outages=refuse
[ -z "$long" ] || rounds=20 copy_mib=2048 outages="refuse hang"
copy_mib=${E2E_COPY_MIB:-$copy_mib}
readonly OUTAGE_S=60
cases=0 injected=0
want=$work/want

# ---------------------------------------------------------------- the proxy

start_proxy() {
    local line
    mkfifo "$work/out/proxy.address"
    setsid python3 "$support/fault_proxy.py" "${S3_ENDPOINT#http://}" >"$work/out/proxy.address" 2>"$work/out/proxy" </dev/null &
    processes+=($!)
    read -r -t 10 line <"$work/out/proxy.address" || fail "the proxy did not start: $(cat "$work/out/proxy")"
    read -r _ proxy _ control <<<"$line"
}

# rules JSON...: each an object without its braces; no argument: nothing is broken any more.
rules() {
    local rule text=
    injected=$((injected + $(struck)))
    for rule in "$@"; do text+="${text:+,}{$rule}"; done
    curl -fsS -X PUT --data "[$text]" -o /dev/null "http://$control/"
}
struck() { curl -fsS "http://$control/" | python3 -c 'import json, sys; print(json.load(sys.stdin)["struck"])'; }

# ---------------------------------------------------------------- known data

# make_set NAME BYTES: some small files and one of that size, below $want.
make_set() {
    local number
    mkdir -p "$want/$1/small"
    for number in 1 2 5 20 50; do head -c $((number * $2 / 5000)) /dev/urandom >"$want/$1/small/$number"; done
    head -c "$2" /dev/urandom >"$want/$1/large"
}

# Onto the drive, with a rename, and fsynced. Every command must succeed.
store_set() {
    run cp -r "$want/$1" "$mnt/$1.new"
    run sync "$mnt/$1.new/large"
    run mv "$mnt/$1.new" "$mnt/$1"
    run sync "$mnt"
}

all_there() { run diff -r "$want/${1:-}" "$mnt/${1:-}"; }

# Each file of the set is right or cannot be read. Prints how many could not.
right_or_error() {
    python3 - "$want/$1" "$mnt/$1" <<'PYTHON'
import os, sys
want, have = sys.argv[1:]
errors = 0
for folder, _, files in os.walk(want):
    for name in files:
        path = os.path.join(folder, name)
        expected = open(path, "rb").read()
        try:
            found = open(os.path.join(have, os.path.relpath(path, want)), "rb").read()
        except OSError as error:
            errors += 1
            if error.errno != 5:
                sys.exit(f"{name}: {error}")
            continue
        if found != expected:
            sys.exit(f"{name}: WRONG BYTES")
print(errors)
PYTHON
}

# A machine that only reads, through the proxy and without anything local.
reader() {
    use_machine reader
    rm -rf "$cache" "$state"
    mkdir -p "$cache" "$state"
}

health() { "$lidfs" status --json "$mnt" | python3 -c 'import json, sys; h = json.load(sys.stdin)["health"]; print(h["state"], h["message"] or "")'; }

wait_health() {
    local deadline=$((SECONDS + $2))
    until [[ "$(health)" == "$1"* ]]; do
        [ $SECONDS -lt $deadline ] || fail "health is not $1 after $2 s: $(health)"
        sleep 0.2
    done
}

done_with() {
    cases=$((cases + 1))
    took "$1" "$2"
}

# ---------------------------------------------------------------- what is short

# through NAME BYTES RULE...: written and read on another machine under the fault; every call succeeds.
through() {
    local name=$1 bytes=$2 start=$SECONDS
    shift 2
    make_set "$name" "$bytes"
    use_machine writer
    rules "$@"
    store_set "$name"
    [ "$(struck)" -gt 0 ] || fail "$name: no request was struck while writing"
    reader
    mount_volume --read-only
    all_there "$name"
    umount_volume
    rules
    done_with "$name" "$start"
}

# lied_to NAME RULE...: stored without faults, then read under it: right or EIO. Afterwards right.
lied_to() {
    local name=$1 start=$SECONDS errors
    shift
    make_set "$name" 3000000
    use_machine writer
    store_set "$name"
    reader
    mount_volume --read-only
    rules "$@"
    errors=$(right_or_error "$name") || fail "$name: $errors"
    [ "$(struck)" -gt 0 ] || fail "$name: no request was struck"
    rules
    all_there "$name"
    umount_volume
    # And while it mounts: refused, or everything is right.
    reader
    rules "${@/\"path\": \"packs\"/\"path\": \"meta\"}"
    if try_mount --read-only; then
        errors=$(right_or_error "$name") || fail "$name, metadata: $errors"
        rules
        umount_volume
    fi
    crash
    rules
    reader
    mount_volume --read-only
    all_there "$name"
    umount_volume
    done_with "$name, $errors reads refused" "$start"
}

short_faults() {
    local round
    for ((round = 1; round <= rounds; round++)); do
        through "answers-500-$round" 3000000 '"fault": "status", "status": 500, "code": "InternalError", "one_in": 3'
        through "slow-down-503-$round" 3000000 '"fault": "status", "status": 503, "code": "SlowDown", "one_in": 3'
        through "too-many-429-$round" 3000000 '"fault": "status", "status": 429, "code": "TooManyRequests", "one_in": 3'
        through "resets-in-requests-$round" 3000000 '"fault": "reset_request", "one_in": 3'
        through "resets-in-answers-$round" 3000000 '"fault": "reset_response", "one_in": 3'
        through "answers-lost-$round" 3000000 '"fault": "swallow", "op": "PUT|POST|DELETE", "one_in": 2' '"fault": "swallow", "one_in": 4'
        through "bodies-cut-$round" 3000000 '"fault": "truncate", "one_in": 3' '"fault": "reset_request", "op": "PUT", "one_in": 4'
        through "silence-$round" 200000 '"fault": "hang", "one_in": 4, "times": 3'
        through "1-kb-per-s-$round" 4000 '"fault": "slow", "bytes_per_s": 1000, "op": "PUT|POST"'
        through "everything-$round" 3000000 '"fault": "status", "status": 500, "one_in": 8' '"fault": "reset_request", "one_in": 8' \
            '"fault": "reset_response", "one_in": 8' '"fault": "swallow", "one_in": 8' '"fault": "truncate", "one_in": 8'
        lied_to "wrong-ranges-$round" '"fault": "wrong_range", "op": "GET", "path": "packs", "one_in": 2'
        lied_to "wrong-bytes-$round" '"fault": "wrong_bytes", "op": "GET", "path": "packs", "one_in": 2'
        lied_to "short-bodies-$round" '"fault": "shorten", "op": "GET", "path": "packs", "one_in": 2'
    done
}

# A store whose listings are behind is refused. If it shows only later that they are, when the writer mounts anew,
# nothing that was stored is lost or written over.
stale_lists() {
    local start=$SECONDS
    make_set stale-list 1000000
    make_set after-stale-list 100000
    use_machine writer
    umount_volume
    mount_volume
    rules '"fault": "stale"'
    store_set stale-list
    umount_volume
    E2E_MACHINE=$vol expect 14 "does not show at once" "$lidfs" mount -c "$conf" "$mnt"
    rules
    mount_volume
    make_set stale-list-2 1000000
    rules '"fault": "stale", "path": "meta"'
    store_set stale-list-2
    umount_volume
    mount_volume
    all_there stale-list-2
    all_there stale-list
    store_set after-stale-list
    [ "$(struck)" -gt 0 ] || fail "stale lists: no listing was struck"
    rules
    all_there after-stale-list
    done_with "stale lists" "$start"
}

# ---------------------------------------------------------------- outages

# A restic backup onto the drive and a large copy, with an outage in the middle: both finish by themselves.
outage_in_the_middle() {
    local kind
    for kind in $outages; do outage "$kind"; done
}

outage() {
    local start=$SECONDS kind=$1 restic_pid copy_pid
    export RESTIC_PASSWORD=restic
    use_machine writer
    if [ ! -e "$work/large" ]; then
        head -c "${copy_mib}M" /dev/urandom >"$work/large"
        mkdir "$work/tree"
        cp -r "$root/src" "$root/tests" "$work/tree"
        head -c 500M /dev/urandom >"$work/tree/random"
    fi
    run restic -r "$mnt/restic-$kind" --no-cache init
    restic -r "$mnt/restic-$kind" --no-cache backup "$work/tree" >"$work/out/restic" 2>&1 </dev/null &
    restic_pid=$!
    # Both are to be under way; the copy is the quicker one to begin.
    until [ "$(du -sm "$mnt/restic-$kind" | cut -f 1)" -ge 5 ]; do sleep 0.05; done
    cp "$work/large" "$mnt/large-$kind" >"$work/out/cp" 2>&1 &
    copy_pid=$!
    until [ "$(stat -c %s "$mnt/large-$kind" 2>/dev/null || echo 0)" -ge 10000000 ]; do sleep 0.05; done
    rules "\"fault\": \"$kind\""
    { kill -0 $restic_pid && kill -0 $copy_pid; } || fail "$kind: a program had ended before the outage: $(cat "$work/out/restic")"
    sleep $((OUTAGE_S * 2 / 3))
    wait_health failing 10
    say "outage ($kind), status: $(health | cut -c 1-200)"
    sleep $((OUTAGE_S / 3))
    rules
    wait $restic_pid || fail "$kind: restic: $(tail -n 5 "$work/out/restic")"
    wait $copy_pid || fail "$kind: cp: $(cat "$work/out/cp")"
    flush_volume
    run restic -r "$mnt/restic-$kind" --no-cache check --read-data
    same "$work/large" "$mnt/large-$kind" "the copy"
    rm -r "$mnt/restic-$kind" "$mnt/large-$kind"
    wait_health ok 10
    done_with "a $OUTAGE_S s outage ($kind) in restic backup and a copy of $copy_mib MiB" "$start"
}

# What a program is told during an outage that is longer than the deadline (10 s).
past_the_deadline() {
    local start=$SECONDS kind
    use_machine writer
    umount_volume
    use_machine impatient
    mount_volume
    mkdir "$want/accepted"
    for kind in refuse hang; do
        echo "cached $kind" >"$want/accepted/cached-$kind"
        cp "$want/accepted/cached-$kind" "$mnt/"
        sync "$mnt"
        rules "\"fault\": \"$kind\""
        python3 - "$mnt" "$want/accepted" "$kind" <<'PYTHON' || fail "past the deadline, $kind"
import errno, os, sys, time
mnt, want, kind = sys.argv[1:]
for number in range(3):
    content = os.urandom(10_000)
    name = f"{kind}-{number}"
    file = os.open(os.path.join(mnt, name), os.O_CREAT | os.O_WRONLY)
    os.write(file, content)
    began = time.monotonic()
    try:
        os.fsync(file)
        sys.exit("fsync during the outage: FALSE SUCCESS")
    except OSError as error:
        took = time.monotonic() - began
        print(f"faults: {kind}: fsync gives {errno.errorcode[error.errno]} after {took:.1f} s")
        if error.errno != errno.EIO or took > 25:
            sys.exit("not EIO, or not in time")
    os.close(file)
    # The write itself was accepted.
    with open(os.path.join(want, name), "wb") as copy:
        copy.write(content)
if open(os.path.join(mnt, f"cached-{kind}")).read() != f"cached {kind}\n":
    sys.exit("what is cached is not read during the outage")
PYTHON
        [[ "$(health)" == failing* ]] || fail "$kind: health during the outage: $(health)"
        say "$kind, status: $(health | cut -c 1-200)"
        expect 1/14 . "$lidfs" flush "$mnt"
        say "$kind, lidfs flush: $message"
        rules
        flush_volume
        wait_health ok 30
    done
    umount_volume
    use_machine writer
    mount_volume
    for kind in "$want"/accepted/*; do same "$kind" "$mnt/${kind##*/}" "${kind##*/}"; done
    mkdir "$mnt/accepted"
    run mv "$mnt"/{cached,refuse,hang}-* "$mnt/accepted/"
    done_with "past the deadline" "$start"
}

# Unmounting ends while the store is away: on the second signal, and says what was left.
unmounting_ends() {
    local start=$SECONDS pid kind
    for kind in refuse hang; do
        use_machine writer
        umount_volume
        use_machine impatient
        mount_volume
        pid=$(daemon_pid)
        # What a mount has not read yet it cannot find in an outage; this name it knows.
        echo before >"$mnt/lost-$kind"
        run sync "$mnt/lost-$kind"
        rules "\"fault\": \"$kind\""
        echo "not stored" >"$mnt/lost-$kind"
        kill -TERM "$pid"
        sleep 2
        [ -e "/proc/$pid" ] || fail "$kind: the daemon gave up at the first signal"
        kill -TERM "$pid"
        for _ in {1..150}; do
            [ -e "/proc/$pid/fd/0" ] || break
            sleep 0.1
        done
        [ ! -e "/proc/$pid/fd/0" ] || fail "$kind: the daemon still runs 15 s after the second signal"
        ! mountpoint -q "$mnt" || fail "$kind: still mounted"
        grep -q 'second signal' "$log"/* || fail "$kind: the log does not tell what was left: $(tail -n 3 "$log/lidfs.log")"
        rules
        use_machine writer
        mount_after_crash
        case $(cat "$mnt/lost-$kind") in before | "" | "not stored") rm "$mnt/lost-$kind" ;; *) fail "$kind: neither the old nor the new content" ;; esac
    done
    done_with "unmounting in an outage ends" "$start"
}

# ---------------------------------------------------------------- the account

rgw_admin() { run radosgw-admin -c "$(server_dir ceph-rgw)/ceph.conf" -n client.rgw "$@"; }

# A user of the gateway whose keys come and go, given to lidfs by a command as temporary credentials are.
credentials() {
    local start=$SECONDS uid=e2e-$$ old_key=$AWS_ACCESS_KEY_ID old_secret=$AWS_SECRET_ACCESS_KEY
    use_machine writer
    umount_volume
    at_end "radosgw-admin -c '$(server_dir ceph-rgw)/ceph.conf' -n client.rgw user rm --uid=$uid --purge-data >/dev/null 2>&1"
    rgw_admin user create --uid=$uid --display-name=$uid --access-key=FIRST$$ --secret-key=first$$
    export AWS_ACCESS_KEY_ID=FIRST$$ AWS_SECRET_ACCESS_KEY=first$$
    new_bucket
    mkdir -p "$HOME/.aws"
    printf '[profile e2e]\nregion = us-east-1\ncredential_process = %s\n' "$work/credentials" >"$HOME/.aws/config"
    give_credentials FIRST$$ first$$ 8
    unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
    machine account "s3://$bucket/volume" '' '[write]
deadline = "20 s"
[store]
endpoint = "http://'"$proxy"'"
region = "us-east-1"
path_style = true
deadline = "10 s"
profile = "e2e"'
    run "$lidfs" init -c "$conf"
    mount_volume
    echo first >"$mnt/first"
    run sync "$mnt/first"

    # A new key is there before the old one goes: nobody notices.
    rgw_admin key create --uid=$uid --key-type=s3 --access-key=SECOND$$ --secret-key=second$$
    give_credentials SECOND$$ second$$ 3600
    sleep 10
    rgw_admin key rm --uid=$uid --key-type=s3 --access-key=FIRST$$
    echo second >"$mnt/second"
    run sync "$mnt/second"
    say "a key that is replaced before it expires: nobody notices"

    # Revoked: EIO past the deadline, said in status; taken up again when access is.
    rgw_admin user suspend --uid=$uid
    echo third >"$mnt/third"
    if sync "$mnt/third" 2>/dev/null; then fail "fsync with revoked credentials: FALSE SUCCESS"; fi
    [[ "$(health)" == failing*[Dd]enied* ]] || fail "revoked credentials: status says $(health)"
    say "revoked, status: $(health | cut -c 1-240)"
    rgw_admin user enable --uid=$uid
    flush_volume
    wait_health ok 30

    # Expired, with a server that says so.
    rules '"fault": "status", "status": 400, "code": "ExpiredToken"'
    echo fourth >"$mnt/fourth"
    if sync "$mnt/fourth" 2>/dev/null; then fail "fsync with expired credentials: FALSE SUCCESS"; fi
    [[ "$(health)" == failing*expired* ]] || fail "expired credentials: status says $(health)"
    say "expired, status: $(health | cut -c 1-240)"
    rules
    flush_volume

    # A clock that is an hour off.
    rules '"fault": "skew"'
    echo fifth >"$mnt/fifth"
    if sync "$mnt/fifth" 2>/dev/null; then fail "fsync with a wrong clock: FALSE SUCCESS"; fi
    [[ "$(health)" == failing*clock* ]] || fail "clock an hour off: status says $(health)"
    say "clock an hour off, status: $(health | cut -c 1-240)"
    rules
    flush_volume
    wait_health ok 30
    umount_volume
    rules '"fault": "skew"'
    E2E_MACHINE=$vol expect 14 clock "$lidfs" mount -c "$conf" "$mnt"
    rules
    lose_local
    mount_volume
    [ "$(cat "$mnt"/{first,second,third,fourth,fifth} | xargs)" = "first second third fourth fifth" ] || fail "credentials: not everything accepted is there"
    umount_volume
    export AWS_ACCESS_KEY_ID=SECOND$$ AWS_SECRET_ACCESS_KEY=second$$
    s3 remove "$bucket"
    unset "buckets[-1]"
    export AWS_ACCESS_KEY_ID=$old_key AWS_SECRET_ACCESS_KEY=$old_secret
    use_machine writer
    mount_volume
    done_with "credentials and clock" "$start"
}

# give_credentials ACCESS SECRET SECONDS: what the command prints from now on.
give_credentials() {
    cat >"$work/credentials.new" <<-END
	#!/bin/sh
	printf '{"Version": 1, "AccessKeyId": "$1", "SecretAccessKey": "$2", "Expiration": "%s"}' "\$(date -u -d '+$3 seconds' +%Y-%m-%dT%H:%M:%SZ)"
	END
    chmod +x "$work/credentials.new"
    mv "$work/credentials.new" "$work/credentials"
}

lose_local() {
    rm -rf "$cache" "$state"
    mkdir -p "$cache" "$state"
}

# ---------------------------------------------------------------- the disk

# Cache and state on a small file system that is full: the drive works as before. A new mount is refused, with the
# reason, because it could not note what it has seen (the pin).
full_disk() {
    local start=$SECONDS
    make_set full-disk 20000000
    use_machine writer
    umount_volume
    mkdir -p "$work/tiny"
    mount -t tmpfs -o size=6m none "$work/tiny"
    machine full "$volume_url" "$volume_key" '[cache]
memory = "16 MiB"
disk = "'"$work"'/tiny/cache"
[state]
dir = "'"$work"'/tiny/state"'
    mount_volume
    store_set full-disk
    drop_caches
    all_there full-disk
    head -c 100M /dev/zero >"$work/tiny/filler" 2>/dev/null || true
    mkdir -p "$want/full-disk-2"
    cp -r "$want/full-disk/small" "$want/full-disk-2/large"
    run cp -r "$want/full-disk-2" "$mnt/"
    run sync "$mnt"
    drop_caches
    all_there full-disk
    umount_volume
    E2E_MACHINE=$vol expect 1 "no space left" "$lidfs" mount -c "$conf" "$mnt"
    say "state disk full: $message"
    rm "$work/tiny/filler"
    rm -rf "$work/tiny/cache"
    mount_volume
    all_there full-disk-2
    umount_volume
    umount -l "$work/tiny"
    use_machine writer
    mount_volume
    done_with "cache and state disk full" "$start"
}

# The disk cache changed under the mount: every chunk of it bent, cut off, and its directory out of reach.
bad_cache() {
    local start=$SECONDS files
    make_set bad-cache 8000000
    use_machine writer
    store_set bad-cache
    umount_volume
    machine small-memory "$volume_url" "$volume_key" '[cache]
memory = "1 MiB"
disk = "'"$work"'/small-memory/cache"'
    mount_volume
    all_there
    sleep 1
    files=$(find "$cache" -type f -size +0 | wc -l)
    [ "$files" -gt 0 ] || fail "the disk cache is empty, so damaging it shows nothing"
    python3 - "$cache" <<'PYTHON'
import os, sys
for folder, _, files in os.walk(sys.argv[1]):
    for name in files:
        path = os.path.join(folder, name)
        data = bytearray(open(path, "rb").read())
        for at in range(0, len(data), 1009):
            data[at] ^= 1 << at % 8
        with open(path, "r+b") as file:
            file.write(data)
PYTHON
    drop_caches
    all_there
    find "$cache" -type f -exec truncate -s 100 {} +
    drop_caches
    all_there
    # Root reads what it may not; so the directory goes, and a file stands in its place.
    rm -rf "$cache"
    echo "not a directory" >"$cache"
    drop_caches
    all_there
    make_set bad-cache-2 2000000
    store_set bad-cache-2
    umount_volume
    mount_volume
    all_there bad-cache-2
    umount_volume
    use_machine writer
    mount_volume
    done_with "disk cache damaged, cut and gone ($files files)" "$start"
}

server ceph-rgw
direct=$S3_ENDPOINT
start_proxy
new_bucket
mkdir "$want"
S3_ENDPOINT=http://$proxy
machine writer "s3://$bucket/volume"
volume_url=$url volume_key=$key
machine reader "$url" "$key"
machine impatient "$url" "$key" '[write]
deadline = "10 s"
[store]
endpoint = "http://'"$proxy"'"
region = "us-east-1"
path_style = true
deadline = "10 s"'
S3_ENDPOINT=$direct
use_machine writer
run "$lidfs" init -c "$conf"
mount_volume

for part in ${E2E_PARTS:-short_faults stale_lists outage_in_the_middle past_the_deadline unmounting_ends credentials full_disk bad_cache}; do
    $part
done

use_machine writer
umount_volume
machine elsewhere "$volume_url" "$volume_key"
mount_volume
for entry in "$want"/*; do [ ! -e "$entry" ] || all_there "${entry##*/}"; done
umount_volume
say "cases $cases, requests broken $injected, false successes 0, wrong bytes 0"

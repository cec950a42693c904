#!/usr/bin/env bash
# What goes wrong is refused with the documented exit code and one line that says what and where.
# Each case prints its line; all are tried before the script fails.
source "$(dirname "$0")/../support/lib.sh"

wrong=0

# try NAME EXIT REGEX COMMAND...
try() {
    local name=$1
    shift
    if (trap - ERR; expect "$@") 2>"$work/out/verdict"; then
        say "$name: exit $1: $(head -c 300 "$work/out/stderr")"
    else
        wrong=$((wrong + 1))
        cat "$work/out/verdict" >&2
        say "$name: WRONG"
    fi
    # A mount that should have been refused is not left behind.
    [ "$vol" = "$work/holder" ] || crash
}

# The mount command of the current machine; what comes after it goes before the mount point.
mount_it() { E2E_MACHINE=$vol try "$@" setsid "$lidfs" mount -c "$conf" "$mnt"; }

# change_header SED: edits the volume header in the bucket. It is one JSON document with its MAC at the end.
change_header() {
    sed -E "$1" "$work/header.kept" >"$work/header.changed"
    ! cmp -s "$work/header.kept" "$work/header.changed" || fail "the header has nothing for $1"
    s3 put "$bucket" volume/lidfs.json "$work/header.changed"
}

server ceph-rgw
new_volume holder
holder_bucket=$bucket holder_url=$url holder_key=$key
host=$(uname -n)

# ---- what is wrong on this machine
machine other "$url"
mount_it "wrong key" 12 key
install -m 644 "$holder_key" "$key"
mount_it "keyfile readable by others" 3 "${key}.*(chmod|0?600|mode|permission)"
rm "$key"
mount_it "no keyfile" 3 "$key"
install -m 600 "$holder_key" "$key"

write_config $'[cache]\nmemory = "256 MiB"\nmemry = "1 GiB"'
mount_it "unknown config key" 3 "lidfs\.toml.*memry|memry.*lidfs\.toml"
grep -qE "(:|line )$(grep -n memry "$conf" | cut -d : -f 1)\b" "$work/out/stderr" ||
    { say "unknown config key: the line number is missing: WRONG"; wrong=$((wrong + 1)); }
write_config $'[write]\ncommit_interval = "soon"'
mount_it "bad config value" 3 'lidfs\.toml.*commit_interval|commit_interval.*lidfs\.toml'
write_config
try "no config file" 3 nowhere.toml "$lidfs" mount -c "$work/nowhere.toml" "$mnt"
try "usage" 2 usage "$lidfs" mount --no-such-option

E2E_MACHINE=$vol try "mountpoint missing" 15 "$work/nowhere" "$lidfs" mount -c "$conf" "$work/nowhere"
E2E_MACHINE=$vol try "mountpoint is a file" 15 directory "$lidfs" mount -c "$conf" "$conf"
touch "$mnt/something"
mount_it "mountpoint not empty" 15 "not empty"
rm "$mnt/something"
mount -t tmpfs none "$mnt"
mount_it "mountpoint busy" 15 "mount"
umount "$mnt" 2>/dev/null || true
try "umount of what is not mounted" 15 "mount" "$lidfs" umount "$mnt"

# ---- what is wrong with the bucket
try "prefix not empty" 1 "not empty|already" "$lidfs" init -c "$conf"
machine no-bucket "s3://e2e-no-such-bucket-$$/volume" "$holder_key"
mount_it "no such bucket" 10 "e2e-no-such-bucket-$$"
try "init without a bucket" 10 "e2e-no-such-bucket-$$" "$lidfs" init -c "$conf"
machine no-volume "s3://$bucket/elsewhere" "$holder_key"
mount_it "no such volume" 10 "init"

machine other "$holder_url" "$holder_key"
(
    unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
    mount_it "no credentials" 14 credential
    exit $wrong
) || wrong=$?
(
    export AWS_SECRET_ACCESS_KEY=wrong
    mount_it "wrong credentials" 14 "credential|denied|signature|forbidden"
    exit $wrong
) || wrong=$?
write_config $'[store]\nendpoint = "http://127.0.0.1:1"\nregion = "us-east-1"\npath_style = true'
mount_it "endpoint down" 14 '127\.0\.0\.1:1'
write_config $'[store]\nendpoint = "http://s3.example.com"\nregion = "us-east-1"\npath_style = true'
mount_it "plain http to a remote host" 3 allow_http
write_config

# ---- two writers
use_machine holder
mount_volume
echo before >"$mnt/file"
mkdir "$mnt/inside"
try "umount of a directory in the drive" 15 "not a mount point" "$lidfs" umount "$mnt/inside"
flush_volume
use_machine other
mount_it "second writer" 11 "$host.*([0-9]+ ?(s|m|h)|ago)"
mount_volume --takeover
[ "$(cat "$mnt/file")" = before ] || fail "takeover: the new mount lacks what was flushed"
python3 - "$work/holder/mnt" <<'PYTHON' || { say "takeover: WRONG"; wrong=$((wrong + 1)); }
import errno, os, sys, time
top = sys.argv[1]
def outcome(action):
    try:
        action()
        return "success"
    except OSError as error:
        return errno.errorcode[error.errno]
def write_and_fsync():
    file = os.open(os.path.join(top, "file"), os.O_WRONLY)
    try:
        os.write(file, b"after the takeover")
        os.fsync(file)
    finally:
        os.close(file)
first = outcome(write_and_fsync)
time.sleep(1)
later = outcome(lambda: os.chmod(os.path.join(top, "file"), 0o600))
# What a fenced mount has not in memory it cannot read any more: a new name may fail either way.
folder = outcome(lambda: os.mkdir(os.path.join(top, "folder")))
print(f"errors: takeover: the old mount answers fsync with {first}, chmod with {later}, mkdir with {folder}")
sys.exit(first != "EIO" or later != "EROFS" or folder not in ("EIO", "EROFS"))
PYTHON
[ "$(cat "$mnt/file")" = before ] || fail "takeover: the old mount has still changed the drive"
umount_volume
use_machine holder
crash

# ---- what an attacker with the bucket can do
use_machine other
mkdir "$work/old"
s3 dump "$holder_bucket" "$work/old"
mount_volume
echo newer >"$mnt/file"
umount_volume
mkdir "$work/new"
s3 dump "$holder_bucket" "$work/new"
s3 load "$holder_bucket" "$work/old"
mount_it "rolled back" 13 "roll|older|behind"
mount_volume --accept-rollback
umount_volume

bucket=$holder_bucket
cp "$work/old/volume/lidfs.json" "$work/header.kept"
change_header 's/"created": *[0-9]/&0/'
mount_it "header tampered" 13 "lidfs\.json|header"
change_header 's/"lidfs": *1/"lidfs": 99/'
mount_it "unknown version" 1/13 "version.*99|99.*version"
change_header 's/"features": *\[\]/"features": ["from-the-future"]/'
mount_it "unknown feature flag" 1/13 "feature.*from-the-future"
s3 put "$bucket" volume/lidfs.json "$work/header.kept"

# ---- a store that cannot keep two writers apart
forgetful_server
new_bucket
machine forgetful "s3://$bucket/volume"
write_config "$(forgetful_store)"
run "$lidfs" init -c "$conf"
write_config
mount_it "store without conditional writes" 1/14 "single_machine"

[ $wrong -eq 0 ] || fail "$wrong cases are wrong"

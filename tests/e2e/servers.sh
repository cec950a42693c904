#!/usr/bin/env bash
# One volume on every kind of store: made on Ceph RGW, its objects copied to an s3s-based server and to a
# plain directory, mounted and written on each. And a store that silently ignores If-None-Match is refused,
# unless the config says that there is a single machine.
source "$(dirname "$0")/../support/lib.sh"

work_on_it() {
    mkdir "$mnt/$1"
    python3 "$support/torture.py" "$mnt/$1/torture"
    head -c 20M /dev/urandom >"$mnt/$1/large"
    manifest "$mnt" "$work/manifest"
}

# The same drive on a new machine: everything is there, and it can be written.
continue_on() {
    local store=$1 start=$SECONDS
    mount_after_crash
    rm -rf "$work/found"
    manifest "$mnt" "$work/found"
    same_manifest "$work/manifest" "$work/found" "the drive on $store"
    work_on_it "$store"
    umount_volume
    lose_machine
    mount_volume
    rm -rf "$work/found"
    manifest "$mnt" "$work/found"
    same_manifest "$work/manifest" "$work/found" "the drive on $store, written there"
    umount_volume
    took "$store: read, written, read again on another machine" "$start"
}

server ceph-rgw
new_volume ceph
mount_volume
work_on_it ceph
umount_volume
first_key=$key
mkdir "$work/objects"
s3 dump "$bucket" "$work/objects"
say "made on ceph-rgw: $(s3 list "$bucket" | wc -l) objects"
ceph=$S3_ENDPOINT
cp -a "$work/manifest" "$work/manifest.first"

server s3s-fs
new_bucket
s3 load "$bucket" "$work/objects"
machine s3s "s3://$bucket/volume" "$first_key"
continue_on s3s-fs
s3 remove "$bucket"

rm -rf "$work/manifest"
cp -a "$work/manifest.first" "$work/manifest"
mkdir "$work/directory"
cp -r "$work/objects/volume" "$work/directory/volume"
machine directory "file://$work/directory/volume" "$first_key"
continue_on file

forgetful_server
new_bucket
machine forgetful "s3://$bucket/volume"
write_config "$(forgetful_store)"
run "$lidfs" init -c "$conf"
write_config
E2E_MACHINE=$vol expect 1/14 single_machine setsid "$lidfs" mount -c "$conf" "$mnt"
say "a store that ignores If-None-Match: $message"
write_config "$(forgetful_store)"
mount_volume
echo content >"$mnt/file"
umount_volume
lose_machine
mount_volume
[ "$(cat "$mnt/file")" = content ] || fail "single_machine: the file is not there again"
"$lidfs" status "$mnt" | grep -qi 'single' || fail "status does not warn of single_machine"
umount_volume
say "with single_machine = true it mounts, and status warns"

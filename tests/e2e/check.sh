#!/usr/bin/env bash
# What is wrong with a bucket is told by the byte, and costs no more than that: fsck and scrub beside a
# mount and without one, of a pack, an object of the metadata, the header; a scrub that is killed goes on.
source "$(dirname "$0")/../support/lib.sh"

readonly FILES=6 FILE_BYTES=4000000 BLOCK=65536

# answer EXIT COMMAND...: its standard output must be JSON; it goes to out/answer.
answer() {
    local want=$1 code=0
    shift
    "$@" >"$work/out/answer" 2>"$work/out/stderr" </dev/null || code=$?
    [ "$code" = "$want" ] || fail "exit $code, expected $want: $* -- $(cat "$work/out/stderr")"
    python3 -m json.tool "$work/out/answer" >/dev/null || fail "no JSON: $*"
}

# Whether the Python expression $1 is true of the answer `it`.
holds() {
    python3 - "$work/out/answer" "$1" <<'PYTHON' || fail "not so: $1 -- $(head -c 2000 "$work/out/answer")"
import json, sys
it = json.load(open(sys.argv[1]))
sys.exit(not eval(sys.argv[2]))
PYTHON
}

# Flips one bit of the file $1 at byte $2. The same again puts it back.
flip_file() {
    python3 - "$1" "$2" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    byte = file.read(1)[0]
    file.seek(-1, 1)
    file.write(bytes([byte ^ 1]))
PYTHON
}

# The same for an object in the bucket.
flip() {
    s3 get "$bucket" "$1" "$work/out/object"
    flip_file "$work/out/object" "$2"
    s3 put "$bucket" "$1" "$work/out/object"
}

clean() {
    run "$lidfs" fsck -c "$conf"
    run "$lidfs" scrub -c "$conf"
}

server s3s-fs
new_volume
run "$lidfs" fsck -c "$conf"
run "$lidfs" fsck --repair -c "$conf"

# ---- beside a mount
mount_volume
mkdir -p "$work/copy" "$mnt/dir/sub"
for number in $(seq $FILES); do
    head -c $FILE_BYTES /dev/urandom >"$work/copy/$number"
    cp "$work/copy/$number" "$mnt/dir/$number"
    flush_volume
done
ln "$mnt/dir/1" "$mnt/dir/sub/again"
ln -s ../1 "$mnt/dir/sub/link"
mkfifo "$mnt/pipe"
setfattr -n user.tag -v value "$mnt/dir/2"
echo small >"$mnt/small"
head -c 100000 "$mnt/dir/3" | dd of="$mnt/dir/4" conv=notrunc status=none
dd if="$mnt/dir/4" of="$work/copy/4" status=none
flush_volume
exec {unlinked}<"$mnt/small"
rm "$mnt/small"
flush_volume
clean
expect 8 'mounted read-write.*process' "$lidfs" fsck --repair -c "$conf"
say "beside a mount: both find nothing; --repair: $message"
answer 0 "$lidfs" fsck --json -c "$conf"
holds "it['found'] == 0 and it['problems'] == [] and it['records'] > $FILES"

# A crash leaves nothing to mend.
crash
exec {unlinked}<&-
clean
run "$lidfs" fsck --repair -c "$conf"
mount_after_crash
umount_volume
clean
say "after a crash and after unmounting: nothing"

# ---- a pack with a flipped byte
pack=$(s3 list "$bucket" volume/packs/ | awk -F '\t' '$2 > 3000000 { print $1; exit }')
flip "$pack" 1500000
expect 4 'packs with faults: 1, files that cannot be read whole: 1; restore' "$lidfs" scrub -c "$conf"
say "a flipped byte: $(grep cannot "$work/out/stdout")"
say "a flipped byte: $message"
answer 4 "$lidfs" scrub --json -c "$conf"
holds "len(it['faulty_packs']) == 1 and len(it['damaged_files']) == 1 and it['damaged_objects'] == []"
holds "it['metadata_objects'] > 2 and it['packs'] >= $FILES and it['resumed'] is False"
holds "[last - first for first, last in it['damaged_files'][0]['ranges']] == [$BLOCK]"
file=$(python3 -c "import json; print(json.load(open('$work/out/answer'))['damaged_files'][0]['path'])")
first=$(python3 -c "import json; print(json.load(open('$work/out/answer'))['damaged_files'][0]['ranges'][0][0])")
run "$lidfs" fsck -c "$conf"
drop_caches
rm -rf "$cache"
mkdir "$cache"
mount_volume
answer 4 "$lidfs" scrub --json -c "$conf"
holds "it['damaged_files'][0]['path'] == '$file'"
for number in $(seq $FILES); do
    [ "/dir/$number" = "$file" ] || cmp "$work/copy/$number" "$mnt/dir/$number" || fail "/dir/$number is not whole"
done
python3 - "$work/copy/${file##*/}" "$mnt$file" "$first" $BLOCK <<'PYTHON' || fail "$file is not as the scrub said"
import errno, os, sys
copy, path, first, block = open(sys.argv[1], "rb").read(), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
file = os.open(path, os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
for at in range(0, len(copy), 4096):
    try:
        read = os.pread(file, 4096, at)
    except OSError as error:
        read = error.errno
    wanted = errno.EIO if first <= at < first + block else copy[at:at + 4096]
    if read != wanted:
        sys.exit(f"byte {at}: {read if isinstance(read, int) else 'other bytes'}")
PYTHON
umount_volume
say "$file: its $BLOCK bytes from $first on fail with EIO, the rest and all other files are whole"
flip "$pack" 1500000
clean

# ---- a scrub that is killed
"$lidfs" scrub --rate 1MB -c "$conf" >/dev/null 2>&1 </dev/null &
scrub=$!
processes+=("$scrub")
until [ -n "$(ls "$state"/scrub/*.json 2>/dev/null)" ]; do
    kill -0 $scrub 2>/dev/null || fail "the scrub at 1 MB a second is done before it wrote how far it is"
    sleep 0.2
done
kill -9 $scrub
{ wait $scrub || true; } 2>/dev/null
answer 0 "$lidfs" scrub --json -c "$conf"
holds "it['resumed'] and it['packs'] >= $FILES"
answer 0 "$lidfs" scrub --json -c "$conf"
holds "not it['resumed']"
say "a scrub that is killed goes on, and the next one begins anew"

# ---- other damage
s3 get "$bucket" "$pack" "$work/pack"
s3 delete "$bucket" "$pack"
expect 4 'restore' "$lidfs" scrub -c "$conf"
grep -q 'not in the bucket' "$work/out/stdout" || fail "a missing pack is not told: $(cat "$work/out/stdout")"
s3 put "$bucket" "$pack" "$work/pack"
# Two of each kind.
for object in $(s3 list "$bucket" volume/meta/ | cut -f 1 | awk -F / 'seen[$3]++ < 2'); do
    flip "$object" 60
    expect 4/13 'damaged' "$lidfs" scrub -c "$conf"
    grep -q "^${object#volume/}: " "$work/out/stdout" || fail "$object is not told: $(cat "$work/out/stdout") $message"
    flip "$object" 60
done
say "any object of the metadata: $message"
clean
s3 get "$bucket" volume/lidfs.json "$work/header.kept"
flip volume/lidfs.json 200
expect 13 'lidfs\.json|header' "$lidfs" scrub -c "$conf"
say "the header: $message"
expect 8 'lidfs\.json|header' "$lidfs" fsck -c "$conf"
s3 put "$bucket" volume/lidfs.json "$work/header.kept"
run "$lidfs" key generate "$work/other.key"
expect 12 key "$lidfs" scrub -c "$conf" --keyfile "$work/other.key"
expect 8 key "$lidfs" fsck -c "$conf" --keyfile "$work/other.key"
expect 2 usage "$lidfs" fsck --takeover -c "$conf"
expect 2 'rate' "$lidfs" scrub --rate 0 -c "$conf"

# ---- a repair instead of the mount
mount_volume
run "$lidfs" fsck --repair --takeover -c "$conf"
if { touch "$mnt/new" && sync "$mnt/new"; } 2>/dev/null; then fail "the mount still writes after fsck took over"; fi
crash
clean
mount_volume
for number in $(seq $FILES); do run cmp "$work/copy/$number" "$mnt/dir/$number"; done
umount_volume
say "a repair that takes over ends the mount, and what it had flushed is whole"

# ---- a volume in a directory
mkdir "$work/directory"
machine directory "file://$work/directory/volume"
run "$lidfs" init -c "$conf"
mount_volume
cp "$work/copy/1" "$mnt/file"
clean
umount_volume
clean
pack=$(find "$work/directory/volume/packs" -type f -size +1M | head -n 1)
flip_file "$pack" 1000000
answer 4 "$lidfs" scrub --json -c "$conf"
holds "it['damaged_files'][0]['path'] == '/file' and len(it['damaged_files'][0]['ranges']) == 1"
say "a volume in a directory: the same"

#!/usr/bin/env bash
# No name, content, attribute or key in the clear: not in the bucket, the cache, the state or the logs, and
# not in a core file, because a crash leaves none. Every object but lidfs.json is a sealed one.
source "$(dirname "$0")/../support/lib.sh"
# shellcheck source=tests/support/secrets.sh
source "$support/secrets.sh"

# Files whose every part is a needle. Content that cannot be compressed is stored as it is by any compressor,
# so a drive that compressed and did not encrypt would be found out too.
plant() {
    python3 - "$1" "$work/needles" <<'PYTHON'
import base64, os, random, sys
top, needles = sys.argv[1], open(sys.argv[2], "w")
generator = random.Random(os.urandom(16))
def needle(name):
    word = "".join(generator.choices("abcdefghijkmnpqrstuvwxyz23456789", k=24))
    print(name, word.encode().hex(), file=needles)
    return word
folder = os.path.join(top, needle("directory"))
os.mkdir(folder)
for number in range(50):
    path = os.path.join(folder, needle("file") + ".txt")
    with open(path, "wb") as file:
        file.write((needle("text") + " some words around it\n").encode() * 20)
os.setxattr(path, "user." + needle("xattr-name"), needle("xattr-value").encode())
os.symlink("/" + needle("symlink-target"), os.path.join(folder, needle("symlink")))
for size in (100, 5_000, 70_000, 40_000_000):
    content = generator.randbytes(size)
    with open(os.path.join(folder, needle("binary")), "wb") as file:
        file.write(content)
    for offset in range(0, size - 32, max(1, size // 7)):
        print("content", content[offset:offset + 24].hex(), file=needles)
with open(os.path.join(folder, needle("database")), "wb") as file:
    file.write(b"SQLite format 3\0" + bytes(100_000) + needle("tail").encode())
needles.close()
PYTHON
}

# The key itself: as in the file, and the bytes that it stands for.
key_needles() {
    python3 - "$key" <<'PYTHON'
import base64, re, sys
for line in open(sys.argv[1]).read().split():
    if re.fullmatch(r"[A-Za-z0-9+/]{43}=", line):
        print("key-text", line.encode().hex())
        print("key-bytes", base64.b64decode(line).hex())
PYTHON
}

server ceph-rgw
new_volume vol '[log]
level = "trace"
file = "'"$work"'/vol/log/lidfs.log"'
key_needles >"$work/key.needles"
[ -s "$work/key.needles" ] || fail "no key of 32 bytes in base64 in $key"

# Core files would land here, and one does, from a program that does not refuse.
cores=$work/cores
mkdir "$cores"
pattern=$(cat /proc/sys/kernel/core_pattern)
at_end "echo '$pattern' >/proc/sys/kernel/core_pattern"
echo "$cores/core.%p" >/proc/sys/kernel/core_pattern
ulimit -c unlimited
(bash -c 'kill -ABRT $$' || true) 2>/dev/null
[ -n "$(ls "$cores")" ] || fail "core files are not written on this machine, so their absence shows nothing"
rm -f "$cores"/*

mount_volume
plant "$mnt"
cat "$work/key.needles" >>"$work/needles"
if python3 "$support/search.py" "$work/needles" "$mnt" >/dev/null; then fail "the search finds nothing on the drive itself"; fi
flush_volume
# Some of it is read back cold, so that the disk cache has it too.
umount_volume
drop_caches
mount_volume
find "$mnt" -type f -exec cat {} + >/dev/null
flush_volume

mkdir "$work/bucket"
s3 dump "$bucket" "$work/bucket"
nothing_in "the bucket" "$work/bucket"
answer=$(python3 "$support/search.py" --sealed "$work/bucket") || fail "the bucket: $answer"
say "$answer are sealed"
[ -n "$(find "$cache" -type f)" ] || fail "the disk cache is empty, so the search in it shows nothing"
nothing_in "cache, state, home and logs while mounted" "$cache" "$state" "$HOME" "$log"

echo 'dirty data in memory' >"$mnt/dirty"
kill -ABRT "$(daemon_pid)"
sleep 1
crash
[ -z "$(ls "$cores")" ] || fail "SIGABRT left a core file: $(ls "$cores")"
[ -z "$(find "$work/vol" -name 'core*' -not -path "$mnt/*")" ] || fail "SIGABRT left a core file"
nothing_in "cache, state, home and logs after the crash" "$cache" "$state" "$HOME" "$log"

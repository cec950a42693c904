#!/usr/bin/env bash
# A second implementation (tests/decoder), written from src/format/FORMAT.md alone, restores what lidfs wrote: byte for
# byte, from a directory and from an S3 bucket, with a keyfile and with a passphrase. One flipped bit is refused.
source "$(dirname "$0")/../support/lib.sh"

# The first Python that has `cryptography`.
for python in python3 /usr/bin/python3; do
    "$python" -c 'import cryptography' 2>/dev/null && break
done
"$python" -c 'import cryptography' || fail "no Python with the package cryptography"

# decode VOLUME COMMAND...: with the keyfile of the current machine.
decode() { "$python" "$root/tests/decoder/decoder.py" --keyfile "$key" "$@"; }

# What a drive may hold: inline, large, sparse and compressible files, files written over in the middle, links,
# attributes, owners, names that are no UTF-8, a directory with many names, and what is removed again.
fill() {
    python3 - "$1" <<'PYTHON'
import os, random, sys
top = os.fsencode(sys.argv[1])
generator = random.Random(20)
def path(*names):
    return os.path.join(top, *names)
def write(name, content):
    with open(path(name), "xb") as file:
        file.write(content)
write(b"empty", b"")
write(b"inline", b"a few bytes")
for size in (1, 4095, 65536, 65537, 200_000):
    write(b"random %d" % size, generator.randbytes(size))
write(b"large", generator.randbytes(20_000_000))
write(b"compressible", b"".join(b"line %d of many that are alike\n" % i for i in range(200_000)))
write(b"half of each", generator.randbytes(500_000) + bytes(500_000) + b"word " * 100_000)
with open(path(b"sparse"), "xb") as file:
    for at in (0, 70_000, 9_000_000, 130 * 65536 + 5):
        file.seek(at)
        file.write(b"here" * 500)
    file.truncate(40_000_001)
os.mkdir(path(b"many"))
for number in range(400):
    write(b"many/%d" % number, b"%d\n" % number * number)
for number in range(0, 400, 3):
    os.remove(path(b"many/%d" % number))
os.makedirs(path("tief/unten/\u00e4\u00f6\u00fc".encode()))
write(b"tief/unten/\xff\xfe no UTF-8", b"name in bytes")
write(b"tief/" + b"n" * 255, b"long name")
os.symlink(b"../somewhere/else", path(b"tief/link"))
os.link(path(b"large"), path(b"tief/same as large"))
os.mkfifo(path(b"fifo"))
os.setxattr(path(b"inline"), b"user.comment", b"\0binary\xff")
os.chown(path(b"inline"), 1234, 4321)
os.chmod(path(b"inline"), 0o4751)
os.utime(path(b"random 1"), ns=(-1_000_000_001, 2_000_000_000_123_456_789))
PYTHON
}

# Overwrites in the middle, so that blocks have fragments of several chunks; holes are punched; a file shrinks.
change() {
    python3 - "$1" <<'PYTHON'
import os, random, sys
generator = random.Random(21)
with open(os.path.join(sys.argv[1], "large"), "r+b") as file:
    for at in range(100_000, 3_000_000, 77_777):
        file.seek(at)
        file.write(generator.randbytes(1000))
with open(os.path.join(sys.argv[1], "compressible"), "r+b") as file:
    file.seek(1_000_000)
    file.write(b"changed " * 5000)
    file.truncate(3_333_333)
os.rename(os.path.join(sys.argv[1], "inline"), os.path.join(sys.argv[1], "tief", "moved"))
PYTHON
    fallocate --punch-hole --offset 200000 --length 300000 "$1/random 200000"
    fallocate --punch-hole --offset 5000000 --length 1000000 "$1/large"
}

# Everything but inode numbers and times of change, which a copy cannot keep.
facts() {
    (
        cd "$1"
        find . -mindepth 1 -printf '%P\t%y\t%m\t%U:%G\t%T@\t%l\t%n\0' | LC_ALL=C sort -z
        find . -type f -printf '%P\t%s\0' | LC_ALL=C sort -z
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum -z
        find . -mindepth 1 -print0 | LC_ALL=C sort -z | xargs -0r getfattr -hPd -m '^user' -e hex
    ) >"$2"
}

# write_volume NAME [COMMAND...]: fills the current machine's volume in two mounts; the second leaves by a crash after
# a flush, so that the newest records stand in the log alone. COMMAND is run in it, on the mount.
write_volume() {
    local name=$1
    shift
    mount_volume
    fill "$mnt"
    umount_volume
    mount_volume
    change "$mnt"
    if [ $# -gt 0 ]; then run "$@" "$mnt"; fi
    echo "after the tables" >"$mnt/late"
    flush_volume
    facts "$mnt" "$work/$name.facts"
    crash
}

# restored NAME VOLUME: every name and byte, of the whole tree and of one file, which PATH finds by hashed names.
restored() {
    local answer
    rm -rf "$work/copy" "$work/one"
    answer=$(decode "$2" restore / "$work/copy")
    facts "$work/copy" "$work/copy.facts"
    same "$work/$1.facts" "$work/copy.facts" "$1: what the decoder restored"
    [ "$(stat -c %b "$work/copy/sparse")" -lt 1000 ] || fail "$1: the sparse file was restored without its holes"
    decode "$2" restore "/tief/unten/"$'\xff\xfe'" no UTF-8" "$work/one" >/dev/null
    [ "$(cat "$work/one")" = "name in bytes" ] || fail "$1: restored $(cat "$work/one")"
    [ "$(decode "$2" list | wc -l)" -eq $((${answer% restored} - 1)) ] || fail "$1: not as many names listed as restored"
    say "$1: $answer, byte for byte; $(decode "$2" check)"
}

# refused WHAT REGEX COMMAND...: exit 1 and one line.
refused() {
    local what=$1 pattern=$2
    shift 2
    expect 1 "$pattern" "$python" "$root/tests/decoder/decoder.py" --keyfile "$key" "$@"
    say "$what: $message"
}

# flip FILE OFFSET: turns one bit; an offset below 0 counts from the end.
flip() {
    python3 - "$1" "$2" <<'PYTHON'
import sys
content, at = bytearray(open(sys.argv[1], "rb").read()), int(sys.argv[2])
content[at] ^= 1
open(sys.argv[1], "wb").write(content)
PYTHON
}

# broken WHAT REGEX FILE OFFSET: with that bit turned `check` says no; turned back it says yes again at the end.
broken() {
    flip "$bad/$3" "$4"
    refused "$1" "$2" "$bad" check
    flip "$bad/$3" "$4"
}

# header_byte FIELD: where the value of a field of lidfs.json begins.
header_byte() { grep -abo "\"$1\": \"" "$bad/lidfs.json" | head -n 1 | awk -F: -v skip=$((${#1} + 5)) '{ print $1 + skip }'; }

refusals() {
    local bad=$work/bad file other
    cp -a "$1" "$bad"
    broken "the header" "MAC is wrong|slot" lidfs.json "$(($(grep -abo '"created"' "$bad/lidfs.json" | head -n 1 | cut -d: -f 1) + 12))"
    broken "the MAC" "MAC" lidfs.json -10
    broken "the slot" "opens no slot" lidfs.json "$(($(header_byte wrapped) + 180))"
    broken "the keyring" "MAC is wrong" lidfs.json "$(($(header_byte keyring) + 180))"
    broken "the lease" "authentication" lease 100
    file=$(cd "$bad" && find packs -type f | head -n 1)
    broken "salt of a pack" "commitment" "$file" 40
    broken "first chunk of a pack" "chunk 0 fails authentication" "$file" 97
    broken "directory of a pack" "fails authentication" "$file" -20
    broken "chunk count of a pack" "fails authentication" "$file" -8
    for file in $(cd "$bad" && for kind in manifest wal compacted compactions; do find "meta/$kind" -type f | sort | tail -n 1; done); do
        broken "$file" "$file: .*authentication" "$file" 96
        broken "the end of $file" "$file: .*authentication" "$file" -1
    done
    truncate -s -20 "$bad/$file"
    refused "$file, cut short" "authentication" "$bad" check
    cp "$1/$file" "$bad/$file"
    # Each is authentic, but not at the other's place.
    mapfile -t other < <(cd "$bad" && find meta/wal -type f | sort | head -n 2)
    cp "$1/${other[0]}" "$bad/${other[1]}"
    refused "one log object in another's place" "commitment" "$bad" check
    cp "$1/${other[1]}" "$bad/${other[1]}"
    run decode "$bad" check
    "$lidfs" key generate "$work/foreign.key" >/dev/null
    expect 1 "opens no slot" "$python" "$root/tests/decoder/decoder.py" --keyfile "$work/foreign.key" "$bad" info
    say "another keyfile: $message"
}

# A slot with a passphrase, if this `cryptography` can stretch one.
passphrase() {
    printf 'correct horse, päppelt' >"$work/passphrase"
    run "$lidfs" key add -c "$conf" --label spoken --new-passphrase-fd 3 3<"$work/passphrase"
    local code=0
    "$python" "$root/tests/decoder/decoder.py" --passphrase-file "$work/passphrase" "$1" info >"$work/out/info" 2>&1 || code=$?
    case $code in
        0) say "by passphrase: $(head -n 1 "$work/out/info")" ;;
        2) say "$(cat "$work/out/info")" ;;
        *) fail "by passphrase: $(cat "$work/out/info")" ;;
    esac
}

# By a directory.
machine dir "file://$work/dir/objects"
run "$lidfs" init -c "$conf"
# A slot of a kind that it cannot open must not keep it from the others.
run "$lidfs" key add -c "$conf" --label paper --recovery
write_volume dir
restored dir "$work/dir/objects"
passphrase "$work/dir/objects"
refusals "$work/dir/objects"

# By an S3 bucket, as `aws s3 sync` would fetch it; without compression, with small blocks, and sealed anew by a later key.
server s3s-fs
new_volume bucket '[write]
compression = "none"
block_size = "4 KiB"'
write_volume bucket "$lidfs" key rekey --keep 0s
mkdir "$work/dump"
s3 dump "$bucket" "$work/dump"
restored bucket "$work/dump/volume"
info=$(decode "$work/dump/volume" info)
grep -q '^epochs 2, ' <<<"$info" || fail "after a rekey: $info"

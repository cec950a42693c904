#!/usr/bin/env bash
# What somebody with the bucket can do to it: flip bits, cut, delete, swap, rename, put back older objects, restore an
# old bucket, for each class of object. Judged by a new machine without any memory, on copies of one small volume in a
# directory: the mount is refused, or a read fails, or everything is right. Wrong bytes, missing or foreign names: never.
# The one thing that a new machine cannot know is an old state of the whole, and it says so; who saw the newer one
# refuses (exit 13).
source "$(dirname "$0")/../support/lib.sh"

# Bits flipped in each object. In the long form: one in every byte of the volume.
flips=3
attacks=0 refused=0 read_errors=0 harmless=0
pristine=$work/pristine bucket=$work/bucket want=$work/want

# The volume: several mounts, a table and logs of the metadata, packs, inline bytes, deleted and renamed things.
make_volume() {
    local number
    mkdir -p "$want" "$bucket"
    machine maker "file://$bucket"
    run "$lidfs" init -c "$conf"
    for number in 1 2 3; do
        mount_volume
        mkdir "$mnt/d$number"
        head -c 150000 /dev/urandom >"$mnt/d$number/packed"
        echo "small $number" >"$mnt/d$number/small"
        echo "$number" >"$mnt/counter"
        ln -s "small" "$mnt/d$number/link"
        setfattr -n user.number -v $number "$mnt/d$number/small"
        echo gone >"$mnt/gone"
        rm "$mnt/gone"
        flush_volume
        [ $number != 2 ] || cp -a "$bucket" "$work/older"
        umount_volume
    done
    mount_volume
    cp -a "$mnt/." "$want/"
    umount_volume
    cp -a "$bucket" "$pristine"
    cp -a "$state" "$work/maker.state"
}

restore() {
    rm -rf "$bucket"
    cp -a "${1:-$pristine}" "$bucket"
}

# Every file of the drive is right, or reading it fails with EIO; no name is missing or added unless listing fails.
# Prints how many reads failed.
right_or_error() {
    timeout 60 python3 - "$want" "$mnt" <<'PYTHON'
import os, sys
want, have = sys.argv[1:]
errors = 0
def attempt(action, *arguments):
    global errors
    try:
        return action(*arguments)
    except OSError as error:
        if error.errno != 5:
            sys.exit(f"{arguments}: {error}")
        errors += 1
def check(what, path, expected, found):
    if found is not None and found != expected:
        sys.exit(f"{path}: WRONG {what}")
def content(path):
    with open(path, "rb") as file:
        return file.read()
def walk(path):
    a, b = os.path.join(want, path), os.path.join(have, path)
    expected, found = os.lstat(a), attempt(os.lstat, b)
    if found:
        same = lambda s: (s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_mtime_ns)
        check("attributes", path, same(expected), same(found))
    if os.path.islink(a):
        check("target", path, os.readlink(a), attempt(os.readlink, b))
    elif os.path.isdir(a):
        check("names", path, sorted(os.listdir(a)), attempt(lambda: sorted(os.listdir(b))))
        for name in os.listdir(a):
            walk(os.path.join(path, name))
    else:
        check("bytes", path, content(a), attempt(content, b))
        check("extended attributes", path, os.listxattr(a), attempt(os.listxattr, b))
walk("")
print(errors)
PYTHON
}

# judge WHAT FLAGS...: a new machine meets the bucket as it is now. (judge_with WHAT STATE FLAGS...: with that memory.)
judge_with() {
    local what=$1 memory=$2 code=0 errors
    shift 2
    attacks=$((attacks + 1))
    rm -rf "$cache" "$state"
    mkdir -p "$cache" "$state"
    [ -z "$memory" ] || cp -a "$memory/." "$state/"
    try_mount "$@" || code=$?
    if [ $code -ne 0 ]; then
        case $code in 1 | 10 | 12 | 13 | 14) ;; *) fail "$what: exit $code: $(cat "$log/mount.out")" ;; esac
        refused=$((refused + 1))
    else
        errors=$(right_or_error 2>&1) || fail "$what: $errors"
        if [ "$errors" = 0 ]; then harmless=$((harmless + 1)); else read_errors=$((read_errors + 1)); fi
        "$lidfs" umount "$mnt" >"$work/out/run" 2>&1 </dev/null || true
    fi
    crash
}

# judge_pinned WHAT FLAGS...: the same for the machine that has seen everything: nothing may be missing.
judge_pinned() {
    local what=$1
    shift
    use_machine maker
    judge_with "$what" "$work/maker.state" "$@"
    use_machine judge
}

judge() {
    local what=$1
    shift
    judge_with "$what" "" "$@"
}

class_of() { sed -E 's,^(packs|meta/[a-z]+|lease|lidfs\.json).*,\1,' <<<"$1"; }

flip() {
    python3 - "$bucket/$1" "$2" "$3" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    byte = file.read(1)[0]
    file.seek(int(sys.argv[2]))
    file.write(bytes([byte ^ 1 << int(sys.argv[3])]))
PYTHON
}

flip_bits() {
    local object size at number bits=0
    for object in "${objects[@]}"; do
        size=$(stat -c %s "$pristine/$object")
        [ "$size" -gt 0 ] || continue
        if [ -n "$long" ]; then
            number=$(seq 0 $((size - 1)))
        else
            number="0 $((size - 1)) $((RANDOM % (size < 97 ? size : 97)))"
            for ((at = 3; at < flips; at++)); do number+=" $((RANDOM * 32768 % size))"; done
        fi
        for at in $number; do
            flip "$object" "$at" $((RANDOM % 8))
            judge "bit in byte $at of $object" --read-only
            bits=$((bits + 1))
            cp -a "$pristine/$object" "$bucket/$object"
        done
    done
    say "bits flipped $bits in ${#objects[@]} objects"
}

# Of each class: cut, empty, grown, gone, swapped with another, under another's name.
tamper() {
    local object other size how mode flags
    for mode in reader writer; do
        flags=()
        [ $mode = writer ] || flags=(--read-only)
        for object in "${objects[@]}"; do
            size=$(stat -c %s "$pristine/$object")
            other=$(printf '%s\n' "${objects[@]}" | grep -vxF "$object" | grep -E "^$(class_of "$object")" | shuf -n 1 || true)
            for how in cut empty grown gone swapped renamed; do
                # What is written by the judge's own mount counts for the writer only by sample.
                [ $mode = reader ] || [ $((RANDOM % 4)) -eq 0 ] || continue
                case $how in
                    cut) truncate -s $((size / 2)) "$bucket/$object" ;;
                    empty) truncate -s 0 "$bucket/$object" ;;
                    grown) head -c 100 /dev/urandom >>"$bucket/$object" ;;
                    gone) rm "$bucket/$object" ;;
                    swapped)
                        [ -n "$other" ] || continue
                        cp "$pristine/$other" "$bucket/$object"
                        cp "$pristine/$object" "$bucket/$other"
                        ;;
                    renamed)
                        [ -n "$other" ] || continue
                        mv "$bucket/$object" "$bucket/$other"
                        ;;
                esac
                case $how:$object in
                    # The loss of the newest commits is an old state of the whole, which only a pin tells.
                    gone:meta/* | renamed:meta/*) judge_pinned "$how $object" "${flags[@]}" ;;
                    *) judge "$how $object${other:+ ($other)}" "${flags[@]}" ;;
                esac
                restore
            done
        done
    done
}

# An older version of each object that has one, and of classes as a whole.
replay() {
    local object
    for object in "${objects[@]}"; do
        [ -e "$work/older/$object" ] || continue
        ! cmp -s "$work/older/$object" "$bucket/$object" || continue
        cp "$work/older/$object" "$bucket/$object"
        judge "older $object" --read-only
        judge "older $object"
        restore
    done
    rm -rf "$bucket/packs"
    cp -a "$work/older/packs" "$bucket/packs"
    judge "older packs" --read-only
    restore
}

# The whole bucket as it was. Metadata alone, too, and the newest log objects deleted, are an old state.
roll_back() {
    use_machine maker
    restore "$work/older"
    E2E_MACHINE=$vol expect 13 "roll|older|behind" setsid "$lidfs" mount -c "$conf" "$mnt"
    say "an old bucket, the machine that knows: $message"
    restore "$work/older"
    use_machine judge
    rm -rf "$cache" "$state"
    mkdir -p "$cache" "$state"
    mount_volume --read-only
    [ "$(cat "$mnt/counter")" = 2 ] || fail "the old bucket does not show its own state"
    "$lidfs" status "$mnt" | grep -qiE 'not seen|first time|cannot know|roll' || fail "a new machine does not say that it cannot know: $("$lidfs" status "$mnt")"
    say "an old bucket, a new machine: mounts it and says that it cannot know"
    umount_volume
    restore
}

make_volume
mapfile -t objects < <(cd "$pristine" && find . -type f -printf '%P\n' | LC_ALL=C sort)
say "a volume of ${#objects[@]} objects, $(du -sb "$pristine" | cut -f 1) bytes: $(for object in "${objects[@]}"; do class_of "$object"; done | sort | uniq -c | xargs)"
maker_key=$key
machine judge "$url" "$maker_key"
attacks=-1
judge "nothing" --read-only
[ $harmless -eq 1 ] || fail "the volume does not even stand when nobody attacks it"
harmless=0
roll_back
flip_bits
tamper
replay
say "attacks $attacks: mount refused $refused, reads refused $read_errors, harmless $harmless, wrong bytes 0, undetected 0"

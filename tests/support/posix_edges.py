#!/usr/bin/env python3
"""The edges of POSIX that no other suite looks at: posix_edges.py make|check DIR

`make` tries each and leaves files; `check`, after a remount or on another machine,
finds what `make` left. Needs root: parts of it run as other users.
"""

import errno
import os
import shutil
import stat
import subprocess
import sys

# Before 1970, around 32 bits signed and unsigned, the last of ext4 (2446), and beyond.
SECONDS = [-(1 << 31) - 1, -(1 << 31), -86_401, -1, 0, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 15_032_385_535, 1 << 40]
NANOSECONDS = 123_456_789
SIZE_MAX = (1 << 63) - 1
MARKS = [0, 65_535, 1 << 32, (1 << 62) + 1, SIZE_MAX - 4096]


def refused(code, action, *arguments, **options):
    try:
        action(*arguments, **options)
    except OSError as error:
        if error.errno == code:
            return
        raise SystemExit(f"{action.__name__}{arguments}: {error}, expected {errno.errorcode[code]}") from None
    raise SystemExit(f"{action.__name__}{arguments}: success, expected {errno.errorcode[code]}")


def expect(have, want, what):
    if have != want:
        raise SystemExit(f"{what}: {have!r}, expected {want!r}")


def as_user(uid, gid, groups, action):
    """Runs `action` in a child with these credentials; whatever it raises fails the test."""
    child = os.fork()
    if not child:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            action()
        except BaseException as error:  # noqa: B036 - a child must not return into its parent's code
            print(f"as user {uid}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("a part that runs as another user failed")


def write(path, content=b"x", mode=0o644):
    file = os.open(path, os.O_CREAT | os.O_WRONLY, mode)
    os.write(file, content)
    os.close(file)


# ---------------------------------------------------------------- times and sizes


def times_make():
    for seconds in SECONDS:
        write(f"time {seconds}")
        stamp = seconds * 1_000_000_000 + NANOSECONDS
        os.utime(f"time {seconds}", ns=(stamp, stamp))
    times_check()


def times_check():
    for seconds in SECONDS:
        expect(os.stat(f"time {seconds}").st_mtime_ns, seconds * 1_000_000_000 + NANOSECONDS, f"mtime at {seconds}")


def sparse_make():
    file = os.open("sparse", os.O_CREAT | os.O_RDWR)
    os.ftruncate(file, SIZE_MAX)
    for mark in MARKS:
        os.pwrite(file, b"mark %d" % mark, mark)
    refused(errno.EINVAL, os.ftruncate, file, -1)
    os.fsync(file)
    os.close(file)
    sparse_check()


def sparse_check():
    status = os.stat("sparse")
    expect(status.st_size, SIZE_MAX, "size of the sparse file")
    if status.st_blocks > 4096:
        raise SystemExit(f"the sparse file takes {status.st_blocks} blocks of 512 bytes")
    file = os.open("sparse", os.O_RDONLY)
    for mark in MARKS:
        text = b"mark %d" % mark
        expect(os.pread(file, len(text), mark), text, f"mark at {mark}")
    expect(os.pread(file, 4096, 1 << 61), bytes(4096), "a hole")
    found, at = [], 0
    while at < SIZE_MAX:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError as error:
            expect(error.errno, errno.ENXIO, "seeking data beyond the last")
            break
        found.append(at)
        at = os.lseek(file, at, os.SEEK_HOLE)
    for mark in MARKS:
        if not any(start <= mark for start in found):
            raise SystemExit(f"SEEK_DATA does not find the mark at {mark}: {found}")
    if len(found) > len(MARKS):
        raise SystemExit(f"SEEK_DATA finds more than was written: {found}")
    os.close(file)


# ---------------------------------------------------------------- names


def names_make():
    write("n" * 255)
    refused(errno.ENAMETOOLONG, os.open, "n" * 256, os.O_CREAT | os.O_WRONLY)
    refused(errno.ENAMETOOLONG, os.mkdir, "n" * 256)
    refused(errno.ENAMETOOLONG, os.rename, "n" * 255, "n" * 256)
    refused(errno.ENAMETOOLONG, os.symlink, "t" * 4096, "long target")
    refused(errno.ENAMETOOLONG, os.stat, "/".join(["d" * 255] * 17))
    os.symlink("t" * 4095, "longest target")
    os.symlink("loop b", "loop a")
    os.symlink("loop a", "loop b")
    refused(errno.ELOOP, os.open, "loop a", os.O_RDONLY)
    refused(errno.ELOOP, os.stat, "loop a")
    refused(errno.ELOOP, os.open, "longest target", os.O_RDONLY | os.O_NOFOLLOW)
    for number in range(41):
        os.symlink(f"chain {number + 1}", f"chain {number}")
    write("chain 41")
    refused(errno.ELOOP, os.stat, "chain 0")
    os.stat("chain 2")
    names_check()


def names_check():
    expect(len([name for name in os.listdir(".") if name == "n" * 255]), 1, "the longest name")
    expect(os.readlink("longest target"), "t" * 4095, "the longest target")


def busy_make():
    shutil.copy("/bin/sleep", "program")
    os.chmod("program", 0o755)
    file = os.open("program", os.O_WRONLY)
    refused(errno.ETXTBSY, os.execv, "./program", ["program", "0"])
    os.close(file)
    process = subprocess.Popen(["./program", "60"])
    try:
        refused(errno.ETXTBSY, os.open, "program", os.O_WRONLY)
        refused(errno.ETXTBSY, os.truncate, "program", 0)
        # Its name may go while it runs.
        os.rename("program", "program renamed")
    finally:
        process.kill()
        process.wait()
    busy_check()


def busy_check():
    subprocess.run(["./program renamed", "0"], check=True)


# ---------------------------------------------------------------- permissions


def groups_make():
    os.mkdir("group only", 0o770)
    os.chown("group only", 0, 5000)
    os.chmod("group only", 0o770)
    as_user(4000, 4000, [5000], lambda: write("group only/by a supplementary group"))
    as_user(4000, 4000, [], lambda: refused(errno.EACCES, os.listdir, "group only"))
    os.mkdir("setgid")
    os.chown("setgid", 0, 5000)
    os.chmod("setgid", 0o2777)
    as_user(4000, 4000, [], lambda: (write("setgid/file"), os.mkdir("setgid/folder")))
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    as_user(4000, 4000, [], lambda: write("sticky/of 4000", mode=0o666))
    as_user(4001, 4001, [], lambda: refused(errno.EPERM, os.unlink, "sticky/of 4000"))
    as_user(4001, 4001, [], lambda: refused(errno.EPERM, os.rename, "sticky/of 4000", "sticky/mine"))
    os.mkdir("inherits")
    subprocess.run(["setfacl", "-d", "-m", "u:4001:rw,m::rw", "inherits"], check=True)
    os.umask(0o077)
    write("inherits/file", mode=0o666)
    os.umask(0o022)
    os.chmod("inherits", 0o755)
    groups_check()


def groups_check():
    expect(os.stat("group only/by a supplementary group").st_uid, 4000, "its owner")
    expect(os.stat("setgid/file").st_gid, 5000, "group of a file in a setgid directory")
    status = os.stat("setgid/folder")
    expect((status.st_gid, bool(status.st_mode & stat.S_ISGID)), (5000, True), "a folder in a setgid directory")
    as_user(4001, 4001, [], lambda: os.close(os.open("inherits/file", os.O_RDWR)))
    as_user(4002, 4002, [], lambda: refused(errno.EACCES, os.open, "inherits/file", os.O_RDWR))


PARTS = ("times", "sparse", "names", "busy", "groups")


def main():
    command, top = sys.argv[1:3]
    os.umask(0o022)
    for part in PARTS:
        folder = os.path.join(top, part)
        if command == "make":
            os.makedirs(folder)
        os.chdir(folder)
        globals()[f"{part}_{command}"]()
    print(", ".join(PARTS))


if __name__ == "__main__":
    main()

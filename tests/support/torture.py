#!/usr/bin/env python3
"""Makes a tree of everything that a backup of a POSIX drive has to carry: torture.py DIR

Needs root and a file system with ACLs and extended attributes.
"""

import os
import random
import socket
import stat
import subprocess
import sys

# seconds, nanoseconds: before 1970, the epoch itself, after 2038, full precision
TIMES = [(-86_400, 123_456_789), (0, 0), (1_700_000_000, 999_999_999), (4_000_000_000, 1)]

NAMES = [
    b"plain",
    b"with space",
    b"new\nline",
    b"tab\tand \\backslash",
    b"'quotes' \"and\" $dollar `tick`",
    b"-dash",
    b"*glob?[x]",
    b"trailing.",
    b" leading and trailing ",
    b"control\x01\x1b[31m\x7f",
    "emoji \N{PARTY POPPER} \N{FAMILY}".encode(),
    "é composed".encode(),
    "e\u0301 decomposed".encode(),
    "日本語".encode(),
    b"invalid \xff\xfe utf-8",
    b"\x80",
    b"...",
    b"n" * 255,
    b"\xf0" * 255,
]


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def names(top):
    for number, name in enumerate(NAMES):
        write(os.path.join(top, name), b"content %d\n" % number)
    folders = os.path.join(top, b"folders")
    os.mkdir(folders)
    for name in NAMES:
        os.mkdir(os.path.join(folders, name))
        write(os.path.join(folders, name, name), name)


def links(top):
    write(os.path.join(top, b"first"), b"shared")
    for number in range(20):
        os.link(os.path.join(top, b"first"), os.path.join(top, b"hard%d" % number))
    for number, target in enumerate([b"first", b"/nowhere/at/all", b"../" * 40 + b"x", b"t" * 4000, b"\xff\n", b"."]):
        os.symlink(target, os.path.join(top, b"soft%d" % number))


def kinds(top):
    os.mkfifo(os.path.join(top, b"fifo"), 0o640)
    here = os.getcwd()
    os.chdir(top)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(b"socket")
    os.chdir(here)
    os.mknod(os.path.join(top, b"character"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(os.path.join(top, b"block"), stat.S_IFBLK | 0o600, os.makedev(7, 300))


def modes(top):
    for mode in (0o000, 0o444, 0o600, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0o6711):
        write(os.path.join(top, b"file%o" % mode), b"%o" % mode)
        os.chown(os.path.join(top, b"file%o" % mode), mode, 2**31 + mode)
        os.chmod(os.path.join(top, b"file%o" % mode), mode)
        os.mkdir(os.path.join(top, b"dir%o" % mode))
        os.chmod(os.path.join(top, b"dir%o" % mode), mode)


def sizes(top):
    """Content around every boundary that a file system is likely to have, and holes."""
    generator = random.Random(7)
    for size in (0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 131072, 1 << 20, (1 << 20) + 1, 5_000_000):
        write(os.path.join(top, b"size%d" % size), generator.randbytes(size))
    write(os.path.join(top, b"zeros"), bytes(3_000_000))
    write(os.path.join(top, b"compressible"), b"all work and no play\n" * 100_000)
    with open(os.path.join(top, b"sparse"), "wb") as file:
        for offset in (0, 10_000_000, 300_000_001):
            file.seek(offset)
            file.write(generator.randbytes(70_000))
        file.truncate(400_000_000)
    with open(os.path.join(top, b"all hole"), "wb") as file:
        file.truncate(1 << 30)


def attributes(top):
    file = os.path.join(top, b"with attributes")
    write(file, b"x")
    os.setxattr(file, b"user.empty", b"")
    os.setxattr(file, b"user.bytes", bytes(range(256)))
    os.setxattr(file, b"user." + b"n" * 200, b"long name")
    os.setxattr(file, "user.é".encode(), b"name beyond ascii")
    os.setxattr(file, b"trusted.root only", b"1")
    os.setxattr(file, b"security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    os.setxattr(top, b"user.on directory", b"2")
    access = os.path.join(top, b"with acl")
    write(access, b"x")
    subprocess.run(["setfacl", "-m", "u:1234:rw,u:12345:---,g:99:r,m::rw", access], check=True)
    inherits = os.path.join(top, b"with default acl")
    os.mkdir(inherits)
    subprocess.run(["setfacl", "-m", "d:u:1234:rwx,d:g:99:rx,u:7:x", inherits], check=True)
    write(os.path.join(inherits, b"inherited"), b"x")
    os.mkdir(os.path.join(inherits, b"inherited too"))


def times(top):
    """Last, and from the leaves up, because everything else changes times."""
    number = 0
    for folder, folders, files in os.walk(top, topdown=False):
        for name in files + folders:
            seconds, nanoseconds = TIMES[number % len(TIMES)]
            stamp = seconds * 1_000_000_000 + nanoseconds
            os.utime(os.path.join(folder, name), ns=(stamp, stamp), follow_symlinks=False)
            number += 1


def main():
    top = os.fsencode(sys.argv[1])
    os.umask(0o022)
    for part in (names, links, kinds, modes, sizes, attributes):
        folder = os.path.join(top, part.__name__.encode())
        os.makedirs(folder)
        part(folder)
    deep = os.path.join(top, b"deep", *[b"d%d" % depth for depth in range(200)])
    os.makedirs(deep)
    write(os.path.join(deep, b"bottom"), b"200 levels down")
    many = os.path.join(top, b"many")
    os.mkdir(many)
    for number in range(3000):
        write(os.path.join(many, b"%d" % number), b"")
    times(top)


if __name__ == "__main__":
    main()

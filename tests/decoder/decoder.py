#!/usr/bin/env python3
"""Reads a volume with no code of lidfs: written from src/format/FORMAT.md alone.

    decoder.py KEY VOLUME info               slot, fingerprint, epochs, newest commit
    decoder.py KEY VOLUME check              opens every object, whole
    decoder.py KEY VOLUME list               every name, with type, size and inode
    decoder.py KEY VOLUME restore PATH TO    a file or a tree, with names, modes, owners, times, links, attributes

KEY is --keyfile FILE or --passphrase-file FILE, VOLUME the directory that has lidfs.json: that of a file:// volume,
or a copy of an S3 bucket's objects by key. Needs the package `cryptography` (with Argon2id, from 44, for a passphrase)
and the program `zstd`. What is not authentic is refused with one line and exit code 1.
"""

import os
import stat
import sys
from pathlib import Path

import records
from sealed import LEASE, Refused, SealedHeader, open_single
from slate import Database
from tree import Restore, Tree, check_pack
from volume import NoArgon2, Volume, keyfile_secret


def info(volume):
    database = Database(volume)
    print(f"volume {volume.id.hex()}, key {volume.fingerprint}, opened by slot {volume.slot}")
    print(f"epochs {', '.join(map(str, volume.data_keys))}, the last is current")
    print(f"commit {records.commit_of(database.get(b'S'))}, writer {database.writer_epoch}, {database.manifest}")


def check(volume):
    meta = [path for path in volume.objects("meta") if volume.metadata(path) is not None]
    if (volume.top / "lease").exists():
        raw = volume.read("lease")
        epoch = SealedHeader.read(raw, LEASE, volume.id, "lease").epoch
        open_single(raw, volume.key(epoch, "lease"), LEASE, volume.id, "lease", epoch)
    packs = volume.objects("packs")
    chunks = sum(len(check_pack(volume, path)) for path in packs)
    tree = Tree(volume, Database(volume))
    files = content = 0
    for path, number, inode in tree.walk():
        if stat.S_ISREG(inode.mode):
            files += 1
            content += sum(len(run) for _, run in tree.runs(number, inode.size))
    print(f"{len(meta)} metadata objects, {len(packs)} packs of {chunks} chunks, {files} files with {content} bytes: all authentic")


def names(volume):
    for path, number, inode in Tree(volume, Database(volume)).walk():
        print(f"{stat.filemode(inode.mode)}\t{inode.size}\t{number}\t{os.fsdecode(path)}")


def restore(volume, path, to):
    tree = Tree(volume, Database(volume))
    print(f"{Restore(tree).all(tree.resolve(path), to)} restored")


COMMANDS = {"info": info, "check": check, "list": names, "restore": restore}
SECRETS = {
    "--keyfile": lambda file: ("keyfile", keyfile_secret(file.read_text())),
    "--passphrase-file": lambda file: ("passphrase", file.read_bytes().removesuffix(b"\n")),
}


def main(words):
    if len(words) < 4 or words[0] not in SECRETS or words[3] not in COMMANDS:
        raise SystemExit(__doc__)
    try:
        volume = Volume.open(words[2], *SECRETS[words[0]](Path(words[1])))
        COMMANDS[words[3]](volume, *words[4:])
    except NoArgon2 as error:
        print(f"decoder: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Refused as error:
        print(f"decoder: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main(sys.argv[1:])

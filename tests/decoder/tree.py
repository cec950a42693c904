"""Files: sections 6.3 to 6.5, 7 and 9 of src/format/FORMAT.md."""

import functools
import os
import stat
import struct
import subprocess
from pathlib import Path

import records
from records import CHAINED, TOMBSTONE, Entry, Inode, PackRecord
from sealed import HEADER_BYTES, PACK, Opener, Refused, SealedHeader, mac

ROOT = 1
PAGE_BLOCKS = 128
CHUNK_BYTES_MAX = 1 << 20


def expand(frame, path):
    answer = subprocess.run(["zstd", "-dcq"], input=frame, capture_output=True, check=False)
    if answer.returncode or len(answer.stdout) > CHUNK_BYTES_MAX:
        raise Refused(f"{path}: a chunk is no zstd frame: {answer.stderr.decode().strip()}")
    return answer.stdout


def pack_path(volume, number):
    name = mac(volume.names_key, struct.pack("<Q", number))[:16].hex()
    return f"packs/{name[:2]}/{name}"


def check_pack(volume, path):
    """Opens the directory of a pack and every chunk that it names, without any metadata."""
    raw = volume.read(path)
    header = SealedHeader.read(raw, PACK, volume.id, path)
    opener = Opener(header, volume.key(header.epoch, path), PACK, volume.id, path)
    if len(raw) < HEADER_BYTES + 8:
        raise Refused(f"{path}: cut short")
    count, length = struct.unpack("<II", raw[-8:])
    if length > len(raw) - 8 - HEADER_BYTES:
        raise Refused(f"{path}: the directory is longer than the object")
    end = len(raw) - 8 - length
    chunks = records.read_directory(opener.chunk(count, raw[end:-8], True))
    at = HEADER_BYTES
    for number, place in enumerate(chunks):
        content = opener.chunk(number, raw[at : at + place.sealed], False)
        content = expand(content, path) if place.compressed else content
        if len(content) != place.length:
            raise Refused(f"{path}: chunk {number} has {len(content)} bytes, not {place.length}")
        at += place.sealed
    if len(chunks) != count or at != end:
        raise Refused(f"{path}: the directory does not fit the object")
    return chunks


class Tree:
    def __init__(self, volume, database):
        self.volume, self.database = volume, database
        self.openers = functools.cache(self.opener)
        self.content = functools.lru_cache(256)(self.chunk)

    def inode(self, number):
        raw = self.database.get(records.key("I", number))
        if raw is None:
            raise Refused(f"inode {number}: no record")
        return Inode.read(raw)

    def place(self, name):
        hashed = struct.unpack("<Q", mac(self.volume.names_key, b"lidfs/name", name)[:8])[0]
        return max(hashed >> 2, 16)

    def look_up(self, directory, name):
        place = self.place(name)
        while raw := self.database.get(records.key("D", directory, place)):
            entry = Entry.read(raw)
            if not entry.flags & TOMBSTONE and entry.name == name:
                return entry
            if not entry.flags & CHAINED:
                break
            place += 1
        return None

    def entries(self, directory):
        for _, raw in self.database.of(records.key("D", directory)):
            entry = Entry.read(raw)
            if entry.flags & TOMBSTONE:
                continue
            if self.look_up(directory, entry.name) != entry:
                raise Refused(f"directory {directory}: {entry.name!r} is not found by its place")
            yield entry

    def resolve(self, path):
        number = ROOT
        for name in filter(None, os.fsencode(path).split(b"/")):
            entry = self.look_up(number, name)
            if entry is None:
                raise Refused(f"{path}: no such name")
            number = entry.inode
        return number

    def opener(self, number):
        raw = self.database.get(records.key("P", number))
        path = pack_path(self.volume, number)
        if raw is None:
            raise Refused(f"{path}: no record of pack {number}")
        record = PackRecord.read(raw)
        key = self.volume.key(record.epoch, path)
        header = SealedHeader.rebuild(key, PACK, self.volume.id, path, record.epoch, record.salt)
        return Opener(header, key, PACK, self.volume.id, path)

    def chunk(self, pack, number, offset, sealed, compressed):
        opener = self.openers(pack)
        try:
            with open(self.volume.top / opener.path, "rb") as file:
                file.seek(offset)
                raw = file.read(sealed)
        except FileNotFoundError:
            raise Refused(f"{opener.path}: no such object") from None
        content = opener.chunk(number, raw, False)
        return expand(content, opener.path) if compressed else content

    def runs(self, number, size):
        """Where the file has bytes: offset and bytes, without those from `size` on."""
        for key, raw in self.database.of(records.key("B", number)):
            _, page = records.numbers_of(key)
            for place, fragments in records.read_page(raw).items():
                begin = (page * PAGE_BLOCKS + place) * self.volume.block_bytes
                for fragment in fragments:
                    at = begin + fragment.at
                    yield at, self.bytes_of(fragment)[: max(0, size - at)]

    def bytes_of(self, fragment):
        if fragment.inline is not None:
            return fragment.inline
        content = self.content(fragment.pack, fragment.chunk, fragment.offset, fragment.sealed, fragment.compressed)
        found = content[fragment.skip : fragment.skip + fragment.length]
        if len(found) != fragment.length:
            raise Refused(f"{pack_path(self.volume, fragment.pack)}: chunk {fragment.chunk} is too short")
        return found

    def xattrs(self, number):
        prefix = records.key("X", number)
        return [(key[len(prefix) :], value) for key, value in self.database.of(prefix)]

    def walk(self, number=ROOT, path=b""):
        """Every name below a directory: its path, its inode's number and record."""
        for entry in self.entries(number):
            inode = self.inode(entry.inode)
            if stat.S_IFMT(inode.mode) >> 12 != entry.type:
                raise Refused(f"{path!r}: the entry of {entry.name!r} has another type than its inode")
            below = path + b"/" + entry.name
            yield below, entry.inode, inode
            if stat.S_ISDIR(inode.mode):
                yield from self.walk(entry.inode, below)


class Restore:
    """Writes files of a tree to a local directory. Names of one inode stay links of one file."""

    def __init__(self, tree):
        self.tree, self.written = tree, {}

    def one(self, number, inode, target):
        if number in self.written:
            os.link(self.written[number], target, follow_symlinks=False)
            return
        if stat.S_ISDIR(inode.mode):
            Path(os.fsdecode(target)).mkdir(exist_ok=True)
        elif stat.S_ISLNK(inode.mode):
            os.symlink(inode.target, target)
        elif stat.S_ISREG(inode.mode):
            self.content(number, inode.size, target)
        else:
            os.mknod(target, inode.mode, inode.rdev)
        if not stat.S_ISDIR(inode.mode):
            self.written[number] = target
        self.attributes(number, inode, target)

    def content(self, number, size, target):
        with open(target, "xb") as file:
            for at, content in self.tree.runs(number, size):
                file.seek(at)
                file.write(content)
            file.truncate(size)

    def attributes(self, number, inode, target):
        if os.geteuid() == 0:
            os.chown(target, inode.uid, inode.gid, follow_symlinks=False)
        if not stat.S_ISLNK(inode.mode):
            os.chmod(target, stat.S_IMODE(inode.mode))
        for name, value in self.tree.xattrs(number):
            os.setxattr(target, name, value, follow_symlinks=False)
        os.utime(target, ns=(inode.atime_ns, inode.mtime_ns), follow_symlinks=False)

    def all(self, number, target):
        target = os.fsencode(target)
        inode = self.tree.inode(number)
        self.one(number, inode, target)
        if not stat.S_ISDIR(inode.mode):
            return 1
        directories, count = [(number, inode, target)], 1
        for path, below, found in self.tree.walk(number):
            self.one(below, found, target + path)
            count += 1
            if stat.S_ISDIR(found.mode):
                directories.append((below, found, target + path))
        # What was written into a directory changed its times.
        for below, found, path in reversed(directories):
            self.attributes(below, found, path)
        return count

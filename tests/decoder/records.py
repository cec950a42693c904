"""Records of the metadata and the directory of a pack: sections 6.2 to 6.8 and 7 of src/format/FORMAT.md."""

import struct
from dataclasses import dataclass

from sealed import Refused


class Cursor:
    def __init__(self, raw, what):
        self.raw, self.at, self.what = raw, 0, what

    def take(self, count):
        if self.at + count > len(self.raw):
            raise Refused(f"{self.what}: ends too early")
        self.at += count
        return self.raw[self.at - count : self.at]

    def u8(self):
        return self.take(1)[0]

    def u32(self):
        return struct.unpack("<I", self.take(4))[0]

    def u64(self):
        return struct.unpack("<Q", self.take(8))[0]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift == 70:
                raise Refused(f"{self.what}: a varint of more than 10 bytes")
        if value >> 64:
            raise Refused(f"{self.what}: a varint of more than 64 bits")
        return value

    def string(self):
        return self.take(self.varint())

    def rest(self):
        return self.take(len(self.raw) - self.at)

    def version(self):
        if (version := self.u8()) != 1:
            raise Refused(f"{self.what}: version {version} is not known here")

    def end(self):
        if self.at != len(self.raw):
            raise Refused(f"{self.what}: bytes are left over")


def key(letter, *numbers):
    return letter.encode() + b"".join(struct.pack(">Q", number) for number in numbers)


def numbers_of(record_key):
    if len(record_key) % 8 != 1:
        raise Refused(f"record {record_key.hex()}: the key has a wrong length")
    return struct.unpack(f">{len(record_key) // 8}Q", record_key[1:])


CHAINED, TOMBSTONE = 1, 2


@dataclass(frozen=True)
class Entry:
    flags: int
    type: int
    inode: int
    name: bytes

    @classmethod
    def read(cls, raw):
        cursor = Cursor(raw, "directory entry")
        flags = cursor.u8()
        if flags & TOMBSTONE:
            cursor.end()
            return cls(flags, 0, 0, b"")
        entry = cls(flags, cursor.u8(), cursor.varint(), cursor.rest())
        if not 1 <= len(entry.name) <= 255 or b"/" in entry.name or b"\0" in entry.name:
            raise Refused("directory entry: impossible name")
        return entry


@dataclass(frozen=True)
class Inode:
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    flags: int
    target: bytes

    @classmethod
    def read(cls, raw):
        cursor = Cursor(raw, "inode")
        cursor.version()
        mode, uid, gid, nlink, rdev, size, _allocated = (cursor.varint() for _ in range(7))
        times = []
        for _ in range(4):
            seconds, nanos = struct.unpack("<qI", cursor.take(12))
            times.append(seconds * 1_000_000_000 + nanos)
        _parent, _entries, flags = (cursor.varint() for _ in range(3))
        target = cursor.string()
        cursor.end()
        return cls(mode, uid, gid, nlink, rdev, size, times[0], times[1], flags, target)


@dataclass(frozen=True)
class Fragment:
    """A run of bytes of one block: `inline`, or `length` bytes of a chunk from byte `skip` on."""

    at: int
    length: int
    inline: bytes = None
    compressed: bool = False
    skip: int = 0
    pack: int = 0
    chunk: int = 0
    offset: int = 0
    sealed: int = 0


INLINE, COMPRESSED, SKIPS, FOLLOWS = 1, 2, 4, 8


def read_page(raw):
    """The fragments of each block of a page of the block map, by place in the page."""
    cursor = Cursor(raw, "block map page")
    cursor.version()
    blocks, last_place = {}, -1
    last = (0, 0, 0)
    for _ in range(cursor.varint()):
        place = cursor.u8()
        if not last_place < place < 128:
            raise Refused("block map page: blocks out of order")
        last_place, end, fragments = place, 0, []
        for _ in range(cursor.varint()):
            fragment, last = read_fragment(cursor, last)
            if fragment.at < end:
                raise Refused("block map page: fragments overlap")
            end = fragment.at + fragment.length
            fragments.append(fragment)
        blocks[place] = fragments
    cursor.end()
    return blocks


def read_fragment(cursor, last):
    flags, at = cursor.u8(), cursor.varint()
    if flags & INLINE:
        if flags != INLINE:
            raise Refused("block map page: impossible flags")
        content = cursor.string()
        return Fragment(at, len(content), content), last
    length, sealed = cursor.varint(), cursor.varint()
    skip = cursor.varint() if flags & SKIPS else 0
    pack, chunk, end = last
    if flags & FOLLOWS:
        chunk, offset = chunk + 1, end
    else:
        pack, chunk, offset = cursor.varint(), cursor.varint(), cursor.varint()
    fragment = Fragment(at, length, None, bool(flags & COMPRESSED), skip, pack, chunk, offset, sealed)
    return fragment, (pack, chunk, offset + sealed)


@dataclass(frozen=True)
class PackRecord:
    epoch: int
    salt: bytes
    size: int

    @classmethod
    def read(cls, raw):
        cursor = Cursor(raw, "pack record")
        cursor.version()
        epoch, salt = cursor.u32(), cursor.take(32)
        size, _content, _live, _birth = (cursor.varint() for _ in range(4))
        cursor.end()
        return cls(epoch, salt, size)


@dataclass(frozen=True)
class ChunkPlace:
    inode: int
    block: int
    at: int
    length: int
    sealed: int
    compressed: bool


def read_directory(raw):
    cursor = Cursor(raw, "directory of a pack")
    cursor.version()
    chunks = []
    for _ in range(cursor.varint()):
        inode, block, at, length, sealed = (cursor.varint() for _ in range(5))
        chunks.append(ChunkPlace(inode, block, at, length, sealed, bool(cursor.u8())))
    cursor.end()
    return chunks


def commit_of(raw):
    cursor = Cursor(raw, "counters")
    cursor.version()
    numbers = [cursor.u64() for _ in range(11)]
    cursor.end()
    return numbers[0]

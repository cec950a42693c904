"""Manifests and tables of SlateDB: section 6.9 of src/format/FORMAT.md."""

import re
import struct
import zlib

from sealed import Refused

ULID_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
DELETED, EXPIRES, CREATED, OPERAND = 1, 2, 4, 8


class Table:
    """A table of FlatBuffers. Fields are numbered from 0 in the order of the schema."""

    def __init__(self, raw, at):
        self.raw, self.at = raw, at

    @classmethod
    def root(cls, raw):
        return cls(raw, struct.unpack_from("<I", raw)[0])

    def place(self, field):
        fields = self.at - struct.unpack_from("<i", self.raw, self.at)[0]
        slot = 4 + 2 * field
        if slot >= struct.unpack_from("<H", self.raw, fields)[0]:
            return None
        offset = struct.unpack_from("<H", self.raw, fields + slot)[0]
        return self.at + offset if offset else None

    def number(self, field, form):
        place = self.place(field)
        return struct.unpack_from("<" + form, self.raw, place)[0] if place else 0

    def target(self, field):
        place = self.place(field)
        return place and place + struct.unpack_from("<I", self.raw, place)[0]

    def table(self, field):
        place = self.target(field)
        return Table(self.raw, place) if place else None

    def tables(self, field):
        place = self.target(field)
        if not place:
            return []
        count = struct.unpack_from("<I", self.raw, place)[0]
        items = range(place + 4, place + 4 + 4 * count, 4)
        return [Table(self.raw, item + struct.unpack_from("<I", self.raw, item)[0]) for item in items]


def ulid(table):
    value = table.number(0, "Q") << 64 | table.number(1, "Q")
    return "".join(ULID_DIGITS[value >> shift & 31] for shift in range(125, -1, -5))


def checked(raw, what):
    """What stands before a CRC-32 of 4 bytes."""
    if len(raw) < 5 or zlib.crc32(raw[:-4]) != struct.unpack(">I", raw[-4:])[0]:
        raise Refused(f"{what}: a checksum of SlateDB is wrong")
    return raw[:-4]


def table_rows(raw, path):
    """Each row of a table or a log object: key, sequence number, value (none if deleted)."""
    if not raw:
        return  # a fence in the log
    meta, version = struct.unpack(">QH", raw[-10:])
    if version != 2:
        raise Refused(f"{path}: a table of version {version}")
    info = Table.root(checked(raw[meta:-10], path))
    index_at, index_bytes, filter_at, filter_bytes = (info.number(field, "Q") for field in range(1, 5))
    if info.number(5, "b"):
        raise Refused(f"{path}: a compressed table")
    index = Table.root(checked(raw[index_at : index_at + index_bytes], path))
    begins = [block.number(0, "Q") for block in index.tables(0)]
    ends = [*begins[1:], filter_at if filter_bytes else index_at]
    for begin, end in zip(begins, ends):
        yield from block_rows(checked(raw[begin:end], path), path)


def block_rows(block, path):
    restarts = struct.unpack(">H", block[-2:])[0]
    end, at, key = len(block) - 2 - 2 * restarts, 0, b""

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = block[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < end:
        shared, rest, length = varint(), varint(), varint()
        key = key[:shared] + block[at : at + rest]
        value = block[at + rest : at + rest + length]
        at += rest + length
        sequence, flags = struct.unpack_from(">QB", block, at)
        at += 9 + 8 * bool(flags & EXPIRES) + 8 * bool(flags & CREATED)
        if flags & OPERAND or flags & EXPIRES or flags > 15:
            raise Refused(f"{path}: a row with flags {flags}")
        yield key, sequence, None if flags & DELETED else value
    if at != end:
        raise Refused(f"{path}: rows run over the end of their block")


class Database:
    """The newest state of the database: every key with its value."""

    def __init__(self, volume):
        manifests = numbered(volume.objects("meta/manifest"), "manifest")
        if not manifests:
            raise Refused("meta/manifest: there is no manifest")
        path = manifests[max(manifests)]
        raw = volume.metadata(path)
        if raw[:2] != b"\0\2":
            raise Refused(f"{path}: a manifest of version {raw[:2].hex()}")
        manifest = Table.root(raw[2:])
        if manifest.tables(1) or manifest.tables(16):
            raise Refused(f"{path}: names external databases or segments, which no volume has")
        self.manifest, self.writer_epoch = path, manifest.number(3, "Q")
        self.tables = self.table_paths(manifest, path)
        self.log = self.log_paths(volume, manifest.number(5, "Q"))
        self.rows = {}
        newest = {}
        in_tables = manifest.number(13, "Q")
        for path in [*self.tables, *self.log]:
            least = in_tables if path in self.log else -1
            for key, sequence, value in table_rows(volume.metadata(path), path):
                if sequence > least and sequence >= newest.get(key, 0):
                    newest[key] = sequence
                    self.rows[key] = value
        self.rows = {key: value for key, value in self.rows.items() if value is not None}

    @staticmethod
    def table_paths(manifest, path):
        known = {ulid(table.table(0)) for table in manifest.tables(8)}
        views = manifest.tables(9) + [view for run in manifest.tables(10) for view in run.tables(1)]
        if any(view.table(2) for view in views):
            raise Refused(f"{path}: shows parts of tables, which no volume has")
        names = [ulid(view.table(1)) for view in views]
        if not known.issuperset(names):
            raise Refused(f"{path}: a table that it shows is not among those it lists")
        return [f"meta/compacted/{name}.sst" for name in names]

    @staticmethod
    def log_paths(volume, replayed):
        """What was logged after the tables were written: no number may be missing."""
        objects = numbered(volume.objects("meta/wal"), "sst")
        later = sorted(number for number in objects if number > replayed)
        if later != list(range(replayed + 1, replayed + 1 + len(later))):
            raise Refused(f"meta/wal: an object is missing after {replayed}")
        return [objects[number] for number in later]

    def get(self, key):
        return self.rows.get(key)

    def of(self, prefix):
        return sorted((key, value) for key, value in self.rows.items() if key.startswith(prefix))


def numbered(paths, ending):
    found = ((re.fullmatch(rf"meta/[a-z]+/([0-9]{{20}})\.{ending}", path), path) for path in paths)
    return {int(match[1]): path for match, path in found if match}

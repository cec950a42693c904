"""Keys and sealed objects: sections 1, 4.1 and 5 of src/format/FORMAT.md."""

import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEYRING, LEASE, METADATA, PACK, SLOT = range(1, 6)
HEADER_BYTES = 96
TAG_BYTES = 16


class Refused(Exception):
    """What was read is not what a writer with the key sealed, or not of this format."""


def prefixed(*parts):
    """L(a, b, ...)"""
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def hkdf(key, salt, info, length=32):
    return HKDF(SHA256(), length, salt, info).derive(key)


def mac(key, *parts):
    return hmac.new(key, prefixed(*parts), hashlib.sha256).digest()


@dataclass(frozen=True)
class SealedHeader:
    epoch: int
    chunk_bytes: int
    salt: bytes
    raw: bytes

    @classmethod
    def read(cls, raw, kind, volume, path):
        if len(raw) < HEADER_BYTES:
            raise Refused(f"{path}: {len(raw)} bytes are too few for a sealed object")
        magic, version, suite, found, epoch, of, chunk_bytes, salt = struct.unpack_from("<5sBBBI16sI32s", raw)
        if magic != b"LIDFS" or version != 1 or suite != 1:
            raise Refused(f"{path}: no sealed object of version 1 and suite 1")
        if found != kind or of != volume:
            raise Refused(f"{path}: sealed for another place (kind {found}, volume {of.hex()})")
        return cls(epoch, chunk_bytes, salt, bytes(raw[:HEADER_BYTES]))

    @classmethod
    def rebuild(cls, key, kind, volume, path, epoch, salt):
        """The header of an object with chunks of any length, from what its record says."""
        material = derive(key, kind, volume, path, epoch, salt)
        raw = struct.pack("<5sBBBI16sI32s32s", b"LIDFS", 1, 1, kind, epoch, volume, 0, salt, material[32:])
        return cls(epoch, 0, salt, raw)


def derive(key, kind, volume, path, epoch, salt):
    info = prefixed(b"lidfs/v1", bytes([kind]), bytes([1]), volume, struct.pack("<I", epoch), path.encode())
    return hkdf(key, salt, info, 64)


class Opener:
    """Opens the chunks of one sealed object."""

    def __init__(self, header, key, kind, volume, path):
        material = derive(key, kind, volume, path, header.epoch, header.salt)
        if not hmac.compare_digest(material[32:], header.raw[64:]):
            raise Refused(f"{path}: the commitment is not of this key, or the object was moved or damaged")
        self.path = path
        self.cipher = AESGCM(material[:32])
        self.begin = hashlib.sha256(header.raw).digest() + struct.pack("<I", len(path.encode())) + path.encode()

    def chunk(self, number, sealed, is_last):
        if len(sealed) < TAG_BYTES:
            raise Refused(f"{self.path}: chunk {number} is cut short")
        nonce = bytes(4) + struct.pack(">Q", number)
        aad = self.begin + struct.pack("<QBQ", number, is_last, len(sealed) - TAG_BYTES)
        try:
            return self.cipher.decrypt(nonce, sealed, aad)
        except InvalidTag:
            raise Refused(f"{self.path}: chunk {number} fails authentication") from None


def open_single(raw, key, kind, volume, path, epoch=0):
    """An object of one chunk of any length."""
    header = SealedHeader.read(raw, kind, volume, path)
    if header.epoch != epoch or header.chunk_bytes != 0:
        raise Refused(f"{path}: epoch {header.epoch}, chunks of {header.chunk_bytes} bytes: not as this object is sealed")
    return Opener(header, key, kind, volume, path).chunk(0, raw[HEADER_BYTES:], True)


def open_chunked(raw, keys, kind, volume, path, chunk_bytes):
    """An object whose chunks, but for the last, have one length."""
    header = SealedHeader.read(raw, kind, volume, path)
    if header.chunk_bytes != chunk_bytes:
        raise Refused(f"{path}: chunks of {header.chunk_bytes} bytes, not {chunk_bytes}")
    opener = Opener(header, epoch_key(keys, header.epoch, path), kind, volume, path)
    body, step = raw[HEADER_BYTES:], chunk_bytes + TAG_BYTES
    pieces = [body[at : at + step] for at in range(0, len(body), step)] or [b""]
    return b"".join(opener.chunk(i, piece, i == len(pieces) - 1) for i, piece in enumerate(pieces))


def epoch_key(keys, epoch, path):
    if epoch not in keys:
        raise Refused(f"{path}: sealed in epoch {epoch}, which the keyring does not have")
    return keys[epoch]

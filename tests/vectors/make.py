#!/usr/bin/env python3
"""Writes sealed.json and nist_gcm_256.json beside this file.

It follows the layout in src/crypto/header.rs and src/crypto/sealed.rs, and
shares no code with them, so that the two check each other. Needs the packages
`cryptography` and `cryptography_vectors`:

    python3 -m venv VENV && VENV/bin/pip install cryptography cryptography_vectors
    VENV/bin/python tests/vectors/make.py

The output is the same at every run.
"""

import hashlib
import hmac
import json
import pathlib
import struct

import cryptography_vectors
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HERE = pathlib.Path(__file__).parent
KINDS = {"keyring": 1, "lease": 2, "metadata": 3, "pack": 4, "slot": 5, "probe": 6}
KEY = bytes(range(32))
VOLUME = bytes.fromhex("00112233445566778899aabbccddeeff")


def prefixed(parts):
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def hkdf(key, salt, info, length):
    return HKDF(SHA256(), length, salt, info).derive(key)


class Object:
    def __init__(self, name, kind, path, chunk_size, plain, epoch=1, key=KEY, volume=VOLUME):
        self.name, self.kind, self.path, self.chunk_size = name, kind, path, chunk_size
        self.plain, self.epoch, self.key, self.volume = plain, epoch, key, volume
        self.salt = hashlib.sha256(b"salt of " + name.encode()).digest()
        number, suite = bytes([KINDS[kind]]), bytes([1])
        info = prefixed([b"lidfs/v1", number, suite, volume, struct.pack("<I", epoch), path.encode()])
        material = hkdf(key, self.salt, info, 64)
        self.object_key, self.commitment = material[:32], material[32:]
        self.header = (
            b"LIDFS" + bytes([1]) + suite + number + struct.pack("<I", epoch) + volume
            + struct.pack("<I", chunk_size) + self.salt + self.commitment
        )
        assert len(self.header) == 96
        last = len(plain) - 1
        self.sealed = [self.chunk(i, i == last, chunk) for i, chunk in enumerate(plain)]

    def chunk(self, index, is_last, plain):
        path = self.path.encode()
        aad = (
            hashlib.sha256(self.header).digest() + struct.pack("<I", len(path)) + path
            + struct.pack("<Q", index) + bytes([is_last]) + struct.pack("<Q", len(plain))
        )
        nonce = bytes(4) + struct.pack(">Q", index)
        return AESGCM(self.object_key).encrypt(nonce, plain, aad)

    def binding(self):
        return {"kind": self.kind, "volume": self.volume.hex(), "path": self.path}

    def json(self):
        whole = self.header + b"".join(self.sealed)
        return {
            "name": self.name, **self.binding(), "epoch": self.epoch, "key": self.key.hex(),
            "chunk_size": self.chunk_size, "salt": self.salt.hex(),
            "plain": [describe(chunk) for chunk in self.plain],
            "sealed_sha256": hashlib.sha256(whole).hexdigest(),
            **({"sealed": whole.hex()} if len(whole) < 4096 else {}),
        }


def describe(plain):
    """A long chunk is one byte repeated, and stands in the file as that."""
    if len(plain) > 1024:
        assert len(set(plain)) == 1
        return {"fill": plain[0], "len": len(plain)}
    return {"hex": plain.hex()}


def objects():
    text = b"The quick brown fox jumps over the lazy dog."
    return [
        Object("keyring", "keyring", "keyring", 16384, [text]),
        Object("lease", "lease", "lease", 16384, [b'{"holder":"somebody"}'], epoch=7),
        Object("metadata empty", "metadata", "meta/wal/00000000000000000001.sst", 16384, [b""]),
        Object("metadata one chunk", "metadata", "meta/manifest/00000000000000000001.manifest", 16384, [text]),
        Object("metadata one full chunk", "metadata", "meta/full", 16384, [bytes([0xA5]) * 16384]),
        Object("metadata three chunks", "metadata", "meta/compacted/01J.sst", 16384,
               [bytes([1]) * 16384, bytes([2]) * 16384, text]),
        Object("pack", "pack", "packs/3f/3f0c6a1de94b5a77b0b0f1e2d3c4a596", 0,
               [text, b"", bytes(range(256)), b"directory"], epoch=0xFFFFFFFF),
        Object("slot", "slot", "lidfs.json#slot/0", 0, [KEY[::-1]], key=hashlib.sha256(b"k").digest()),
        Object("probe", "probe", "probe/\u00fcber/\U0001f5dd", 0, [text], volume=bytes(16)),
    ]


def flip(data, bit):
    data = bytearray(data)
    data[bit // 8] ^= 1 << (bit % 8)
    return bytes(data)


def refused(made):
    """Reads that must fail, and how: (name, binding, header, index, is_last, chunk, error)."""
    pack = next(o for o in made if o.name == "pack")
    twin = Object("pack twin", "pack", pack.path, 0, pack.plain, epoch=pack.epoch)
    renamed = Object("pack renamed", "pack", "packs/00/00000000000000000000000000000000", 0, pack.plain, epoch=pack.epoch)
    here, header, first = pack.binding(), pack.header, pack.sealed[0]
    cases = [
        ("flipped bit of the ciphertext", here, header, 0, False, flip(first, 9), "ForgedChunk"),
        ("flipped bit of the tag", here, header, 0, False, flip(first, len(first) * 8 - 1), "ForgedChunk"),
        ("cut by one byte", here, header, 0, False, first[:-1], "ForgedChunk"),
        ("cut to the tag", here, header, 0, False, first[-16:], "ForgedChunk"),
        ("cut to nothing", here, header, 0, False, b"", "ForgedChunk"),
        ("extended by one byte", here, header, 0, False, first + b"\0", "ForgedChunk"),
        ("read at another index", here, header, 1, False, first, "ForgedChunk"),
        ("index past the bound", here, header, 1 << 32, False, first, "ForgedChunk"),
        ("taken for the last chunk", here, header, 0, True, first, "ForgedChunk"),
        ("last chunk taken for a middle one", here, header, 3, False, pack.sealed[3], "ForgedChunk"),
        ("chunk of another object of the same name", here, header, 0, False, twin.sealed[0], "ForgedChunk"),
        ("header of another object of the same name", here, twin.header, 0, False, first, "ForgedChunk"),
        ("flipped bit of the chunk size", here, flip(header, 28 * 8), 0, False, first, "ForgedChunk"),
        ("another path", {**here, "path": renamed.path}, header, 0, False, first, "WrongKey"),
        ("renamed object", here, renamed.header, 0, False, renamed.sealed[0], "WrongKey"),
        ("another volume", {**here, "volume": bytes(16).hex()}, header, 0, False, first, "OtherVolume"),
        ("another kind", {**here, "kind": "metadata"}, header, 0, False, first, "WrongKind"),
        ("flipped bit of the magic", here, flip(header, 0), 0, False, first, "NotSealed"),
        ("flipped bit of the version", here, flip(header, 5 * 8), 0, False, first, "UnknownVersion"),
        ("flipped bit of the suite", here, flip(header, 6 * 8), 0, False, first, "UnknownSuite"),
        ("flipped bit of the kind", here, flip(header, 7 * 8), 0, False, first, "WrongKind"),
        ("flipped bit of the epoch", here, flip(header, 8 * 8), 0, False, first, "UnknownEpoch"),
        ("flipped bit of the volume id", here, flip(header, 12 * 8), 0, False, first, "OtherVolume"),
        ("flipped bit of the salt", here, flip(header, 32 * 8), 0, False, first, "WrongKey"),
        ("flipped bit of the commitment", here, flip(header, 95 * 8), 0, False, first, "WrongKey"),
        ("cut header", here, header[:95], 0, False, first, "NotSealed"),
    ]
    return [
        {"name": name, **binding, "epoch": pack.epoch, "key": pack.key.hex(), "header": head.hex(),
         "index": index, "is_last": is_last, "chunk": chunk.hex(), "error": error}
        for name, binding, head, index, is_last, chunk, error in cases
    ]


def derivations():
    cases = [(b"", []), (b"", [b""]), (b"salt", [b"lidfs/v1", b"names"]), (b"salt", [b"lidfs/v1n", b"ames"])]
    return [
        {"key": KEY.hex(), "salt": salt.hex(), "parts": [part.hex() for part in parts],
         "derived": hkdf(KEY, salt, prefixed(parts), 32).hex(),
         "mac": hmac.new(KEY, prefixed(parts), "sha256").hexdigest()}
        for salt, parts in cases
    ]


def nist(file, per_group):
    """Groups with a 96-bit nonce and a 128-bit tag; the first few of each, refusals always."""
    found, group, taken, case = [], {}, 0, {}
    with cryptography_vectors.open_vector_file(f"ciphers/AES/GCM/{file}", "r") as lines:
        for line in [*lines, ""]:
            line = line.strip()
            if line.startswith("["):
                name, value = line.strip("[]").split(" = ")
                if name == "Keylen":
                    group, taken = {}, 0
                group[name] = int(value)
            elif line == "FAIL":
                case["FAIL"] = True
            elif " =" in line:
                name, _, value = line.partition(" =")
                case[name] = value.strip()
            elif not line and case:
                if group["IVlen"] == 96 and group["Taglen"] == 128 and taken < per_group:
                    taken += 1
                    found.append({
                        "key": case["Key"], "nonce": case["IV"], "aad": case["AAD"], "plain": case.get("PT"),
                        "ciphertext": case["CT"], "tag": case["Tag"],
                    })
                case = {}
    return found


def write(name, content):
    (HERE / name).write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n")


made = objects()
write("sealed.json", {
    "source": "tests/vectors/make.py",
    "objects": [made_object.json() for made_object in made],
    "refused": refused(made),
    "derivations": derivations(),
})
write("nist_gcm_256.json", {
    "source": "NIST CAVP gcmtestvectors (gcmEncryptExtIV256.rsp, gcmDecrypt256.rsp): nonce 96 bits, tag 128 bits, "
              "the first cases of each group; plain is null where decryption must fail",
    "encrypt": nist("gcmEncryptExtIV256.rsp", 3),
    "decrypt": nist("gcmDecrypt256.rsp", 4),
})

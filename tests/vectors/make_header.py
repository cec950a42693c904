#!/usr/bin/env python3
"""Writes header.json, a volume header, and header_keys.json, what opening it gives.

It follows what src/format/header.rs, src/keys/mod.rs, src/volume/mod.rs and
src/volume/keyring.rs say, and shares no code with them, so that the two check
each other. Needs the packages `cryptography` and `mnemonic`:

    python3 -m venv VENV && VENV/bin/pip install cryptography mnemonic
    VENV/bin/python tests/vectors/make_header.py

The output is the same at every run.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from mnemonic import Mnemonic

HERE = pathlib.Path(__file__).parent
KINDS = {"keyring": 1, "slot": 5}
VOLUME = bytes.fromhex("00112233445566778899aabbccddeeff")
CREATED = 1_700_000_000
KMS_KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
PASSPHRASE = "correct horse, päppelt"


def fixed(name):
    """32 bytes that look random."""
    return hashlib.sha256(name.encode()).digest()


def prefixed(parts):
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def hkdf(key, salt, info, length=32):
    return HKDF(SHA256(), length, salt, prefixed(info)).derive(key)


def seal(key, kind, path, plain):
    """A sealed object of one chunk of variable length, in epoch 0."""
    salt, suite, number = fixed(f"salt of {path}"), bytes([1]), bytes([KINDS[kind]])
    epoch, path = struct.pack("<I", 0), path.encode()
    material = hkdf(key, salt, [b"lidfs/v1", number, suite, VOLUME, epoch, path], 64)
    header = b"LIDFS" + bytes([1]) + suite + number + epoch + VOLUME + struct.pack("<I", 0)
    header += salt + material[32:]
    aad = hashlib.sha256(header).digest() + struct.pack("<I", len(path)) + path
    aad += struct.pack("<Q", 0) + bytes([1]) + struct.pack("<Q", len(plain))
    return header + AESGCM(material[:32]).encrypt(bytes(12), plain, aad)


def text(binary):
    return base64.b64encode(binary).decode()


def slot(slot_id, label, secret, volume_key, **unlock):
    salt = base64.b64decode(unlock["salt"])
    info = [b"lidfs/v1", b"slot", unlock["kind"].encode(), VOLUME, slot_id]
    wrapped = seal(hkdf(secret, salt, info), "slot", f"slot/{slot_id.hex()}", volume_key)
    return {
        "id": slot_id.hex(), "label": label, "created": CREATED, "unlock": unlock, "wrapped": text(wrapped),
    }


def main():
    volume_key, names, keyfile = fixed("volume key"), fixed("names key"), fixed("keyfile")
    kms_input, kms_ciphertext, recovery = fixed("KMS input"), fixed("KMS ciphertext"), fixed("words")
    data_keys = {1: fixed("data key 1"), 2: fixed("data key 2")}
    derived = {
        purpose: hkdf(volume_key, VOLUME, [b"lidfs/v1", purpose.encode()])
        for purpose in ("header", "keyring", "fingerprint")
    }
    salt = fixed("salt of the passphrase")
    stretched = Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=65536).derive(PASSPHRASE.encode())
    keyring = bytes([1]) + names + struct.pack("<I", len(data_keys))
    keyring += b"".join(struct.pack("<I", epoch) + key for epoch, key in sorted(data_keys.items()))
    header = {
        "lidfs": 1,
        "features": ["kms", "recovery"],
        "volume_id": VOLUME.hex(),
        "created": CREATED,
        "version": 3,
        "params": {"block_size": 131072, "compression": "zstd:3"},
        "slots": [
            slot(bytes(range(8)), "desk", keyfile, volume_key, kind="keyfile", salt=text(fixed("salt of the keyfile"))),
            slot(bytes(range(8, 16)), "Kopf", stretched, volume_key, kind="passphrase", salt=text(salt),
                 memory_kib=65536, iterations=3, parallelism=4),
            # What KMS makes of the input is for KMS alone to read.
            slot(bytes(range(16, 24)), "cloud", kms_input, volume_key, kind="kms", key=KMS_KEY,
                 ciphertext=text(kms_ciphertext), salt=text(fixed("salt of the KMS slot"))),
            slot(bytes(range(24, 32)), "paper", recovery, volume_key, kind="recovery",
                 salt=text(fixed("salt of the words"))),
        ],
        "keyring": text(seal(derived["keyring"], "keyring", "keyring", keyring)),
    }
    # The MAC is over bytes, whatever their white space: everything before the last 80.
    signed = json.dumps(header, indent=2).removesuffix("\n}").encode()
    mac = hmac.digest(derived["header"], prefixed([signed]), "sha256")
    tail = b',\n  "mac": "' + mac.hex().encode() + b'"\n}\n'
    assert len(tail) == 80
    (HERE / "header.json").write_bytes(signed + tail)
    expected = {
        "keyfile": text(keyfile),
        "passphrase": PASSPHRASE,
        "kms_input": text(kms_input),
        "kms_ciphertext": text(kms_ciphertext),
        "recovery": text(recovery),
        "recovery_words": Mnemonic("english").to_mnemonic(recovery),
        "volume_key": text(volume_key),
        "fingerprint": derived["fingerprint"][:8].hex(),
        "names_key": names.hex(),
        "data_keys": {str(epoch): key.hex() for epoch, key in data_keys.items()},
    }
    (HERE / "header_keys.json").write_text(json.dumps(expected, indent=2, ensure_ascii=False) + "\n")


main()

"""The header, the slots and the keyring: sections 3 and 4 of src/format/FORMAT.md."""

import base64
import hmac
import json
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

from sealed import KEYRING, METADATA, SLOT, Refused, epoch_key, hkdf, mac, open_chunked, open_single, prefixed

MAC_BYTES = 80
META_CHUNK_BYTES = 16_384
# Slots of these kinds are passed over here.
SLOT_FEATURES = {"kms", "recovery"}
FIELDS = {"lidfs", "features", "volume_id", "created", "version", "params", "slots", "keyring"}


class NoArgon2(Exception):
    pass


def keyfile_secret(text):
    found = re.fullmatch(r"# lidfs keyfile v1(?:[: ][^\n]*)?\n([A-Za-z0-9+/]{43}=)\s*", text)
    if not found:
        raise Refused("the keyfile is not one of version 1")
    return base64.b64decode(found[1], validate=True)


def stretch(passphrase, unlock):
    try:
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
    except ImportError:
        raise NoArgon2("this `cryptography` has no Argon2id (44 has), so passphrases cannot be tried") from None
    memory, passes, lanes = (unlock[name] for name in ("memory_kib", "iterations", "parallelism"))
    if not (65_536 <= memory <= 1_048_576 and 3 <= passes <= 16 and 1 <= lanes <= 16):
        raise Refused(f"a slot asks for {memory} KiB, {passes} passes, {lanes} lanes: outside of what is allowed")
    salt = base64.b64decode(unlock["salt"], validate=True)
    return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(passphrase)


def once(pairs):
    if len(dict(pairs)) != len(pairs):
        raise Refused("lidfs.json: a field stands there twice")
    return dict(pairs)


@dataclass
class Volume:
    top: Path
    id: bytes
    block_bytes: int
    slot: str
    fingerprint: str
    volume_key: bytes
    names_key: bytes
    data_keys: dict = field(default_factory=dict)

    @classmethod
    def open(cls, top, kind, secret):
        """Opens the volume below the directory `top` with a keyfile's 32 bytes or a passphrase."""
        top = Path(top)
        raw = (top / "lidfs.json").read_bytes()
        if len(raw) > 1 << 20:
            raise Refused("lidfs.json: larger than 1 MiB")
        signed, tail = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
        found = re.fullmatch(rb',\n  "mac": "([0-9a-f]{64})"\n}\n', tail)
        if not found:
            raise Refused("lidfs.json: does not end with a MAC")
        try:
            header = json.loads(signed + b"}", object_pairs_hook=once)
        except ValueError as error:
            raise Refused(f"lidfs.json: {error}") from None
        features = header.get("features")
        if header.get("lidfs") != 1 or not isinstance(features, list) or not set(map(str, features)) <= SLOT_FEATURES:
            raise Refused(f"lidfs.json: version {header.get('lidfs')}, features {features}: not known here")
        if set(header) != FIELDS:
            raise Refused(f"lidfs.json: has other fields: {sorted(set(header) ^ FIELDS)}")
        for kind_there in {slot["unlock"]["kind"] for slot in header["slots"]} & SLOT_FEATURES:
            if kind_there not in features:
                raise Refused(f"lidfs.json: a slot of kind {kind_there}, which is not among the features")
        volume_id = bytes.fromhex(header["volume_id"])
        slot, volume_key = unlock(header["slots"], volume_id, kind, secret)
        derived = {
            name: hkdf(volume_key, volume_id, prefixed(b"lidfs/v1", name.encode()))
            for name in ("header", "keyring", "fingerprint")
        }
        if not hmac.compare_digest(mac(derived["header"], signed), bytes.fromhex(found[1].decode())):
            raise Refused("lidfs.json: the MAC is wrong: the header was changed")
        keyring = base64.b64decode(header["keyring"], validate=True)
        names_key, data_keys = read_keyring(open_single(keyring, derived["keyring"], KEYRING, volume_id, "keyring"))
        fingerprint = derived["fingerprint"][:8].hex()
        return cls(top, volume_id, header["params"]["block_size"], slot, fingerprint, volume_key, names_key, data_keys)

    def read(self, path):
        try:
            return (self.top / path).read_bytes()
        except FileNotFoundError:
            raise Refused(f"{path}: no such object") from None

    def metadata(self, path):
        return open_chunked(self.read(path), self.data_keys, METADATA, self.id, path, META_CHUNK_BYTES)

    def objects(self, directory):
        top = self.top / directory
        return sorted(str(file.relative_to(self.top)) for file in top.rglob("*") if file.is_file())

    def key(self, epoch, path):
        return epoch_key(self.data_keys, epoch, path)


def unlock(slots, volume_id, kind, secret):
    """The first slot that the secret opens, and the volume key in it."""
    refusals = []
    for slot in slots:
        if slot["unlock"]["kind"] != kind:
            continue
        given = secret if kind == "keyfile" else stretch(secret, slot["unlock"])
        salt = base64.b64decode(slot["unlock"]["salt"], validate=True)
        number = bytes.fromhex(slot["id"])
        key = hkdf(given, salt, prefixed(b"lidfs/v1", b"slot", kind.encode(), volume_id, number))
        try:
            wrapped = base64.b64decode(slot["wrapped"], validate=True)
            return slot["id"], open_single(wrapped, key, SLOT, volume_id, f"slot/{slot['id']}")
        except (Refused, ValueError) as error:
            refusals.append(str(error))
    raise Refused(f"the {kind} opens no slot: {'; '.join(refusals) or 'there is none of that kind'}")


def read_keyring(plain):
    version, names_key, count = struct.unpack_from("<B32sI", plain)
    if version != 1 or not 1 <= count <= 1024 or len(plain) != 37 + 36 * count:
        raise Refused("keyring: not of version 1, or of a wrong length")
    epochs = [struct.unpack_from("<I32s", plain, 37 + 36 * i) for i in range(count)]
    numbers = [epoch for epoch, _ in epochs]
    if numbers != sorted(set(numbers)) or numbers[0] < 1:
        raise Refused("keyring: epochs out of order")
    return names_key, dict(epochs)

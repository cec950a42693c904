#!/usr/bin/env python3
"""The little S3 client of the e2e scripts; server and account come from the AWS variables.

    bucket.py create|remove BUCKET
    bucket.py list BUCKET [PREFIX]            key, tab, bytes
    bucket.py get|put BUCKET KEY FILE
    bucket.py delete BUCKET KEY
    bucket.py dump BUCKET DIR                 every object into DIR, by key
    bucket.py load BUCKET DIR                 and back; objects that are not in DIR are deleted
    bucket.py encryption BUCKET [KEYFILE]     key, tab, how the server says that it encrypts the object;
                                              asked with this customer's key, and refused with a wrong one
"""

import base64
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import s3


def list_objects(bucket, prefix=""):
    for key, size in bucket.objects():
        if key.startswith(prefix):
            print(f"{key}\t{size}")


def get(bucket, key, file):
    Path(file).write_bytes(bucket.server.request("GET", f"/{bucket.name}/{key}"))


def put(bucket, key, file):
    bucket.server.request("PUT", f"/{bucket.name}/{key}", body=Path(file).read_bytes())


def delete(bucket, key):
    bucket.server.request("DELETE", f"/{bucket.name}/{key}")


def dump(bucket, directory):
    for key, _ in bucket.objects():
        file = Path(directory, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        get(bucket, key, file)


def load(bucket, directory):
    files = {str(file.relative_to(directory)): file for file in Path(directory).rglob("*") if file.is_file()}
    for key, _ in list(bucket.objects()):
        if key not in files:
            delete(bucket, key)
    for key, file in files.items():
        put(bucket, key, file)


def customer_key(file):
    """The headers of a key that is in a file of 32 bytes, or in a keyfile."""
    content = Path(file).read_bytes()
    key = content if len(content) == 32 else base64.b64decode(content.split(b"\n")[1])
    prefix = "x-amz-server-side-encryption-customer-"
    return {
        prefix + "algorithm": "AES256",
        prefix + "key": base64.b64encode(key).decode(),
        prefix + "key-md5": base64.b64encode(hashlib.md5(key).digest()).decode(),
    }


def encryption(bucket, file=None):
    headers = customer_key(file) if file else {}
    for key, _ in bucket.objects():
        try:
            found = bucket.server.exchange("HEAD", f"/{bucket.name}/{key}", headers=headers)[1]
        except s3.S3Error:
            print(f"{key}\trefused")
            continue
        name = "x-amz-server-side-encryption"
        mode = "sse-c" if name + "-customer-algorithm" in found else found.get(name, "none")
        kms_key = found.get(name + "-aws-kms-key-id")
        print(f"{key}\t{mode}" + (f" {kms_key}" if kms_key else ""))


COMMANDS = {
    "encryption": encryption,
    "create": lambda bucket: bucket.create(),
    "remove": lambda bucket: bucket.remove(),
    "list": list_objects,
    "get": get,
    "put": put,
    "delete": delete,
    "dump": dump,
    "load": load,
}


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in COMMANDS:
        raise SystemExit(__doc__)
    bucket = s3.Bucket(s3.Server.from_environment(), sys.argv[2])
    try:
        COMMANDS[sys.argv[1]](bucket, *sys.argv[3:])
    except s3.S3Error as error:
        raise SystemExit(f"bucket.py: {error}") from None


if __name__ == "__main__":
    main()

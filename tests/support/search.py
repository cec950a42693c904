#!/usr/bin/env python3
"""Searches files for bytes that must not be there: search.py NEEDLES DIR...

NEEDLES is a file of needles in hexadecimal, one a line with its name. Prints how many files and bytes
were searched; exits with 1 and names the places if anything was found. `search.py --sealed DIR` looks at
each object instead: all but lidfs.json start with the header of a sealed object, and none can be compressed.
"""

import sys
import zlib
from pathlib import Path

MAGIC = b"LIDFS"
COMPRESSIBLE = 0.98


def files(directories):
    for directory in directories:
        for file in Path(directory).rglob("*"):
            if file.is_file() and not file.is_symlink():
                yield file, file.read_bytes()


def search(needles, directories):
    found, count, amount = [], 0, 0
    for file, content in files(directories):
        count, amount = count + 1, amount + len(content)
        path = bytes(str(file), "utf-8", "surrogateescape")
        for name, needle in needles:
            if needle in content or needle in path:
                found.append(f"{name} in {file}")
    return found, f"{count} files, {amount} bytes"


def sealed(directory):
    found, count = [], 0
    for file, content in files([directory]):
        if file.name == "lidfs.json" or not content:
            continue
        count += 1
        if not content.startswith(MAGIC):
            found.append(f"{file} starts with {content[:8]!r}")
        if len(content) > 4096 and len(zlib.compress(content)) < COMPRESSIBLE * len(content):
            found.append(f"{file} can be compressed, so it is not all ciphertext")
    return found, f"{count} objects"


def main():
    if sys.argv[1] == "--sealed":
        found, summary = sealed(sys.argv[2])
    else:
        lines = [line.split() for line in Path(sys.argv[1]).read_text().splitlines()]
        found, summary = search([(name, bytes.fromhex(needle)) for name, needle in lines], sys.argv[2:])
    print("; ".join(found[:10]) if found else summary)
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()

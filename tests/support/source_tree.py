#!/usr/bin/env python3
"""Packs a real source tree into a tar file: source_tree.py PROJECT OUT.tar FILES

The tree is the sources of this project's own dependencies, crate by crate in the
order of their names, until there are at least FILES files. They are on every
machine that has built the project. Very large crates are left out.
"""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

CRATE_BYTES_MAX = 3_000_000


def crates(project):
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"]
    answer = subprocess.run(command, cwd=project, check=True, stdout=subprocess.PIPE)
    for package in sorted(json.loads(answer.stdout)["packages"], key=lambda package: package["id"]):
        if package["source"]:
            yield Path(package["manifest_path"]).parent


def main():
    project, out, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
    count = 0
    with tarfile.open(out + ".part", "w", format=tarfile.PAX_FORMAT) as tar:
        for crate in crates(project):
            files = [file for file in crate.rglob("*") if file.is_file()]
            if sum(file.stat().st_size for file in files) > CRATE_BYTES_MAX:
                continue
            tar.add(crate, crate.name)
            count += len(files)
            if count >= wanted:
                break
    os.rename(out + ".part", out)
    print(count)


if __name__ == "__main__":
    main()

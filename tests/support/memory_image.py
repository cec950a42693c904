#!/usr/bin/env python3
"""Looks for secrets in the memory of a process: memory_image.py NEEDLES PID

NEEDLES is a file of needles in hexadecimal, one a line with its name. For each prints how often it stands in

    dumped    mappings that a core file would have
    excluded  mappings that are left out of one (VmFlags dd), and how many of these are not locked (lo)

and the mapping of each that a core file would have. Ends with 0 whatever it finds; the caller judges.
"""

import re
import sys
from pathlib import Path

PIECE = 1 << 24


def mappings(pid):
    """Each mapping with pages in memory: begin, end, name, flags."""
    begin = end = name = resident = None
    for line in Path(f"/proc/{pid}/smaps").read_text(errors="replace").splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s*(.*)", line):
            begin, end, name = int(head[1], 16), int(head[2], 16), head[4] or f"anonymous {head[3]}"
        elif line.startswith("Rss:"):
            resident = int(line.split()[1])
        elif line.startswith("VmFlags:"):
            flags = set(line.split()[1:])
            if resident and "rd" in flags and "io" not in flags:
                yield begin, end, name, flags


def occurrences(memory, begin, end, needle):
    """Addresses of the needle, also where it lies across two pieces."""
    at = begin
    while at < end:
        memory.seek(at)
        try:
            content = memory.read(min(PIECE + len(needle) - 1, end - at))
        except OSError:
            return
        found = content.find(needle)
        while 0 <= found < PIECE:
            yield at + found
            found = content.find(needle, found + 1)
        at += PIECE


def main():
    needles = [line.split() for line in Path(sys.argv[1]).read_text().splitlines()]
    pid = sys.argv[2]
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        known = list(mappings(pid))
        for name, needle in needles:
            dumped, excluded, unlocked = [], 0, 0
            for begin, end, where, flags in known:
                for address in occurrences(memory, begin, end, bytes.fromhex(needle)):
                    if "dd" not in flags:
                        dumped.append(f"{where} at {address - begin:#x} of {end - begin:#x}")
                    else:
                        excluded += 1
                        unlocked += "lo" not in flags
            print(f"{name}\tdumped {len(dumped)}\texcluded {excluded}\tunlocked {unlocked}\t{'; '.join(dumped[:4])}")


if __name__ == "__main__":
    main()
